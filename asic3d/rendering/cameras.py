"""Pinhole cameras around the object."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera, ``x_cam = R X + t``; x right, y down, z forward.

    Attributes:
        size: (width, height), pixels.
        K: (3, 3) float64; (0, 0) is the centre of the top-left pixel, so the principal point is at (w - 1) / 2.
        R, t: (3, 3) and (3,) float64, from the object frame to the camera's.
    """

    size: tuple[int, int]
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """(3,) float64: where the camera stands in the object frame."""
        return -self.R.T @ self.t

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) pixels and (n,) depth of (n, 3) points of the object frame."""
        seen = points @ self.R.T + self.t
        on_image = seen @ self.K.T
        return on_image[:, :2] / on_image[:, 2:], seen[:, 2]

    def rays(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) directions in the object frame, of depth 1, through (n, 2) pixels."""
        on_plane = (points - self.K[:2, 2]) / self.K[[0, 1], [0, 1]]
        return np.concatenate([on_plane, np.ones((len(points), 1))], 1) @ self.R


def make_camera(
    vertices: np.ndarray, size: tuple[int, int], azimuth: float, elevation: float, generator: np.random.Generator
) -> Camera:
    """A camera that looks at the object from a direction and holds all of it, casually framed.

    Args:
        vertices: (V, 3) float64 of the object.
        size: (width, height), pixels.
        azimuth: of the camera as seen from the object, radians.
        elevation: likewise.
        generator: draws the field of view, the roll, and how large and where in the photo the object is.
    """
    extent = np.array(size, float)
    focal = max(size) / 2 / np.tan(np.radians(generator.uniform(36, 54)) / 2)
    K = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
    roll = np.radians(np.clip(generator.normal(0, 3.5), -8, 8))
    fill = generator.uniform(0.62, 0.88)
    shift = generator.uniform(-0.8, 0.8, 2) * (1 - fill) / 2 * extent
    towards = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    target, distance = (vertices.max(0) + vertices.min(0)) / 2, 6.0
    camera = _looking(K, size, target + distance * towards, -towards, roll)
    for _ in range(6):  # each round brings the object's box in the photo closer to the wanted place and size
        points, _ = camera.project(vertices)
        low, high = points.min(0), points.max(0)
        aim = (low + high) / 2 - shift
        offset = (aim - K[:2, 2]) / focal * distance
        target = target + camera.R[:2].T @ offset
        distance *= ((high - low) / (fill * extent)).max()
        camera = _looking(K, size, target + distance * towards, -towards, roll)
    return camera


def _looking(K: np.ndarray, size: tuple[int, int], centre: np.ndarray, forward: np.ndarray, roll: float) -> Camera:
    """A camera at a place that looks along a unit vector, turned in its own plane by ``roll`` radians."""
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    R = np.stack([c * right + s * down, c * down - s * right, forward])
    return Camera(size, K, R, -R @ centre)
