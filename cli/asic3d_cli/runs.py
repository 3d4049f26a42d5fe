"""Run folders as the commands take them: where none is named, while they are written, when they are only read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from asic3d import Alignment
    from asic3d_cli.console import Console

RUN = Path("asic3d_out")
"""The run folder where none is named."""


class Place(click.Path):
    """A file or a folder, whose name may not be empty: that would be the working folder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text as a path, or click's usage error."""
        if value == "":
            self.fail("the name is empty; give a path, '.' for the working folder.", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = Place()
photos_option = click.option(
    "--photos", "photo_folder", metavar="DIR", type=FOLDER, help="Where the run's photos are now, if they were moved."
)


def warn_of_doubts(console: "Console", alignment: "Alignment", asked: Sequence[str] = ()) -> None:
    """Says what puts the answers about some photos in doubt, and what puts all of them in doubt."""
    from asic3d.verdict import doubts

    for sentence in doubts(alignment, asked):
        console.warn(sentence)


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


def loaded(console: "Console", run: Path, photos: Path | None) -> "tuple[Alignment, bool]":
    """The alignment of a run that is only looked at, with the photos that are there, and whether these are all.

    What is made of fewer than all is made again when the others are back.
    """
    console.after_interrupt = lambda: "Stopped. Nothing was written."
    whole, gone = read_quietly(run, photos)
    shown = whole.present  # what is said of photos that are gone is an error where too few are left
    for sentence in gone:
        console.warn(sentence)
    warn_of_doubts(console, shown)
    return shown, shown is whole


def read_quietly(run: Path, photos: Path | None) -> "tuple[Alignment, list[str]]":
    """The alignment of a run, and what there is to say of photos that are gone: an error may say it instead."""
    import warnings

    import asic3d
    from asic3d.errors import CollectionWarning

    with warnings.catch_warnings(record=True) as caught:
        alignment = asic3d.load_alignment(run, photos=photos)
    return alignment, [str(found.message) for found in caught if issubclass(found.category, CollectionWarning)]
