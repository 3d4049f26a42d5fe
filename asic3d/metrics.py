"""How good correspondences and masks are against the truth: PCK, k-CyPCK, IoU. Pure numpy, no I/O.

All points are in original pixels (x right, y down); every extent is the longer side of the object's box in the photo
that a point is judged in, in pixels. Scores are fractions in [0, 1].
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Transfer = Callable[[int, int, np.ndarray], np.ndarray]
"""``transfer(source, target, points)``: (n, 2) pixels of photo ``source`` to (n, 2) pixels of photo ``target``, both by
their index; each point must be moved independently of the others in the call."""


@dataclass(frozen=True)
class Pck:
    """Percentage of correct keypoints, as fractions.

    Attributes:
        per_point: share of all counted points that are correct, pooled over the rows; NaN where nothing counts.
        per_image: mean over the rows (photos or pairs of photos) of each row's own share. It differs by some points
            from ``per_point``; published tables hold either, so name the one you quote.
        points: how many points were counted.
    """

    per_point: float
    per_image: float
    points: int


@dataclass(frozen=True)
class CyclePck:
    """k-CyPCK: what is left of keypoints carried around a cycle of photos, as fractions.

    Attributes:
        hops: share of correct landings, pooled over all hops of all cycles, each judged in the photo it lands on; NaN
            where nothing counts or the photos in between can't be judged.
        returned: share of correct landings of the last hop alone, back in the first photo. A transfer that does nothing
            (the identity) reaches 1 here, so it says nothing without PCK beside it.
        cycles: how many cycles were walked.
        points: how many landings are counted.
    """

    hops: float
    returned: float
    cycles: int
    points: int


def normalised_errors(predicted: np.ndarray, truth: np.ndarray, extent: np.ndarray | float) -> np.ndarray:
    """Distance to the truth over the object's extent.

    Args:
        predicted: (..., K, 2) float, pixels.
        truth: (..., K, 2) float, pixels.
        extent: (...) float or one number, pixels.

    Returns:
        (..., K) float64; infinite where a prediction or its truth is not finite.
    """
    distance = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=-1)
    return np.where(np.isfinite(distance), distance, np.inf) / np.asarray(extent, np.float64)[..., None]


def pck(
    predicted: np.ndarray,
    truth: np.ndarray,
    visible: np.ndarray,
    extent: np.ndarray | float,
    alpha: float = 0.1,
) -> Pck:
    """Share of points that lie within ``alpha * extent`` of the truth.

    Args:
        predicted: (R, K, 2) float, pixels; a row is a photo or a pair of photos.
        truth: (R, K, 2) float, pixels of the target.
        visible: (R, K) bool, the points that count (visible in both photos of a pair).
        extent: (R,) float or one number, pixels: longer side of the object's box in the TARGET photo.
        alpha: tolerance in extents; the bound itself counts as correct.

    Returns:
        The share per point and per image; NaN where no point counts.

    Example:
        >>> pck(np.array([[[3.0, 4.0], [0.0, 9.0]]]), np.zeros((1, 2, 2)), np.ones((1, 2), bool), 50, 0.1).per_point
        0.5
    """
    visible = np.asarray(visible, bool)
    correct = (normalised_errors(predicted, truth, extent) <= alpha) & visible
    counted = visible.sum(-1)
    rows = correct.sum(-1)[counted > 0] / counted[counted > 0]
    return Pck(
        per_point=_share(int(correct.sum()), int(counted.sum())),
        per_image=float(rows.mean()) if len(rows) else math.nan,
        points=int(counted.sum()),
    )


def k_cycle_pck(
    transfer: Transfer,
    keypoints: np.ndarray,
    extents: np.ndarray,
    k: int,
    *,
    alpha: float = 0.1,
    cycles: int = 10_000,
    seed: int = 0,
) -> CyclePck:
    """k-CyPCK: carries keypoints around ordered k-tuples of distinct photos and back to the first.

    Each hop starts from the last PREDICTION and is judged against the keypoint of the photo it lands on. A keypoint
    counts at a hop only if it is visible in every photo of the cycle so far, the landing photo included.

    Args:
        transfer: moves points between two photos; called at most once for each pair of photos and hop.
        keypoints: (N, K, 2) float, pixels; NaN where a keypoint is not visible.
        extents: (N,) float, pixels: longer side of the object's box in each photo.
        k: photos in a cycle, at least 2.
        alpha: tolerance in extents of the landing photo.
        cycles: up to this many cycles all ordered k-tuples are walked, otherwise a sample of this many of them.
        seed: seed of that sample.

    Returns:
        Both ways of scoring; NaN where nothing counts, as in a collection of fewer than k photos.
    """
    tuples = _ordered_tuples(len(keypoints), k, cycles, seed)
    closed = np.concatenate([tuples, tuples[:, :1]], axis=1)
    points = keypoints[tuples[:, 0]]
    counts = np.isfinite(points.sum(-1))
    correct, counted = [], []
    for source, target in itertools.pairwise(closed.T):
        truth = keypoints[target]
        counts = np.logical_and(counts, np.isfinite(truth.sum(-1)))
        points = _hop(transfer, source, target, points, counts)
        right = normalised_errors(points, truth, np.asarray(extents)[target]) <= alpha
        correct.append(int((right & counts).sum()))
        counted.append(int(counts.sum()))
    return CyclePck(
        hops=_share(sum(correct), sum(counted)),
        returned=_share(correct[-1], counted[-1]),
        cycles=len(tuples),
        points=sum(counted),
    )


def return_pck(
    transfer: Transfer,
    points: np.ndarray,
    extents: np.ndarray,
    k: int,
    *,
    alpha: float = 0.1,
    cycles: int = 10_000,
    seed: int = 0,
) -> CyclePck:
    """Cycle consistency without annotation: each photo's own points carried around k photos, judged at their start.

    Args:
        transfer: as for :func:`k_cycle_pck`.
        points: (N, K, 2) float, pixels; NaN where a photo has fewer than K. Points of different photos have nothing to
            do with each other.
        extents: (N,) float, pixels: longer side of the object's box in each photo.
        k: photos in a cycle, at least 2.
        alpha: tolerance in extents of the first photo.
        cycles: as for :func:`k_cycle_pck`.
        seed: as for :func:`k_cycle_pck`.

    Returns:
        ``returned`` as :func:`k_cycle_pck` has it; ``hops`` is NaN, as nothing is known of the photos in between, and
        ``points`` counts the points that came back or should have.
    """
    tuples = _ordered_tuples(len(points), k, cycles, seed)
    start = points[tuples[:, 0]]
    counts = np.isfinite(start.sum(-1))
    moved = start
    for source, target in itertools.pairwise([*tuples.T, tuples[:, 0]]):
        moved = _hop(transfer, source, target, moved, counts)
    right = normalised_errors(moved, start, np.asarray(extents)[tuples[:, 0]]) <= alpha
    counted = int(counts.sum())
    return CyclePck(math.nan, _share(int((right & counts).sum()), counted), len(tuples), counted)


def mask_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks of one shape, anything but 0 being the object; 1 if both are empty."""
    predicted, truth = np.asarray(predicted) != 0, np.asarray(truth) != 0
    if predicted.shape != truth.shape:
        raise ValueError(f"The masks differ in shape: {predicted.shape} and {truth.shape}.")
    union = int((predicted | truth).sum())
    return float((predicted & truth).sum() / union) if union else 1.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _ordered_tuples(photos: int, k: int, limit: int, seed: int) -> np.ndarray:
    """(T, k) int: all ordered k-tuples of distinct photos, or ``limit`` different ones drawn at random."""
    if k < 2:
        raise ValueError(f"A cycle has at least 2 photos, not {k}.")
    if math.perm(photos, k) <= limit:
        return np.array(list(itertools.permutations(range(photos), k)), int).reshape(-1, k)
    generator = np.random.default_rng(seed)
    drawn: dict[tuple[int, ...], None] = {}  # a dict keeps the order of the draws, a set would not
    while len(drawn) < limit:
        drawn[tuple(generator.choice(photos, k, replace=False).tolist())] = None
    return np.array(list(drawn), int)


def _hop(
    transfer: Transfer, source: np.ndarray, target: np.ndarray, points: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Moves the counting points (T, K, 2) of every cycle from its source (T,) to its target (T,), one call a pair."""
    moved = np.full(points.shape, np.nan)
    for i, j in np.unique(np.stack([source, target], 1), axis=0).tolist():
        chosen = counts & ((source == i) & (target == j))[:, None]
        if chosen.any():
            moved[chosen] = np.asarray(transfer(i, j, points[chosen]), np.float64)
    return moved
