"""All settings of an alignment: one frozen dataclass, checked when made."""

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asic3d.errors import ConfigError


@dataclass(frozen=True)
class Progress:
    """How far a stage of the work has come, as it is reported to ``progress`` callbacks.

    Attributes:
        stage: ``photos``, ``features``, ``foreground``, ``matching`` or ``canonical``.
        done: steps that are finished.
        total: all steps of the stage.
    """

    stage: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
"""What long work calls after each step; it may raise to stop the work."""

PRESETS: dict[str, dict[str, Any]] = {"fast": {}}
"""Preset name -> the settings in which it differs from the defaults."""


def _setting(default: Any, text: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field with its help text (with unit) and its closed range."""
    return field(default=default, metadata={"help": text, "low": low, "high": high})


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
    grid: int = _setting(40, "cells along one side of a photo's feature grid", 8, 256)
    channels: int = _setting(128, "principal components of the features that are matched", 8, 4096)
    metric_channels: int = _setting(64, "channels of the learned metric", 8, 4096)
    coarse_channels: int = _setting(64, "principal components that are matched before a metric is learned", 8, 4096)
    partners: int = _setting(7, "photos that each photo is matched with, the most similar ones (0: all)", 0, 1000)
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

    parts: int = _setting(4, "parts of the object that the photos share", 1, 64)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _checked(item, getattr(self, item.name)))
        if self.preset not in PRESETS:
            raise ConfigError(f"There is no preset '{self.preset}'; choose one of: {', '.join(PRESETS)}.")


def _checked(item: dataclasses.Field, value: Any) -> Any:
    """The value as its field's type, or a ConfigError that says what the field takes."""
    wanted = typing.get_type_hints(AlignmentConfig)[item.name]
    if wanted is str and isinstance(value, Path):
        value = str(value)
    kinds = (int, float) if wanted is float else wanted
    if not isinstance(value, kinds) or (wanted is not bool and isinstance(value, bool)):
        raise ConfigError(f"The setting '{item.name}' takes a value of type {wanted.__name__}, not {value!r}.")
    low, high = item.metadata["low"], item.metadata["high"]
    if isinstance(value, int | float) and not low <= value <= high:
        raise ConfigError(f"The setting '{item.name}' must lie between {low:g} and {high:g}; {value!r} does not.")
    return float(value) if wanted is float else value


def make_config(preset: str = "fast", **settings: Any) -> AlignmentConfig:
    """A preset with some settings changed.

    Args:
        preset: a name in :data:`PRESETS`.
        **settings: fields of :class:`AlignmentConfig`; a text is read as the field's type (``"3"``, ``"true"``).

    Raises:
        ConfigError: unknown preset or setting, or a value that does not fit.

    Example:
        >>> make_config("fast", seed="7").seed
        7
    """
    if preset not in PRESETS:
        raise ConfigError(f"There is no preset '{preset}'; choose one of: {', '.join(PRESETS)}.")
    types = typing.get_type_hints(AlignmentConfig)
    unknown = sorted(set(settings) - set(types))
    if unknown:
        raise ConfigError(f"There is no setting '{unknown[0]}'; the settings are: {', '.join(types)}.")
    parsed = {name: _parse(name, types[name], value) for name, value in settings.items()}
    return AlignmentConfig(**{**PRESETS[preset], **parsed, "preset": preset})


def _parse(name: str, wanted: type, value: Any) -> Any:
    """A text as the type that a setting wants; anything but a text is passed on."""
    if not isinstance(value, str) or wanted is str:
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return words[value.lower()] if wanted is bool else wanted(value)
    except (ValueError, KeyError):
        raise ConfigError(f"The setting '{name}' takes a value of type {wanted.__name__}, not '{value}'.") from None
