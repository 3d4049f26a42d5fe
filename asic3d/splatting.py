"""Values at scattered places brought to a grid: splatted, joined robustly, holes filled."""

import cv2
import numpy as np
from scipy.sparse import csr_matrix


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
    cells, values = cells[near].astype(np.float32), values[near].astype(np.float32)
    floor = np.floor(cells)
    first, (x, y) = floor.astype(np.int32), (cells - floor).T
    wide = resolution + 2  # a cell around the grid takes what falls beside it
    corners = ((first[:, 1] + 1) * wide + first[:, 0] + 1)[:, None] + np.array([0, 1, wide, wide + 1], np.int32)
    shares = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], 1)
    ends = np.arange(0, 4 * len(cells) + 1, 4, dtype=np.int32)
    matrix = csr_matrix((shares.ravel(), corners.ravel(), ends), shape=(len(cells), wide * wide))
    return np.ascontiguousarray((matrix.T @ values).reshape(wide, wide, -1)[1:-1, 1:-1])


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median over the first axis: the least value at which half of the weight is reached.

    Args:
        values: (N, ...) float.
        weights: of a shape that broadcasts to that of the values, at least 0.
    """
    weights = np.moveaxis(np.broadcast_to(weights, values.shape), 0, -1)
    values = np.ascontiguousarray(np.moveaxis(values, 0, -1))  # neighbours in memory are sorted faster
    order = values.argsort(-1)
    reached = np.take_along_axis(weights, order, -1).cumsum(-1)
    middle = (reached >= reached[..., -1:] / 2).argmax(-1)
    return np.take_along_axis(values, np.take_along_axis(order, middle[..., None], -1), -1)[..., 0]


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
