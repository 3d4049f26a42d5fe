"""Figures of a transfer on annotated photos: PCK over pairs, k-CyPCK over cycles."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asic3d.metrics import Transfer, k_cycle_pck, pck, return_pck

ALPHAS = (0.1, 0.05)
"""Tolerances of PCK, in extents."""


@dataclass(frozen=True, eq=False)
class KeypointPairs:
    """Ordered pairs of photos with the keypoints that both show.

    Attributes:
        source: (P,) int, index of the photo that points are taken from.
        target: (P,) int, index of the photo that they are looked for in.
        points: (P, K, 2) float64, pixels of the source; NaN where a keypoint is not in both.
        truth: (P, K, 2) float64, pixels of the target; NaN likewise.
        extents: (P,) float64, pixels of the target, the unit of PCK.
    """

    source: np.ndarray
    target: np.ndarray
    points: np.ndarray
    truth: np.ndarray
    extents: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    @property
    def visible(self) -> np.ndarray:
        """(P, K) bool: the keypoints that count."""
        return np.isfinite(self.truth.sum(-1))


def all_pairs(keypoints: np.ndarray, extents: np.ndarray) -> KeypointPairs:
    """All ordered pairs of photos.

    Args:
        keypoints: (N, K, 2) float64 pixels, NaN where a keypoint is not visible.
        extents: (N,) float64 pixels.
    """
    photos = np.array(list(itertools.permutations(range(len(keypoints)), 2)), int).reshape(-1, 2)
    source, target = photos.T
    points, truth = keypoints[source], keypoints[target]
    shared = np.isfinite((points + truth).sum(-1))[..., None]
    return KeypointPairs(
        source, target, np.where(shared, points, np.nan), np.where(shared, truth, np.nan), extents[target]
    )


def score_keypoints(
    transfer: Transfer,
    pairs: KeypointPairs,
    keypoints: np.ndarray,
    extents: np.ndarray,
    *,
    lengths: Sequence[int] = (2, 3),
    cycles: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Scores a transfer over pairs of photos and over cycles.

    Args:
        transfer: moves points between two photos, both by index.
        pairs: what PCK is measured on.
        keypoints: (N, K, 2) float64 pixels of all photos, NaN where not visible: what cycles are walked on.
        extents: (N,) float64, pixels.
        lengths: numbers of photos in a cycle.
        cycles: up to this many ordered k-tuples all are walked, otherwise a sample of this many.
        seed: seed of that sample.

    Returns:
        Figures in [0, 1]: for each alpha ``pck@A`` pooled over points and ``pck@A_per_image``, the mean over pairs of
        photos; for each length ``cycle{k}@0.1_hops`` and ``cycle{k}@0.1_return``; and ``points``, the number of points
        behind PCK. A figure that the photos can't give (3-cycles of two photos) is absent.
    """
    predicted = _transferred(transfer, pairs)
    at = {alpha: pck(predicted, pairs.truth, pairs.visible, pairs.extents, alpha) for alpha in ALPHAS}
    figures = {f"pck@{alpha}": score.per_point for alpha, score in at.items()}
    figures |= {f"pck@{alpha}_per_image": score.per_image for alpha, score in at.items()}
    for k in lengths:
        walked = k_cycle_pck(transfer, keypoints, extents, k, cycles=cycles, seed=seed)
        figures |= {f"cycle{k}@0.1_hops": walked.hops, f"cycle{k}@0.1_return": walked.returned}
    return _known(figures) | {"points": at[ALPHAS[0]].points}


def score_returns(
    transfer: Transfer,
    points: np.ndarray,
    extents: np.ndarray,
    *,
    lengths: Sequence[int] = (2, 3),
    cycles: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """As :func:`score_keypoints` where nothing is annotated: the returns alone, of each photo's own points.

    Args:
        transfer: moves points between two photos, both by index.
        points: (N, K, 2) float64 pixels, NaN where a photo has fewer than K.
        extents: (N,) float64, pixels.
        lengths: numbers of photos in a cycle.
        cycles: as for :func:`score_keypoints`.
        seed: as for :func:`score_keypoints`.

    Returns:
        ``cycle{k}@0.1_return`` for each length, and ``points``, how many different points were carried.
    """
    walked = {k: return_pck(transfer, points, extents, k, cycles=cycles, seed=seed) for k in lengths}
    figures = {f"cycle{k}@0.1_return": score.returned for k, score in walked.items()}
    return _known(figures) | {"points": int(np.isfinite(points.sum(-1)).sum())}


def _transferred(transfer: Transfer, pairs: KeypointPairs) -> np.ndarray:
    """(P, K, 2): the points of each pair in its target, NaN where they don't count."""
    moved = np.full(pairs.points.shape, np.nan)
    for row, (source, target) in enumerate(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)):
        shared = pairs.visible[row]
        if shared.any():
            moved[row, shared] = transfer(source, target, pairs.points[row, shared])
    return moved


def _known(figures: dict[str, float]) -> dict[str, float]:
    return {name: figure for name, figure in figures.items() if not math.isnan(figure)}
