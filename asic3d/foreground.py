"""The object in each photo: from what recurs over the collection, sharpened to the photo's own edges."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.collection import Collection, Photo
from asic3d.config import AlignmentConfig, Progress, ProgressCallback
from asic3d.features import FeatureMaps, project
from asic3d.scratch import FORGOTTEN, forget

_CLUSTERS = (8, 12, 16, 24, 8, 12, 16, 24)
"""Cluster counts of the clusterings that vote; the second four start elsewhere."""
_BORDER = 0.10
"""Share of an object cluster's cells that lie on a photo's border, at most about."""
_PRESENCE = 0.5
"""Share of the photos in which an object cluster occurs, at least about."""
_FEWEST_CELLS = 30
"""A photo with fewer likely cells (of a 40 x 40 grid) is taken for all object."""
_FEW_COLOURS = 16
"""Colours of the object or its surroundings below which GrabCut's clusters of colours would have no extent: it then
takes hundreds of times as long."""
_SAMPLE, _FEW_PIXELS = 80, 100
"""Longer side of the sample of a photo whose colours are clustered, pixels, and how many of the object, or of the
surroundings, it holds at least."""
_COARSE = 128
"""Longer side at which edges are followed for the first time, pixels."""
_ROWS = 256
"""Rows of a photo that are worked on at once."""


@dataclass(frozen=True, eq=False)
class Foreground:
    """Where the object is.

    Attributes:
        recurring: (N, G, G) float32 in [0, 1]: generous, from what recurs over the collection; what is matched.
        probability: (N, G, G) float32 in [0, 1]: the same after all photos' edges were heard.
        masks: one (h, w) float32 in [0, 1] for each photo, over the whole photo, at a reduced size.
        classifier: (C + 1,) float64: weight of each feature channel, then the offset; positive is object.
        whole: photos that are taken for all object because no object was found, by index.
    """

    recurring: Tensor
    probability: Tensor
    masks: tuple[np.ndarray, ...]
    classifier: Tensor
    whole: tuple[int, ...] = ()


def find_foreground(
    collection: Collection, maps: FeatureMaps, config: AlignmentConfig, progress: ProgressCallback | None = None
) -> Foreground:
    """Finds the object that the photos share, without labels; given masks are taken as they are.

    Clusters of features that recur in the photos and keep away from their borders are the object, softly, over several
    clusterings. GrabCut follows each photo's edges from there. A linear classifier, trained for each photo on the masks
    of all OTHER photos, says what they agree on, and GrabCut runs again from that.

    Args:
        collection: N photos.
        maps: their features.
        config: of it, ``seed`` and ``sharpening``.
        progress: called with the stage ``foreground``.

    Example:
        >>> find_foreground(collection, maps, AlignmentConfig()).probability.shape  # doctest: +SKIP
        torch.Size([10, 40, 40])
    """
    photos = collection.photos
    recurring = _recurring(maps, config.seed)
    fewest = _FEWEST_CELLS * (maps.grid / 40) ** 2
    likely = (recurring > 0.5).flatten(1).sum(1)
    given = torch.tensor([photo.mask is not None for photo in photos], device=recurring.device)
    empty = (likely < fewest) & ~given
    recurring = torch.where(empty[:, None, None], maps.valid.float(), recurring)
    _report(progress, 1, 3)
    masks = _follow_edges(photos, recurring, empty, _COARSE, likely=0.8, possible=0.5)
    coverage = torch.stack([mask_cells(mask, maps.grid) for mask in masks]).to(recurring.device)
    agreed, classifier = _agreement(maps, coverage)
    probability = torch.where(empty[:, None, None], recurring, (agreed * recurring).sqrt())
    _report(progress, 2, 3)
    masks = _follow_edges(photos, probability, empty, config.sharpening, likely=0.6, possible=0.3)
    coverage = torch.stack([mask_cells(mask, maps.grid) for mask in masks]).to(recurring.device)
    _report(progress, 3, 3)
    return Foreground(
        recurring=torch.where(given[:, None, None], coverage, recurring),
        probability=torch.where(given[:, None, None], coverage, probability),
        masks=tuple(quantised(mask) for mask in masks),
        classifier=classifier,
        whole=tuple(empty.nonzero()[:, 0].tolist()),
    )


def quantised(mask: np.ndarray) -> np.ndarray:
    """A mask in 256 levels, as the run folder stores it."""
    return np.round(mask * 255).astype(np.float32) / 255


def classify(features: Tensor, valid: Tensor, classifier: Tensor) -> Tensor:
    """Probability of the object in a photo that was not there when the classifier was made.

    Args:
        features: (G, G, C) float32.
        valid: (G, G) bool.
        classifier: (C + 1,) float64, of :class:`Foreground`.

    Returns:
        (G, G) float32 in [0, 1].
    """
    score = features.double() @ classifier[:-1] + classifier[-1]
    return torch.where(valid, torch.sigmoid(4 * score), 0.0).float()


def sharpen(photo: Photo, probability: Tensor, side: int) -> np.ndarray:
    """One photo's mask from its cells' probabilities: (h, w) float32 in [0, 1], longer side ``side`` at most."""
    return _follow_edges([photo], probability[None], torch.zeros(1), side, likely=0.6, possible=0.3)[0]


def _report(progress: ProgressCallback | None, done: int, total: int) -> None:
    if progress is not None:
        progress(Progress("foreground", done, total))


def _recurring(maps: FeatureMaps, seed: int) -> Tensor:
    """(N, G, G) float32: mean vote of the clusterings."""
    axes, mean = maps.principal_axes(32)
    reduced = project(maps.features, axes, mean, maps.valid).cpu().numpy()
    padded = F.pad((~maps.valid).float()[:, None], (1, 1, 1, 1), value=1.0)
    border = (F.max_pool2d(padded, 3, 1)[:, 0] > 0)[maps.valid].cpu().numpy()
    photo = torch.where(maps.valid)[0].cpu().numpy()
    votes: np.ndarray = np.zeros(len(reduced))
    for turn, clusters in enumerate(_CLUSTERS):
        count = min(clusters, len(reduced))
        cv2.setRNGSeed(seed + turn)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 20, 1e-3)
        found = cv2.kmeans(reduced, count, np.empty(0, np.int32), stop, 1, cv2.KMEANS_PP_CENTERS)[1]
        labels = np.asarray(found, np.int64)[:, 0]
        votes += _cluster_scores(labels, border, photo, count, len(maps))[labels]
    recurring = torch.zeros(maps.valid.shape, device=axes.device)
    recurring[maps.valid] = torch.from_numpy(votes / len(_CLUSTERS)).float().to(axes.device)
    return recurring


def _cluster_scores(
    labels: np.ndarray, border: np.ndarray, photo: np.ndarray, clusters: int, photos: int
) -> np.ndarray:
    """(clusters,) in [0, 1]: near 1 where few cells lie on a border and most photos have the cluster."""
    sizes = np.bincount(labels, minlength=clusters).clip(1)
    at_border = np.bincount(labels, weights=border, minlength=clusters) / sizes
    table = np.zeros((clusters, photos), bool)
    table[labels, photo] = True
    return _logistic((_BORDER - at_border) / 0.04) * _logistic((table.mean(1) - _PRESENCE) / 0.05)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.clip(-50, 50)))


def _agreement(maps: FeatureMaps, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """What the other photos' masks say of each photo: (N, G, G) in [0, 1]; and the classifier of all photos.

    Ridge regression on principal components; object and background of a photo weigh the same.
    """
    axes, mean = maps.principal_axes(64)
    scale = project(maps.features, axes, mean, maps.valid).std(0).mean().clamp(min=1e-6)
    systems, sides = [], []
    for index, (features, valid, covered) in enumerate(zip(maps.features, maps.valid, coverage, strict=True)):
        if index % FORGOTTEN == 0:
            forget()
        x = F.pad((features[valid] - mean) @ axes / scale, (0, 1), value=1.0).double()
        y = covered[valid].double()
        share = y.mean().clamp(0.05, 0.95)
        weight = y / (2 * share) + (1 - y) / (2 - 2 * share)
        systems.append((x.T * weight) @ x)
        sides.append((x.T * weight) @ (2 * y - 1))
    system, side = torch.stack(systems), torch.stack(sides)
    others = _ridge(system.sum(0) - system, side.sum(0) - side)
    everyone = _ridge(system.sum(0)[None], side.sum(0)[None])
    linear = torch.cat([others, everyone])
    channels = linear[:, :-1] @ axes.T.double() / scale
    classifiers = torch.cat([channels, (linear[:, -1] - channels @ mean.double())[:, None]], 1)
    agreed = [classify(*photo) for photo in zip(maps.features, maps.valid, classifiers[:-1], strict=True)]
    forget()
    return torch.stack(agreed), classifiers[-1]


def _ridge(system: Tensor, side: Tensor) -> Tensor:
    level = system.diagonal(dim1=1, dim2=2).mean(1) * 0.003 + 1e-9
    identity = torch.eye(system.shape[1], dtype=system.dtype, device=system.device)
    return torch.linalg.solve(system + level[:, None, None] * identity, side[..., None])[..., 0]


def _follow_edges(
    photos: "tuple[Photo, ...] | list[Photo]",
    probability: Tensor,
    whole: Tensor,
    side: int,
    likely: float,
    possible: float,
) -> list[np.ndarray]:
    """A mask for each photo: the given one, all of it, or GrabCut's."""
    prior = probability.cpu().numpy()

    def one(index: int) -> np.ndarray:
        photo = photos[index]
        if index % FORGOTTEN == 0:
            forget()
        size = reduced_size(photo.pixels.shape[1::-1], side)
        if photo.mask is not None:
            return cv2.resize(photo.mask, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        if whole[index]:
            return np.ones(size[::-1], np.float32)
        return _grab_cut(cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA), prior[index], likely, possible)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(one, range(len(photos))))


def _grab_cut(pixels: np.ndarray, cells: np.ndarray, likely: float, possible: float) -> np.ndarray:
    """GrabCut from the cells' probabilities: (h, w) float32.

    Args:
        pixels: (h, w, 3) uint8.
        cells: (G, G) float32 over the photo's square.
        likely: probability above which a pixel starts as object.
        possible: probability below which a pixel is never object.
    """
    prior = cells_to_photo(cells, pixels.shape[1::-1])
    labels = np.where(prior > likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[prior < possible] = cv2.GC_BGD
    starts = labels == cv2.GC_PR_FGD
    started = np.count_nonzero(starts)
    if started < 10 or np.count_nonzero(~starts) < 10 or pixels.std((0, 1)).max() < 1:
        return prior.clip(0, 1)  # nothing to tell apart by colour
    step = max(1, min(max(labels.shape) // _SAMPLE, math.isqrt(min(started, labels.size - started) // _FEW_PIXELS)))
    some = np.ascontiguousarray(labels[::step, ::step])
    if step > 1 and min(np.count_nonzero(some == cv2.GC_PR_FGD), np.count_nonzero(some != cv2.GC_PR_FGD)) < 10:
        step, some = 1, labels.copy()
    few = np.ascontiguousarray(pixels[::step, ::step])
    if min(_colours(few[some == cv2.GC_PR_FGD]), _colours(few[some != cv2.GC_PR_FGD])) < _FEW_COLOURS:
        pixels, few = _grained(pixels), _grained(few)
    cv2.setRNGSeed(0)  # of this thread
    background, objects = np.zeros((1, 65)), np.zeros((1, 65))
    # The colours are clustered in the sample: measured to be as good, and a third of the time is saved.
    cv2.grabCut(few, some, (0, 0, 0, 0), background, objects, 0, cv2.GC_INIT_WITH_MASK)
    # One iteration: more let the colours of the surroundings creep in (measured), and take longer.
    cv2.grabCut(pixels, labels, (0, 0, 0, 0), background, objects, 1, cv2.GC_EVAL)
    mask = _main_pieces(((labels & 1) == 1).astype(np.uint8), prior)  # GC_FGD and GC_PR_FGD are the odd labels
    return mask if mask.sum() >= 0.1 * started else prior.clip(0, 1)


def _colours(pixels: np.ndarray) -> int:
    """How many colours (n, 3) uint8 pixels have."""
    return len(np.unique(pixels.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)))


def _grained(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 pixels, half of their values one level off, always the same ones."""
    grain = np.random.default_rng(0).integers(0, 2, pixels.shape, np.uint8)
    return np.where(pixels < 255, pixels + grain, pixels - grain)


def _main_pieces(mask: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Leaves out pieces that are much less likely than the main one, or tiny: (h, w) float32."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA].astype(float)
    mean = np.bincount(pieces.ravel(), weights=prior.ravel(), minlength=count) / area.clip(1)  # no background: 0 / 1
    area[0] = 0  # the background
    main = mean[(area * mean).argmax()]
    return ((mean >= 0.8 * main) & (area > 0.01 * area.max()))[pieces].astype(np.float32)


def reduced_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) with the longer side at most ``longest``, never enlarged."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def cells_to_photo(cells: np.ndarray, size: tuple[int, int], *, smooth: bool = False) -> np.ndarray:
    """Values of a photo's cells at its pixels.

    Args:
        cells: (G, G) or (G, G, C) float32 over the photo's square.
        size: (width, height) of the pixels wanted; they cover the whole photo.
        smooth: cubic rather than linear between the cells' centres, so that slopes don't jump.

    Returns:
        (height, width) or (height, width, C) float32.
    """
    grid, (width, height) = len(cells), size
    step = grid / max(size)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) * step + grid / 2 - 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) * step + grid / 2 - 0.5
    at_x, at_y = np.meshgrid(x, y)
    kind = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return cv2.remap(np.ascontiguousarray(cells), at_x, at_y, kind, borderMode=cv2.BORDER_REPLICATE)


def mask_cells(mask: np.ndarray, grid: int) -> Tensor:
    """(h, w) float32 mask over the photo to the (G, G) float32 share of each cell that it covers."""
    height, width = mask.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = cv2.copyMakeBorder(mask, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT)
    cells = cv2.resize(square, (grid, grid), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.clip(cells, 0, 1))  # a mean of ones is 1.0000001 now and then


def mask_shares(masks: Sequence[np.ndarray]) -> list[float]:
    """How much of each photo is object, [0, 1], from (h, w) masks in [0, 1]."""
    return [float(mask.mean()) for mask in masks]


def full_mask(photo: Photo, mask: np.ndarray) -> np.ndarray:
    """A mask at a photo's original size, its edge drawn to the photo's.

    Args:
        photo: the photo; where its object is given, that mask is returned.
        mask: (h, w) float32 in [0, 1], over the whole photo.

    Returns:
        (height, width) uint8, 255 = object.

    Raises:
        CollectionError: the file of the given mask has changed since it was loaded.
    """
    given = photo.read_mask()
    if given is not None:
        return given
    working = photo.pixels.shape[1::-1]
    soft = cv2.resize(mask, working, interpolation=cv2.INTER_LINEAR)
    radius = max(1, round(1.5 * max(working) / max(mask.shape)))
    soft = guided_filter(soft, photo.pixels, radius)
    return _enlarged(soft, photo.size)


def _enlarged(soft: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width) uint8, 255 where (h, w) float32 values are above a half between their cells' centres.

    Some rows at a time: at the size of a large photo the values alone would take gigabytes.
    """
    width, height = size
    wide = cv2.resize(soft, (width, len(soft)), interpolation=cv2.INTER_LINEAR)
    found = np.empty((height, width), np.uint8)
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height))
        place = (
            ((np.arange(rows.start, rows.stop) + 0.5) * len(soft) / height - 0.5)
            .clip(0, len(soft) - 1)
            .astype(np.float32)
        )
        above = place.astype(int)
        share = (place - above)[:, None]
        values = wide[above] * (1 - share) + wide[(above + 1).clip(max=len(soft) - 1)] * share
        found[rows] = (values > 0.5) * np.uint8(255)
    return found


def guided_filter(values: np.ndarray, pixels: np.ndarray, radius: int) -> np.ndarray:
    """Guided filter (He et al., 2010) with a grey guide: (h, w) float32 values follow the edges of (h, w, 3) uint8."""
    guide = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    window = (2 * radius + 1, 2 * radius + 1)
    mean, level = cv2.blur(guide, window), cv2.blur(values, window)
    slope = (cv2.blur(guide * values, window) - mean * level) / (cv2.blur(guide * guide, window) - mean**2 + 1e-4)
    offset = level - slope * mean
    return cv2.blur(slope, window) * guide + cv2.blur(offset, window)
