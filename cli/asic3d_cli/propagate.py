"""``asic3d propagate``: what is painted on one photo, painted on all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.runs import FOLDER, RUN, photos_option

if TYPE_CHECKING:
    from asic3d import Alignment
    from asic3d_integrations.edited_photos import EditedPhoto


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
    from asic3d.config import Progress
    from asic3d_cli.runs import held_for, read_quietly, warn_of_doubts
    from asic3d_integrations.edited_photos import SHEET, EditedPhoto, write_edited

    console.after_interrupt = lambda: "Stopped. The photos that were painted before are complete."
    folder = output or run / "edits" / edit.stem
    found: list[EditedPhoto] = []
    with held_for(run, folder), console.progress({"painting": "Painting the photos"}) as progress:
        alignment, gone = read_quietly(run, photo_folder)
        _warn_of_absent(console, alignment, source, gone)
        warn_of_doubts(console, alignment, alignment.names)
        count = len(alignment.names) - len(alignment.collection.absent)
        for written in write_edited(alignment, edit, source, folder, layers=layers, overwrite=overwrite):
            found.append(written)
            progress(Progress("painting", len(found), count))
    if console.as_json:
        photos = [_as_json(entry) for entry in found]
        console.emit({"source": source, "folder": folder, "photos": photos, "warnings": console.warned})
        return
    unpainted, in_part = [entry for entry in found if not entry.painted], [entry for entry in found if entry.in_part]
    partly = f", {len(in_part)} of them only in part" if in_part else ""
    console.show(f"{len(found) - len(unpainted)} of {len(found)} photos were painted{partly}; see {folder / SHEET}")
    if in_part:
        names = ", ".join(f"{entry.name} ({entry.covered:.0%})" for entry in in_part)
        console.show(f"Painted only in part, because the place is partly hidden or uncertain in them: {names}")
    if unpainted:
        names = ", ".join(entry.name for entry in unpainted)
        console.show(f"Not painted, because the place was not found in them: {names}")


def _warn_of_absent(console: Console, alignment: "Alignment", source: str, gone: list[str]) -> None:
    """Says which photos are gone, the edited one first; where all are, painting says so."""
    absent = alignment.collection.absent
    name = alignment.names[alignment.collection.index(source)]
    if len(absent) == len(alignment.names):
        return
    if name in absent:
        console.warn(f"The photo that the edit is for, '{name}', is gone: it is painted on the others alone.")
    for sentence in gone:
        console.warn(sentence)


def _as_json(written: "EditedPhoto") -> dict[str, Any]:
    return {
        "photo": written.name,
        "file": written.path,
        "painted": written.painted,
        "covered": written.covered,
        "in_part": written.in_part,
    }
