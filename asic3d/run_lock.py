"""One process at a time makes or changes a run folder: what two write at once would be lost without a word."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from asic3d.errors import StorageError
from asic3d.journal import finish_journal
from asic3d.storage import prepare_output
from asic3d.temporaries import JOURNAL, clear_left, locked, unfinished

LOCK = ".asic3d.lock"
"""The file in a run folder that is locked, not its presence: the system frees it when a process dies."""
_PAUSE = 0.1  # seconds between two looks at a lock that somebody has
_held: dict[tuple[Path, int], int] = {}
"""(folder, thread) that holds a lock in this process -> how many times over."""


@contextlib.contextmanager
def hold_run(folder: str | Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes, and other threads of this one, from making or changing a run folder meanwhile.

    May be entered again by the thread that is in it. A file system that knows no locks is used without. What a process
    that was killed left unfinished in the folder is removed, and what it had begun to put in its place is put there.

    Args:
        folder: an existing folder that may be written.
        patience: seconds to wait for another process to be done.

    Raises:
        StorageError: another process is at it; nothing was changed.

    Example:
        >>> with hold_run("asic3d_out"):  # doctest: +SKIP
        ...     load_alignment("asic3d_out").add("new.jpg").save("asic3d_out", overwrite=True)
    """
    key = (Path(folder).resolve(), threading.get_ident())
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    file = None
    try:
        file = _locked(key[0] / LOCK, Path(folder), patience)
        _held[key] = 1
        finish_journal(key[0])
        clear_left(key[0], below=True)
        with unfinished(key[0] / LOCK):
            yield
    finally:
        _held.pop(key, None)
        if file is not None:
            _release(file, key[0] / LOCK)


def settle_run(folder: str | Path) -> None:
    """Brings a run that somebody was killed while replacing to its end, where it may be written: before it is read."""
    if (Path(folder) / JOURNAL).is_file():
        with contextlib.suppress(StorageError), hold_run(folder):  # an error: its owner lives, and is just finishing
            pass


@contextlib.contextmanager
def claim_run(
    folder: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    photos: Path | None = None,
    patience: float = 0.0,
) -> Iterator[None]:
    """Makes a run folder ready to be written (:func:`asic3d.storage.prepare_output`) and holds it (:func:`hold_run`).

    Raises:
        StorageError: as both.
    """
    wanted = {"overwrite": overwrite, "resume": resume, "photos": photos}
    prepare_output(folder, **wanted)  # no lock is put into a folder that is not ours
    with hold_run(folder, patience=patience):
        prepare_output(folder, **wanted)  # somebody else may just have finished there
        yield


def _locked(path: Path, folder: Path, patience: float = 0.0) -> FileIO:
    """The lock file, open and locked."""
    until = time.monotonic() + patience
    while True:
        try:
            file = FileIO(path, "a+", opener=_open_no_link)
        except OSError as error:
            raise StorageError(
                f"'{folder}' can't be written ({error.strerror or error}). Choose another folder, or change its "
                "permissions."
            ) from error
        try:
            if not _lock(file):
                if time.monotonic() >= until:
                    raise _taken(file, folder)
                file.close()
                time.sleep(_PAUSE)
                continue
            if _is_same(file, path):
                with contextlib.suppress(OSError):  # on a full disk it is held without a name
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
            file.close()  # its owner removed the file between our opening and locking it
        except StorageError:
            file.close()
            raise
        except BaseException:  # told to stop in between
            if _lock(file) and _is_same(file, path):
                _release(file, path)
            raise


def _open_no_link(path: str, flags: int) -> int:
    """Opens a file, and no other one that a link in its place leads to: it would be written over."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _taken(file: FileIO, folder: Path) -> StorageError:
    """What is said where somebody else has the lock."""
    file.seek(0)
    owner = file.read(200).decode("utf-8", "replace").strip()
    return StorageError(
        f"Another asic3d is writing to '{folder}'{f' ({owner})' if owner.isprintable() and owner else ''}: "
        "nothing was changed. Wait until it is done, or choose another folder."
    )


def _is_same(file: FileIO, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _release(file: FileIO, path: Path) -> None:
    if sys.platform == "win32":  # an open file can't be removed there
        file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        return
    with contextlib.suppress(OSError):
        path.unlink()  # while it is locked: nobody can lock it in between and be left with a file that is gone
    file.close()


def _lock(file: FileIO) -> bool:
    """Locks a file without waiting; False where somebody else has it, True too where locks are unknown."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(1000)  # one byte far behind the text, which others may read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    return locked(file.fileno()) is not False
