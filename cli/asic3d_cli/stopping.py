"""SIGTERM, as 'timeout' and clusters send it, and SIGHUP stop a command as Ctrl-C does: nothing half-done stays."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
PATIENCE = 5.0
"""Seconds that a command has to stop by itself: in the middle of compiled code it can't."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end; ``code`` is its exit code, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def stoppable(say: Callable[[], None]) -> Iterator[None]:
    """Lets SIGTERM and SIGHUP raise :class:`Terminated` in the main thread.

    A command that does not come to an end within PATIENCE is ended from another thread, which removes what it has not
    completed. Signals that are ignored, as 'nohup' does it, or that the host program handles, are left alone.

    Args:
        say: tells the user that the command was stopped.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_DFL]
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    stopped = threading.Event()
    watch = threading.Thread(target=_watch, args=(told, {int(one) for one in caught}, say), daemon=True)
    before = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    watch.start()

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopped.is_set():  # a second one would interrupt the cleaning up
            stopped.set()
            raise Terminated(number)

    for one in caught:
        signal.signal(one, stop)
    try:
        yield
    finally:
        if not stopped.is_set():  # else the watch stays: threads that still work may keep the process from ending
            signal.set_wakeup_fd(before)
            for one in caught:
                signal.signal(one, signal.SIG_DFL)
            os.close(tell)
            watch.join()


def _watch(told: int, numbers: set[int], say: Callable[[], None]) -> None:
    """Waits for one of the signals, which the system notes in a pipe whatever the main thread does; then ends it."""
    while numbers.isdisjoint(noted := os.read(told, 1)):
        if not noted:
            os.close(told)
            return
    from asic3d.temporaries import clear_own

    threading.Event().wait(PATIENCE)
    say()
    clear_own()
    sys.stdout.flush()
    os._exit(128 + noted[0])
