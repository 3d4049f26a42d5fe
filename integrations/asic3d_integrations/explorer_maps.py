"""What the explorer's page knows: the answers of an alignment at samples of each photo, and how they are looked up.

A photo is sampled on a grid over it, wherever its object is. The page holds the answers in whole steps; between the
samples it interpolates. :func:`look_up` is the rule that ``explorer_maps.js`` follows, number by number.
"""

import base64
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor, from_numpy

from asic3d.coordinates import pixels_to_normalised
from asic3d.pictures import picture_size

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from asic3d import Alignment

LONGEST = 64
"""Samples along a photo's longer side, or fewer in large collections."""
STEPS = 16384
"""Steps along a photo's longer side in which places are kept: a 4000 pixels wide photo is known to 0.12 of a pixel."""
CLOSE = 4
"""Four neighbouring samples' answers are interpolated where they are at most this many sample widths apart."""
_MOST_CYCLE = 1.5  # longer sides of the source: more than the diagonal of a square
_ANSWERS = 1_500_000
"""Most answers of a page, six bytes each before they are packed; 30 photos have that many at some 1700 samples."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Where one photo is sampled.

    Attributes:
        size: (width, height) of the original photo, pixels.
        inside: (rows, columns) bool, the samples that are kept; they are numbered row by row.
    """

    size: tuple[int, int]
    inside: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """(S, 2) float64, original pixels of the photo."""
        rows, columns = self.inside.shape
        y, x = np.nonzero(self.inside)
        return np.stack([(x + 0.5) * self.size[0] / columns - 0.5, (y + 0.5) * self.size[1] / rows - 0.5], 1)

    @property
    def number(self) -> np.ndarray:
        """(rows, columns) int64: each sample's number, -1 where it is not kept."""
        number = np.cumsum(self.inside).reshape(self.inside.shape) - 1
        return np.where(self.inside, number, -1)


@dataclass(frozen=True, eq=False)
class PhotoMap:
    """One photo's samples in all the other photos and in the canonical picture, in whole steps.

    Attributes:
        samples: S samples.
        answers: (N, 4, S) uint16 for each photo: x and y (:func:`to_steps`), confidence (255 = 1) and cycle error
            (:func:`cycle_to_steps`); zeros for the photo itself.
        place: (2, S) uint16, x and y in the canonical grid's cells, as steps of a picture of its size.
        sure: (S,) uint16, how well the other photos explain the sample, 255 = 1.
    """

    samples: Samples
    answers: np.ndarray
    place: np.ndarray
    sure: np.ndarray

    @property
    def packed(self) -> str:
        """All of it but the samples, as :func:`packed` text."""
        return packed(np.concatenate([self.answers.reshape(-1, len(self.sure)), self.place, self.sure[None]]))


def to_steps(places: np.ndarray, longest: int) -> np.ndarray:
    """Pixels of a photo to uint16 steps; one longer side before its edge and two behind can be told."""
    return np.rint((np.asarray(places) + 0.5) * (STEPS / longest) + STEPS).clip(0, 65535).astype(np.uint16)


def from_steps(steps: "ArrayLike", longest: int) -> np.ndarray:
    """The opposite of :func:`to_steps`: float64."""
    return (np.asarray(steps, np.float64) - STEPS) * longest / STEPS - 0.5


def cycle_to_steps(error: np.ndarray, longest: int) -> np.ndarray:
    """Cycle errors, pixels of the source, to uint16 steps up to 255; the root, so that small ones are told finely."""
    return np.rint(255 * np.sqrt(np.clip(np.asarray(error) / (_MOST_CYCLE * longest), 0, 1))).astype(np.uint16)


def cycle_from_steps(steps: "ArrayLike", longest: int) -> np.ndarray:
    """The opposite of :func:`cycle_to_steps`: float64."""
    return np.asarray(steps, np.float64) ** 2 * (_MOST_CYCLE / 65025) * longest


def packed(values: np.ndarray) -> str:
    """(R, S) uint16 as text: differences along each row, low bytes before high ones, deflated, base64."""
    rows = values.astype(np.uint16)
    change = np.diff(rows, axis=1, prepend=np.zeros((len(rows), 1), np.uint16)).astype(np.int16)
    folded = ((change << 1) ^ (change >> 15)).astype(np.uint16)  # small ones of either sign become small numbers
    planes = np.stack([folded & 255, folded >> 8]).astype(np.uint8)
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()


def sample_photos(alignment: "Alignment") -> list[Samples]:
    """The samples of every photo: those on the object and one around it; all of a photo without an object."""
    masks = [_reduced(alignment.mask(name)) for name in alignment.names]
    longest, found = LONGEST, _samples(alignment, masks, LONGEST)
    while sum(int(one.inside.sum()) for one in found) * (len(found) - 1) > _ANSWERS and longest > 8:
        longest = max(8, math.floor(longest * 0.95))
        found = _samples(alignment, masks, longest)
    return found


def _reduced(mask: np.ndarray) -> np.ndarray:
    """A mask as large as is needed, float32, so that the least cover is kept: full ones may be gigabytes."""
    size = picture_size((mask.shape[1], mask.shape[0]), 8 * LONGEST)
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _samples(alignment: "Alignment", masks: list[np.ndarray], longest: int) -> list[Samples]:
    found = []
    for size, mask in zip(alignment.sizes, masks, strict=True):
        scale = min(1.0, longest / max(size))
        columns, rows = (max(1, round(side * scale)) for side in size)
        share = cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_AREA)
        inside = cv2.dilate((share > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        found.append(Samples(size, inside if (share > 0).any() else np.ones_like(inside)))
    return found


def map_photo(alignment: "Alignment", samples: list[Samples], source: int) -> PhotoMap:
    """Follows the samples of one photo into all the others."""
    points, size = samples[source].points, samples[source].size
    answers = np.zeros((len(samples), 4, len(points)), np.uint16)
    for target, name in enumerate(alignment.names):
        if target == source:
            continue
        found = alignment.transfer(points, source=alignment.names[source], target=name)
        answers[target, :2] = to_steps(found.points.numpy().T, max(alignment.sizes[target]))
        answers[target, 2] = np.rint(255 * found.confidence.numpy())
        answers[target, 3] = cycle_to_steps(found.cycle_error.numpy(), max(size))
    grid = alignment.canonical_grid
    place = grid.place(_cells_at(alignment.canonical[source], points, size))
    sure = _cells_at(alignment.confidence[source][..., None], points, size)[:, 0]
    return PhotoMap(
        samples[source], answers, to_steps(place.T, grid.resolution), np.rint(255 * sure.clip(0, 1)).astype(np.uint16)
    )


def _cells_at(cells: Tensor, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(S, D) float32 bilinear values of a photo's (G, G, D) cells at (S, 2) original pixels."""
    where = pixels_to_normalised(from_numpy(points), size).float()[None, None]
    values = cells.cpu().float().permute(2, 0, 1)[None]
    return F.grid_sample(values, where, align_corners=False, padding_mode="border")[0, :, 0].T.numpy()


def look_up(photo: PhotoMap, sizes: "list[tuple[int, int]] | tuple[tuple[int, int], ...]", x: float, y: float):
    """What the page answers for a point of a photo.

    Of the four samples around the point, those on the object count. Where all four do, and their answers in a target
    lie close together, the answer is their bilinear mean; else that of the one that weighs most.

    Args:
        photo: the map of the source photo.
        sizes: (width, height) of all photos.
        x: pixels of the source.
        y: pixels of the source.

    Returns:
        (N, 4) float64: x and y in pixels of the target, confidence, and cycle error in pixels of the source; the row of
        the source itself means nothing. None beside the object.
    """
    rows, columns = photo.samples.inside.shape
    width, height = photo.samples.size
    corners, weights = _around(photo.samples.number, (x + 0.5) * columns / width - 0.5, (y + 0.5) * rows / height - 0.5)
    kept = [corner for corner in range(4) if corners[corner] >= 0]
    if not kept:
        return None
    heaviest = max(kept, key=lambda corner: weights[corner])  # the first of equal ones
    limit = CLOSE * STEPS // max(rows, columns)
    found = np.zeros((len(sizes), 4))
    for target, size in enumerate(sizes):
        steps = photo.answers[target][:, [corners[corner] for corner in kept]].astype(int)
        if len(kept) == 4 and np.ptp(steps[:2], axis=1).max() <= limit:
            value = [
                sum(weight * number for weight, number in zip(weights, row, strict=True)) for row in steps.tolist()
            ]
        else:
            value = steps[:, kept.index(heaviest)].tolist()
        longest = max(size)
        found[target] = (
            from_steps(value[0], longest),
            from_steps(value[1], longest),
            value[2] / 255,
            cycle_from_steps(value[3], max(photo.samples.size)),
        )
    return found


def _around(number: np.ndarray, u: float, v: float) -> tuple[list[int], list[float]]:
    """The samples around a place of the grid, row by row, and what each weighs; -1 where there is none."""
    rows, columns = number.shape
    u, v = min(max(u, 0), columns - 1), min(max(v, 0), rows - 1)
    i, j = max(0, min(math.floor(u), columns - 2)), max(0, min(math.floor(v), rows - 2))
    corners = [int(number[b, a]) if a < columns and b < rows else -1 for b in (j, j + 1) for a in (i, i + 1)]
    p, q = u - i, v - j
    return corners, [(1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q]
