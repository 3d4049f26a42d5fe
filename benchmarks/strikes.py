"""A command in a process of its own that is killed, or meets a full disk, at a chosen moment."""

import contextlib
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ERRORS = {"full disk": errno.ENOSPC, "read-only": errno.EROFS, "no permission": errno.EACCES}
VANISHED = "a photo vanishes"
KILLED = "killed"
COMMAND, PROCESS, ALL = "the command", "one of its processes", "all at once"
"""What is hit."""
_INNER = "ASIC3D_FAULT"
"""Tells the processes that a command begins where they are struck, by what, and where they count."""


class Hook:
    """Counts what a process does to the disk, and strikes at one number; installed for the rest of the process.

    Args:
        tally: a file that grows by a byte with each change; several processes may share it.
    """

    def __init__(self, strike_at: int, fault: str, tally: Path) -> None:
        self.count, self._at, self._fault = 0, strike_at, fault
        self._tally = os.open(tally, os.O_WRONLY | os.O_APPEND)
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        """Called by Python before it does something."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & _WRITING or os.fsdecode(path).startswith(("/dev/", "/proc/")):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
            return
        self.count += 1
        os.write(self._tally, b".")
        removing = event in ("os.remove", "os.rmdir")
        if self.count >= self._at and not (removing and self._fault in ERRORS):  # a full disk lets files be removed
            fault, self._fault = self._fault, ""  # what happens now is no change by the command
            try:
                _strike(fault)
            finally:
                self._fault = fault


def _strike(fault: str) -> None:
    """What happens from the moment on that was drawn."""
    if fault == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == VANISHED:
        Path("photos/photo_02.jpg").unlink(missing_ok=True)
    elif fault:
        raise OSError(ERRORS[fault], os.strerror(ERRORS[fault]))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), seconds and words, and what it did to the disk.

    ``changes`` are those of the command itself, ``below`` those of its processes together.
    """

    code: int
    changes: int
    below: int
    seconds: float
    said: str


def run(
    words: list[str], world: Path, *, at: int = sys.maxsize, fault: str = "", after: float = 0.0, hit: str = COMMAND
) -> Ended:
    """Runs a command in a process of its own, which is hit ``after`` seconds or at its change of the disk ``at``."""
    tally, below, said = (world.parent / name for name in ("tally", "below", "said"))
    for file in (tally, below):
        file.write_bytes(b"")
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        inner = (sys.maxsize, "") if hit == COMMAND else (at, fault)
        os.environ[_INNER] = json.dumps([*inner, str(below)])
        _become(words, world, said, lambda: Hook(sys.maxsize if hit == PROCESS else at, fault, tally))
    if after:
        waiting = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while time.perf_counter() - start < after and os.waitid(os.P_PID, child, waiting) is None:
            time.sleep(0.002)
        workers = [] if hit == COMMAND else _processes_of(child)
        for one in workers[:1] if hit == PROCESS else [child, *workers]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes, deeper = (file.stat().st_size for file in (tally, below))
    return Ended(code, changes, deeper, time.perf_counter() - start, said.read_text(errors="replace"))


def _processes_of(parent: int) -> list[int]:
    """The processes that a command has begun to work for it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            owner = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if owner == parent and b"spawn_main" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return sorted(found)


def _become(words: list[str], world: Path, said: Path, install: Callable[[], Hook]) -> None:
    """The child: never returns."""
    code = 70
    try:
        output = said.open("wb", buffering=0)
        os.chdir(world)
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        from asic3d_cli.main import main

        install()
        try:
            main(words, prog_name="asic3d")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def strike_inside() -> None:
    """In a process that a struck command has begun: as it was told."""
    if _INNER in os.environ:
        at, fault, tally = json.loads(os.environ[_INNER])
        Hook(at, fault, Path(tally))
