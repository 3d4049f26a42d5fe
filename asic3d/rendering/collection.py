"""Rendered collections: casual photos of one object in many places, with the whole truth about them."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from asic3d.errors import ConfigError
from asic3d.rendering.photos import DEPTH_SLACK, RenderedPhoto, render_photo
from asic3d.rendering.rasterising import nearest_at
from asic3d.rendering.surroundings import SCENES
from asic3d.rendering.toy import pose_points, toy_mesh
from asic3d.storage import atomic_write

KEYPOINTS = 24
_FRONT = np.radians(50)  # azimuth of the middle of the arc: the object's left front
_SHAPES = ((4, 3), (3, 4), (1, 1), (3, 2), (4, 5), (16, 9))  # aspect ratios of photos


@dataclass(frozen=True, eq=False)
class RenderedCollection:
    """Photos of one object with known cameras and correspondences.

    Attributes:
        photos: the photos.
        names: their file names.
        keypoints: (N, K, 3) float64: x and y in pixels, and 1 where the point is visible and not edge on, else 0.
    """

    photos: tuple[RenderedPhoto, ...]
    names: tuple[str, ...]
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.photos)

    def correspondences(self, source: int, target: int) -> np.ndarray:
        """(h, w, 2) float64: where each pixel of ``source`` is in ``target``; NaN off the object and where hidden."""
        photo = self.photos[source]
        found = np.full((*photo.mask.shape, 2), np.nan)
        pixels, seen = self.photos[target].project(photo.surface[photo.mask])
        found[photo.mask] = np.where(seen[:, None], pixels, np.nan)
        return found

    def save(self, folder: str | Path) -> None:
        """Writes images/NAME, masks/NAME.png, keypoints.json and cameras.json.

        Raises:
            StorageError: a file can't be written.
        """
        folder = Path(folder)
        for name, photo in zip(self.names, self.photos, strict=True):
            mask = photo.mask.astype(np.uint8) * 255
            _write(folder / "images" / name, _encoded(photo.image, "JPEG", quality=92, subsampling=0))
            _write(folder / "masks" / f"{name}.png", _encoded(mask, "PNG"))
        for name, entries in (("keypoints", self._keypoint_entries()), ("cameras", self._camera_entries())):
            _write(folder / f"{name}.json", json.dumps({"images": entries}, indent=1).encode())

    def _keypoint_entries(self) -> list[dict]:
        return [
            {
                "file": f"images/{name}",
                "size": list(photo.size),
                "bbox": _box(photo.mask),
                "keypoints": {
                    f"point_{k:02d}": [round(x, 3), round(y, 3), int(seen)]
                    for k, (x, y, seen) in enumerate(points.tolist())
                },
            }
            for name, photo, points in zip(self.names, self.photos, self.keypoints, strict=True)
        ]

    def _camera_entries(self) -> list[dict]:
        return [
            {
                "file": f"images/{name}",
                "size": list(photo.size),
                "K": photo.K.tolist(),
                "R": photo.R.tolist(),
                "t": photo.t.tolist(),
            }
            for name, photo in zip(self.names, self.photos, strict=True)
        ]


def render_collection(
    count: int = 8,
    seed: int = 0,
    *,
    size: tuple[int, int] = (400, 300),
    arc_degrees: float = 25.0,
    deformation: float = 0.0,
    clutter: float = 1.0,
) -> RenderedCollection:
    """Renders photos of the toy in changing places, views, light, framing and colour.

    Args:
        count: how many photos, at least 1.
        seed: decides everything that is drawn at random.
        size: (width, height) of the first photo in pixels; the others have as many pixels in other
            shapes.
        arc_degrees: the views lie within this to either side of the object's left front.
        deformation: 0 = the same rigid object everywhere; 1 = head, tail and height differ clearly from photo to photo.
        clutter: 0 = nearly plain surroundings; 1 = full contrast and other things lying about.

    Raises:
        ConfigError: no photos, or photos too small or too narrow.

    Example:
        >>> render_collection(2, size=(80, 60)).photos[0].image.shape
        (60, 80, 3)
    """
    if count < 1 or min(size) < 24 or max(size) > 8 * min(size):
        raise ConfigError(
            "A rendered collection has at least 1 photo of at least 24 pixels a side and an aspect of at most 8; "
            f"{count} of {size[0]} x {size[1]} were asked for."
        )
    generator = np.random.default_rng(seed)
    azimuths = _FRONT + np.radians(arc_degrees) * generator.permutation(_spread(count, generator))
    scenes = np.resize(generator.permutation(len(SCENES)), count)
    photos = tuple(
        render_photo(
            _shape(size, number),
            float(azimuths[number]),
            int(scenes[number]),
            clutter,
            deformation,
            np.random.default_rng([seed, number]),
        )
        for number in range(count)
    )
    names = tuple(f"photo_{number:02d}.jpg" for number in range(1, count + 1))
    return RenderedCollection(photos, names, _choose_keypoints(photos))


def _spread(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count,) places in [-1, 1], one somewhere in each of as many equal parts of it."""
    return (np.arange(count) + generator.random(count)) / count * 2 - 1


def _shape(size: tuple[int, int], number: int) -> tuple[int, int]:
    """The size of the numbered photo: the first as asked for, the others of about the same area in other shapes."""
    if number == 0:
        return size
    across, down = _SHAPES[number % len(_SHAPES)]
    unit = np.sqrt(size[0] * size[1] / (across * down))
    return max(round(across * unit), 1), max(round(down * unit), 1)


def _choose_keypoints(photos: tuple[RenderedPhoto, ...]) -> np.ndarray:
    """(N, K, 3): points spread evenly over the part of the object that at least half of the photos see well."""
    vertices = toy_mesh().vertices
    pixels, seen = (np.stack(values) for values in zip(*(photo.project(vertices) for photo in photos), strict=True))
    facing = np.stack([_facing(photo) for photo in photos])
    often = (seen & facing).sum(0)
    candidates = np.flatnonzero(often >= min(len(photos) / 2, often.max()))
    spread = candidates[_farthest_first(vertices[candidates], 2 * KEYPOINTS)]
    visible = facing[:, spread] & ~np.stack([_hidden(photo, spread) for photo in photos])
    # The pictures' depth can't tell a surface from one just behind it: prefer points that half of the photos do see.
    order = np.argsort(visible.sum(0) < len(photos) / 2, kind="stable")[:KEYPOINTS]
    return np.concatenate([pixels[:, spread[order]], visible[:, order, None]], 2)


def _farthest_first(points: np.ndarray, count: int) -> np.ndarray:
    """(count,) int: numbers of points (n, 3), first that of largest x, then ever the farthest from those before."""
    chosen = [int(np.argmax(points[:, 0]))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def _facing(photo: RenderedPhoto) -> np.ndarray:
    """(V,) bool: the vertices of the toy whose surface is turned to the camera, not seen edge on."""
    vertices = pose_points(toy_mesh().vertices, photo.pose)
    towards_eye = photo.camera.centre - vertices
    cosine = np.einsum("nk,nk->n", toy_mesh().normals(vertices), towards_eye)
    return cosine > 0.2 * np.linalg.norm(towards_eye, axis=1)


def _hidden(photo: RenderedPhoto, chosen: np.ndarray) -> np.ndarray:
    """(K,) bool: the chosen vertices of the toy with another part of it in front, to the exact point."""
    pixels, depth = photo.camera.project(pose_points(toy_mesh().vertices, photo.pose))
    nearest = nearest_at(pixels, 1 / depth, toy_mesh().faces, pixels[chosen])
    return 1 / nearest < depth[chosen] - DEPTH_SLACK


def _box(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1] of a mask's outermost pixels."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def _write(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


def _encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
