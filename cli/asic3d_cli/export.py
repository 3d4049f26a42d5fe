"""``asic3d export``: an alignment for another program, by an exporter of ours or of another installed package."""

from pathlib import Path

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.runs import FOLDER, RUN, photos_option


@click.command(
    cls=Command,
    examples=(
        ("asic3d export", "List the exporters that are here."),
        ("asic3d export csv", "Write asic3d_out/csv/tracks.csv: which point of each photo is the same place."),
        ("asic3d export csv mug -o points", "The same for the run mug, into the folder points."),
    ),
)
@click.argument("exporter", required=False, metavar="[EXPORTER]")
@click.argument("run", type=FOLDER, default=RUN)
@click.option("-o", "--output", metavar="DIR", type=FOLDER, help="Where to write. [default: RUN/EXPORTER]")
@click.option("--overwrite", is_flag=True, help="Replace what this exporter wrote there earlier.")
@photos_option
@output_options
@click.pass_obj
def export(
    console: Console,
    exporter: str | None,
    run: Path,
    output: Path | None,
    overwrite: bool,
    photo_folder: Path | None,
) -> None:
    """Write an alignment for another program; without EXPORTER list what is here.

    RUN is a run folder, asic3d_out where none is named. Installed packages can bring exporters. For COLMAP, hloc and
    nerfstudio see 'asic3d export-colmap'.
    """
    if exporter is None:
        _list(console)
        return
    import asic3d
    from asic3d_cli.runs import held_for, warn_of_doubts
    from asic3d_integrations import exporters

    exporters.check_exporter(exporter)
    folder = output or run / exporter
    console.after_interrupt = lambda: f"Stopped. Nothing was written, and what was in '{folder}' is as it was."
    with held_for(run, folder):
        alignment = asic3d.load_alignment(run, photos=photo_folder)
        warn_of_doubts(console, alignment, alignment.names)
        files = exporters.export(alignment, exporter, folder, overwrite=overwrite)
    if console.as_json:
        console.emit({"exporter": exporter, "folder": folder, "files": files})
    else:
        console.show(f"{len(files)} file{'s' * (len(files) != 1)} in {folder}: {', '.join(files[:5])}")


def _list(console: Console) -> None:
    """What ``asic3d export NAME`` takes, and what each writes."""
    import dataclasses

    from asic3d_integrations.exporters import known_exporters

    found = list(known_exporters())
    if console.as_json:
        console.emit({"exporters": [dataclasses.asdict(one) for one in found]})
        return
    for one in found:
        by = f" ({one.package})" if one.package else ""
        console.show(f"{one.name}{by}: {one.fault or one.description or 'it does not say what it writes.'}")
