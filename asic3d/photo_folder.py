"""Which files of a folder are photos, and which mask belongs to which photo."""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from asic3d.errors import CollectionError
from asic3d.storage import is_run_folder

_LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".heic", ".heif", ".hif"}
_LOSSLESS = {".png", ".apng", ".tif", ".tiff", ".bmp", ".dib", ".gif"}
SUFFIXES = frozenset(_LOSSY | _LOSSLESS)
"""Endings of the files that are taken for photos, in lower case."""
_LONGEST = 255 - len(".png")
"""Bytes of a photo's name: on nearly all file systems a name has 255 at most, and the mask's is longer."""
_RAW_SUFFIXES = {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr"}
_SKIPPED_FOLDERS = {"__macosx", "@eadir"}  # what archives of macOS and servers of Synology put beside photos
_MASK_FOLDERS = {"mask", "masks"}


@dataclass(frozen=True)
class PhotoFiles:
    """What a folder holds.

    Attributes:
        photos: name -> file, in natural order of the names.
        left_out: name -> why the file or sub-folder can't be used, a phrase such as "the file is empty".
        notes: sentences for people.
    """

    photos: dict[str, Path]
    left_out: dict[str, str]
    notes: tuple[str, ...]


def find_photos(root: Path, *, passed_over: Path | None = None) -> PhotoFiles:
    """The photo files of a folder and its sub-folders, not yet opened.

    Hidden files, run folders and masks in a sub-folder ``masks`` are passed over; links are followed, loops are not.

    Args:
        root: an existing folder.
        passed_over: a folder below it that is not looked into.

    Raises:
        CollectionError: the folder can't be read.
    """
    files, left_out = _walk(root, passed_over)
    files = dict(sorted(files.items(), key=lambda item: natural_key(item[0])))
    photos = {name: path for name, path in files.items() if _suffix(name) in SUFFIXES}
    stems = {_stem(name) for name in photos}
    raw = [name for name in files if _suffix(name) in _RAW_SUFFIXES and _stem(name) not in stems]
    left_out |= {name: "it is a camera's raw file; export it as JPEG first" for name in raw}
    masks = _masks_among(list(photos))
    notes = []
    if masks:
        notes.append(
            f"Taken for masks, not photos: {listed(masks)}. Give their folder with --masks (masks= in "
            "Python) to use them."
        )
    for name, path in photos.items():
        if _printable(name) != name:
            left_out[_printable(name)] = "its name is not valid UTF-8; rename it"
        elif len(os.fsencode(path.name)) > _LONGEST:
            left_out[name] = f"its name is too long for its mask, which ends in .png; at most {_LONGEST} bytes fit"
        elif not _is(path.is_file):
            left_out[name] = "it is a link that leads nowhere, or no ordinary file"
    passed = {*masks, *left_out}
    return PhotoFiles(
        {name: path for name, path in photos.items() if _printable(name) not in passed}, left_out, tuple(notes)
    )


def match_masks(names: Sequence[str], mask_root: Path) -> dict[str, Path]:
    """The mask of each photo that has one: ``a.jpg.png`` or ``a.png`` for ``a.jpg``, sub-folders mirrored.

    Args:
        names: the photos' names.
        mask_root: an existing folder.

    Returns:
        Photo name -> mask file.

    Raises:
        CollectionError: the folder can't be read, no mask belongs to a photo, or one belongs to two photos.
    """
    files = {name: path for name, path in _walk(mask_root, None)[0].items() if _suffix(name) in SUFFIXES}
    by_stem: dict[str, list[str]] = {}
    for name in sorted(files, key=lambda name: (_suffix(name) != ".png", natural_key(name))):
        by_stem.setdefault(composed(_stem(name)).casefold(), []).append(name)
    chosen: dict[str, str] = {}
    for name in names:
        for wanted in (composed(name), composed(_stem(name))):
            options = by_stem.get(wanted.casefold(), [])
            exact = [option for option in options if composed(_stem(option)) == wanted]
            if options:
                chosen[name] = (exact or options)[0]
                break
    _check_matches(names, chosen, mask_root)
    return {name: files[mask] for name, mask in chosen.items()}


def _check_matches(names: Sequence[str], chosen: dict[str, str], mask_root: Path) -> None:
    """Refuses a mask folder that fits no photo, and a mask that fits two."""
    if names and not chosen:
        raise CollectionError(
            f"No mask in '{mask_root}' belongs to a photo. The mask of {shown(names[0])} is looked for there as "
            f"{shown(names[0] + '.png')} or {shown(_stem(names[0]) + '.png')}."
        )
    owners: dict[str, str] = {}
    for name, mask in chosen.items():
        if mask in owners:
            raise CollectionError(
                f"The mask {shown(mask)} belongs to two photos, {shown(owners[mask])} and {shown(name)}. Name the "
                f"masks {shown(owners[mask] + '.png')} and {shown(name + '.png')}."
            )
        owners[mask] = name


def natural_key(name: str) -> tuple:
    """Sort key in which ``IMG_9`` comes before ``IMG_10``, folder by folder."""
    parts = [re.split(r"(\d+)", part.casefold()) for part in name.split("/")]
    return [[(int(run), "") if run.isdecimal() else (-1, run) for run in part] for part in parts], name


def composed(name: str) -> str:
    """A name in one Unicode form: macOS takes accents apart, keyboards don't."""
    return unicodedata.normalize("NFC", name)


def shown(name: str) -> str:
    """A name in quotes for a message; a line break or other invisible character in it is spelled out."""
    return f"'{name}'" if name.isprintable() else ascii(name)


def spelled(name: str) -> str:
    """As :func:`shown`, and without quotes where they are not needed: for tables and pages."""
    return name if name.isprintable() else ascii(name)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a message: the first few, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + rest


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _printable(name: str) -> str:
    """The name with bytes that are no text spelled out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _masks_among(names: list[str]) -> list[str]:
    """The files in sub-folders called ``masks`` that are named after a photo elsewhere."""
    in_masks = [name for name in names if any(part.lower() in _MASK_FOLDERS for part in PurePosixPath(name).parts[:-1])]
    others = {PurePosixPath(name).name for name in set(names) - set(in_masks)}
    others |= {_stem(name) for name in others}
    return [name for name in in_masks if _stem(PurePosixPath(name).name) in others]


def _walk(root: Path, passed_over: Path | None) -> tuple[dict[str, Path], dict[str, str]]:
    """All visible files below a folder by relative name, and the sub-folders that can't be read with the reason."""
    files: dict[str, Path] = {}
    unreadable: dict[str, str] = {}
    seen = {_identity(root)} | ({_identity(passed_over)} if passed_over else set())
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            if folder == root:
                raise CollectionError(f"The folder '{root}' can't be read: {error.strerror}.") from error
            unreadable[_printable(prefix)] = f"the folder can't be read ({error.strerror})"
            continue
        for path in (Path(entry.path) for entry in entries):
            if not _is(path.is_dir):
                files[prefix + path.name] = path
            elif _is_looked_into(path, root) and _identity(path) not in seen:
                seen.add(_identity(path))
                waiting.append((path, f"{prefix}{path.name}/"))
    return files, unreadable


def _is_looked_into(folder: Path, root: Path) -> bool:
    """False for what is not photos by its kind, and for a link to a folder around the photo folder."""
    if folder.name.lower() in _SKIPPED_FOLDERS or is_run_folder(folder):
        return False
    return not (folder.is_symlink() and root.resolve().is_relative_to(folder.resolve()))


def _identity(path: Path) -> tuple[int, int]:
    """What stays the same whichever link a folder is reached by."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _is(test: Callable[[], bool]) -> bool:
    """A test of a path, False where it can't be made: a link to itself, no permission."""
    try:
        return test()
    except OSError:
        return False
