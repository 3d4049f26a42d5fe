"""``asic3d view``: a run to look at, its explorer, its report or its cameras."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options
from asic3d_cli.runs import FOLDER, RUN, photos_option

if TYPE_CHECKING:
    import numpy as np

    from asic3d_integrations.colmap.scene import Scene


@click.command(
    cls=Command,
    examples=(
        ("asic3d view", "Follow points through all photos of asic3d_out in the browser."),
        ("asic3d view mug -o mug.html", "Write that page into a file of its own, to be sent or kept."),
        ("asic3d view mug --report", "Open mug/report.html."),
        ("asic3d view mug --open3d", "Turn the points, cameras and photos of mug/colmap/sparse/0 in a window."),
        ("asic3d view mug --picture mug.png", "Draw the same into a file, where there is no display."),
    ),
)
@click.argument("run", type=FOLDER, default=RUN)
@click.option("--report", is_flag=True, help="Open the run's report instead of the explorer.")
@click.option(
    "-o", "--output", metavar="FILE", type=FOLDER, help="Write the explorer into this HTML file; open nothing."
)
@click.option("--open3d", is_flag=True, help="Show points, cameras and photos in a window; with the extra viz.")
@click.option("--picture", metavar="FILE", type=FOLDER, help="Draw them into this PNG file; no display is needed.")
@click.option("--model", metavar="DIR", type=FOLDER, help="Model of COLMAP. [default: RUN/colmap/sparse/0]")
@click.option("--overwrite", is_flag=True, help="Replace the file or the picture where it is there.")
@photos_option
@output_options
@click.pass_obj
def view(
    console: Console,
    run: Path,
    report: bool,
    output: Path | None,
    open3d: bool,
    picture: Path | None,
    model: Path | None,
    overwrite: bool,
    photo_folder: Path | None,
) -> None:
    """Look at a run: a page that follows points, the report, or the cameras of 'asic3d export-colmap --map'.

    RUN is a run folder, asic3d_out where none is named. The page is RUN/explorer.html, made when it is missing or older
    than the run. It needs no network. With --open3d and --picture Open3D draws the picture, where it can draw without a
    display.
    """
    cameras = open3d or picture is not None
    if (report + (output is not None) + cameras) > 1:
        raise click.UsageError("Choose one of --report, -o FILE, and --open3d or --picture FILE.")
    if model is not None and not cameras:
        raise click.UsageError("--model is looked at with --open3d or --picture FILE.")
    if report:
        _show_report(console, run)
    elif output is not None:
        _save_explorer(console, run, photo_folder, output, overwrite)
    elif not cameras:
        show_explorer(console, run, photo_folder)
    else:
        _show_cameras(console, run, model, open3d, picture, overwrite)


def _show_cameras(
    console: Console, run: Path, model: Path | None, open3d: bool, picture: Path | None, overwrite: bool
) -> None:
    scene = _scene(run, model)
    if picture is not None:
        _save_picture(console, scene, picture, by_open3d=open3d, overwrite=overwrite)
        return
    from asic3d_integrations.colmap.window import show

    console.after_interrupt = lambda: "Closed."
    show(scene, lambda: console.show("Turn with the mouse, move with Ctrl, zoom with the wheel; close with Q."))
    if console.as_json:
        console.emit({"points": len(scene.points), "cameras": len(scene.frusta)})


def _show_report(console: Console, run: Path) -> None:
    from asic3d.errors import StorageError
    from asic3d.storage import read_run

    read_run(run)
    report = run / "report.html"
    if not report.is_file():
        raise StorageError(f"'{run}' holds no report.html. Make it by aligning the photos again, with --overwrite.")
    _open(console, "report", report)


def _open(console: Console, what: str, page: Path) -> None:
    """Opens a page in a browser where there is a display, and says where it is."""
    import webbrowser

    from asic3d_integrations.colmap.window import display_here

    opened = display_here() and webbrowser.open(page.resolve().as_uri())
    if console.as_json:
        console.emit({what: page, "opened": opened})
    else:
        console.show(f"{'Opened' if opened else 'Open this file in a browser:'} {page}")


def show_explorer(console: Console, run: Path, photos: Path | None = None) -> None:
    """Opens a run's explorer, which is made where it is missing or older than the run, and says where it is."""
    from asic3d.storage import atomic_write, read_run
    from asic3d_cli.runs import held_for
    from asic3d_integrations.explorer import PAGE, is_made_from, stamp_of

    read_run(run)
    if not is_made_from(run / PAGE, stamp_of(run)):
        with held_for(run, run / PAGE):
            content = _explorer(console, run, photos)
            atomic_write(run / PAGE, lambda file: file.write(content))
    _open(console, "explorer", run / PAGE)


def _save_explorer(console: Console, run: Path, photos: Path | None, path: Path, overwrite: bool) -> None:
    from asic3d.storage import atomic_write, read_run

    read_run(run)
    if path.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"'{path}' is no name of a page; write one that ends in .html.", param_hint="-o")
    _keep_existing(path, overwrite)
    content = _explorer(console, run, photos)
    atomic_write(path, lambda file: file.write(content))
    if console.as_json:
        console.emit({"explorer": path, "bytes": len(content)})
    else:
        console.show(f"Open this file in a browser: {path} ({len(content) / 1e6:.1f} MB)")


def _keep_existing(path: Path, overwrite: bool) -> None:
    from asic3d.errors import StorageError

    if path.exists() and not overwrite:
        raise StorageError(f"'{path}' is there already, and nothing was changed. Replace it with --overwrite.")


def _explorer(console: Console, run: Path, photos: Path | None) -> bytes:
    """The page of a run, made anew of the photos that are there."""
    import asic3d
    from asic3d.errors import StorageError
    from asic3d_cli.runs import warn_of_doubts
    from asic3d_integrations.explorer import TRACKS, explorer_page, read_tracks, stamp_of

    console.after_interrupt = lambda: "Stopped. Nothing was written."
    stamp, tracks = stamp_of(run), None
    whole = asic3d.load_alignment(run, photos=photos)
    alignment = whole.present
    if alignment is not whole:
        stamp = ""  # the page is made again when all photos are there
    warn_of_doubts(console, alignment)
    if (run / TRACKS).is_file():
        try:
            tracks = read_tracks(run / TRACKS, alignment.names, alignment.sizes)
        except StorageError as error:
            console.warn(f"The page is made without tracks. {error}")
    with console.progress({"exploring": "Following the photos' points"}) as progress:
        return explorer_page(alignment, tracks, stamp=stamp, progress=progress)


def _scene(run: Path, model: Path | None) -> "Scene":
    from asic3d.storage import read_run
    from asic3d_integrations.colmap.exported import first_model, images_of
    from asic3d_integrations.colmap.models import read_model
    from asic3d_integrations.colmap.scene import scene_of

    if model is None:
        read_run(run)
        model = first_model(run)
    return scene_of(read_model(model), images_of(model))


def _save_picture(console: Console, scene: "Scene", path: Path, *, by_open3d: bool, overwrite: bool) -> None:
    import io

    from PIL import Image

    from asic3d.storage import atomic_write

    if path.suffix.lower() != ".png":
        raise click.BadParameter(
            f"'{path}' is no name of a PNG file; write one that ends in .png.", param_hint="--picture"
        )
    _keep_existing(path, overwrite)
    file = io.BytesIO()
    Image.fromarray(_drawn(console, scene, by_open3d)).save(file, "PNG")
    atomic_write(path, lambda out: out.write(file.getvalue()))
    if console.as_json:
        console.emit({"picture": path, "points": len(scene.points), "cameras": len(scene.frusta)})
    else:
        console.show(f"{len(scene.frusta)} cameras and {len(scene.points)} points: {path}")


def _drawn(console: Console, scene: "Scene", by_open3d: bool) -> "np.ndarray":
    from asic3d.errors import ExportError
    from asic3d_integrations.colmap.drawing import draw_scene

    if not by_open3d:
        return draw_scene(scene)
    from asic3d_integrations.colmap.window import picture

    try:
        return picture(scene)
    except ExportError:
        console.warn("Open3D can't draw here without a display; the picture is asic3d's own drawing.")
        return draw_scene(scene)
