"""``asic3d propagate``: what is painted on one photo, painted on all."""

from pathlib import Path
from typing import Any

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.runs import FOLDER, RUN, photos_option


@click.command(
    cls=Command,
    examples=(
        ("asic3d propagate --source a.jpg --edit edit.png", "Paint on all photos what edit.png paints on a.jpg."),
        (
            "asic3d propagate mug --source a.jpg --edit edit.png --layers -o painted",
            "The warped layers too; in a folder of your own.",
        ),
    ),
)
@click.argument("run", type=FOLDER, default=RUN)
@click.option("--source", required=True, metavar="NAME", help="Photo that the edit is painted on; its name in the run.")
@click.option("--edit", required=True, metavar="FILE", type=FOLDER,
              help="Picture of the photo's upright size, transparent where nothing is painted.")  # fmt: skip
@click.option("-o", "--output", metavar="DIR", type=FOLDER, help="Where to write. [default: RUN/edits/NAME-OF-EDIT]")
@click.option("--layers", is_flag=True, help="Write each photo's layer alone too, as PNG with transparency.")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier call wrote there.")
@photos_option
@output_options
@click.pass_obj
def propagate(
    console: Console,
    run: Path,
    source: str,
    edit: Path,
    output: Path | None,
    layers: bool,
    overwrite: bool,
    photo_folder: Path | None,
) -> None:
    """Paint on every photo what is painted on one.

    RUN is a run folder, asic3d_out where none is named. Each photo is written as PNG in its full size, without loss;
    the edited one gets the edit exactly. Where a photo does not show the place, or it is uncertain where it lies, the
    edit fades.
    """
    import asic3d
    from asic3d.config import Progress
    from asic3d_cli.runs import held_for, warn_of_doubts
    from asic3d_integrations.edited_photos import SHEET, write_edited

    console.after_interrupt = lambda: "Stopped. The photos that were painted before are complete."
    folder = output or run / "edits" / edit.stem
    found: list[dict[str, Any]] = []
    with held_for(run, folder), console.progress({"painting": "Painting the photos"}) as progress:
        alignment = asic3d.load_alignment(run, photos=photo_folder)
        warn_of_doubts(console, alignment, alignment.names)
        count = len(alignment.names) - len(alignment.collection.absent)
        for written in write_edited(alignment, edit, source, folder, layers=layers, overwrite=overwrite):
            found.append({"photo": written.name, "file": written.path, "painted": written.painted})
            progress(Progress("painting", len(found), count))
    if console.as_json:
        console.emit({"source": source, "folder": folder, "photos": found, "warnings": console.warned})
    elif not console.quiet:
        unpainted = [entry["photo"] for entry in found if entry["painted"] == 0]
        console.show(f"{len(found) - len(unpainted)} of {len(found)} photos were painted; see {folder / SHEET}")
        if unpainted:
            console.show(f"Not painted, because the place was not found in them: {', '.join(unpainted)}")
