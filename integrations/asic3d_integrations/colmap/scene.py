"""A model of COLMAP to look at: points, camera frusta and photos, and files of them for viewers."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.collection import load_photo
from asic3d.errors import CollectionError, StorageError
from asic3d.storage import atomic_write, inside
from asic3d_integrations.colmap.nerfstudio import ply_bytes, points_of
from asic3d_integrations.colmap.viewpoint import choose_view

EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
"""The lines of a frustum, between its five places."""
CAMERA = (230, 100, 30)
"""The colour that frusta are drawn in, RGB."""
_DEPTH = 0.08  # of a frustum, in extents of the scene
_LONGER = 2.5  # at most, of long lenses
_FACES = ((0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 1))
_DOTS = 40  # along each line of a frustum, where a file knows nothing but points
_PHOTO = 320  # pixels of a shown photo's longer side


@dataclass(frozen=True, eq=False)
class Scene:
    """What there is to see, in the model's own frame.

    Attributes:
        points: (n, 3) float32.
        colours: (n, 3) uint8, sRGB.
        frusta: (m, 5, 3) float64, of each photo with a pose: where its camera stands, and the corners of the photo,
            clockwise from the top left.
        photos: m photos, (h, w, 3) uint8, small; None where one was not found.
        names: m names, as the model has them.
        view: (3, 3) float64, rows: right, down and ahead of who looks on, from above and aside.
        up: (3,) float64, unit length: up, as the photos have it in the mean.
    """

    points: np.ndarray
    colours: np.ndarray
    frusta: np.ndarray
    photos: tuple[np.ndarray | None, ...]
    names: tuple[str, ...]
    view: np.ndarray
    up: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """(k, 3) float64: the frusta, and the points without the farthest, which may lie anywhere."""
        return np.concatenate([self.frusta.reshape(-1, 3), _near(self.points)])


def scene_of(model: Any, images: Path | None = None) -> Scene:
    """A scene out of a model.

    Args:
        model: a reconstruction of pycolmap.
        images: the folder that its image names are relative to; without one no photos are shown.
    """
    posed = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    points, colours = points_of(model)
    centres = np.array([image.projection_center() for image in posed]).reshape(-1, 3)
    around = np.concatenate([centres, _near(points)])
    depth = _DEPTH * float(np.linalg.norm(np.ptp(around, axis=0))) if len(around) else 1.0
    cameras = [model.cameras[image.camera_id] for image in posed]
    frusta = [frustum(image, camera, depth * _reach(camera)) for image, camera in zip(posed, cameras, strict=True)]
    photos = tuple(None if images is None else _photo(images, image.name) for image in posed)
    rotations = np.array([image.cam_from_world().rotation.matrix() for image in posed]).reshape(-1, 3, 3)
    names = tuple(image.name for image in posed)
    corners = np.array(frusta).reshape(-1, 5, 3)
    return Scene(points, colours, corners, photos, names, *choose_view(rotations, _near(points), corners))


def frustum(image: Any, camera: Any, depth: float) -> np.ndarray:
    """(5, 3) float64, world: where a camera stands, and the corners of its photo at a depth, clockwise."""
    width, height = camera.width, camera.height
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    middle = np.array([camera.principal_point_x, camera.principal_point_y])
    flat = (corners - middle) / [camera.focal_length_x, camera.focal_length_y]
    seen = np.concatenate([np.zeros((1, 3)), np.column_stack([flat, np.ones(4)]) * depth])
    world = image.cam_from_world().inverse().matrix()
    return seen @ world[:, :3].T + world[:, 3]


def _reach(camera: Any) -> float:
    """Long lenses get longer frusta: their photos would be too small to be seen."""
    return float(np.clip(camera.mean_focal_length() / max(camera.width, camera.height) / 1.5, 1, _LONGER))


def _near(points: np.ndarray) -> np.ndarray:
    """The points without the farthest."""
    if not len(points):
        return points.astype(float)
    off = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return points[off <= np.quantile(off, 0.95)].astype(float)


def _photo(folder: Path, name: str) -> np.ndarray | None:
    """A small copy of a photo; none where it is gone: the scene can be looked at without it."""
    with contextlib.suppress(CollectionError, StorageError):
        return load_photo(inside(folder, name, follow_links=True)).read(_PHOTO)
    return None


def write_glb(scene: Scene, path: Path) -> None:
    """Writes points and frusta as GLB, which viewers and Blender open; y is up there, as glTF has it.

    Raises:
        StorageError: the file can't be written.
    """
    import trimesh

    content = trimesh.Scene()
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    if len(scene.points):
        cloud = trimesh.PointCloud(scene.points, colors=scene.colours)
        content.add_geometry(cloud, node_name="points", transform=flip)
    for number, corners in enumerate(scene.frusta):
        mesh = trimesh.Trimesh(corners, [*_FACES, *(face[::-1] for face in _FACES)], process=False)
        mesh.visual.face_colors = [*CAMERA, 255]  # type: ignore[union-attr]
        content.add_geometry(mesh, node_name=f"camera_{number:03d}", transform=flip)
    written = content.export(file_type="glb")
    atomic_write(path, lambda file: file.write(written))  # type: ignore[arg-type]


def write_ply(scene: Scene, path: Path) -> None:
    """Writes points and the lines of the frusta, dotted, as one PLY cloud in the model's own frame.

    Dotted, because viewers that know lines in a PLY file show no points beside them, and others no lines.

    Raises:
        StorageError: the file can't be written.
    """
    begin, end = (scene.frusta[:, [edge[side] for edge in EDGES], None] for side in (0, 1))
    dots = (begin + (end - begin) * np.linspace(0, 1, _DOTS)[:, None]).reshape(-1, 3)
    xyz = np.concatenate([scene.points, dots]).astype(np.float32)
    colours = np.concatenate([scene.colours, np.tile(np.array(CAMERA, np.uint8), (len(dots), 1))])
    content = ply_bytes(xyz, colours)
    atomic_write(path, lambda file: file.write(content))
