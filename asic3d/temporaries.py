"""Files and folders that are not complete yet: hidden, locked by who makes them, and gone whatever ends the process.

An exception, Ctrl-C included, removes them on its way. What a process left that was killed is known by its lock, which
the system frees: :func:`clear_left` removes it.
"""

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = re.compile(r"\.asic3d-[0-9a-f]{12}\.(tmp|new|old|place)")
"""Names of temporary files (``tmp``), of folders (``new``), of what a folder is about to replace (``old``), and
of the file that says where it belongs (``place``)."""
JOURNAL = ".asic3d-journal.json"
"""In a folder, says which temporary files below it are complete and are to be moved: see :mod:`asic3d.journal`."""
_unfinished: dict[Path, int | None] = {}
"""Temporary files and folders of this process -> the descriptor that holds their lock, where they have one."""


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """A file that :func:`clear_own` removes too, as long as the block lasts."""
    _unfinished[path] = None
    try:
        yield
    finally:
        del _unfinished[path]


def temporary_path(path: Path, kind: str = "tmp") -> Path:
    """A new name beside a path. It is short: the path's own may already be as long as the file system takes."""
    return path.with_name(f".asic3d-{secrets.token_hex(6)}.{kind}")


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """An empty new file beside a path; gone afterwards where it was not moved.

    Raises:
        OSError: it can't be made.
    """
    yield from _made(path, "tmp")


@contextlib.contextmanager
def temporary_folder(path: Path | None = None) -> Iterator[Path]:
    """An empty new folder beside a path, or among the system's temporary files; gone afterwards where it was not moved.

    Raises:
        OSError: it can't be made.
    """
    if path is None:
        clear_left()
    yield from _made(path or Path(tempfile.gettempdir()) / "asic3d", "new", 0o777 if path else 0o700)


def _made(path: Path, kind: str, mode: int = 0o777) -> Iterator[Path]:
    while True:
        made = temporary_path(path, kind)
        _unfinished[made] = None
        try:
            made.mkdir(mode) if kind == "new" else made.touch(exist_ok=False)
            if _hold(made):
                yield made
                return
        finally:
            _drop(made)


def _hold(made: Path) -> bool:
    """Locks what was made; False where another process took it for a dead one's before that."""
    if sys.platform == "win32":  # what is open can't be renamed there
        return True
    opened = os.open(made, os.O_RDONLY)
    _unfinished[made] = opened
    if locked(opened) is False:
        return False
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(opened), made.stat())
    return False


def _drop(made: Path) -> None:
    if made in _unfinished:
        _remove(made)
        release(made)


def release(made: Path) -> None:
    """Lets a temporary file stay where it is: a journal says what becomes of it."""
    opened = _unfinished.pop(made, None)
    if opened is not None:
        os.close(opened)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def locked(opened: int) -> bool | None:
    """Locks an open file or folder of POSIX without waiting; False: somebody else has it; None: locks are unknown."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such as ENOLCK and EOPNOTSUPP
        return None
    return True


def clear_own() -> None:
    """Removes what this process has not completed: before it ends without unwinding."""
    for made in list(_unfinished):
        if not made.with_suffix(".old").exists():  # else it was complete, and is all that is left of two
            _remove(made)


def clear_left(folder: Path | None = None, *, below: bool = False) -> None:
    """Removes what processes that are dead left in a folder; what a living one makes, here or elsewhere, stays.

    Args:
        folder: where to look; the system's folder for temporary files where it is not given.
        below: look into its folders too.
    """
    folder = folder or Path(tempfile.gettempdir())
    if (folder / JOURNAL).exists():  # they are complete, and only not at their places yet
        return
    with contextlib.suppress(OSError):
        for path in sorted(folder.rglob(".asic3d-*") if below else folder.glob(".asic3d-*")):
            if TEMPORARY.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _clear(path)


def move_folder(new: Path, folder: Path) -> None:
    """Moves a complete temporary folder into the place of another one beside it, which is removed.

    In one step where the system can exchange two folders. Else in two renamings: :func:`clear_left` does the second
    where the process is killed after the first.

    Raises:
        OSError: it can't be moved; what was there is there.
    """
    if folder.is_dir() and _exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)
        return
    old, place = new.with_suffix(".old"), new.with_suffix(".place")
    try:
        if folder.exists():
            place.write_text(folder.name, encoding="utf-8", errors="surrogateescape")
            folder.rename(old)
        new.rename(folder)
    except BaseException:  # Ctrl-C too may come between the two
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        place.unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two files or folders in one step; False where that can't be done, and nothing was."""
    names = {"linux": ("renameat2", -100), "darwin": ("renameatx_np", -2)}  # with the working folder's number
    if sys.platform not in names:
        return False
    name, here = names[sys.platform]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # an old libc, or a name that it can't have
        function = getattr(ctypes.CDLL(None), name)
        return function(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(2)) == 0
    return False


def _clear(path: Path) -> None:
    """Removes a file or folder that nobody holds, or moves a folder to where its maker was about to move it."""
    new, old, place = (path.with_suffix(f".{kind}") for kind in ("new", "old", "place"))
    if path in (old, place):
        if not new.exists():
            _remove(path)
        return
    if sys.platform == "win32" or path.is_symlink():
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        if locked(opened) and old.exists():  # killed in the moment between two renamings: both are complete
            name = place.read_text(encoding="utf-8", errors="surrogateescape")
            if Path(name).name == name and not os.path.lexists(path.with_name(name)):
                new.rename(path.with_name(name))
                _remove(old)
                _remove(place)
        elif locked(opened):
            _remove(path)
    finally:
        os.close(opened)
