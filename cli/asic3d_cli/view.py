"""``asic3d view``: a run to look at, its explorer, its report, or in 3-D."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.pages import check_ending, keep_existing, open_page, open_temporary, save_page
from asic3d_cli.runs import FOLDER, RUN, held_for, loaded, photos_option

if TYPE_CHECKING:
    from asic3d import Alignment


@click.command(
    cls=Command,
    examples=(
        ("asic3d view", "Follow points through all photos of asic3d_out in the browser."),
        ("asic3d view mug -o mug.html", "Write that page into a file of its own, to be sent or kept."),
        ("asic3d view mug --3d", "Turn the cameras, points and photos, and what all photos share, in the browser."),
        ("asic3d view mug --3d -o mug3d.html", "Write that page into a file of its own."),
        ("asic3d view mug --report", "Open mug/report.html."),
        ("asic3d view mug --open3d", "Turn the points, cameras and photos of mug/colmap/sparse/0 in a window."),
        ("asic3d view mug --picture mug.png", "Draw the same into a file, where there is no display."),
        ("asic3d view mug --rerun mug.rrd", "Write what --3d shows as a recording for Rerun."),
    ),
)
@click.argument("run", type=FOLDER, default=RUN)
@click.option("--report", is_flag=True, help="Open the run's report instead of the explorer.")
@click.option("--3d", "in_3d", is_flag=True, help="Open the page in 3-D instead of the explorer; with the extra viz.")
@click.option("-o", "--output", metavar="FILE", type=FOLDER, help="Write the page into this HTML file; open nothing.")
@click.option("--open3d", is_flag=True, help="Show points, cameras and photos in a window; with the extra viz.")
@click.option("--picture", metavar="FILE", type=FOLDER, help="Draw them into this PNG file; no display is needed.")
@click.option(
    "--rerun",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    help="Write what --3d shows into this .rrd file, or into RUN/scene.rrd and open it; with the extra rerun.",
)
@click.option("--model", metavar="DIR", type=FOLDER, help="Model of COLMAP. [default: RUN/colmap/sparse/0]")
@click.option("--overwrite", is_flag=True, help="Replace the file or the picture where it is there.")
@photos_option
@output_options
@click.pass_obj
def view(
    console: Console,
    run: Path,
    report: bool,
    in_3d: bool,
    output: Path | None,
    open3d: bool,
    picture: Path | None,
    rerun: str | None,
    model: Path | None,
    overwrite: bool,
    photo_folder: Path | None,
) -> None:
    """Look at a run: a page that follows points, the report, or in 3-D what 'asic3d export-colmap --map' found.

    RUN is a run folder, asic3d_out where none is named. The page is RUN/explorer.html, made when it is missing or older
    than the run, and in 3-D RUN/scene.html. They need no network. With --open3d and --picture Open3D draws the picture,
    where it can draw without a display.
    """
    from asic3d_cli import view_3d

    window = open3d or picture is not None
    views = {"--report": report, "--3d": in_3d, "--rerun": rerun is not None, "--open3d or --picture FILE": window}
    _check_choice([name for name, given in views.items() if given], to_file=output is not None)
    if model is not None and not (window or in_3d or rerun is not None):
        raise click.UsageError("--model is looked at with --3d, --rerun, --open3d or --picture FILE.")
    if report:
        _show_report(console, run)
    elif rerun is not None:
        view_3d.record(console, run, photo_folder, model, Path(rerun) if rerun else None, overwrite)
    elif picture is not None:
        view_3d.save_picture(console, run, model, picture, by_open3d=open3d, overwrite=overwrite)
    elif open3d:
        view_3d.show_window(console, run, model)
    elif in_3d and output is not None:
        view_3d.write_page(console, run, photo_folder, model, output, overwrite)
    elif in_3d:
        view_3d.show_page(console, run, photo_folder, model)
    elif output is not None:
        _save_explorer(console, run, photo_folder, output, overwrite)
    else:
        show_explorer(console, run, photo_folder)


def _check_choice(chosen: list[str], *, to_file: bool) -> None:
    """Raises click's usage error where options ask for two things to look at."""
    if len(chosen) > 1:
        raise click.UsageError(f"Each of {', '.join(chosen)} shows something else of the run. Choose one of them.")
    if to_file and chosen not in ([], ["--3d"]):
        raise click.UsageError(
            f"-o FILE writes the explorer, or with --3d the page in 3-D. Leave out -o, or {chosen[0]}."
        )


def _show_report(console: Console, run: Path) -> None:
    from asic3d.errors import StorageError
    from asic3d.storage import read_run

    read_run(run)
    report = run / "report.html"
    if not report.is_file():
        raise StorageError(f"'{run}' holds no report.html. Make it by aligning the photos again, with --overwrite.")
    open_page(console, "report", report)


def show_explorer(console: Console, run: Path, photos: Path | None = None) -> None:
    """Opens a run's explorer, beside the page in 3-D where that can be made; old ones are made anew."""
    import os

    from asic3d.errors import MissingExtraError
    from asic3d.storage import atomic_write, read_run
    from asic3d_cli.view_3d import refresh_page
    from asic3d_integrations import scene_page
    from asic3d_integrations.explorer import PAGE, is_made_from, stamp_of

    read_run(run)
    scene = scene_page.PAGE if scene_page.available() else ""
    stamp = stamp_of(run, scene=scene)
    if scene and not is_made_from(run / PAGE, stamp):
        try:
            scene_page.viser()
        except MissingExtraError as error:
            console.warn(f"The page is made without 3-D. {error}")
            scene, stamp = "", stamp_of(run)
    made, writable = is_made_from(run / PAGE, stamp), os.access(run, os.W_OK)
    if not made and not writable:
        alignment, _ = loaded(console, run, photos)
        open_temporary(console, "explorer", run, PAGE, _explorer(console, run, alignment, ""))
        return
    if not made:
        with held_for(run, run / PAGE):
            alignment, complete = loaded(console, run, photos)
            content = _explorer(console, run, alignment, stamp * complete, scene)
            if scene:
                refresh_page(console, run, photos, read=(alignment, complete))
            atomic_write(run / PAGE, lambda file: file.write(content))
    elif scene and writable:
        with held_for(run, run / PAGE):
            refresh_page(console, run, photos)
    open_page(console, "explorer", run / PAGE)


def _save_explorer(console: Console, run: Path, photos: Path | None, path: Path, overwrite: bool) -> None:
    from asic3d.storage import read_run
    from asic3d_integrations.explorer import stamp_of

    read_run(run)
    check_ending(path, "a page", (".html", ".htm"), "-o")
    keep_existing(path, overwrite)
    alignment, complete = loaded(console, run, photos)
    save_page(console, "explorer", path, _explorer(console, run, alignment, stamp_of(run) * complete))


def _explorer(console: Console, run: Path, alignment: "Alignment", stamp: str, scene: str = "") -> bytes:
    """The page of a run, made anew."""
    from asic3d.errors import StorageError
    from asic3d_integrations.explorer import TRACKS, explorer_page, read_tracks

    tracks = None
    if (run / TRACKS).is_file():
        try:
            tracks = read_tracks(run / TRACKS, alignment.names, alignment.sizes)
        except StorageError as error:
            console.warn(f"The page is made without tracks. {error}")
    with console.progress({"exploring": "Following the photos' points"}) as progress:
        return explorer_page(alignment, tracks, stamp=stamp, scene=scene, progress=progress)
