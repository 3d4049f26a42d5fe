"""``asic3d align``: photos in, run folder out."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import config_options, output_options, settings
from asic3d_cli.runs import FOLDER, RUN

if TYPE_CHECKING:
    from asic3d import AlignmentConfig


@click.command(
    cls=Command,
    notes=settings(),
    examples=(
        ("asic3d align photos", "Align the photos in the folder 'photos' and write the run folder asic3d_out."),
        ("asic3d align photos --view", "The same, and point at the object in one photo to see it in all the others."),
        ("asic3d align photos -o mug --masks masks", "Take the object from your own masks; write to another folder."),
        ("asic3d align photos --overwrite --set grid=60", "Do it again with one setting changed."),
    ),
)
@click.argument("photos", type=FOLDER)
@click.option(
    "-o", "--output", "run", default=RUN, metavar="RUN", type=FOLDER, help="Run folder. [default: asic3d_out]"
)
@config_options
@click.option("--masks", metavar="DIR", type=FOLDER, help="Masks: a.png or a.jpg.png for a.jpg; light is the object.")
@click.option("--strict", is_flag=True, help="Stop at a photo that can't be used instead of leaving it out.")
@click.option("--overwrite", is_flag=True, help="Replace a finished run.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--view", is_flag=True, help="Open the explorer afterwards, as 'asic3d view' does.")
@output_options
@click.pass_obj
def align(
    console: Console,
    photos: Path,
    run: Path,
    config: "AlignmentConfig",
    masks: Path | None,
    strict: bool,
    overwrite: bool,
    resume: bool,
    view: bool,
) -> None:
    """Align the photos in a folder and its sub-folders.

    The run folder gets a report to look at, a mask for each photo, and the alignment that the other commands take.
    """
    from asic3d.collection import existing_folder
    from asic3d.verdict import STAGES

    if view and console.as_json:
        raise click.UsageError("--view opens a page for people; leave --json or --view away.")
    from asic3d_cli.summary import run_as_json, show_run
    from asic3d_integrations.run_making import CHECKPOINT, align_folder, prepared

    existing_folder(photos, "photos")  # a wrong name is said before anything about the run folder
    console.after_interrupt = lambda: _how_to_go_on(console.arguments, run)
    with (
        prepared(run, overwrite=overwrite, resume=resume, photos=photos),
        console.progress(STAGES) as progress,
        _going_on(console, run / CHECKPOINT) if resume else contextlib.nullcontext(),
    ):
        alignment, seconds = align_folder(photos, run, config, progress, masks=masks, strict=strict)
    if console.as_json:
        console.emit(run_as_json(alignment, run, seconds))
    else:
        show_run(console, alignment, run, seconds)
    if view:
        from asic3d_cli.view import show_explorer

        show_explorer(console, run)


@contextlib.contextmanager
def _going_on(console: Console, checkpoint: Path) -> Iterator[None]:
    """Says whether there is something to go on from, and refuses to begin anew over what can't be used.

    Raises:
        StorageError: the checkpoint is of other photos or settings, or damaged.
    """
    from asic3d.errors import CheckpointWarning, StorageError

    if not checkpoint.exists():
        console.note(f"There is no checkpoint in '{checkpoint.parent}' to go on from: it begins with the photos.")
        yield
        return
    console.note(f"Going on from the checkpoint in '{checkpoint.parent}'.")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CheckpointWarning)
        try:
            yield
        except CheckpointWarning as refused:
            raise StorageError(
                f"{refused.reason} Give the settings and photos of the interrupted run, or leave --resume away to "
                "begin anew."
            ) from None


def _how_to_go_on(arguments: list[str], run: Path) -> str:
    """What to say after Ctrl-C: the command that was given, as it goes on."""
    import shlex

    from asic3d_integrations.run_making import CHECKPOINT

    if not (run / CHECKPOINT).exists():
        return "Stopped before there was anything to go on from. Give the same command to begin again."
    kept = [word for word in arguments if word != "--resume"]
    command = shlex.join(["asic3d", *kept[:1], "--resume", *kept[1:]])
    return f"Stopped. To go on from the last checkpoint: {command}"
