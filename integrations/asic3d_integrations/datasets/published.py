"""Figures that were published for ASIC, to stand beside ours: by its authors' code, network and photos' sizes."""

SOURCES = {
    "spair": "PCK@0.1, 2-cycle and 3-cycle PCK@0.1 in percent from the repository of ASIC (Gupta et al., ICCV 2023)",
    "cub": "PCK@0.1 in percent of ASIC (Gupta et al., ICCV 2023), mean of three classes, as quoted in a later paper",
}
"""Data set -> where the figures are from."""

MEAN = "mean"

_NAMES = ("pck@0.1", "cycle2@0.1_hops", "cycle3@0.1_hops")
_PERCENT: dict[str, dict[str, tuple[float, ...]]] = {
    "spair": {
        MEAN: (36.5, 54.8, 45.7),
        "cat": (53.1, 65.6, 61.5),
        "motorbike": (26.5, 42.3, 35.7),
        "bottle": (37.2, 57.4, 47.0),
        "car": (25.3, 50.3, 36.5),
    },
    "cub": {MEAN: (75.9,)},
}


_AVERAGED = {"spair": 18, "cub": 3}
"""Data set -> over how many categories the published mean is."""


def published_figures(data_set: str, category: str) -> dict[str, float]:
    """ASIC's figures of a category in [0, 1] by their names here; empty where none are known.

    Args:
        data_set: "spair", "cub", "pf-willow" or "samurai".
        category: its name.

    Example:
        >>> published_figures("spair", "cat")
        {'pck@0.1': 0.531, 'cycle2@0.1_hops': 0.656, 'cycle3@0.1_hops': 0.615}
    """
    percent = _PERCENT.get(data_set, {}).get(category, ())
    return {name: round(value / 100, 6) for name, value in zip(_NAMES, percent, strict=False)}


def published_mean(data_set: str, categories: int) -> dict[str, float]:
    """ASIC's mean over categories; empty where it is over another number of them, and so can't be compared."""
    return published_figures(data_set, MEAN) if _AVERAGED.get(data_set) == categories else {}
