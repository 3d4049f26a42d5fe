"""Values at scattered places brought to a grid: splatted, joined robustly, holes filled."""

import cv2
import numpy as np


def splat(cells: np.ndarray, values: np.ndarray, resolution: int) -> np.ndarray:
    """Adds each value to the four cells around its place, by the bilinear weights.

    Args:
        cells: (n, 2) float, grid cells; what lies outside is left out.
        values: (n, D) float.
        resolution: R.

    Returns:
        (R, R, D) float32 sums.
    """
    near = ((cells > -1) & (cells < resolution)).all(1)
    cells, values = cells[near], values[near]
    first = np.floor(cells).astype(np.int64)
    share = cells - first
    sums = np.zeros((resolution * resolution, values.shape[1]))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = first[:, 0] + dx, first[:, 1] + dy
        inside = (x >= 0) & (x < resolution) & (y >= 0) & (y < resolution)
        part = np.abs(1 - dx - share[inside, 0]) * np.abs(1 - dy - share[inside, 1])
        place = (y * resolution + x)[inside]
        for channel in range(values.shape[1]):
            sums[:, channel] += np.bincount(place, part * values[inside, channel], resolution * resolution)
    return sums.reshape(resolution, resolution, -1).astype(np.float32)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median over the first axis: the least value at which half of the weight is reached.

    Args:
        values: (N, ...) float.
        weights: of a shape that broadcasts to that of the values, at least 0.
    """
    weights = np.broadcast_to(weights, values.shape)
    order = values.argsort(0)
    reached = np.take_along_axis(weights, order, 0).cumsum(0)
    middle = (reached >= reached[-1:] / 2).argmax(0)
    return np.take_along_axis(values, np.take_along_axis(order, middle[None], 0), 0)[0]


def fill_holes(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills what is not known smoothly from what is, by a pyramid of weighted means.

    Args:
        values: (h, w, D) float32.
        known: (h, w) float32 in [0, 1], how well each value is known; those of 1 stay.

    Returns:
        (h, w, D) float32.
    """
    if min(known.shape) < 2 or known.min() >= 1:
        return values
    weighted = np.dstack([values * known[..., None], known])
    half = cv2.pyrDown(weighted)
    share = half[..., -1:]
    coarse = fill_holes(half[..., :-1] / np.maximum(share, 1e-9), (4 * share[..., 0]).clip(0, 1))
    filled = cv2.resize(coarse, known.shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(values.shape)
    return values * known[..., None] + filled * (1 - known[..., None])
