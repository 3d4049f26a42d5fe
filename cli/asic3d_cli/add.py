"""``asic3d add``: another photo in a finished run."""

from pathlib import Path

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.runs import FOLDER


@click.command(
    cls=Command,
    examples=(
        ("asic3d add asic3d_out new.jpg", "Place new.jpg in the alignment; the other photos stay where they are."),
        ("asic3d add asic3d_out more/*.jpg", "Place several photos."),
    ),
)
@click.argument("run", type=FOLDER)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=FOLDER)
@output_options
@click.pass_obj
def add(console: Console, run: Path, photos: tuple[Path, ...]) -> None:
    """Place more photos in the alignment of a run folder, without fitting it again.

    The run folder's report, masks and alignment are written anew. Nothing is written where one photo can't be used.
    """
    import time

    import asic3d
    from asic3d.config import Progress
    from asic3d_cli.runs import write_run
    from asic3d_cli.summary import run_as_json, show_run
    from asic3d_integrations.verdict import STAGES

    console.after_interrupt = f"Stopped. Nothing was added to '{run}'."
    start = time.perf_counter()
    alignment = asic3d.load_alignment(run)
    with console.progress({**STAGES, "adding": "Placing the new photos"}) as progress:
        for number, photo in enumerate(photos, 1):
            alignment = alignment.add(photo)
            progress(Progress("adding", number, len(photos)))
        adding = time.perf_counter() - start
        seconds = {"adding": adding, **write_run(alignment, run, progress)}
    if console.as_json:
        console.emit(run_as_json(alignment, run, seconds))
    else:
        show_run(console, alignment, run, seconds)
