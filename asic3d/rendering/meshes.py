"""Textured triangle meshes built from pieces that are swept along a path."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from asic3d.rendering.rasterising import nearest_along


@dataclass(frozen=True, eq=False)
class Mesh:
    """A textured triangle mesh.

    Attributes:
        vertices: (V, 3) float64, object frame.
        faces: (F, 3) int64, counter-clockwise from outside.
        texture_points: (V, 2) float64, x and y in pixels of ``texture``.
        texture: (h, w, 3) uint8, sRGB.
        openness: (V,) float64 in [0, 1], the part of the sky that a vertex sees.
    """

    vertices: np.ndarray
    faces: np.ndarray
    texture_points: np.ndarray
    texture: np.ndarray
    openness: np.ndarray

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """(V, 3) outward unit normals of the mesh with its vertices moved to ``vertices``."""
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        across = np.cross(b - a, c - a)
        total = np.stack([np.bincount(self.faces.T.ravel(), np.tile(w, 3), len(vertices)) for w in across.T], 1)
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def colours(self, texture_points: np.ndarray) -> np.ndarray:
        """(n, 3) float32 in [0, 1], sRGB, bilinear at (n, 2) points of the texture."""
        return sample(self.texture, texture_points) / 255

    def occluded(self, directions: int = 24) -> "Mesh":
        """The same mesh with its ``openness`` worked out, against evenly spread directions of the upper side."""
        normals = self.normals(self.vertices)
        start = self.vertices + 0.03 * normals
        number = np.arange(directions)
        height, turn = 1 - 1.25 * (number + 0.5) / directions, number * 2.399963  # the golden angle
        flat = np.sqrt(1 - height**2)
        seen, total = np.full(len(start), 1e-6), np.full(len(start), 1e-6)
        for direction in np.stack([flat * np.cos(turn), flat * np.sin(turn), height], 1):
            weight = np.maximum(normals @ direction, 0)
            total += weight
            seen += weight * nearest_along(self.vertices, self.faces, direction, 80).lit(start)
        return replace(self, openness=seen / total)


@dataclass(frozen=True, eq=False)
class Part:
    """A closed piece of a mesh.

    Attributes:
        vertices: (rings, sides, 3) float64; u in [0, 1] runs over the rings, v over the sides.
        texture: (h, w, 3) float32 in [0, 1], sRGB; v downwards, u to the right.
    """

    vertices: np.ndarray
    texture: np.ndarray

    def moved(self, turn: float, to: tuple[float, float]) -> "Part":
        """Turned about the upright axis by ``turn`` radians, then moved along the ground."""
        c, s = np.cos(turn), np.sin(turn)
        return Part(self.vertices @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + np.array([*to, 0.0]), self.texture)


def join(parts: list[Part]) -> Mesh:
    """Parts as one mesh with one texture."""
    width = max(part.texture.shape[1] for part in parts)
    rows: dict[int, int] = {}  # a texture that several parts share is stored once
    tiles, vertices, faces, texture_points = [], [], [], []
    first = top = 0
    for part in parts:
        rings, sides, _ = part.vertices.shape
        height, own_width, _ = part.texture.shape
        if id(part.texture) not in rows:
            rows[id(part.texture)] = top
            tiles.append(np.pad(np.rint(part.texture * 255).astype(np.uint8), ((0, 0), (0, width - own_width), (0, 0))))
            top += height
        u, v = np.meshgrid(np.linspace(0, own_width - 1, rings), np.linspace(0, height - 1, sides), indexing="ij")
        texture_points.append(np.stack([u, v + rows[id(part.texture)]], -1).reshape(-1, 2))
        vertices.append(part.vertices.reshape(-1, 3))
        faces.append(_sweep_faces(rings, sides) + first)
        first += rings * sides
    return Mesh(
        np.concatenate(vertices),
        np.concatenate(faces),
        np.concatenate(texture_points),
        np.concatenate(tiles),
        np.ones(first),
    )


def sweep(
    path: np.ndarray,
    radii: np.ndarray,
    texture: np.ndarray,
    *,
    sides: int = 20,
    power: float = 2.0,
    across: tuple[float, float, float] = (0.0, 1.0, 0.0),
) -> Part:
    """A superellipse swept along a path.

    Args:
        path: (m, 3) float, the centres of the rings.
        radii: (m, 2) float, half of a ring's extent ``across`` and at right angles to it.
        texture: (h, w, 3) float32 in [0, 1], sRGB; a quarter of its height is the side towards ``across``.
        sides: corners of a ring.
        power: 2 = ellipse, larger = more and more of a rectangle.
        across: a direction that the path never takes.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    top = np.cross(tangent, across)
    top /= np.linalg.norm(top, axis=1, keepdims=True)
    side = np.cross(top, tangent)
    x, y = superellipse(sides + 1, power, 2 * np.pi)
    ring = (radii[:, :1] * x)[..., None] * side[:, None] - (radii[:, 1:] * y)[..., None] * top[:, None]
    return Part(path[:, None] + ring, texture)


def ball(
    centre: tuple[float, float, float],
    axis: tuple[float, float, float],
    radii: tuple[float, float],
    texture: np.ndarray,
    *,
    sides: int = 18,
    power: float = 2.0,
) -> Part:
    """A (super)ellipsoid: ``axis`` leads from its centre to its far pole, ``radii`` are those of its waist."""
    radius, along = superellipse(15, power, np.pi)
    path = np.array(centre) - np.outer(_steady(along), axis)
    return sweep(path, np.maximum(radius, 1e-4)[:, None] * np.array(radii), texture, sides=sides, power=power)


def turned(
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    profile: list[tuple[float, float]],
    texture: np.ndarray,
    *,
    sides: int = 20,
    across: tuple[float, float, float] = (0.0, 1.0, 0.0),
) -> Part:
    """A lathe's work: ``profile`` = (place from start to end in [0, 1], radius) from one pole to the other."""
    along, radius = np.array(profile).T
    path = np.array(start) + np.outer(-_steady(-along), np.subtract(end, start))
    return sweep(path, np.stack([radius, radius], 1), texture, sides=sides, across=across)


def curve(knots: list[tuple[float, ...]], count: int) -> np.ndarray:
    """(count, d): the Catmull-Rom curve through (k, d) knots."""
    points = np.array(knots, float)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    place = np.linspace(0, len(points) - 1, count)
    start = np.minimum(place.astype(int), len(points) - 2)
    t = (place - start)[:, None]
    a, b, c, d = (padded[start + k] for k in range(4))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def superellipse(count: int, power: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y, each (count,), on a unit superellipse from angle 0 at (0, 1) to ``end`` in even steps."""
    angle = np.linspace(0, end, 2001)
    x, y = (np.sign(wave) * np.abs(wave) ** (2 / power) for wave in (np.sin(angle), np.cos(angle)))
    length = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    at = np.linspace(0, length[-1], count)
    return np.interp(at, length, x), np.interp(at, length, y)


def sample(image: np.ndarray, points: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """(n, c) float32: an image (h, w, c), bilinear at (n, 2) points in its pixels."""
    rows = -(-len(points) // 1024)  # cv2.remap takes no side above 32767
    padded = np.zeros((rows * 1024, 2), np.float32)
    padded[: len(points)] = points
    if not rows:
        return np.zeros((0, image.shape[2]), np.float32)
    x, y = padded.reshape(rows, 1024, 2)[..., 0], padded.reshape(rows, 1024, 2)[..., 1]
    drawn = cv2.remap(image, x.copy(), y.copy(), cv2.INTER_LINEAR, borderMode=border)
    return drawn.reshape(-1, image.shape[2])[: len(points)].astype(np.float32)


def _steady(falling: np.ndarray) -> np.ndarray:
    """Strictly falling places, so that a path has a direction everywhere."""
    return np.minimum.accumulate(falling) - np.arange(len(falling)) * 1e-6


def _sweep_faces(rings: int, sides: int) -> np.ndarray:
    """(F, 3): the triangles between the rings of a part."""
    corner = (np.arange(rings - 1)[:, None] * sides + np.arange(sides - 1)).ravel()
    across = corner + sides
    return np.concatenate([np.stack(t, 1) for t in ((corner, corner + 1, across), (across, corner + 1, across + 1))])
