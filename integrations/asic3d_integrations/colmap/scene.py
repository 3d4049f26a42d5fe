"""A model of COLMAP to look at: points and camera frusta as GLB and PLY, or drawn by Open3D."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import MissingExtraError
from asic3d.storage import atomic_write
from asic3d_integrations.colmap.nerfstudio import points_of

_DEPTH = 0.08
"""Depth of a drawn frustum, in extents of the scene."""
_EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
_FACES = ((0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 1))
_CAMERA = (230, 100, 30)
_PICTURE = (1200, 900)


def frustum(image: Any, camera: Any, depth: float) -> np.ndarray:
    """(5, 3) float64, world: where a camera stands, and the corners of its photo at a depth, clockwise."""
    width, height = camera.width, camera.height
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    middle = np.array([camera.principal_point_x, camera.principal_point_y])
    flat = (corners - middle) / [camera.focal_length_x, camera.focal_length_y]
    seen = np.concatenate([np.zeros((1, 3)), np.column_stack([flat, np.ones(4)]) * depth])
    world = image.cam_from_world().inverse().matrix()
    return seen @ world[:, :3].T + world[:, 3]


def frusta(model: Any) -> np.ndarray:
    """(n, 5, 3) float64: the frusta of all registered photos, as large as is easy to look at."""
    posed = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    centres = np.array([image.projection_center() for image in posed]).reshape(-1, 3)
    around = np.concatenate([centres, _middle_points(model)])
    depth = _DEPTH * float(np.linalg.norm(np.ptp(around, axis=0))) if len(around) else 1.0
    return np.array([frustum(image, model.cameras[image.camera_id], depth) for image in posed]).reshape(-1, 5, 3)


def _middle_points(model: Any) -> np.ndarray:
    """The points without the farthest, which may lie anywhere."""
    xyz = points_of(model)[0].astype(float)
    if not len(xyz):
        return xyz
    off = np.linalg.norm(xyz - np.median(xyz, axis=0), axis=1)
    return xyz[off <= np.quantile(off, 0.95)]


def write_glb(model: Any, path: Path) -> None:
    """Writes points and frusta as GLB, which viewers and Blender open; y is up there, as glTF has it.

    Raises:
        StorageError: the file can't be written.
    """
    import trimesh

    scene = trimesh.Scene()
    xyz, colour = points_of(model)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    if len(xyz):
        scene.add_geometry(trimesh.PointCloud(xyz, colors=colour), node_name="points", transform=flip)
    for number, corners in enumerate(frusta(model)):
        mesh = trimesh.Trimesh(corners, [*_FACES, *(face[::-1] for face in _FACES)], process=False)
        mesh.visual.face_colors = [*_CAMERA, 255]  # type: ignore[union-attr]
        scene.add_geometry(mesh, node_name=f"camera_{number:03d}", transform=flip)
    content = scene.export(file_type="glb")
    atomic_write(path, lambda file: file.write(content))  # type: ignore[arg-type]


def write_ply(model: Any, path: Path) -> None:
    """Writes points and the edges of the frusta as one PLY file, in the model's own frame.

    Raises:
        StorageError: the file can't be written.
    """
    xyz, colour = points_of(model)
    corners = frusta(model)
    vertices = np.concatenate([xyz, corners.reshape(-1, 3)]).astype(np.float32)
    colours = np.concatenate([colour, np.tile(np.array(_CAMERA, np.uint8), (len(vertices) - len(xyz), 1))])
    edges = np.array([[len(xyz) + 5 * n + a, len(xyz) + 5 * n + b] for n in range(len(corners)) for a, b in _EDGES])
    rows = np.empty(len(vertices), [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in "rgb"])
    for name, column in zip("xyzrgb", (*vertices.T, *colours.T), strict=True):
        rows[name] = column
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element edge {len(edges)}\nproperty int vertex1\nproperty int vertex2\nend_header\n"
    )
    content = header.encode() + rows.tobytes() + edges.astype("<i4").tobytes()
    atomic_write(path, lambda file: file.write(content))


def _open3d() -> Any:
    try:
        import open3d  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError('The view needs Open3D: pip install "asic3d[viz]".') from None
    except OSError as error:  # a system library is missing, mostly libusb
        raise MissingExtraError(
            f"Open3D can't be loaded ({error}). It needs the system library libusb-1.0: on Debian and Ubuntu, "
            "apt-get install libusb-1.0-0."
        ) from error
    return open3d


def open3d_geometries(model: Any) -> list[Any]:
    """Points and frusta as Open3D draws them.

    Raises:
        MissingExtraError: Open3D is not installed, or misses a system library.
    """
    open3d = _open3d()
    xyz, colour = points_of(model)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz.astype(float)))
    cloud.colors = open3d.utility.Vector3dVector(colour / 255)
    corners = frusta(model)
    lines = open3d.geometry.LineSet(
        open3d.utility.Vector3dVector(corners.reshape(-1, 3)),
        open3d.utility.Vector2iVector([(5 * n + a, 5 * n + b) for n in range(len(corners)) for a, b in _EDGES]),
    )
    lines.paint_uniform_color([value / 255 for value in _CAMERA])
    return [cloud, lines]


def show(model: Any) -> None:
    """Opens a window with the scene and waits until it is closed.

    Raises:
        MissingExtraError: as :func:`open3d_geometries`.
    """
    _open3d().visualization.draw_geometries(open3d_geometries(model), window_name="asic3d")


def draw_scene(model: Any, size: tuple[int, int] = _PICTURE) -> np.ndarray:
    """(h, w, 3) uint8: the scene from obliquely above, drawn without a display, GPU or Open3D."""
    import cv2

    xyz, colour = points_of(model)
    corners = frusta(model)
    every = np.concatenate([_middle_points(model), corners.reshape(-1, 3)])
    project = _oblique(model, every, size)
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    places, depth = project(xyz.astype(float))
    for number in np.argsort(-depth):
        centre = tuple(int(value) for value in places[number].clip(-10, 2 * max(size)))
        cv2.circle(canvas, centre, 2, tuple(int(value) for value in colour[number]), -1, cv2.LINE_AA)
    for one in corners:
        ends, _ = project(one)
        for a, b in _EDGES:
            cv2.line(canvas, _whole(ends[a]), _whole(ends[b]), _CAMERA, 2, cv2.LINE_AA)
    return canvas


def _whole(point: Sequence[float] | np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def _oblique(model: Any, every: np.ndarray, size: tuple[int, int]) -> Any:
    """A parallel projection that shows all points: from above and behind the photos' mean view."""
    posed = [image for image in model.images.values() if image.has_pose]
    down = np.mean([image.cam_from_world().rotation.matrix()[1] for image in posed], axis=0) if posed else [0, 1, 0]
    ahead = np.mean([image.cam_from_world().rotation.matrix()[2] for image in posed], axis=0) if posed else [0, 0, 1]
    down = np.array(down) / max(float(np.linalg.norm(down)), 1e-9)
    ahead = np.array(ahead) - np.dot(ahead, down) * down
    if np.linalg.norm(ahead) < 0.1:  # the photos look in all directions: any will do
        ahead = np.cross(down, [0.3, 0.5, 0.8])
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(down, ahead)
    aside = np.radians(35)
    ahead, right = np.cos(aside) * ahead + np.sin(aside) * right, np.cos(aside) * right - np.sin(aside) * ahead
    tilt = np.radians(30)
    axes = np.stack([right, np.cos(tilt) * down + np.sin(tilt) * -ahead, np.cos(tilt) * ahead + np.sin(tilt) * down])
    seen = every @ axes.T
    low, high = (seen.min(0), seen.max(0)) if len(seen) else (np.zeros(3), np.ones(3))
    scale = 0.9 * float((np.array(size) / np.maximum(high - low, 1e-9)[:2]).min())

    def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turned = points @ axes.T
        return (turned[:, :2] - (low + high)[:2] / 2) * scale + np.array(size) / 2, turned[:, 2]

    return project
