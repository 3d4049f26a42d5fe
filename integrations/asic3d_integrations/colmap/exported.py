"""A folder that was exported: what its report says, what may be replaced, and where its photos and cameras are."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asic3d.errors import StorageError
from asic3d.photo_folder import shown
from asic3d.storage import read_json

REPORT = "report.json"
FORMAT = "asic3d COLMAP export"
COLMAP = "colmap"
"""The folder in a run where an export goes."""
_FIRST = ("sparse", "0")
_OF_THE_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}


def refuse_earlier(folder: Path, overwrite: bool) -> None:
    """Raises StorageError where something is in the way.

    An earlier export is replaced where ``overwrite`` is set. Anything else that is there stays, be it below one of our
    own folders: a database or a model that is not ours is never replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"'{folder}' is a file. Choose a folder with -o.")
    ours = _earlier_files(folder)
    if ours and not overwrite:
        raise StorageError(
            f"'{folder}' holds an earlier export, and nothing was changed. Replace it with --overwrite, or choose "
            "another folder with -o."
        )
    others = [name for name in files_below(folder) if name not in ours and Path(name).name not in _OF_THE_SYSTEM]
    if others:
        raise StorageError(
            f"'{folder}' holds other files, such as {shown(min(others))}, and nothing was changed. Choose a new folder "
            "with -o; to add matches to a database of your own, see --add-to."
        )


def files_below(folder: Path) -> list[str]:
    """Every file of a folder, relative to it and sorted; links count as files and are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(folder).as_posix() for name in [*files, *linked]]
    return sorted(found)


def _report(folder: Path) -> dict[str, Any]:
    """What an export's report says; nothing where there is no export."""
    try:
        report = read_json(folder / REPORT)
    except StorageError:
        return {}
    return report if report.get("format") == FORMAT else {}


def _earlier_files(folder: Path) -> set[str]:
    """The files that an earlier export wrote into a folder; none where there was none."""
    files = _report(folder).get("files")
    return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()


def image_names(folder: Path, photos: Sequence[str]) -> tuple[str, ...]:
    """What an export calls each photo; the photos' own names where there is no export."""
    entries = _report(folder).get("photos")
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    known = {str(entry.get("name")): str(entry.get("image")) for entry in named if "image" in entry}
    return tuple(known.get(name, name) for name in photos)


def images_of(model: Path) -> Path | None:
    """The folder of the photos of a model ``EXPORT/sparse/N``; None where nothing says it."""
    folder = model.resolve().parent.parent
    if (folder / "images").is_dir():
        return folder / "images"
    said = _report(folder).get("image_folder")
    return Path(said) if isinstance(said, str) else None


def first_model(run: Path) -> Path:
    """The largest model that was exported into a run.

    Raises:
        StorageError: there is none; the sentence says why, or how to make it.
    """
    folder = run / COLMAP
    model = folder.joinpath(*_FIRST)
    if model.is_dir():
        return model
    report = _report(folder)
    mapping = report.get("mapping")
    if isinstance(mapping, dict):
        why = mapping.get("refused") or mapping.get("verdict") or ""
        raise StorageError(f"The export in '{folder}' found no cameras. {why}".strip())
    again = " --overwrite" if report else ""
    raise StorageError(
        f"'{run}' has no cameras yet. Find them: asic3d export-colmap {shlex.quote(str(run))} --map{again}"
    )
