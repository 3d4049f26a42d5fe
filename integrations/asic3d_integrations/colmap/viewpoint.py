"""From where a scene is looked at: a little from above, so that its object is large and no photo stands before it."""

import itertools

import cv2
import numpy as np

_AGREED = 0.5  # length of the mean of directions that agree
_SIDES = (-55, -45, -35, -25, -15, 15, 25, 35, 45, 55)  # degrees aside of where the cameras look
_AROUND = tuple(range(0, 360, 30))  # the same where they look in all directions
_ABOVE = (15, 25, 35)
_FRAME = np.array([4.0, 3.0])
_MOST = 500  # points that are looked at


def choose_view(rotations: np.ndarray, points: np.ndarray, frusta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where to look from, in parallel projection, of the directions behind the cameras.

    Args:
        rotations: (m, 3, 3) of the cameras, world to camera.
        points: (n, 3) of the scene, without far ones.
        frusta: (m, 5, 3), as :class:`Scene` has them.

    Returns:
        (3, 3) float64, rows: right, down and ahead of who looks on; and (3,) float64, unit length: up, as the photos
        have it in the mean.
    """
    down, ahead, agreed = _mean_directions(rotations)
    views = [_turned(down, ahead, *angles) for angles in itertools.product(_SIDES if agreed else _AROUND, _ABOVE)]
    if not len(points) or not len(frusta):
        return _turned(down, ahead, 35, 30), -down
    some = points[:: -(-len(points) // _MOST)]
    return max(views, key=lambda view: _shown(view, some, frusta)), -down


def _mean_directions(rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Down and, at right angles to it, ahead of the cameras in the mean; and whether they agree."""
    right, down, ahead = rotations.mean(0) if len(rotations) else np.eye(3)
    if np.linalg.norm(down) < min(_AGREED, float(np.linalg.norm(right))):  # all lie on their side, around the object
        down = -right
    down = down / max(float(np.linalg.norm(down)), 1e-9)
    ahead = ahead - np.dot(ahead, down) * down
    agreed = float(np.linalg.norm(ahead)) >= _AGREED
    if np.linalg.norm(ahead) < 0.1:  # the photos look in all directions: any will do
        ahead = np.cross(down, [0.3, 0.5, 0.8])
    return down, ahead / np.linalg.norm(ahead), agreed


def _turned(down: np.ndarray, ahead: np.ndarray, aside: float, above: float) -> np.ndarray:
    """Rows right, down and ahead of who stands behind the cameras, by so many degrees aside and above."""
    a, b = np.radians(aside), np.radians(above)
    right = np.cross(down, ahead)
    ahead, right = np.cos(a) * ahead + np.sin(a) * right, np.cos(a) * right - np.sin(a) * ahead
    return np.stack([right, np.cos(b) * down - np.sin(b) * ahead, np.cos(b) * ahead + np.sin(b) * down])


def _shown(view: np.ndarray, points: np.ndarray, frusta: np.ndarray) -> float:
    """How large the points are in a picture of all, times the share of them that no photo hides."""
    seen, corners = points @ view.T, frusta @ view.T
    everything = np.concatenate([seen, corners.reshape(-1, 3)])[:, :2]
    scale = float((_FRAME / np.maximum(np.ptp(everything, axis=0), 1e-9)).min())
    spread = np.sqrt(max(np.linalg.det(np.cov(seen[:, :2].T)), 0)) * scale**2 if len(seen) > 1 else 1.0
    hidden = np.zeros(len(seen), bool)
    for camera in corners:
        outline = cv2.convexHull(camera[:, :2].astype(np.float32))
        near = np.nonzero(seen[:, 2] > camera[:, 2].mean())[0]
        inside = [cv2.pointPolygonTest(outline, tuple(map(float, seen[row, :2])), False) >= 0 for row in near]
        hidden[near] |= np.array(inside, bool)
    return float(np.sqrt(spread)) * (1 - float(hidden.mean())) ** 2
