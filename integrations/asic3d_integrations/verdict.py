"""An alignment's figures in plain words: what each means, and whether it is good."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asic3d import Alignment

GOOD, FAIR, POOR = "good", "fair", "poor"

_CONFIDENCE_LIMITS = (0.5, 0.3)  # at least: good, fair
_MEANINGS: dict[str, tuple[str, str, str, tuple[float, float]]] = {}
"""Key of ``Alignment.quality`` -> label, how to write it, meaning, limits (falling: less is better)."""

STAGES = {
    "photos": "Loading the photos",
    "features": "Reading the photos with the network",
    "foreground": "Finding the object",
    "matching": "Matching the photos with each other",
    "canonical": "Laying all photos into one shared frame",
    "masks": "Sharpening the masks",
    "saving": "Saving",
    "report": "Writing the report",
}
"""Stage of the work -> what it does, in words."""


@dataclass(frozen=True)
class Figure:
    """One quality figure: ``label``, the value as ``text``, its ``meaning`` and its ``level`` ('' = no judgement)."""

    label: str
    text: str
    meaning: str
    level: str


def quality_figures(alignment: "Alignment") -> tuple[Figure, ...]:
    """Every quality figure of an alignment, explained."""
    return tuple(_figure(name, value) for name, value in alignment.quality.items())


def _figure(name: str, value: float) -> Figure:
    if name not in _MEANINGS:
        return Figure(name.replace("_", " ").capitalize(), f"{value:.3g}", "", "")
    label, form, meaning, limits = _MEANINGS[name]
    return Figure(label, form.format(value), meaning, _level(value, limits))


def _level(value: float, limits: tuple[float, float]) -> str:
    """The word for a value; limits that fall are for figures of which more is better."""
    good, fair = limits
    sign = 1 if good >= fair else -1
    return GOOD if sign * value >= sign * good else FAIR if sign * value >= sign * fair else POOR


def photo_fits(alignment: "Alignment") -> tuple[float, ...]:
    """How well each photo's object is explained by the other photos: mean confidence over its foreground, [0, 1]."""
    weight = alignment.foreground.flatten(1)
    fits = (alignment.confidence.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
    return tuple(fits.tolist())


def photo_level(fit: float) -> str:
    """The word for one photo's fit."""
    return _level(fit, _CONFIDENCE_LIMITS)


def verdict(alignment: "Alignment") -> tuple[str, str]:
    """A word and a sentence about the whole alignment, from how many photos fit the others."""
    levels = [photo_level(fit) for fit in photo_fits(alignment)]
    poor = [f"“{name}”" for name, level in zip(alignment.names, levels, strict=True) if level == POOR]
    count = len(levels)
    if not poor and levels.count(GOOD) >= count / 2:
        return GOOD, f"All {count} photos fit together."
    if not poor:
        return FAIR, f"All {count} photos fit together, though loosely: check the points below before relying on them."
    if len(poor) <= count / 3:
        return (
            FAIR,
            f"{count - len(poor)} of {count} photos fit together; {_listed(poor)} hardly {_fit(poor)} the others.",
        )
    return POOR, f"Only {count - len(poor)} of {count} photos fit together; the points below are mostly guesses."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _fit(names: list[str]) -> str:
    return "fits" if len(names) == 1 else "fit"


def warnings_of(alignment: "Alignment") -> tuple[str, ...]:
    """Every warning about an alignment and its photos, each once, in the order in which they came up."""
    return tuple(dict.fromkeys((*alignment.collection.warnings, *alignment.warnings)))
