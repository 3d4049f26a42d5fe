"""``asic3d add``: another photo in a finished run."""

from pathlib import Path

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.runs import FOLDER, photos_option


@click.command(
    cls=Command,
    examples=(
        ("asic3d add asic3d_out new.jpg", "Place new.jpg in the alignment; the other photos stay where they are."),
        ("asic3d add asic3d_out more/*.jpg", "Place several photos."),
    ),
)
@click.argument("run", type=FOLDER)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=FOLDER)
@photos_option
@output_options
@click.pass_obj
def add(console: Console, run: Path, photos: tuple[Path, ...], photo_folder: Path | None) -> None:
    """Place more photos in the alignment of a run folder, without fitting it again.

    The run folder's report, masks and alignment are written anew. Nothing is written where one photo can't be used.
    """
    import time

    from asic3d.run_lock import hold_run
    from asic3d.storage import read_run
    from asic3d.verdict import STAGES
    from asic3d_cli.runs import read_quietly
    from asic3d_cli.summary import run_as_json, show_run
    from asic3d_integrations.run_making import write_run

    console.after_interrupt = lambda: f"Stopped. Nothing was added to '{run}'."
    read_run(run)  # nothing is put into a folder that is no finished run
    with hold_run(run), console.progress(STAGES) as progress:
        start = time.perf_counter()
        before, _ = read_quietly(run, photo_folder)  # where a photo is gone, adding says so
        alignment = before.add(*photos, progress=progress)
        seconds = {"adding": time.perf_counter() - start, **write_run(alignment, run, progress)}
    if console.as_json:
        console.emit(run_as_json(alignment, run, seconds))
    else:
        show_run(console, alignment, run, seconds)
