"""Which collections there are, what each is to become, and whether that is there already."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from asic3d.config import AlignmentConfig
from asic3d.errors import Asic3dError, CollectionError, ConfigError, StorageError
from asic3d.photo_folder import composed, find_photos, listed, match_masks, natural_key, shown
from asic3d.reading import read_text_bounded
from asic3d.storage import inside, is_run_folder, read_run, sha256_of

STATE_FILE = "batch.json"
INDEX = "index.html"
_LONGEST = 255  # bytes in the name of a file, on nearly all file systems
_OURS = {STATE_FILE, INDEX}


@dataclass(frozen=True)
class Job:
    """One collection and what it is to become.

    Attributes:
        name: what it is called, one name of a folder.
        photos: its photo folder, absolute.
        run: its run folder, absolute.
        config: the settings.
        masks: folder of its masks, absolute.
        strict: stop at a photo that can't be used.
        threads: cores that it may use.
    """

    name: str
    photos: Path
    run: Path
    config: AlignmentConfig
    masks: Path | None = None
    strict: bool = False
    threads: int = 1

    def inputs(self) -> str:
        """A digest of the settings and of every photo and mask, hexadecimal; it changes when one of them does."""
        facts = [asdict(_telling(self.config)), self.strict]
        try:
            photos = find_photos(self.photos, passed_over=self.masks).photos
            masks = {} if self.masks is None else match_masks(list(photos), self.masks)
            facts += [{name: sha256_of(path) for name, path in files.items()} for files in (photos, masks)]
        except (Asic3dError, OSError) as error:  # it will fail, and be tried again when it fails otherwise
            facts.append(str(error))
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def is_finished(self, *, recorded: bool = False) -> bool:
        """Whether the run folder holds a finished run of these very photos and masks with these settings.

        A run knows no digest of the masks that it was given. It keeps the masks themselves, in ``masks/``, and they are
        decoded and compared with those that are there now, or with the photos' own transparency: much slower than a
        digest.

        Args:
            recorded: a record says that a run of these :meth:`inputs` was finished here, and so of these masks; then it
                is only asked whether all photos that have a mask were given one.
        """
        try:
            run = read_run(self.run)
            entries = [photo for photo in run["photos"] if "path" not in photo]  # the others were added from elsewhere
            aligned = {photo["name"]: photo["sha256"] for photo in entries}
            here = find_photos(self.photos, passed_over=self.masks).photos
            wanted = {name: sha256_of(path) for name, path in here.items() if name not in run["left_out"]}
            same = _telling(AlignmentConfig(**run["config"])) == _telling(self.config)
            return same and aligned == wanted and self._masks_are_kept(entries, here, compared=not recorded)
        except (StorageError, CollectionError, ConfigError, OSError, KeyError, TypeError):
            return False

    def _masks_are_kept(self, entries: list[dict[str, Any]], photos: dict[str, Path], *, compared: bool) -> bool:
        masks = {} if self.masks is None else match_masks(list(photos), self.masks)
        given = {entry["name"] for entry in entries if entry.get("mask_given") is True}
        if any(entry["name"] in masks and entry["name"] not in given for entry in entries):
            return False
        return not compared or all(self._mask_is_kept(name, photos[name], masks.get(name)) for name in sorted(given))

    def _mask_is_kept(self, name: str, photo: Path, mask: Path | None) -> bool:
        import numpy as np

        from asic3d.collection import load_photo
        from asic3d.decoding import decode_mask
        from asic3d.run_folder import MASKS

        now = load_photo(photo, name=name, mask=mask).read_mask()
        return now is not None and np.array_equal(decode_mask(inside(self.run, f"{MASKS}/{name}.png")), now > 0)


def _telling(config: AlignmentConfig) -> AlignmentConfig:
    """The settings without what changes no result."""
    return replace(config, max_memory=0.0)


def find_collections(source: str | Path, runs: str | Path) -> dict[str, Path]:
    """The photo folders of a folder of collections, or of a manifest.

    Args:
        source: a folder, each of whose visible sub-folders is a collection; or a text file with a photo folder on each
            line (``#`` begins a comment); or a ``.csv`` file with a header and the columns ``name`` and ``folder``.
            Folders are relative to the manifest.
        runs: where the run folders shall lie; it is no collection.

    Returns:
        Name -> absolute photo folder, in natural order or that of the manifest.

    Raises:
        CollectionError: there is none, a name is that of two, or it can't be that of a folder in ``runs``.
    """
    source, runs = Path(source).absolute(), Path(runs).absolute()
    if source.is_dir() and runs.resolve() == source.resolve():
        raise CollectionError(
            f"'{runs}' holds the collections: the runs need a folder of their own. Choose one with -o."
        )
    found = list(_listed_in(source) if source.is_file() else _below(source, runs))
    if not found:
        what = "names no folder" if source.is_file() else "holds no folder of photos"
        raise CollectionError(f"'{source}' {what}. Give a folder with a folder of photos for each object, or a list.")
    collections: dict[str, Path] = {}
    seen: dict[str, str] = {}
    for name, folder in found:
        _check_name(name, runs)
        if "\0" in str(folder):
            raise CollectionError(
                f"No folder can be called {shown(str(folder))}, as '{source}' has it. Mend that line."
            )
        if (runs / name).resolve() == folder.resolve():
            raise CollectionError(f"The run of {shown(name)} would be written among its photos. Choose another -o.")
        first = seen.setdefault(composed(name).casefold(), name)
        if name in collections or first != name:
            raise CollectionError(
                f"Two collections are called {shown(name)}, and would be written to one folder. Give each a name of "
                "its own, in a .csv file with the columns name and folder."
            )
        collections[name] = folder
    return collections


def find_masks(masks: str | Path, names: list[str]) -> dict[str, Path]:
    """The mask folder of each collection that has one: the sub-folder of its name.

    Raises:
        CollectionError: no collection has one.
    """
    root = Path(masks).absolute()
    found = {name: root / name for name in names if (root / name).is_dir()}
    if not found:
        raise CollectionError(
            f"No folder in '{masks}' is called as a collection is ({listed(names)}). Masks lie in a folder for each "
            "collection, of the same name."
        )
    return found


def _below(source: Path, runs: Path) -> Iterator[tuple[str, Path]]:
    try:
        entries = [entry for entry in source.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
    except OSError as error:
        raise CollectionError(
            f"'{source}' can't be read ({error.strerror}). Give a folder that holds a folder of photos for each object."
        ) from None
    for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
        ours = runs.resolve().is_relative_to(entry.resolve()) or is_run_folder(entry)
        if not ours and not (entry / STATE_FILE).is_file():
            yield entry.name, entry


def _listed_in(manifest: Path) -> Iterator[tuple[str, Path]]:
    try:
        text = read_text_bounded(manifest)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CollectionError(f"The list '{manifest}' can't be read ({reason}). Save it as plain text.") from None
    lines = io.StringIO(text, newline=None)  # str.splitlines would take a name apart at other letters
    if manifest.suffix.lower() != ".csv":
        for line in (line.strip() for line in lines):
            if line and not line.startswith("#"):
                yield Path(line).name, manifest.parent / line
        return
    rows = csv.DictReader(lines, skipinitialspace=True)
    try:
        if not {"name", "folder"} <= set(rows.fieldnames or ()):
            raise CollectionError(f"The table '{manifest}' needs a first line with the columns name and folder.")
        for row in rows:
            if not row["name"] or not row["folder"]:
                raise CollectionError(f"Line {rows.line_num} of '{manifest}' lacks its name or its folder. Write both.")
            yield row["name"].strip(), manifest.parent / row["folder"].strip()
    except csv.Error as error:
        where = f"What follows line {rows.line_num} of '{manifest}'"
        raise CollectionError(f"{where} is no table ({error}). Mend it, or write it anew.") from None


def _check_name(name: str, runs: Path) -> None:
    """Refuses what is not the name of one folder in ``runs``."""
    try:
        inside(runs, name)
        fits = (
            Path(name).name == name
            and len(os.fsencode(name)) <= _LONGEST
            and "\\" not in name
            and not name.startswith(".")
        )
    except StorageError:
        fits = False
    if not fits or name.casefold() in _OURS:
        raise CollectionError(
            f"A collection can't be called {shown(name)}: its run is written into a folder of that name in '{runs}'. "
            "Give it another name, in a .csv file with the columns name and folder."
        )
