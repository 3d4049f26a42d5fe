"""``asic3d view`` in 3-D: a page, a recording of Rerun's, a window or a picture."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from asic3d_cli.console import Console
from asic3d_cli.pages import check_ending, keep_existing, open_page, open_temporary, save_page
from asic3d_cli.runs import held_for, loaded

if TYPE_CHECKING:
    import numpy as np

    from asic3d import Alignment
    from asic3d_integrations.colmap.scene import Scene
    from asic3d_integrations.stages import Stage

RECORDING = "scene.rrd"
"""What a run's recording is called where no file is named."""


def show_page(console: Console, run: Path, photos: Path | None, model: Path | None) -> None:
    """Makes the page of a run where it is missing or of something else, and opens it."""
    import os

    from asic3d.storage import read_run
    from asic3d_integrations.explorer import is_made_from
    from asic3d_integrations.scene_page import PAGE, stamp_of

    read_run(run)
    if os.access(run, os.W_OK):
        with held_for(run, run / PAGE):
            refresh_page(console, run, photos, model)
    elif not is_made_from(run / PAGE, stamp_of(run, model or _model(run))):
        alignment, _ = loaded(console, run, photos)
        open_temporary(console, "scene", run, PAGE, _page(console, run, model, alignment))
        return
    open_page(console, "scene", run / PAGE)


def refresh_page(
    console: Console,
    run: Path,
    photos: Path | None,
    model: Path | None = None,
    read: "tuple[Alignment, bool] | None" = None,
) -> None:
    """Makes the page of a run anew unless it is there and made from what is there; the run is held.

    Args:
        console: where progress and warnings go.
        run: the run folder.
        photos: where its photos are now.
        model: the model whose cameras are shown; None for the run's own.
        read: what :func:`asic3d_cli.runs.loaded` said, where it was asked already.
    """
    from asic3d.storage import atomic_write
    from asic3d_integrations.explorer import is_made_from
    from asic3d_integrations.scene_page import PAGE, stamp_of

    stamp = stamp_of(run, model or _model(run))
    if is_made_from(run / PAGE, stamp):
        return
    alignment, complete = read or loaded(console, run, photos)
    content = _page(console, run, model, alignment, stamp=stamp * complete, explorer=True)
    atomic_write(run / PAGE, lambda file: file.write(content))


def write_page(
    console: Console, run: Path, photos: Path | None, model: Path | None, path: Path, overwrite: bool
) -> None:
    """Writes the page into a file of its own."""
    from asic3d.storage import read_run
    from asic3d_integrations.scene_page import viser

    read_run(run)
    check_ending(path, "a page", (".html", ".htm"), "-o")
    keep_existing(path, overwrite)
    viser()  # what is missing is said before the work
    alignment, _ = loaded(console, run, photos)
    save_page(console, "scene", path, _page(console, run, model, alignment))


def _page(
    console: Console,
    run: Path,
    model: Path | None,
    alignment: "Alignment",
    *,
    stamp: str = "",
    explorer: bool = False,
) -> bytes:
    from asic3d_integrations.explorer import PAGE as EXPLORER
    from asic3d_integrations.report_sections import title
    from asic3d_integrations.scene_page import scene_page

    stages = _stages(console, run, model, alignment)
    return scene_page(stages, title(alignment), stamp=stamp, explorer=EXPLORER if explorer else "")


def record(
    console: Console, run: Path, photos: Path | None, model: Path | None, path: Path | None, overwrite: bool
) -> None:
    """Writes a recording of Rerun's: into a file, or into the run, where it is opened if there is a display."""
    from asic3d.storage import atomic_write, read_run
    from asic3d_integrations.colmap.window import display_here
    from asic3d_integrations.recording import open_recording, recording, rerun

    file = run / RECORDING if path is None else path
    check_ending(file, "a recording", (".rrd",), "--rerun")
    read_run(run)
    if path is not None:
        keep_existing(file, overwrite)
    rerun()  # what is missing is said before the work
    with held_for(run, file):
        alignment, _ = loaded(console, run, photos)
        content = recording(_stages(console, run, model, alignment))
        atomic_write(file, lambda out: out.write(content))
    opened = path is None and display_here()
    if opened:
        open_recording(file)
    if console.as_json:
        console.emit({"recording": file, "bytes": len(content), "opened": opened})
    else:
        console.show(f"Opened {file}" if opened else f"Open this file with Rerun: rerun {file}")


def _stages(console: Console, run: Path, model: Path | None, alignment: "Alignment") -> "list[Stage]":
    """All that there is to see of a run; cameras first, where there are any."""
    from asic3d.errors import StorageError
    from asic3d_integrations.stages import stage_of_cameras, stage_of_descriptors, stage_of_plane

    stages = []
    if model is not None or _model(run) is not None:
        try:
            stages.append(stage_of_cameras(scene_in(run, model)))
        except StorageError as error:
            if model is not None:
                raise
            console.warn(f"The 3-D view has no cameras. {error}")
    return [*stages, stage_of_plane(alignment), stage_of_descriptors(alignment)]


def _model(run: Path) -> Path | None:
    """The model that was exported into a run, if one was."""
    from asic3d.errors import StorageError
    from asic3d_integrations.colmap.exported import first_model

    with contextlib.suppress(StorageError):
        return first_model(run)
    return None


def scene_in(run: Path, model: Path | None) -> "Scene":
    """The scene of a model, the run's where none is named."""
    from asic3d.storage import read_run
    from asic3d_integrations.colmap.exported import first_model, images_of
    from asic3d_integrations.colmap.models import read_model
    from asic3d_integrations.colmap.scene import scene_of

    if model is None:
        read_run(run)
        model = first_model(run)
    return scene_of(read_model(model), images_of(model))


def show_window(console: Console, run: Path, model: Path | None) -> None:
    """Opens Open3D's window."""
    from asic3d_integrations.colmap.window import show

    scene = scene_in(run, model)
    console.after_interrupt = lambda: "Closed."
    show(scene, lambda: console.show("Turn with the mouse, move with Ctrl, zoom with the wheel; close with Q."))
    if console.as_json:
        console.emit({"points": len(scene.points), "cameras": len(scene.frusta)})


def save_picture(
    console: Console, run: Path, model: Path | None, path: Path, *, by_open3d: bool, overwrite: bool
) -> None:
    """Draws the cameras into a PNG file."""
    import io

    from PIL import Image

    from asic3d.storage import atomic_write

    scene = scene_in(run, model)
    check_ending(path, "a PNG file", (".png",), "--picture")
    keep_existing(path, overwrite)
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
