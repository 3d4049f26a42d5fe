"""All settings of an alignment: one frozen dataclass, checked when made; presets, and files of settings."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asic3d.errors import ConfigError
from asic3d.reading import read_text_bounded

_LARGEST_FILE = 2**20  # bytes of settings


@dataclass(frozen=True)
class Progress:
    """How far a stage of the work has come, as it is reported to ``progress`` callbacks.

    Attributes:
        stage: ``photos``, ``features``, ``foreground``, ``matching``, ``canonical``, ``training`` or ``adding``.
        done: steps that are finished; 0 where a stage whose first step is long says that it begins.
        total: all steps of the stage.
    """

    stage: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
"""What long work calls after each step; it may raise to stop the work."""

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {
        "mapping": "network",
        "backbone": "dino-vits8",
        "stride": 2,
        "side": 256,
        "grid": 128,
        "partners": 0,
        "turns": False,
        "flips": False,
        "outliers": False,
    },
}
"""Preset name -> the settings in which it differs from the defaults. What only the network's training asks for has the
paper's value by default."""


_HOW_TO_WRITE = "Write one 'name = value' on each line."
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
"""Type of a setting -> what it takes, in words."""


def _setting(
    default: Any, text: str, low: float = -math.inf, high: float = math.inf, choices: tuple[str, ...] = ()
) -> Any:
    """A field with its help text (with unit) and its closed range, or the texts that it takes."""
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class AlignmentConfig:
    """Settings of :func:`asic3d.align`.

    Every field is an option of ``asic3d align --set name=value``; the most used have an option of their own. Lengths in
    the canonical plane are in units of it (the object is about 2 wide); cells are those of the feature grid.

    Raises:
        ConfigError: a value is of the wrong type or out of its range.

    Example:
        >>> AlignmentConfig(seed=3).seed
        3
    """

    preset: str = _setting("fast", "named set of settings that the others start from")
    backbone: str = _setting("auto", "feature backbone by name, or 'auto' for the best whose weights are at hand")
    weights: str = _setting("", "file with the backbone's weights (empty: the place where they are usually found)")
    device: str = _setting("auto", "'auto', 'cpu', 'cuda' or 'cuda:N'")
    seed: int = _setting(0, "seed of every random draw", 0, 2**31 - 1)
    max_memory: float = _setting(0.0, "refuse photos that would take more memory than this, GB (0: any)", 0.0, 1e6)
    turns: bool = _setting(True, "find photos that lie on their side or upside down")
    flips: bool = _setting(True, "find photos that face the other way (mirrored)")
    outliers: bool = _setting(True, "leave photos that show something else out of the fit")
    grid: int = _setting(40, "cells along one side of a photo's feature grid", 8, 256)
    channels: int = _setting(128, "principal components of the features that are matched", 8, 4096)
    metric_channels: int = _setting(64, "channels of the learned metric", 8, 4096)
    coarse_channels: int = _setting(64, "principal components that are matched before a metric is learned", 8, 4096)
    partners: int = _setting(7, "photos that each photo is matched with, the most similar ones (0: all)", 0, 1000)
    search: str = _setting(
        "exact",
        "how similar photos are found: 'exact', or 'approximate' by faiss, for a thousand photos and more",
        choices=("exact", "approximate"),
    )
    match_prior: float = _setting(0.7, "weight of the canonical distance when photos are matched", 0.0, 100.0)
    transfer_prior: float = _setting(3.0, "weight of the canonical distance when points are transferred", 0.0, 100.0)
    sharing_prior: float = _setting(1.5, "weight of the canonical distance when descriptors are shared", 0.0, 100.0)
    similarity_power: float = _setting(3.0, "a match weighs its cosine similarity to this power", 0.0, 32.0)
    affine_rounds: int = _setting(3, "rounds of matching and fitting one affine map per photo", 1, 20)
    spline_rounds: int = _setting(2, "rounds of matching and fitting a spline on top", 0, 20)
    metric_rounds: int = _setting(3, "rounds with the metric learned from the matches so far", 0, 20)
    control_points: int = _setting(8, "control points along one side of the spline", 4, 32)
    bending: float = _setting(
        0.002, "stiffness of the spline in its last round; earlier rounds are stiffer", 1e-6, 100.0
    )
    shrinkage: float = _setting(0.6, "how far the learned metric is drawn towards the plain cosine", 1e-4, 1e4)
    sharpening: int = _setting(320, "longer side at which masks follow the photo's edges, pixels", 64, 2048)
    mapping: str = _setting(
        "spline", "what maps the photos: 'spline', solved for, or 'network', trained", choices=("spline", "network")
    )
    stride: int = _setting(0, "distance between a vision transformer's patches, pixels (0: the backbone's own)", 0, 64)
    side: int = _setting(0, "side of a vision transformer's input, pixels (0: the backbone's own)", 0, 2048)
    steps: int = _setting(20000, "iterations of the network's training", 1, 10_000_000)
    batch: int = _setting(20, "photos in one iteration, in half as many pairs", 2, 256)
    working_size: int = _setting(256, "side of the photo's square that the network maps, pixels", 16, 1024)
    grid_resolution: int = _setting(256, "side of the learned canonical image, pixels", 8, 2048)
    network_width: float = _setting(0.5, "channels of the alignment network, 1 is the full U-Net", 0.0625, 4.0)
    learning_rate: float = _setting(0.003, "step size of Adam, for the network and the canonical image", 1e-7, 1.0)
    restart_period: int = _setting(10000, "iterations between warm restarts of the step size", 1, 10_000_000)
    restart_decay: float = _setting(0.9, "the step size after a restart, of that after the one before", 0.01, 1.0)
    temperature: float = _setting(1.0, "temperature of the contrastive term, canonical units", 1e-4, 100.0)
    weight_contrastive: float = _setting(30.0, "weight of the contrastive term", 0.0, 1e6)
    weight_smoothness: float = _setting(15000.0, "weight of the flow's total variation", 0.0, 1e8)
    weight_parts: float = _setting(10.0, "weight of the distance to a part's centroid", 0.0, 1e6)
    weight_equivariance: float = _setting(1.0, "weight of equivariance under warps of the photos", 0.0, 1e6)
    weight_reconstruction: float = _setting(1.0, "weight of the photos' reconstruction", 0.0, 1e6)
    weight_mask: float = _setting(0.1, "weight of the masks' reconstruction", 0.0, 1e6)
    warp_scale: float = _setting(0.4, "strength of the random warps, of the photo's side", 0.0, 2.0)
    parts: int = _setting(4, "parts of the object that the photos share", 1, 64)
    refine_steps: int = _setting(0, "iterations that refine the splines by the network's objective", 0, 1_000_000)
    checkpoint_every: int = _setting(500, "iterations between checkpoints of the training", 1, 10_000_000)
    precision: str = _setting(
        "auto",
        "arithmetic of the training: 'float32', 'bfloat16', or 'auto' for bfloat16 on CUDA",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = _setting(False, "compile the network with torch.compile, on CUDA")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))
        if self.preset not in PRESETS:
            raise ConfigError(f"There is no preset '{self.preset}'; choose one of: {', '.join(PRESETS)}.")

    def __repr__(self) -> str:
        """What differs from the defaults, as it is written in Python."""
        values = ((item, getattr(self, item.name)) for item in dataclasses.fields(self))
        return f"AlignmentConfig({', '.join(f'{item.name}={v!r}' for item, v in values if v != item.default)})"

    @property
    def backbone_options(self) -> dict[str, int]:
        """What the settings ask of a vision transformer, for :func:`asic3d.backbones.load_backbone`."""
        return {name: value for name, value in (("stride", self.stride), ("side", self.side)) if value}


def _checked(item: dataclasses.Field, value: Any) -> Any:
    """The value as its field's type, or a ConfigError that says what the field takes."""
    wanted = typing.get_type_hints(AlignmentConfig)[item.name]
    if wanted is str and isinstance(value, Path):
        value = str(value)
    kinds = (int, float) if wanted is float else wanted
    if not isinstance(value, kinds) or (wanted is not bool and isinstance(value, bool)):
        raise ConfigError(f"The setting '{item.name}' takes {_taken(item, wanted)}, not {value!r:.80}.")
    low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"The setting '{item.name}' must be one of: {', '.join(choices)}; '{value}' is not.")
    if isinstance(value, int | float) and not low <= value <= high:
        raise ConfigError(
            f"The setting '{item.name}' must lie between {_number(low)} and {_number(high)}; {value!r} does not."
        )
    return float(value) if wanted is float else value


def _number(value: float) -> str:
    """A number as people write it, without an exponent."""
    text = f"{value:.10f}".rstrip("0").rstrip(".")
    return text if math.isfinite(value) else f"{value:g}"


def make_config(preset: str | None = None, *, file: str | Path | None = None, **settings: Any) -> AlignmentConfig:
    """A preset with some settings changed, by a file, by arguments, or both.

    Args:
        preset: a name in :data:`PRESETS`; None: the file's, else ``fast``.
        file: a TOML file of settings, ``name = value`` on each line; it may name the preset.
        **settings: fields of :class:`AlignmentConfig`; a text is read as the field's type (``"3"``, ``"true"``). They
            win over the file, and the file wins over the preset.

    Raises:
        ConfigError: unknown preset or setting, a value that does not fit, or a file that can't be read.

    Example:
        >>> make_config("fast", seed="7").seed
        7
    """
    filed = {} if file is None else _read_settings(Path(file))
    named = preset if preset is not None else filed.get("preset", "fast")
    if named not in PRESETS:
        raise ConfigError(f"There is no preset '{named}'; choose one of: {', '.join(PRESETS)}.")
    types = typing.get_type_hints(AlignmentConfig)
    _check_names(settings)
    parsed = {name: _parse(name, types[name], value) for name, value in settings.items()}
    return AlignmentConfig(**{**PRESETS[named], **filed, **parsed, "preset": named})


def _read_settings(path: Path) -> dict[str, Any]:
    """The settings of a TOML file, each checked by itself, so that an error can name the file."""
    import tomllib

    try:
        found = tomllib.loads(read_text_bounded(path, _LARGEST_FILE))
    except OSError as error:
        raise ConfigError(f"The settings '{path}' can't be read ({error.strerror or error}). Check the path.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"'{path}' is not valid TOML (it is no text file). {_HOW_TO_WRITE}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"'{path}' is not valid TOML ({error}). {_HOW_TO_WRITE}") from None
    tables = [name for name, value in found.items() if isinstance(value, dict)]
    if tables:
        raise ConfigError(f"'{path}' has a table, [{tables[0]}]: settings stand in none. {_HOW_TO_WRITE}")
    try:
        _check_names(found)
        for name, value in found.items():
            AlignmentConfig(**{name: value})
    except ConfigError as error:
        raise ConfigError(f"In '{path}': {error}") from None
    return found


def _check_names(settings: Iterable[str]) -> None:
    known = [item.name for item in dataclasses.fields(AlignmentConfig)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], known, 1)
        meant = f"Did you mean '{near[0]}'? " if near else ""
        raise ConfigError(
            f"There is no setting '{unknown[0]}'. {meant}'asic3d align --help' lists all of them; in Python they are "
            "the fields of AlignmentConfig."
        )


def _parse(name: str, wanted: type, value: Any) -> Any:
    """A text as the type that a setting wants; anything but a text is passed on."""
    if not isinstance(value, str) or wanted is str:
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[value.lower()] if wanted is bool else wanted(value)
    except (ValueError, KeyError):
        item = next(item for item in dataclasses.fields(AlignmentConfig) if item.name == name)
        raise ConfigError(f"The setting '{name}' takes {_taken(item, wanted)}, not '{value}'.") from None


def _taken(item: dataclasses.Field, wanted: type) -> str:
    """What a setting takes, in words, with its range."""
    low, high = item.metadata["low"], item.metadata["high"]
    return _KINDS[wanted] + (f" from {_number(low)} to {_number(high)}" if math.isfinite(high) else "")
