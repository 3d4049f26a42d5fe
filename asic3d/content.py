"""What a photo holds that another could show again: whether there is anything in it to compare at all."""

from collections.abc import Sequence

import cv2
import numpy as np

_FLAT = 8
"""Grey levels by which one colour may vary."""
_BLOCKS = 32
"""Blocks along the longer side, at most, into which a photo is shrunk to see what is left of it."""
_SMALLEST_BLOCK = 4  # pixels along a side
_LEFT = 0.05
"""Share of a photo's variance that its blocks' means keep, at least: it is 0.4 or more in photos of things, and one
over the pixels of a block in noise whose pixels know nothing of each other."""
_ABOVE_NOISE = 3.0
"""How many times as much as in such noise is left at least, which counts in small photos."""
_COMPARED = 32
"""Side at which pictures are compared, pixels, at most: a quarter of theirs; compression is hardly seen there."""
_ALIKE = 24
"""Grey levels by which the same picture differs there at most: 18 after JPEG at quality 75, and 120 where a thing that
is a fortieth of the photo wide has moved."""


def one_colour(pixels: np.ndarray) -> bool:
    """Whether a photo is of one colour all over.

    Args:
        pixels: (h, w, 3) uint8.
    """
    return bool(np.ptp(pixels[::4, ::4], axis=(0, 1)).max() <= _FLAT)


def holds_shapes(pixels: np.ndarray) -> bool:
    """Whether anything in a photo is larger than its grain: False for one colour, however lit, and for noise.

    Means over blocks keep shapes, and lose what neighbouring pixels do not share.

    Args:
        pixels: (h, w, 3) uint8.

    Example:
        >>> holds_shapes(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
        False
    """
    shapes = _without_shading(_block_means(pixels)[0])
    return bool(np.ptp(shapes, axis=(0, 1)).max() > _FLAT) and not grainy(pixels)


def grainy(pixels: np.ndarray) -> bool:
    """Whether a photo is grain: its neighbouring pixels share next to nothing.

    Args:
        pixels: (h, w, 3) uint8.
    """
    means, block = _block_means(pixels)
    least = max(_LEFT, _ABOVE_NOISE / block**2)
    return bool(means.var((0, 1)).sum() <= least * pixels.var((0, 1)).sum())


def _block_means(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """(h', w', 3) float32 means over blocks of a photo, and the side of a block, pixels."""
    height, width = pixels.shape[:2]
    block = max(_SMALLEST_BLOCK, max(height, width) / _BLOCKS)
    size = (max(1, round(width / block)), max(1, round(height / block)))
    return cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_AREA), block


def _without_shading(values: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32 less what a lamp or a lens adds to a bare wall: a paraboloid in each channel."""
    height, width = values.shape[:2]
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)))
    course = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
    flat = values.reshape(-1, 3)
    return (flat - course @ np.linalg.lstsq(course, flat, rcond=None)[0]).reshape(values.shape)


def first_of_picture(pictures: Sequence[np.ndarray]) -> list[int]:
    """For each photo the first one that shows the same picture, however large or compressed: itself, mostly.

    Args:
        pictures: (h, w, 3) uint8 each.

    Example:
        >>> bar = np.repeat(np.linspace(0, 255, 64), 64 * 3).reshape(64, 64, 3).astype(np.uint8)
        >>> first_of_picture([bar, bar[::-1], bar // 2 * 2])
        [0, 1, 0]
    """
    small = _small(pictures)
    found: list[int] = []
    for index, picture in enumerate(small):
        same = (earlier for earlier in range(index) if found[earlier] == earlier and _alike(picture, small[earlier]))
        found.append(next(same, index))
    return found


def same_picture(pictures: Sequence[np.ndarray]) -> bool:
    """Whether all photos show the same picture, however large or compressed.

    Args:
        pictures: (h, w, 3) uint8 each.
    """
    small = _small(pictures)
    return all(_alike(picture, small[0]) for picture in small[1:])


def _small(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    side = max(1, min([_COMPARED, *(min(pixels.shape[:2]) // 4 for pixels in pictures)]))
    return [cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).astype(np.int16) for pixels in pictures]


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one - other) <= _ALIKE).all())
