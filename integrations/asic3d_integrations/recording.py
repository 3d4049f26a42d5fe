"""A run in 3-D as a recording of Rerun's: the same stages as the page, each in a view of its own."""

import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asic3d.extras import load_extra
from asic3d.temporaries import temporary_folder
from asic3d_integrations.colmap.scene import CAMERA

if TYPE_CHECKING:
    from asic3d_integrations.stages import Shot, Stage

_QUALITY = 85  # of the photos' JPEG


def rerun() -> Any:
    """Rerun's library.

    Raises:
        MissingExtraError: it can't be imported.
    """
    load_extra("rerun.blueprint", "A recording needs Rerun", "rerun-sdk")
    return load_extra("rerun", "A recording needs Rerun", "rerun-sdk")


def recording(stages: "Sequence[Stage]") -> bytes:
    """The content of an ``.rrd`` file: points, cameras with their photos, and how they are laid out.

    Raises:
        MissingExtraError: Rerun is not installed.
    """
    library = rerun()
    with temporary_folder() as folder:
        file = folder / "scene.rrd"
        stream = library.RecordingStream("asic3d", recording_id=uuid.uuid4())
        stream.save(file, default_blueprint=_layout(library, stages))
        for stage in stages:
            stream.log(stage.key, library.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
            _log(library, stream, stage)
        stream.flush()
        stream.disconnect()
        return file.read_bytes()


def _layout(library: Any, stages: "Sequence[Stage]") -> Any:
    """A tab for each stage. What is not seen at first is switched off there."""
    blueprint = library.blueprint
    tabs = []
    for stage in stages:
        hidden = {cloud.group for cloud in stage.clouds if not cloud.shown}
        off = {_path(stage.key, group): blueprint.EntityBehavior(visible=False) for group in hidden}
        tabs.append(blueprint.Spatial3DView(origin=stage.key, name=stage.title, overrides=off))
    return blueprint.Blueprint(blueprint.Tabs(*tabs), collapse_panels=False)


def _log(library: Any, stream: Any, stage: "Stage") -> None:
    stream.log(f"{stage.key}/about", library.TextDocument(stage.facts), static=True)
    for cloud in stage.clouds:
        points = library.Points3D(cloud.points, colors=cloud.colours, radii=cloud.size / 2)
        stream.log(_path(stage.key, cloud.group, cloud.name), points, static=True)
    for shot in stage.shots:
        _log_shot(library, stream, _path(stage.key, "cameras", shot.name), shot)


def _log_shot(library: Any, stream: Any, path: str, shot: "Shot") -> None:
    """A camera with its photo, which Rerun can also look through."""
    size = (shot.photo.shape[1], shot.photo.shape[0]) if shot.photo is not None else (4, 3)
    right, down = shot.corners[2] - shot.corners[1], shot.corners[4] - shot.corners[1]
    lengths = np.linalg.norm(right), np.linalg.norm(down)
    axes = np.stack([right / lengths[0], down / lengths[1], np.cross(right, down) / (lengths[0] * lengths[1])], 1)
    x, y, depth = (shot.corners[1] - shot.corners[0]) @ axes
    focal = np.array(size) * depth / np.array(lengths)
    lens = library.Pinhole(
        focal_length=focal,
        principal_point=-focal * np.array([x, y]) / depth,
        resolution=size,
        camera_xyz=library.ViewCoordinates.RDF,
        image_plane_distance=float(depth),
        color=CAMERA,
    )
    stream.log(path, library.Transform3D(translation=shot.corners[0], mat3x3=axes), lens, static=True)
    if shot.photo is not None:
        stream.log(path, library.Image(shot.photo).compress(_QUALITY), static=True)


def _path(*names: str) -> str:
    """Names that any file may have, as one path of Rerun's."""
    return rerun().new_entity_path([name.encode("utf-8", "backslashreplace").decode() for name in names if name])


def open_recording(file: Path) -> None:
    """Opens Rerun's viewer on a recording and goes on; the viewer stays open.

    Raises:
        MissingExtraError: Rerun is not installed.
    """
    rerun()
    subprocess.Popen(
        [sys.executable, "-m", "rerun", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
