"""From a folder of photos to a run folder: the steps that several commands share."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asic3d.errors import Asic3dError
from asic3d_cli.console import Console

if TYPE_CHECKING:
    from asic3d import Alignment, AlignmentConfig
    from asic3d.config import Progress
    from asic3d_cli.console import Console

RUN = Path("asic3d_out")
"""The run folder where none is named."""
CHECKPOINT = "checkpoint.safetensors"


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
def prepared(run: Path, *, overwrite: bool, resume: bool = False, photos: Path | None = None) -> Iterator[None]:
    """A run folder that nobody else writes; where it was new and nothing came into it, it is gone again afterwards."""
    from asic3d.run_lock import claim_run
    from asic3d.storage import MARKER

    new = not run.exists()
    try:
        with claim_run(run, overwrite=overwrite, resume=resume, photos=photos):
            if not resume:
                (run / CHECKPOINT).unlink(missing_ok=True)
            yield
    except (Asic3dError, KeyboardInterrupt):
        if new and run.is_dir() and [entry.name for entry in run.iterdir()] == [MARKER]:
            (run / MARKER).unlink()
            run.rmdir()
        raise


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


def loaded(console: Console, run: Path, photos: Path | None) -> "tuple[Alignment, bool]":
    """The alignment of a run that is only looked at, with the photos that are there, and whether these are all.

    What is made of fewer than all is made again when the others are back.
    """
    import asic3d

    console.after_interrupt = lambda: "Stopped. Nothing was written."
    whole = asic3d.load_alignment(run, photos=photos)
    warn_of_doubts(console, whole.present)
    return whole.present, whole.present is whole


def align_folder(
    photos: Path,
    run: Path,
    config: "AlignmentConfig",
    progress: Callable[["Progress"], None],
    *,
    masks: Path | None = None,
    strict: bool = False,
) -> tuple["Alignment", dict[str, float]]:
    """Aligns a folder of photos and writes the whole run folder, which is ``prepared``.

    Returns:
        The alignment, and the seconds of every stage, from loading the photos to writing the report.
    """
    import asic3d
    from asic3d.backbones import check_backbone
    from asic3d.devices import choose_device

    choose_device(config.device)  # what is wrong is said before the photos are loaded
    check_backbone(config.backbone, config.weights)
    start = time.perf_counter()
    collection = asic3d.load_collection(photos, masks=masks, strict=strict, progress=progress)
    loading = time.perf_counter() - start
    alignment = asic3d.align(collection, config, progress=progress, cache=run / "cache", checkpoint=run / CHECKPOINT)
    return alignment, {"photos": loading, **alignment.timings, **write_run(alignment, run, progress)}


def write_run(alignment: "Alignment", run: Path, progress: Callable[["Progress"], None]) -> dict[str, float]:
    """Saves an alignment with its report: all files or none, so that a finished run has its report.

    Returns:
        The seconds of both.
    """
    from asic3d.config import Progress
    from asic3d_integrations.report import report_files

    start = time.perf_counter()
    report = report_files(alignment)
    progress(Progress("report", 1, 1))
    reported = time.perf_counter()
    alignment.save(run, overwrite=True, others=report)
    (run / CHECKPOINT).unlink(missing_ok=True)
    progress(Progress("saving", 1, 1))
    return {"report": reported - start, "saving": time.perf_counter() - reported}
