"""What was made from a run and lies in its folder: it must not be taken for another run's when that one is replaced."""

import warnings
from pathlib import Path

from asic3d.errors import StorageWarning
from asic3d.photo_folder import listed

PRODUCTS = ("edits", "colmap", "csv", "explorer.html", "report.html", "figures", "canonical_grid.safetensors")
"""Files and folders in a run folder that are made from its alignment."""
EARLIER = "earlier"
"""Folder for what was made from runs that were replaced."""


def set_aside(folder: Path, renewed: set[str]) -> None:
    """Moves what was made from the run that was replaced into ``earlier/N``: kept, and not taken for this run's.

    Args:
        folder: the run folder, in which the new run is.
        renewed: names of files and folders in it that came with the new run.
    """
    old = [name for name in PRODUCTS if name not in renewed and (folder / name).exists()]
    if not old:
        return
    numbers = [int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdecimal()]
    place = folder / EARLIER / str(max(numbers, default=0) + 1)
    try:
        place.mkdir(parents=True)
        for name in old:
            (folder / name).rename(place / name)
    except OSError as error:
        told = f"They can't be moved to '{place}' ({error.strerror or error}); move or delete them."
    else:
        told = f"They are in '{place}' now."
    warnings.warn(
        f"Made from the alignment that was replaced, not from this one: {listed(old)}. {told}",
        StorageWarning,
        stacklevel=4,
    )
