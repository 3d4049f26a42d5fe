"""Dense optical flow between two photos that differ too much for it, seeded with a few matches.

A field of locally affine maps is fitted to the matches; one photo is warped by it to the other; what is left is small,
and ordinary optical flow finds it. What survives the way there and back and one epipolar geometry seeds the next round.

Points are pixels of the working photo as it is given, (0, 0) = centre of the top-left pixel.
"""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from scipy.spatial import KDTree

_FLATTENING = 8.0  # sigma of the local mean and contrast, pixels
_STEP = 16  # distance between the nodes at which the field is solved, pixels
_ANCHORS, _MORE = (800, 0.005, 5.0), (4000, 0.0005, 3.0)  # most, quality of the best one's, pixels apart
_SUPPORT = 0.5  # weight of matches around a point below which the field is a guess
_LOCAL = 15.0  # how far a seed's displacement may be from its neighbours', pixels
_SEEDS = 400
_MARGIN, _SMALLEST = 40, 96  # pixels around the matches that flow looks at, and the shortest side of what it looks at
_STRIDE = 4  # pixels between the patches that flow follows
_AWAY = -1e4  # where what leaves a photo lands
_PLANE = (6.0, 500)  # distance in pixels and samples of the affine epipolar geometry that coarse matches are held to
PLENTY = 500
"""Inliers above which the second round is the last one."""
_SETTLED = 1.03
"""Factor by which a round must raise the inliers for another one to be worth its time."""


@dataclass(frozen=True)
class _Strictness:
    """What a round believes.

    Attributes:
        reach: sigma of the weight of matches around a node, pixels.
        back: how far a point may come back from where it left, pixels.
        inlier: distance to the epipolar line, pixels.
        near: the same for the points that seed the next round.
        fewest: inliers below which the pair is given up.
        finest: how often the photos are halved for flow.
    """

    reach: float
    back: float
    inlier: float
    near: float
    fewest: int
    finest: int = 0


_ROUNDS = (_Strictness(30, 5, 4, 3, 16, 1), *[_Strictness(22, 1, 1, 2.5, 24)] * 4)
"""The first round makes do with what coarse matches can give; a strict beginning loses pairs far apart."""


@dataclass(frozen=True, eq=False)
class View:
    """One photo, made ready for flow.

    Attributes:
        flat: (h, w) uint8, its grey values without local brightness and contrast.
        anchors: (A, 2) float64 pixels, corners that other photos are searched for.
        more: (B, 2) float64 pixels, weaker corners between them, which count where the anchors alone are few.
    """

    flat: np.ndarray
    anchors: np.ndarray
    more: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """(A + B, 2) float64 pixels: anchors, then the others."""
        return np.concatenate([self.anchors, self.more])


@dataclass(frozen=True, eq=False)
class FlowMatches:
    """What flow carries from one photo to another and back, consistent with one epipolar geometry.

    Attributes:
        first_ids: (a,) int64, places in ``View.all`` of the first photo.
        first_landed: (a, 2) float64, where they land in the second.
        second_ids: (b,) int64, places in ``View.all`` of the second photo.
        second_landed: (b, 2) float64, where they land in the first.
        first: (a + b, 2) float64, all of them in the first photo.
        second: (a + b, 2) float64, the same in the second.
        inliers: consistent matches of anchors; the others are of weaker corners.
        ratio: share of the anchors that came back that is consistent.
        rounds: rounds that were run.
    """

    first_ids: np.ndarray
    first_landed: np.ndarray
    second_ids: np.ndarray
    second_landed: np.ndarray
    first: np.ndarray
    second: np.ndarray
    inliers: int
    ratio: float
    rounds: int


def make_view(pixels: np.ndarray, mask: np.ndarray) -> View:
    """Makes a photo ready.

    Args:
        pixels: (h, w, 3) uint8 sRGB.
        mask: (h, w) uint8, 0 where no anchors are wanted.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean = cv2.GaussianBlur(grey, (0, 0), _FLATTENING)
    contrast = np.sqrt(cv2.GaussianBlur((grey - mean) ** 2, (0, 0), _FLATTENING))
    flat = np.clip((grey - mean) / (contrast + 4) * 40 + 128, 0, 255).astype(np.uint8)
    anchors, more = _corners(flat, mask, *_ANCHORS), _corners(flat, mask, *_MORE)
    if len(anchors) and len(more):
        more = more[KDTree(anchors).query(more)[0] > _MORE[2]]
    return View(flat, anchors, more)


def _corners(flat: np.ndarray, mask: np.ndarray, most: int, quality: float, apart: float) -> np.ndarray:
    found = cv2.goodFeaturesToTrack(flat, most, quality, apart, mask=mask)
    return np.zeros((0, 2)) if found is None else found.reshape(-1, 2).astype(np.float64)


def agreeing(first: np.ndarray, second: np.ndarray, tolerances: tuple[float, ...]) -> np.ndarray:
    """Matches that move as their neighbours do.

    Args:
        first: (M, 2) pixels.
        second: (M, 2) pixels.
        tolerances: pixels from the median displacement of the 8 nearest, one filter after the other.

    Returns:
        (K,) int64, which are kept.
    """
    kept = np.arange(len(first))
    for tolerance in tolerances:
        if len(kept) < 12:
            return kept[:0]
        at, shift = first[kept], second[kept] - first[kept]
        near = np.asarray(KDTree(at).query(at, k=9)[1])
        usual = np.median(shift[near[:, 1:]], axis=1)
        kept = kept[np.linalg.norm(shift - usual, axis=1) < tolerance]
    return kept


def affine_field(
    first: np.ndarray, second: np.ndarray, nodes: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Moving least squares: an affine map fitted at each node to the matches around it.

    Far from all matches a hundred-thousandth of a broader weight takes over; a ridge draws each map to a translation.

    Args:
        first: (M, 2) float64 pixels.
        second: (M, 2) float64 pixels.
        nodes: (P, 2) float64 pixels of the first photo.
        reach: sigma of the Gaussian weight, pixels.

    Returns:
        (P, 2) float64 displacement of each node, and (P,) total weight of the matches near it.
    """
    # Around their common middle and in float64: moments of raw coordinates lose the digits that matter.
    middle_a, middle_b = first.mean(0), second.mean(0)
    a, b, at = first - middle_a, second - middle_b, nodes - middle_a
    squared = np.maximum((at**2).sum(1)[:, None] + (a**2).sum(1) - 2 * at @ a.T, 0)
    near = np.exp(-squared / (2 * reach**2))
    weight = near + 1e-6 * np.exp(-squared / (72 * reach**2)) + 1e-12
    total = weight.sum(1, keepdims=True)
    mean_a, mean_b = weight @ a / total, weight @ b / total
    products = np.concatenate([a[:, :, None] * a[:, None, :], b[:, :, None] * a[:, None, :]], 1).reshape(-1, 8)
    moments = (weight @ products / total).reshape(-1, 4, 2)
    normal = moments[:, :2] - mean_a[:, :, None] * mean_a[:, None, :]
    cross = moments[:, 2:] - mean_b[:, :, None] * mean_a[:, None, :]
    ridge = np.eye(2) * (0.17 * reach) ** 2
    maps = (cross + ridge) @ np.linalg.inv(normal + ridge)
    landed = mean_b + np.einsum("pij,pj->pi", maps, at - mean_a)
    return landed + middle_b - at - middle_a, near.sum(1)


@dataclass(frozen=True, eq=False)
class _Flow:
    """Where each pixel of a part of one photo is in the other.

    Attributes:
        there: (h, w, 2) float32 pixels.
        support: (h, w) float32, how near matches are.
        corner: (2,) float64 pixels, the part's top-left pixel.
    """

    there: np.ndarray
    support: np.ndarray
    corner: np.ndarray


@dataclass(frozen=True, eq=False)
class _Carried:
    """Points of one round: which anchors came back, and all of them in both photos."""

    kept: tuple[np.ndarray, np.ndarray]
    first: np.ndarray
    second: np.ndarray
    flows: tuple[_Flow, _Flow]
    inlier: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    fundamental: np.ndarray | None = None
    rounds: int = 0


def match_by_flow(one: View, other: View, first: np.ndarray, second: np.ndarray, seed: int = 0) -> FlowMatches | None:
    """Carries the anchors of two photos to each other.

    Args:
        one: the first photo.
        other: the second photo.
        first: (M, 2) float64, pixels of the first photo, some matches.
        second: (M, 2) float64, where they are in the second.
        seed: of the draw of the matches that are used where there are many.

    Returns:
        The matches; None where the photos have no epipolar geometry in common, which is no failure.
    """
    generator = np.random.default_rng(seed)
    kept = one_plane(first, second, generator)
    first, second = _some(first[kept], second[kept], generator)
    best: _Carried | None = None
    for count, strictness in enumerate(_ROUNDS, 1):
        if len(first) < 12:
            break
        carried = _round(one, other, first, second, strictness)
        if carried.fundamental is None:
            break
        gained = best is None or carried.inlier.sum() >= _SETTLED * best.inlier.sum()
        if count > 1 and (best is None or carried.inlier.sum() > best.inlier.sum()):
            best = replace(carried, rounds=count)
        if not gained or (count > 1 and carried.inlier.sum() > PLENTY):
            break
        near = sampson(carried.fundamental, carried.first, carried.second) < strictness.near
        first, second = carried.first[near], carried.second[near]
        seeds = agreeing(first, second, (_LOCAL,))
        first, second = _some(first[seeds], second[seeds], generator)
    return None if best is None else _matches(one, other, best)


def one_plane(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Matches near one affine epipolar geometry: seen from afar, (x, y, x', y') of true matches lie in one hyperplane.

    Args:
        first: (M, 2) float64 pixels.
        second: (M, 2) float64 pixels.
        generator: draws the samples.

    Returns:
        (K,) int64, which are kept; all where there are fewer than 8.
    """
    threshold, samples = _PLANE
    if len(first) < 8:
        return np.arange(len(first))
    rows = np.concatenate([first, second], 1)
    chosen = rows[generator.random((samples, len(rows))).argpartition(4, axis=1)[:, :4]]
    middle = chosen.mean(1)
    normal = np.linalg.svd(chosen - middle[:, None])[2][:, -1]
    away = np.abs(normal @ rows.T - (normal * middle).sum(1)[:, None])
    best = np.minimum(away, threshold).sum(1).argmin()
    return np.flatnonzero(away[best] < threshold)


def _some(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if len(first) <= _SEEDS:
        return first, second
    chosen = generator.permutation(len(first))[:_SEEDS]
    return first[chosen], second[chosen]


def _round(one: View, other: View, first: np.ndarray, second: np.ndarray, strictness: _Strictness) -> _Carried:
    """One round of flow both ways, and the epipolar geometry of the anchors that came back, if they have one."""
    there = _flow(one, other, first, second, strictness)
    back = _flow(other, one, second, first, strictness)
    carried = _carry_both(there, back, one.anchors, other.anchors, strictness.back)
    if len(carried.first) < strictness.fewest:
        return carried
    matrix, inlier = fundamental(carried.first, carried.second, strictness.inlier)
    if matrix is None or inlier.sum() < strictness.fewest:
        return carried
    return replace(carried, inlier=inlier, fundamental=matrix)


def _carry_both(there: _Flow, back: _Flow, mine: np.ndarray, theirs: np.ndarray, most: float) -> _Carried:
    landed, came_back = _carry(there, back, mine, most)
    landed_too, came_back_too = _carry(back, there, theirs, most)
    a = np.concatenate([mine[came_back], landed_too[came_back_too]])
    b = np.concatenate([landed[came_back], theirs[came_back_too]])
    return _Carried((np.flatnonzero(came_back), np.flatnonzero(came_back_too)), a, b, (there, back))


def fundamental(first: np.ndarray, second: np.ndarray, threshold: float) -> tuple[np.ndarray | None, np.ndarray]:
    """The fundamental matrix of matches, (3, 3), None where there is none, and its inliers, (M,) bool.

    Args:
        first: (M, 2) float64 pixels.
        second: (M, 2) float64 pixels.
        threshold: how far from its epipolar line a match may be, pixels.
    """
    try:
        found, inlier = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, threshold, 0.999, 3000)
    except cv2.error:  # an assertion of its own fails where no sample gives a model
        return None, np.zeros(len(first), bool)
    if found is None or found.shape != (3, 3):
        return None, np.zeros(len(first), bool)
    return found, inlier.ravel().astype(bool)


def _flow(one: View, other: View, first: np.ndarray, second: np.ndarray, strictness: _Strictness) -> _Flow:
    """From the first photo to the second: the affine field of the matches, then dense inverse search on top.

    Only around the matches: elsewhere the field is a guess, and nothing that lands there is kept.
    """
    height, width = one.flat.shape
    columns, rows = np.arange(0, width + _STEP, _STEP), np.arange(0, height + _STEP, _STEP)
    nodes = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2).astype(np.float64)
    shift, near = affine_field(first, second, nodes, strictness.reach)
    coarse = np.concatenate([shift, near[:, None]], 1).reshape(len(rows), len(columns), 3).astype(np.float32)
    left, top, right, bottom = _around(nodes[near > _SUPPORT], (width, height))
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    fine = cv2.remap(coarse, x / _STEP, y / _STEP, cv2.INTER_LINEAR)
    field_x, field_y = x + fine[..., 0], y + fine[..., 1]
    warped = cv2.remap(other.flat, field_x, field_y, cv2.INTER_LINEAR)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(strictness.finest)
    search.setPatchStride(_STRIDE)
    piece = np.ascontiguousarray(one.flat[top:bottom, left:right])
    moved = search.calc(piece, warped, None)  # type: ignore[call-overload]
    at_x, at_y = x - left + moved[..., 0], y - top + moved[..., 1]
    both = cv2.merge([field_x, field_y])
    landed = cv2.remap(both, at_x, at_y, cv2.INTER_LINEAR, borderValue=(_AWAY, _AWAY))
    return _Flow(landed, fine[..., 2], np.array([left, top], float))


def _around(places: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the box of some places with a margin, inside a photo, not too small for flow."""
    found = []
    for axis in (0, 1):
        low = places[:, axis].min() - _MARGIN if len(places) else 0
        high = places[:, axis].max() + _MARGIN if len(places) else 0
        low = int(np.clip(low, 0, max(size[axis] - _SMALLEST, 0)))
        found.append((low, int(np.clip(high, min(low + _SMALLEST, size[axis]), size[axis]))))
    (left, right), (top, bottom) = found
    return left, top, right, bottom


def _carry(there: _Flow, back: _Flow, anchors: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the anchors land, (A, 2) float64, and which come back to where they left, (A,) bool."""
    landed = _sample(there.there, anchors - there.corner)
    miss = np.linalg.norm(_sample(back.there, landed - back.corner) - anchors, axis=1)
    return landed, (miss < most) & (_sample(there.support, anchors - there.corner)[:, 0] > _SUPPORT)


def _sample(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(h, w[, C]) float32 at (M, 2) pixels, bilinear: (M, C) float64; far away beside the photo."""
    if not len(points):
        return np.zeros((0, 1 if values.ndim == 2 else values.shape[2]))
    x, y = np.clip(points, -2e4, 2e4).astype(np.float32).T
    channels = 1 if values.ndim == 2 else values.shape[2]
    found = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderValue=(_AWAY,) * 4)
    return found.reshape(len(points), channels).astype(np.float64)


def _matches(one: View, other: View, carried: _Carried) -> FlowMatches:
    inliers, ratio = int(carried.inlier.sum()), float(carried.inlier.mean())
    if carried.fundamental is not None:
        strictness = _ROUNDS[-1]
        dense = _carry_both(*carried.flows, one.all, other.all, strictness.back)
        near = sampson(carried.fundamental, dense.first, dense.second) < strictness.inlier
        dense = replace(dense, inlier=near, rounds=carried.rounds)
        carried = dense
    split = len(carried.kept[0])
    mine, theirs = carried.inlier[:split], carried.inlier[split:]
    return FlowMatches(
        first_ids=carried.kept[0][mine],
        first_landed=carried.second[:split][mine],
        second_ids=carried.kept[1][theirs],
        second_landed=carried.first[split:][theirs],
        first=carried.first[carried.inlier],
        second=carried.second[carried.inlier],
        inliers=inliers,
        ratio=ratio,
        rounds=carried.rounds,
    )


def sampson(matrix: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(M,) Sampson distance in pixels of matches (M, 2) each; ``second' matrix first = 0`` for the true ones."""
    a, b = (np.concatenate([points, np.ones((len(points), 1))], 1) for points in (first, second))
    line_b, line_a = a @ matrix.T, b @ matrix
    squared = (line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1)
    return np.abs((b * line_b).sum(1)) / np.sqrt(np.maximum(squared, 1e-24))
