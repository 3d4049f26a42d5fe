"""A picture of a scene, drawn without a display, GPU or Open3D."""

from collections.abc import Callable

import cv2
import numpy as np

from asic3d_integrations.colmap.scene import CAMERA, EDGES, Scene

PICTURE = (1200, 900)
"""Width and height of a picture, pixels."""
_VEIL = 0.8  # opacity of photos: what is behind them stays visible
_DOT, _LINE = 2, 2  # pixels


def draw_scene(scene: Scene, size: tuple[int, int] = PICTURE) -> np.ndarray:
    """(h, w, 3) uint8: the scene from obliquely above, in parallel projection; what is near covers what is far."""
    project = _projection(scene, size)
    canvas = np.full((size[1], size[0], 3), 255, np.uint8)
    places, depth = project(scene.points.astype(float))
    corners, away = project(scene.frusta.reshape(-1, 3))
    corners, away = corners.reshape(-1, 5, 2), away.reshape(-1, 5).mean(1)
    places = places.clip(-10, 2 * max(size)).round().astype(int)
    for number in np.argsort(-np.concatenate([depth, away]), kind="stable"):
        if number < len(places):
            colour = tuple(int(value) for value in scene.colours[number])
            cv2.circle(canvas, tuple(places[number].tolist()), _DOT, colour, -1, cv2.LINE_AA)
        else:
            camera = number - len(places)
            _draw_camera(canvas, corners[camera], scene.photos[camera])
    return canvas


def _draw_camera(canvas: np.ndarray, corners: np.ndarray, photo: np.ndarray | None) -> None:
    """Draws a frustum of (5, 2) places, and the photo on its far side."""
    if photo is not None:
        height, width = photo.shape[:2]
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - np.float32(0.5)
        onto = cv2.getPerspectiveTransform(source, corners[1:].astype(np.float32))
        size = canvas.shape[1], canvas.shape[0]
        laid = cv2.warpPerspective(photo, onto, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        seen = np.zeros(canvas.shape[:2], np.uint8)
        cv2.fillConvexPoly(seen, corners[1:].round().astype(np.int32), 255)
        mixed = cv2.addWeighted(laid, _VEIL, canvas, 1 - _VEIL, 0)
        canvas[seen > 0] = mixed[seen > 0]
    whole = corners.round().astype(int).tolist()
    for a, b in EDGES:
        cv2.line(canvas, whole[a], whole[b], CAMERA, _LINE, cv2.LINE_AA)


def _projection(scene: Scene, size: tuple[int, int]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A parallel projection of (n, 3) places that shows all of the scene: pixels, and depths."""
    seen = scene.middle @ scene.view.T
    low, high = (seen.min(0), seen.max(0)) if len(seen) else (np.zeros(3), np.ones(3))
    scale = 0.9 * float((np.array(size) / np.maximum(high - low, 1e-9)[:2]).min())

    def project(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turned = places @ scene.view.T
        return (turned[:, :2] - (low + high)[:2] / 2) * scale + np.array(size) / 2, turned[:, 2]

    return project
