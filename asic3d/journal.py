"""Files that change together: all of them are as before or all as after, also where the process is killed in between.

All are written beside their places first. Then a journal says which of them belongs where, and they are renamed. Who
finds a journal of a process that is dead goes on with it.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from asic3d.errors import StorageError
from asic3d.storage import clear_write_errors, inside, read_json, write_json
from asic3d.temporaries import JOURNAL, TEMPORARY, release, temporary_file


def write_together(
    files: Mapping[Path, bytes],
    *,
    folder: Path | None = None,
    without: Collection[Path] = (),
    aside: Mapping[Path, Path] = MappingProxyType({}),
) -> None:
    """Writes several files so that a full disk leaves all of them as they were.

    Args:
        files: path -> content; renamed in this order.
        folder: holds all of them, and is held (:func:`asic3d.run_lock.hold_run`): a journal is kept in it, so that
            being killed leaves all or none too.
        without: files that are removed with it.
        aside: file or folder -> where it is moved last; what can't be moved stays.

    Raises:
        StorageError: the disk is full or a place is not writable.
    """
    waiting: dict[Path, Path] = {}
    with contextlib.ExitStack() as made:
        for path, content in files.items():
            with clear_write_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                waiting[path] = made.enter_context(temporary_file(path))
                with waiting[path].open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        if folder is not None:
            made.enter_context(_journal(folder, waiting, without, aside))
        for path in files:
            with clear_write_errors(path):
                waiting[path].replace(path)
        for path in without:
            with clear_write_errors(path):
                path.unlink(missing_ok=True)
        for path, place in aside.items():
            _move_aside(path, place)


def _move_aside(path: Path, place: Path) -> None:
    if path.exists() and not os.path.lexists(place):
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)


@contextlib.contextmanager
def _journal(
    folder: Path, waiting: Mapping[Path, Path], without: Collection[Path], aside: Mapping[Path, Path]
) -> Iterator[None]:
    """A journal that is there as long as the block lasts, and stays where it ends half-way."""

    def name(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    write_json(
        folder / JOURNAL,
        {
            "move": [[temporary.name, name(path)] for path, temporary in waiting.items()],
            "remove": [name(path) for path in without],
            "aside": [[name(path), name(place)] for path, place in aside.items()],
        },
    )
    try:
        yield
    except BaseException:
        if not all(temporary.exists() for temporary in waiting.values()):  # some are at their places
            for temporary in waiting.values():
                release(temporary)
            raise
        _forget(folder)
        raise
    _forget(folder)


def finish_journal(folder: Path) -> None:
    """Goes on with what a process had written and was killed while moving; the folder is held.

    A journal may be of unknown origin: nothing outside the folder is touched, and one that makes no sense is removed.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return
    with contextlib.suppress(StorageError, OSError, ValueError, TypeError):
        found = read_json(path)
        moves = [(str(temporary), inside(folder, name)) for temporary, name in found.get("move", [])]
        removed = [inside(folder, name) for name in found.get("remove", [])]
        aside = [(inside(folder, name), inside(folder, place)) for name, place in found.get("aside", [])]
        if all(TEMPORARY.fullmatch(temporary) for temporary, _ in moves):
            for temporary, place in moves:
                if place.with_name(temporary).is_file() and not place.with_name(temporary).is_symlink():
                    place.with_name(temporary).replace(place)
            for place in removed:
                place.unlink(missing_ok=True)
            for old, place in aside:
                _move_aside(old, place)
    _forget(folder)


def _forget(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / JOURNAL).unlink()
