"""A small z-buffer rasteriser in numpy, and what lights see by it. No I/O.

Screen points are in pixels, x right, y down, (0, 0) = the centre of the top-left pixel.
"""

from dataclasses import dataclass

import numpy as np

_BIAS = 0.025  # how far behind the nearest surface a point still counts as lit, object units


@dataclass(frozen=True, eq=False)
class Fragments:
    """The nearest surface at every covered pixel centre.

    Attributes:
        pixels: (n,) int64, ``row * width + column``, increasing.
        faces: (n,) int64, the face seen there.
        weights: (n, 3) float64, barycentric weights of its corners on the surface itself (perspective undone).
        nearness: (h, w) float64, the z-buffer; -inf where nothing is seen.
    """

    pixels: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    nearness: np.ndarray

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(n, d): per-vertex values (V, d) at every fragment, in their type, for the (F, 3) faces that were drawn."""
        corners, weights = faces[self.faces], self.weights.astype(values.dtype)
        a, b, c = (weights[:, k : k + 1] * values[corners[:, k]] for k in range(3))
        return a + b + c


def rasterise(
    points: np.ndarray, nearness: np.ndarray, faces: np.ndarray, shape: tuple[int, int], *, perspective: bool = True
) -> Fragments:
    """Finds the nearest front face at every pixel centre.

    Args:
        points: (V, 2) float64, screen points of the vertices, pixels.
        nearness: (V,) float64, linear on the screen and larger when nearer: 1 / depth under perspective, all positive;
            minus depth under parallel projection.
        faces: (F, 3) int, counter-clockwise from outside; faces turned away are not drawn.
        shape: (height, width) of the image, pixels.
        perspective: whether ``nearness`` is 1 / depth.
    """
    height, width = shape
    kept, edges = _edge_functions(points, faces)
    which, y, low, count = _spans(points[faces[kept]], edges, shape)
    # Along a span the nearness is linear too: its value at x = 0 and its step.
    corner = nearness[faces[kept]]
    slope, per_row, offset = np.einsum("tk,tkd->dt", corner, edges)
    start = per_row[which] * y + offset[which]
    x = np.arange(count.sum()) + np.repeat(low - np.cumsum(count) + count, count)
    near = np.repeat(slope[which], count) * x + np.repeat(start, count)
    pixels = np.repeat(y * width, count) + x
    buffer = np.full(height * width, -np.inf)
    np.maximum.at(buffer, pixels, near)
    on_top = np.flatnonzero(near == buffer[pixels])
    winner = np.full(height * width, -1)
    winner[pixels[on_top]] = np.repeat(which, count)[on_top]
    seen = np.flatnonzero(winner >= 0)
    chosen = winner[seen]
    place = np.stack([seen % width, seen // width, np.ones(len(seen))], 1)
    weights = np.einsum("nd,nkd->nk", place, edges[chosen])
    if perspective:
        weights *= corner[chosen]
        weights /= weights.sum(1, keepdims=True)
    return Fragments(seen, kept[chosen], weights, buffer.reshape(shape))


def nearest_at(points: np.ndarray, nearness: np.ndarray, faces: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(n,) the nearness of the nearest front face at any screen points (n, 2); -inf where there is none."""
    kept, edges = _edge_functions(points, faces)
    homogeneous = np.concatenate([at, np.ones((len(at), 1))], 1)
    weights = np.einsum("tkd,nd->ntk", edges, homogeneous)
    near = np.einsum("ntk,tk->nt", weights, nearness[faces[kept]])
    return np.where((weights >= -1e-9).all(2), near, -np.inf).max(1, initial=-np.inf)


def _spans(
    corners: np.ndarray, edges: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rows of pixels inside each triangle: its number, the row, the first column and how many; each (S,) int64."""
    height, width = shape
    top = np.maximum(np.ceil(corners[..., 1].min(1)), 0).astype(int)
    rows = np.maximum(np.minimum(np.floor(corners[..., 1].max(1)), height - 1).astype(int) - top + 1, 0)
    which = np.repeat(np.arange(len(rows)), rows)
    y = np.arange(len(which)) - np.repeat(np.cumsum(rows) - rows, rows) + top[which]
    low, high = np.zeros(len(which)), np.full(len(which), width - 1.0)
    for k in range(3):  # each edge bounds the row on one side: a x + b y + c >= 0
        a, rest = edges[which, k, 0], edges[which, k, 1] * y + edges[which, k, 2]
        crossing = -rest / np.where(a == 0, 1, a)
        low = np.where(a > 0, np.maximum(low, crossing - 1e-9), low)
        high = np.where(a < 0, np.minimum(high, crossing + 1e-9), high)
        high = np.where((a == 0) & (rest < 0), -1, high)
    first = np.ceil(low).astype(int)
    count = np.maximum(np.floor(high).astype(int) - first + 1, 0)
    some = count > 0
    return which[some], y[some], first[some], count[some]


def _edge_functions(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The faces turned to the viewer (T,), and for each corner its barycentric weight as a x + b y + c: (T, 3, 3)."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    kept = np.flatnonzero(area < -1e-12)  # y points down, so counter-clockwise faces have a negative area
    a, b, c, area = a[kept], b[kept], c[kept], area[kept]
    rows = [
        np.stack([p[:, 1] - q[:, 1], q[:, 0] - p[:, 0], p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]], 1) / area[:, None]
        for p, q in ((b, c), (c, a), (a, b))
    ]
    return kept, np.stack(rows, 1)


@dataclass(frozen=True, eq=False)
class LightMap:
    """What parallel rays along one direction reach first.

    Attributes:
        axes: (3, 3) float64, rows: right, down and away from the light.
        origin: (2,) float64, right and down coordinate of the centre of the top-left cell.
        step: side of a cell, object units.
        depth: (s, s) float64, distance along the light of the first surface; inf where there is none.
    """

    axes: np.ndarray
    origin: np.ndarray
    step: float
    depth: np.ndarray

    def cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) column and row of (n, 3) points on the map, float, and their (n,) depth."""
        seen = points @ self.axes.T.astype(points.dtype)
        return (seen[:, :2] - self.origin.astype(points.dtype)) / self.step, seen[:, 2]

    def lit(self, points: np.ndarray) -> np.ndarray:
        """(n,) in [0, 1]: how lit (n, 3) points are, bilinear between four tests against the map."""
        cells, depth = self.cells(points)
        first = np.floor(cells).astype(int)
        part = cells - first
        light = np.zeros(len(points), np.float32)
        for dx in (0, 1):
            for dy in (0, 1):
                x, y = first[:, 0] + dx, first[:, 1] + dy
                on = (x >= 0) & (y >= 0) & (x < len(self.depth)) & (y < len(self.depth))
                free = np.ones(len(points), bool)
                free[on] = depth[on] <= self.depth[y[on], x[on]] + _BIAS
                light += free * np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        return light


def nearest_along(vertices: np.ndarray, faces: np.ndarray, direction: np.ndarray, size: int) -> LightMap:
    """What light from ``direction`` (3,), a unit vector TOWARDS the light, reaches first, on size x size cells."""
    away = -np.asarray(direction, float)
    right = np.cross([0.0, 0.0, 1.0] if abs(away[2]) < 0.99 else [0.0, 1.0, 0.0], away)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(away, right), away])
    seen = vertices @ axes.T
    low, high = seen[:, :2].min(0), seen[:, :2].max(0)
    step = float((high - low).max()) / (size - 5)
    origin = low - 2 * step
    drawn = rasterise((seen[:, :2] - origin) / step, -seen[:, 2], faces, (size, size), perspective=False)
    return LightMap(axes, origin, step, -drawn.nearness)
