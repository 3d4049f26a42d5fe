"""Run folders as the commands take them: where none is named, while they are written, when they are only read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.console import Console

if TYPE_CHECKING:
    from asic3d import Alignment

RUN = Path("asic3d_out")
"""The run folder where none is named."""
FOLDER = click.Path(path_type=Path)


@contextmanager
def held_for(run: Path, output: Path) -> Iterator[None]:
    """Keeps other commands from changing a run while something is written into it; elsewhere it is only read.

    Raises:
        StorageError: another process is at it.
    """
    from asic3d.run_lock import hold_run
    from asic3d.storage import is_run_folder

    # No lock is put into a folder that is no run: what reads the run says what it is.
    if not is_run_folder(run) or not output.resolve().is_relative_to(run.resolve()):
        yield
        return
    with hold_run(run):
        yield


def loaded(console: Console, run: Path) -> "Alignment":
    """The alignment of a run that is only looked at."""
    import asic3d

    console.after_interrupt = lambda: "Stopped. Nothing was written."
    return asic3d.load_alignment(run)
