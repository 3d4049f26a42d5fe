"""How good correspondences, masks and poses are against the truth: PCK, k-CyPCK, IoU, AUC. Pure numpy, no I/O.

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


@dataclass(frozen=True, eq=False)
class PoseScores:
    """How right the poses of N photos are, over all pairs of them: no frame, scale or first photo matters.

    Attributes:
        rotation: (P,) float64, degrees by which the relative rotation of each pair i < j is off; 180 where a photo has
            no pose.
        translation: (P,) float64, degrees between the relative translations' directions; likewise. 0 where the two true
            cameras stand in one place.
        registered: how many photos have a pose.
        posed: (P,) bool, pairs of which both photos have one.
    """

    rotation: np.ndarray
    translation: np.ndarray
    registered: int
    posed: np.ndarray

    def auc(self, limit: float) -> float:
        """Area under the recall curve of the larger of both errors up to ``limit`` degrees, a fraction in [0, 1]."""
        errors = np.sort(np.maximum(self.rotation, self.translation))
        if not len(errors):
            return math.nan
        below = errors[errors < limit]
        recall = np.arange(len(below) + 1) / len(errors)
        edges = np.concatenate([[0.0], below, [limit]])
        values = np.concatenate([recall, recall[-1:]])
        return float(np.trapezoid(values, edges) / limit)

    def median(self, errors: np.ndarray) -> float:
        """Median of either error over the pairs that have poses, degrees; NaN where there are none."""
        return float(np.median(errors[self.posed])) if self.posed.any() else math.nan


def score_poses(
    rotations: np.ndarray, translations: np.ndarray, true_rotations: np.ndarray, true_translations: np.ndarray
) -> PoseScores:
    """Compares world-to-camera poses, ``x_cam = R X + t``, with the true ones.

    Args:
        rotations: (N, 3, 3) float; NaN where a photo has no pose.
        translations: (N, 3) float, likewise.
        true_rotations: (N, 3, 3) float.
        true_translations: (N, 3) float.
    """
    i, j = np.triu_indices(len(rotations), 1)
    relative, direction = _relative(rotations, translations, i, j)
    true_relative, true_direction = _relative(true_rotations, true_translations, i, j)
    trace = np.einsum("pkl,pkl->p", relative, true_relative)
    lengths = np.linalg.norm(direction, axis=1), np.linalg.norm(true_direction, axis=1)
    cosine = (direction * true_direction).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    has = np.asarray(np.isfinite(rotations).all((1, 2)) & np.isfinite(translations).all(1))
    posed = has[i] & has[j]
    together = lengths[1] < 1e-9 * max(float(lengths[1].max(initial=0)), 1e-12)
    return PoseScores(
        rotation=np.where(posed, _degrees((trace - 1) / 2), 180.0),
        translation=np.where(posed, np.where(together, 0.0, _degrees(cosine)), 180.0),
        registered=int(has.sum()),
        posed=posed,
    )


def _relative(
    rotations: np.ndarray, translations: np.ndarray, i: np.ndarray, j: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3, 3) and (P, 3): from camera i to camera j."""
    turn = rotations[j] @ rotations[i].transpose(0, 2, 1)
    return turn, translations[j] - np.einsum("pkl,pl->pk", turn, translations[i])


def _degrees(cosine: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
