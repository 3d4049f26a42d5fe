"""A scene in Open3D: a window to turn it in, or a picture where there is no display."""

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import ExportError
from asic3d.extras import load_extra
from asic3d_integrations.colmap.drawing import PICTURE
from asic3d_integrations.colmap.scene import CAMERA, EDGES, Scene

_ZOOM = 0.45  # of Open3D: the scene fills the window
_DOT = 3.0  # pixels
_PAUSE = 0.01  # seconds between two looks at the mouse
_QUAD = np.array([[0, 1, 2], [0, 2, 3], [2, 1, 0], [3, 2, 0]])  # both sides of a photo
_ACROSS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)  # its corners on its texture


def open3d() -> Any:
    """Open3D, which says nothing on its own.

    Raises:
        MissingExtraError: it is not installed, or misses a system library.
    """
    library = load_extra("open3d", "The view needs Open3D", "open3d")
    library.utility.set_verbosity_level(library.utility.VerbosityLevel.Error)
    return library


def geometries(scene: Scene) -> list[Any]:
    """Points, the lines of the frusta, and a mesh for each photo, as Open3D draws them.

    Raises:
        MissingExtraError: as :func:`open3d`.
    """
    library = open3d()
    vectors, geometry = library.utility.Vector3dVector, library.geometry
    cloud = geometry.PointCloud(vectors(scene.points.astype(float)))
    cloud.colors = vectors(scene.colours / 255)
    pairs = [(5 * camera + a, 5 * camera + b) for camera in range(len(scene.frusta)) for a, b in EDGES]
    lines = geometry.LineSet(
        vectors(scene.frusta.reshape(-1, 3)), library.utility.Vector2iVector(np.array(pairs).reshape(-1, 2))
    )
    lines.paint_uniform_color([value / 255 for value in CAMERA])
    seen = zip(scene.frusta, scene.photos, strict=True)
    shown = [_photo(library, corners, pixels) for corners, pixels in seen if pixels is not None]
    return [cloud, lines, *shown]


def _photo(library: Any, corners: np.ndarray, pixels: np.ndarray) -> Any:
    """A photo on the far side of its frustum."""
    mesh = library.geometry.TriangleMesh(
        library.utility.Vector3dVector(corners[1:]), library.utility.Vector3iVector(_QUAD)
    )
    mesh.triangle_uvs = library.utility.Vector2dVector(_ACROSS[_QUAD.ravel()])
    mesh.triangle_material_ids = library.utility.IntVector([0] * len(_QUAD))
    mesh.textures = [library.geometry.Image(np.ascontiguousarray(pixels))]
    return mesh


def show(scene: Scene, opened: Callable[[], None] = lambda: None) -> None:
    """Opens a window with the scene and waits until it is closed.

    Args:
        scene: what to show.
        opened: called when the window is there.

    Raises:
        MissingExtraError: as :func:`open3d`.
        ExportError: there is no display.
    """
    library = open3d()
    if not display_here():  # Open3D would draw into a window that nobody sees, for ever
        raise ExportError(
            "There is no display here to open a window on. Take --picture FILE.png, or copy scene.glb to a computer "
            "that has one."
        )
    with _visualizer(library, scene, visible=True) as visualizer:
        opened()
        while visualizer.poll_events():
            visualizer.update_renderer()
            time.sleep(_PAUSE)


def picture(scene: Scene, size: tuple[int, int] = PICTURE) -> np.ndarray:
    """(h, w, 3) uint8: what the window would show, without one.

    Raises:
        MissingExtraError: as :func:`open3d`.
        ExportError: Open3D can't draw here.
    """
    with _visualizer(open3d(), scene, visible=False, size=size) as visualizer:
        visualizer.poll_events()
        visualizer.update_renderer()
        shown = np.asarray(visualizer.capture_screen_float_buffer(True))
    return (255 * shown.clip(0, 1)).round().astype(np.uint8)


@contextlib.contextmanager
def _visualizer(library: Any, scene: Scene, *, visible: bool, size: tuple[int, int] = PICTURE) -> Iterator[Any]:
    """Open3D's window, seen from where the scene is looked at."""
    visualizer = library.visualization.Visualizer()
    if not visualizer.create_window("asic3d", *size, visible=visible):
        raise ExportError("Open3D can't draw on this machine. Take --picture FILE.png without --open3d.")
    try:
        for geometry in geometries(scene):
            visualizer.add_geometry(geometry)
        options, control = visualizer.get_render_option(), visualizer.get_view_control()
        options.light_on, options.point_size = False, _DOT
        middle = scene.middle
        if len(middle):
            control.set_lookat((middle.min(0) + middle.max(0)) / 2)
        control.set_front(-scene.view[2])
        control.set_up(-scene.view[1])
        control.set_zoom(_ZOOM)
        yield visualizer
    finally:
        visualizer.destroy_window()


def display_here() -> bool:
    """Whether a window can be opened: on Linux, whether a server of Wayland or X answers."""
    if not sys.platform.startswith("linux"):
        return True
    wayland = os.environ.get("WAYLAND_DISPLAY")
    if wayland and (Path(os.environ.get("XDG_RUNTIME_DIR", "")) / wayland).is_socket():
        return True
    if not os.environ.get("DISPLAY"):
        return False
    try:
        x11 = ctypes.CDLL("libX11.so.6")
    except OSError:
        return False
    x11.XOpenDisplay.restype, x11.XCloseDisplay.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    opened = x11.XOpenDisplay(None)
    if opened:
        x11.XCloseDisplay(opened)
    return bool(opened)
