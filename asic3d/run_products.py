"""What was made from a run and lies in its folder: it must not be taken for another run's when that one is replaced."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from asic3d.errors import StorageWarning
from asic3d.photo_folder import listed

PRODUCTS = ("edits", "colmap", "csv", "explorer.html", "report.html", "figures", "canonical_grid.safetensors")
"""Files and folders in a run folder that are made from its alignment."""
EARLIER = "earlier"
"""Folder for what was made from runs that were replaced."""


def set_aside(folder: Path, renewed: set[str]) -> dict[Path, Path]:
    """What was made from a run that is being replaced, and where in ``earlier/N`` it is kept from being this run's.

    Args:
        folder: the run folder.
        renewed: names of files and folders in it that come with the new run.

    Returns:
        File or folder -> its new place; nothing is moved yet.
    """
    old = [name for name in PRODUCTS if name not in renewed and (folder / name).exists()]
    numbers = [int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdecimal()]
    place = folder / EARLIER / str(max(numbers, default=0) + 1)
    return {folder / name: place / name for name in old}


def tell_aside(moved: Mapping[Path, Path]) -> None:
    """Warns (StorageWarning) of what was set aside, or should have been and is still where it was."""
    if not moved:
        return
    place = next(iter(moved.values())).parent
    if any(old.exists() for old in moved):
        told = f"They can't be moved to '{place}'; move or delete them."
    else:
        told = f"They are in '{place}' now."
    warnings.warn(
        f"Made from the alignment that was replaced, not from this one: {listed([old.name for old in moved])}. {told}",
        StorageWarning,
        stacklevel=4,
    )
