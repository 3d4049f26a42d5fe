"""Co-parts: the object in a few parts, the same ones in every photo, without labels."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.collection import Photo
from asic3d.features import principal_axes, project
from asic3d.foreground import cells_to_photo, guided_filter

_OBJECT = 0.5
"""Probability from which a cell belongs to a part."""
_CHANNELS = 24
"""Principal components of the features that are clustered."""
_POSITION = 0.5
"""Variance of the canonical position over the object, where that of the features is 1."""
_ATTEMPTS = 6
"""Starts of k-means, the best of which counts."""
_SOFTNESS = 0.25
"""Squared distance, in units of its median to the nearest centre, over which parts blend before smoothing."""


def find_parts(
    features: Tensor, foreground: Tensor, count: int, seed: int = 0, *, canonical: Tensor | None = None
) -> Tensor:
    """The part of every cell.

    k-means over the object's cells of all photos together, on principal components of the features and, where they are
    known, on canonical coordinates: features alone give the same part to what merely looks alike, such as both wheels.
    Each photo's parts are then smoothed over neighbouring cells.

    Args:
        features: (N, G, G, C) or (N, G * G, C) float32, unit length.
        foreground: (N, G, G) float in [0, 1], probability of the object.
        count: parts wanted; fewer where the object has fewer cells.
        seed: of the starts.
        canonical: (N, G, G, 2) float, canonical coordinates.

    Returns:
        (N, G, G) int64: 0 to ``count - 1``, from left to right in the canonical plane (or the photos); -1 = not the
        object.

    Example:
        >>> find_parts(torch.rand(2, 8, 8, 16), torch.ones(2, 8, 8), 3).shape
        torch.Size([2, 8, 8])
    """
    shares = part_shares(features, foreground, count, seed, canonical=canonical)
    return object_parts(shares, foreground)


def object_parts(shares: Tensor, foreground: Tensor) -> Tensor:
    """The likeliest part of each cell, (N, G, G) int64, from :func:`part_shares`; -1 where it is not the object."""
    return torch.where(foreground > _OBJECT, shares.argmax(-1), -1)


def part_shares(
    features: Tensor, foreground: Tensor, count: int, seed: int = 0, *, canonical: Tensor | None = None
) -> Tensor:
    """As :func:`find_parts`: (N, G, G, count) float32, how much each cell belongs to each part; sums to 1."""
    photos, grid = foreground.shape[:2]
    inside = foreground > _OBJECT
    if not bool(inside.any()):
        return features.new_full((photos, grid, grid, count), 1 / count)
    described = _described(features.reshape(photos, grid, grid, -1), inside, canonical)
    centres = _centres(described[inside], min(count, int(inside.sum())), seed)
    centres = centres[_left_to_right(described, centres, inside, canonical)]
    squared = torch.cdist(described.flatten(0, 2), centres).square()
    nearest = squared.amin(1)[inside.flatten()].median().clamp(min=1e-6)
    shares = torch.softmax(-squared / (_SOFTNESS * nearest), 1).reshape(photos, grid, grid, -1)
    smooth = _smoothed(shares, inside)
    return F.pad(smooth, (0, count - smooth.shape[-1]))


def full_parts(photo: Photo, shares: Tensor, mask: np.ndarray) -> np.ndarray:
    """The parts of a photo at the size of its mask, their borders drawn to the photo's edges.

    Args:
        photo: the photo.
        shares: (G, G, K) float32, of :func:`part_shares`.
        mask: (height, width) uint8, 255 = object.

    Returns:
        (height, width) int8: 0 to K - 1, -1 = not the object.
    """
    cells, pixels, size = shares.float().cpu().numpy(), photo.pixels, mask.shape[::-1]
    if max(size) < max(pixels.shape[:2]):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    working = pixels.shape[1::-1]
    radius = max(1, round(max(working) / len(cells)))
    near = _around(mask, 2 * radius) if working == size else (slice(None), slice(None))
    pixels, size = np.ascontiguousarray(pixels[near]), mask[near].shape[::-1]
    best, parts = np.full(size[::-1], -np.inf, np.float32), np.zeros(size[::-1], np.int8)
    for number in range(cells.shape[2]):
        soft = cells_to_photo(cells[..., number], working, smooth=True)[near]
        soft = cv2.resize(guided_filter(soft, pixels, radius), size, interpolation=cv2.INTER_LINEAR)
        better = soft > best
        best[better], parts[better] = soft[better], number
    found = np.full(mask.shape, -1, np.int8)
    found[near] = np.where(mask[near] > 127, parts, -1)
    return found


def _around(mask: np.ndarray, reach: int) -> tuple[slice, slice]:
    """The rows and columns of a picture in which the object lies, and ``reach`` pixels around it."""
    rows, columns = (np.flatnonzero((mask > 127).any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(max(0, rows[0] - reach), rows[-1] + reach + 1), slice(
        max(0, columns[0] - reach), columns[-1] + reach + 1
    )


def _described(features: Tensor, inside: Tensor, canonical: Tensor | None) -> Tensor:
    """(N, G, G, D) float32: what is clustered; over the object the features' total variance is 1."""
    axes, mean = principal_axes(features, inside)
    described = project(features, axes[:, :_CHANNELS], mean)
    described = described / described[inside].var(0, unbiased=False).sum().sqrt().clamp(min=1e-6)
    if canonical is None:
        return described
    place = canonical.to(described)
    middle = place[inside].mean(0)
    size = place[inside].var(0, unbiased=False).sum().sqrt().clamp(min=1e-6)
    return torch.cat([described, (_POSITION**0.5) * (place - middle) / size], -1)


def _centres(cells: Tensor, count: int, seed: int) -> Tensor:
    """(count, D) float32 centres of k-means; equal runs give equal centres."""
    if count == 1:  # OpenCV takes a single cell for as many cells as it has channels
        return cells.mean(0, keepdim=True)
    cv2.setRNGSeed(seed)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    values = np.ascontiguousarray(cells.cpu().numpy(), np.float32)
    found = cv2.kmeans(values, count, np.empty(0, np.int32), stop, _ATTEMPTS, cv2.KMEANS_PP_CENTERS)[2]
    return torch.from_numpy(np.asarray(found)).to(cells)


def _left_to_right(described: Tensor, centres: Tensor, inside: Tensor, canonical: Tensor | None) -> Tensor:
    """(K,) int64: the clusters by their mean x, so that a part's number does not hang on the start of k-means."""
    label = torch.cdist(described[inside], centres).argmin(1)
    x = inside.nonzero()[:, 2] if canonical is None else canonical[inside][:, 0]
    total = torch.zeros(len(centres), dtype=torch.float64, device=label.device).index_add_(0, label, x.double())
    return (total / label.bincount(minlength=len(centres)).clamp(min=1)).argsort(stable=True)


def _smoothed(shares: Tensor, inside: Tensor) -> Tensor:
    """Mean over the 3 x 3 cells around each that are object; where none is, the cell's own."""
    weight = inside.float()[..., None]
    stacked = torch.cat([shares * weight, weight], -1).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(stacked, 3, 1, 1).permute(0, 2, 3, 1)
    return torch.where(mean[..., -1:] > 0, mean[..., :-1] / mean[..., -1:].clamp(min=1e-6), shares)
