"""A model of COLMAP for nerfstudio and the Gaussian-splatting tools around it."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import ExportError
from asic3d.storage import atomic_write, write_json
from asic3d_integrations.colmap.database import quiet_pycolmap

TRANSFORMS, POINTS = "transforms.json", "sparse_pc.ply"
_DISTORTION = {
    "SIMPLE_PINHOLE": (),
    "PINHOLE": (),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": ("k1", "k2", "p1", "p2"),
}
"""COLMAP's camera models that nerfstudio's OPENCV covers -> the distortion at the end of their parameters."""


def write_nerfstudio(model: Any, folder: Path, images: Path) -> None:
    """Writes ``transforms.json`` and ``sparse_pc.ply``, in the model's own frame.

    nerfstudio's cameras look along -z with y up, and its pixels are COLMAP's. Paths of photos are relative to the
    folder where that is possible.

    Args:
        model: a reconstruction of pycolmap.
        folder: where to write.
        images: the folder that the model's image names are relative to.

    Raises:
        ExportError: a camera's model is one that nerfstudio does not know.
        StorageError: the folder can't be written.
    """
    posed = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    frames = [_frame(image, model.cameras[image.camera_id], folder, images) for image in posed]
    content = {"camera_model": "OPENCV", "ply_file_path": POINTS, "frames": frames}
    xyz, colour = points_of(model)
    atomic_write(folder / POINTS, lambda file: file.write(ply_bytes(xyz, colour)))
    write_json(folder / TRANSFORMS, content)


def _frame(image: Any, camera: Any, folder: Path, images: Path) -> dict[str, Any]:
    if camera.model_name not in _DISTORTION:
        raise ExportError(
            f"nerfstudio does not know COLMAP's camera model {camera.model_name}; map with --camera-model OPENCV."
        )
    names = _DISTORTION[camera.model_name]
    values = list(camera.params[len(camera.params) - len(names) :]) if names else []
    return {
        "file_path": _path(images / image.name, folder),
        "transform_matrix": camera_to_world(image).tolist(),
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.focal_length_x,
        "fl_y": camera.focal_length_y,
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        **dict(zip(names, values, strict=True)),
    }


def _path(photo: Path, folder: Path) -> str:
    """Relative to the folder; absolute where no relative path leads there, as to another drive of Windows."""
    try:
        return Path(os.path.relpath(photo.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return photo.resolve().as_posix()


def camera_to_world(image: Any) -> np.ndarray:
    """(4, 4) float64: from a camera with x right, y up, z backward to the world."""
    matrix = np.eye(4)
    matrix[:3] = image.cam_from_world().inverse().matrix()
    matrix[:3, 1:3] *= -1
    return matrix


def points_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) float32 points of a model and their (n, 3) uint8 colours."""
    points = [model.points3D[number] for number in sorted(model.points3D)]
    xyz = np.array([point.xyz for point in points], np.float32).reshape(-1, 3)
    return xyz, np.array([point.color for point in points], np.uint8).reshape(-1, 3)


def ply_bytes(xyz: np.ndarray, colour: np.ndarray) -> bytes:
    """A point cloud as a binary PLY file."""
    kinds = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(xyz), kinds)
    for name, column in zip(rows.dtype.names or (), (*xyz.T, *colour.T), strict=True):
        rows[name] = column
    properties = "".join(f"property {'float' if kind == '<f4' else 'uchar'} {name}\n" for name, kind in kinds)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n{properties}end_header\n"
    return header.encode() + rows.tobytes()


def coloured(model: Any, images: Path) -> None:
    """Gives the points of a model the colours of the photos."""
    quiet_pycolmap()
    model.extract_colors_for_all_images(images)
