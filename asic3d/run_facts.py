"""``run.json`` as it is read: every value that is used is checked first, and what is wrong is told in a sentence."""

import dataclasses
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from asic3d.backbones import backbone_names
from asic3d.config import AlignmentConfig
from asic3d.errors import ConfigError, StorageError
from asic3d.storage import ALIGN_AGAIN, read_run

_SHA256 = re.compile("[0-9a-f]{64}")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
_LONGEST = 1_000_000
"""Pixels along a side that no photo has."""


class RunFacts:
    """What ``run.json`` says, value by value.

    Every method raises a StorageError where a value is missing, of another kind or out of its range.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = read_run(folder)

    def config(self) -> AlignmentConfig:
        """The settings; those that an older asic3d did not know have their defaults."""
        settings = self.mapping("config")
        unknown = sorted(set(settings) - {item.name for item in dataclasses.fields(AlignmentConfig)})
        if unknown:
            raise self.damaged(f"it has a setting {unknown[0]!r:.80}, and there is none of that name")
        try:
            config = AlignmentConfig(**settings)
        except ConfigError as error:
            raise self.damaged(f"its settings can't be used ({str(error).removesuffix('.')})") from None
        self._check_backbone(config.backbone, ("auto", *backbone_names()))
        return config

    def backbone(self) -> str:
        """The network that ran: one that is known here."""
        return self._check_backbone(self.text("backbone"), backbone_names())

    def _check_backbone(self, name: str, known: Collection[str]) -> str:
        if name not in known:
            raise self.damaged(f"its backbone {name!r:.80} is not known here; known are: {', '.join(known)}")
        return name

    def device(self) -> str:
        """Where it ran: ``cpu``, ``cuda`` or ``cuda:N``."""
        name = self.text("device")
        if not _DEVICE.fullmatch(name):
            raise self.damaged(f"its device is {name!r:.80}, which is none")
        return name

    def photos(self) -> list[dict[str, Any]]:
        """The entries of two photos or more, each of its own name; every value in them is of its kind."""
        entries = self._run.get("photos")
        if not isinstance(entries, list) or len(entries) < 2 or not all(isinstance(entry, dict) for entry in entries):
            raise self.damaged("it lists no photos")
        names: list[str] = []
        for entry in entries:
            if not isinstance(entry.get("name"), str):
                raise self.damaged("its 'name' is no text")
            if entry["name"] in names:
                raise self.damaged("it lists a photo twice")
            self._check_photo(entry, names)
            names.append(entry["name"])
        return entries

    def _check_photo(self, entry: dict[str, Any], earlier: list[str]) -> None:
        fits: dict[str, Callable[[Any], bool]] = {
            "size": _is_size,
            "sha256": lambda value: isinstance(value, str) and _SHA256.fullmatch(value) is not None,
            "mask_given": lambda value: isinstance(value, bool),
            "path": lambda value: isinstance(value, str),
            "duplicate_of": lambda value: isinstance(value, str) and value in earlier,
            "turned": lambda value: _is_whole(value, 0, 3),
            "mirrored": lambda value: isinstance(value, bool),
            "outlier": lambda value: isinstance(value, bool),
        }
        for key, test in fits.items():
            if (key in entry or key in ("size", "sha256")) and not test(entry.get(key)):
                raise self.damaged(f"a photo's '{key}' is {entry.get(key)!r:.80}")

    def check_versions(self) -> None:
        """Sees to it that the packages' versions are texts; nothing is made of them."""
        self.named_texts("versions")

    def text(self, key: str) -> str:
        """A text."""
        value = self._run.get(key)
        if not isinstance(value, str):
            raise self.damaged(f"its '{key}' is no text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._run.get(key)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise self.damaged(f"its '{key}' is no list of texts")
        return tuple(found)

    def named_texts(self, key: str) -> dict[str, str]:
        """Texts by name."""
        found = self.mapping(key)
        if not all(isinstance(text, str) for text in found.values()):
            raise self.damaged(f"its '{key}' holds more than texts")
        return found

    def mapping(self, key: str) -> dict[str, Any]:
        """Values by name."""
        found = self._run.get(key)
        if not isinstance(found, dict):
            raise self.damaged(f"its '{key}' is missing")
        return found

    def numbers(self, key: str) -> dict[str, float]:
        """Numbers by name."""
        found = self.mapping(key)
        if not all(isinstance(value, int | float) and abs(value) < 1e300 for value in found.values()):
            raise self.damaged(f"its '{key}' holds more than numbers")
        return {name: float(value) for name, value in found.items()}

    def whole_number(self, key: str, largest: int, default: int | None = None) -> int:
        """A whole number from 1 to the largest; the default, where there is one and the key is missing."""
        if default is not None and key not in self._run:
            return default
        value = self._run.get(key)
        if not isinstance(value, int) or not _is_whole(value, 1, largest):
            raise self.damaged(f"its '{key}' is {value!r:.80}")
        return value

    def damaged(self, why: str) -> StorageError:
        """The error that says what is wrong with the run."""
        return StorageError(f"The run in '{self.folder}' is damaged: {why}. {ALIGN_AGAIN}")


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_whole(side, 1, _LONGEST) for side in value)
