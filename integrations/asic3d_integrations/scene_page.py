"""``scene.html``: a run in 3-D, drawn by viser's client, which is in the page. One file that asks for nothing else."""

import base64
import contextlib
import io
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from asic3d import __version__
from asic3d.errors import MissingExtraError
from asic3d.extras import load_extra
from asic3d.storage import RUN_FILE
from asic3d_integrations.colmap.scene import CAMERA, EDGES
from asic3d_integrations.explorer import digest

if TYPE_CHECKING:
    from asic3d_integrations.stages import Shot, Stage

PAGE = "scene.html"
_NEED = "The 3-D page needs viser"
_ANGLE, _ASPECT = np.radians(45), 1.3  # of what is seen at first; the picture's sides are not known yet
_LINE = 1.5  # pixels
_QUALITY = 80  # of the photos' JPEG
_BACKGROUND = (30, 32, 37)
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' "
    "'unsafe-eval' blob:; worker-src blob: data:; connect-src data: blob:; base-uri 'none'; form-action 'none'"
)
_CHOICE = """<script>
(() => {
  const stages = [...document.querySelectorAll("script[data-stage]")];
  const one = stages.find(stage => "#" + stage.dataset.stage === location.hash) ?? stages[0];
  window.asic3d = {stage: one.dataset.stage};
  window.__VISER_EMBED_DATA__ = one.textContent;
  window.__VISER_EMBED_CONFIG__ = {darkMode: true};
})();
</script>"""


def viser() -> Any:
    """Viser.

    Raises:
        MissingExtraError: it can't be imported.
    """
    return load_extra("viser", _NEED, "viser")


def available() -> bool:
    """Whether the page can be made: viser is installed. It is not loaded for that."""
    return find_spec("viser") is not None


def stamp_of(run: Path, model: Path | None) -> str:
    """What a run's page is made from, as 64 hexadecimal digits.

    Args:
        run: the run folder.
        model: the folder of the model whose cameras are shown.

    Raises:
        MissingExtraError: viser is not installed.
        StorageError: a file can't be read.
    """
    if not available():
        raise MissingExtraError(f"{_NEED}: pip install viser.")
    names = ("cameras", "images", "points3D")
    files = [model / f"{name}.{ending}" for name in names for ending in ("bin", "txt")] if model else []
    return digest((version("viser"), _read()), (run / RUN_FILE, *files))


def scene_page(stages: "Sequence[Stage]", title: str, *, stamp: str = "", explorer: str = "") -> bytes:
    """The page.

    Args:
        stages: what it shows, one at a time; the first one at first.
        title: what it is called, for people.
        stamp: what it is made from, as :func:`stamp_of` says.
        explorer: address of the explorer that it leads to; '' for none.

    Raises:
        MissingExtraError: viser is not installed.
    """
    library = viser()
    with _silent_server(library) as server:
        client = server.scene.as_html()
    data = "\n".join(
        f'<script type="text/plain" data-stage="{stage.key}" data-facts="{escape(stage.facts)}">'
        f"{base64.b64encode(recorded(stage)).decode()}</script>"
        for stage in stages
    )
    head = (
        f'<head><meta name="generator" content="asic3d {__version__}">\n'
        f'<meta name="asic3d-made-from" content="{stamp}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    )
    about = Template(_read()).substitute(
        title=escape(title),
        links="".join(f'<a href="#{stage.key}">{escape(stage.title)}</a>' for stage in stages),
        explorer=f'<a href="{escape(explorer)}">Explorer</a>' if explorer else "",
    )
    for mark, replacement in (
        ("<head>", head),
        ("<title>Viser</title>", f"<title>{escape(title)} · asic3d in 3-D</title>"),
        ("</head>", f"{data}\n{_CHOICE}</head>"),
        ("<body>", f"<body>\n{about}"),
    ):
        assert mark in client, mark
        client = client.replace(mark, replacement, 1)
    return client.encode("utf-8", "replace")


def recorded(stage: "Stage") -> bytes:
    """A stage as a recording of viser's, the content of a ``.viser`` file.

    Raises:
        MissingExtraError: viser is not installed.
    """
    library = viser()
    with _silent_server(library) as server:
        _fill(library, server, stage)
        return server.get_scene_serializer().serialize()


@contextlib.contextmanager
def _silent_server(library: Any) -> Iterator[Any]:
    """Viser records what a server would send; ours listens to this machine alone, for a moment, and is told nothing."""
    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        server = library.ViserServer(host="127.0.0.1", port=0, verbose=False)
        try:
            yield server
        finally:
            server.stop()


def _fill(library: Any, server: Any, stage: "Stage") -> None:
    scene, camera = server.scene, server.initial_camera
    scene.set_up_direction("+z")
    scene.set_background_image(np.full((2, 2, 3), _BACKGROUND, np.uint8), format="png")
    camera.fov, camera.position = float(_ANGLE), stage.eye(float(_ANGLE), _ASPECT)
    camera.look_at = np.zeros(3)
    for cloud in stage.clouds:
        if cloud.name:
            scene.add_frame(f"/{cloud.group}", show_axes=False, visible=cloud.shown)
        scene.add_point_cloud(
            f"/{cloud.group}/{_node(cloud.name)}" if cloud.name else f"/{cloud.group}",
            cloud.points,
            cloud.colours,
            point_size=cloud.size,
            point_shape="circle",
            point_shading="flat",
            precision="float32",
        )
    for shot in stage.shots:
        _add_shot(library, scene, shot)


def _add_shot(library: Any, scene: Any, shot: "Shot") -> None:
    """A frustum, the photo at its far end and its name, which are switched on and off together or alone."""
    name = f"/cameras/{_node(shot.name)}"
    lines = shot.corners[np.array(EDGES)].astype(np.float32)
    scene.add_line_segments(f"{name}/frustum", lines, CAMERA, thickness=_LINE, thickness_units="screen")
    right, down = shot.corners[2] - shot.corners[1], shot.corners[4] - shot.corners[1]
    if shot.photo is not None:
        width, height = np.linalg.norm(right), np.linalg.norm(down)
        axes = np.stack([right / width, down / height, np.cross(right, down) / (width * height)], 1)
        scene.add_image(
            f"{name}/photo",
            shot.photo,
            float(width),
            float(height),
            format="jpeg",
            jpeg_quality=_QUALITY,
            cast_shadow=False,
            receive_shadow=False,
            wxyz=library.transforms.SO3.from_matrix(axes).wxyz,
            position=shot.corners[1:].mean(0),
        )
    scene.add_label(
        f"{name}/name", _text(shot.name), position=shot.corners[0], font_screen_scale=0.8, anchor="bottom-center"
    )


def _read() -> str:
    return (resources.files("asic3d_integrations") / "scene.html").read_text("utf-8")


def _text(name: str) -> str:
    """A name that any file may have, as text that can be written."""
    return name.encode("utf-8", "backslashreplace").decode()


def _node(name: str) -> str:
    """A photo's name as one node of viser's tree, in which a slash divides."""
    return _text(name).replace("/", "∕").strip() or "photo"
