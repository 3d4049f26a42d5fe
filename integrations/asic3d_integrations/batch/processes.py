"""Several collections at once on this machine, each in a process of its own, and no more of them than it has cores."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from asic3d.config import AlignmentConfig
from asic3d.errors import CollectionError
from asic3d.memory import Load, expected_memory
from asic3d.photo_folder import find_photos
from asic3d_integrations.batch.plan import Job
from asic3d_integrations.batch.work import Outcome, align_collection, failed

_PATIENCE = 20  # seconds in which a process may put away its things before it is killed


def cores() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> float:
    """Memory that is free or can be freed, GB; infinity where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123  # no file of anybody's
            sizes = dict(line.split(":", 1) for line in file)
        return int(sizes["MemAvailable"].split()[0]) / 1e6
    except (OSError, KeyError, ValueError):
        return float("inf")


def fitting(folders: Sequence[Path], config: AlignmentConfig) -> int:
    """How many of these photo folders are best aligned at once: as many as there are cores, while memory lasts.

    On a graphics card, which ``auto`` takes where torch finds one, one at a time. A core is better spent on another
    collection than on a second thread.
    """
    if _on_a_card(config.device):
        return 1
    needed = expected_memory(Load.usual(max(_count(folder) for folder in folders)), config)
    return max(1, int(min(len(folders), cores(), free_memory() / needed)))


def _on_a_card(device: str) -> bool:
    if device != "auto":
        return device.startswith("cuda")  # whether it is there, each collection finds out
    from asic3d.devices import choose_device

    return choose_device(device).type == "cuda"


def _count(folder: Path) -> int:
    try:
        return len(find_photos(folder).photos)
    except (CollectionError, OSError):  # which the batch will say of it
        return 0


def on_this_machine(jobs: Sequence[Job], at_once: int) -> Iterator[tuple[Job, Outcome | None]]:
    """Aligns collections, ``at_once`` of them at a time.

    A process that crashes or is killed is that collection's failure alone. When the iteration is left early, or this
    process dies, the others stop and leave run folders that can be gone on with.

    Yields:
        Each collection with None when it begins, and with its outcome when it ends.
    """
    waiting, running = list(jobs), dict[SpawnProcess, tuple[Job, Connection]]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                process, answers = _started(job)
                running[process] = job, answers
                yield job, None
            ready = wait([answers for _, answers in running.values()])
            for process, (job, answers) in list(running.items()):
                if answers in ready:
                    outcome = _answer(process, answers)
                    del running[process]
                    yield job, outcome
    finally:
        _stop(list(running))


def _started(job: Job) -> tuple[SpawnProcess, Connection]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs), name=f"asic3d {job.name}", daemon=True)
    with _undisturbed():
        process.start()
    theirs.close()  # so that its end is seen when the process is gone
    return process, ours


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits, and does not reach the processes that are begun meanwhile: not yet listening, they would die."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(process: SpawnProcess, answers: Connection) -> Outcome:
    """What a process says, or what its death means."""
    try:
        outcome = answers.recv()
    except (EOFError, OSError):
        outcome = None
    answers.close()
    process.join(_PATIENCE)
    if outcome is not None:
        return outcome
    code = process.exitcode or 0
    if code == -signal.SIGTERM.value:
        return failed("Its process was ended from outside. Begin it again with --retry.")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return failed(
            f"Its process was killed ({name}), as the system does when memory runs out. Run fewer at once (--jobs 1), "
            "and try it again with --retry."
        )
    return failed(f"Its process ended without an answer (exit code {code}). Begin it again with --retry.")


def _stop(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _work(job: Job, answers: Connection) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; ours is told below
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch_over, daemon=True).start()
    os.dup2(2, 1)  # what libraries print is no result
    with contextlib.suppress(KeyboardInterrupt):
        answers.send(align_collection(job))
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _watch_over() -> None:
    """Ends this process when the one that began it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was begun by another"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_PATIENCE)
    os._exit(1)
