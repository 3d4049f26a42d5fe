"""The canonical grid: one picture of the object that all photos share, and every photo painted back from it.

The paper (section 3.1) learns a 256 x 256 RGBA image together with the maps. Here the maps are known, and the picture
is solved for: each photo is laid into the plane, its exposure is brought to the others', and each place takes the
weighted median of what the photos show there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from asic3d.brief import Brief
from asic3d.collection import Photo
from asic3d.errors import StorageError
from asic3d.foreground import cells_to_photo
from asic3d.splatting import fill_holes, splat, weighted_median
from asic3d.storage import read_safetensors, safetensors_bytes
from asic3d.unfolding import CONTROL_POINTS, Distortion, Unfolding, measure_distortion, unfold

if TYPE_CHECKING:
    from asic3d.alignment import Alignment

GRID_FILE = "canonical_grid.safetensors"
"""What the file of a grid is called in a run folder."""
RESOLUTION = 256
"""Cells along a side of the grid."""
_DENSITY = 1.6
"""Photo pixels along the longer side per grid cell along a side: some three to each cell that the object covers."""
_MARGIN = 1.15
"""The grid is this much larger than the object."""
_GAIN_ROUNDS = 3
_GAIN_STEP = 3
"""Every how many cells the exposures are compared."""
_STRONGEST_GAIN, _STRONGEST_TINT = 1.1, 0.25
"""Natural logarithms: a photo's light is lightened or darkened by at most the first, each channel against the others by
the second. A brown cow and a black one differ by more than light; without the limit the grass would turn blue."""
_KNOWN = 0.2
"""Coverage from which a cell's own colour counts in full."""
_STRIP = 16
"""Rows of the grid whose medians are taken at once."""
_ROW = 1024  # places
_SHARPEST = 0.5
"""Cells: deviation of the smoothing that joins the splatted pixels of one photo."""


_ARRAYS: dict[str, tuple[int | str | None, ...]] = {
    "colour": ("R", "R", 3),
    "foreground": ("R", "R"),
    "coverage": ("R", "R"),
    "spread": ("R", "R"),
    "gains": ("N", 3),
    "psnr": ("N",),
    "psnr_matched": ("N",),
}
"""The arrays of a grid, float32, with their shapes."""


@dataclass(frozen=True, eq=False)
class MappedPhoto:
    """One photo at a reduced size, and where its pixels lie in the canonical plane.

    Attributes:
        pixels: (h, w, 3) float32 in [0, 1], sRGB.
        canonical: (h, w, 2) float32, canonical coordinates.
        confidence: (h, w) float32 in [0, 1].
        mask: (h, w) float32 in [0, 1], 1 = object.
    """

    pixels: np.ndarray
    canonical: np.ndarray
    confidence: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class CanonicalGrid(Brief):
    """What the object looks like in the canonical plane, and how well that is known. R x R cells.

    The grid covers [-extent, extent]^2 of the unfolded plane, x right, y down; cell (0, 0) is the top-left one.

    Attributes:
        colour: (R, R, 3) float32 in [0, 1], sRGB; holes inside the object are filled, outside it is meaningless.
        foreground: (R, R) float32 in [0, 1], probability that the place is on the object.
        coverage: (R, R) float32, number of photos that show the place, each counted by its confidence there.
        spread: (R, R) float32, by how much the photos disagree: weighted median distance of their colours from the
            grid's, after their exposure was matched, in [0, 1].
        gains: (N, 3) float32, by what each photo's channels were multiplied.
        extent: half the side of the grid, in the unfolded plane.
        unfolding: from the canonical plane of the alignment to that of the grid.
        distortion: of the maps from the photos into the grid.
        distortion_before: of the maps into the canonical plane of the alignment.
        psnr: (N,) float32, dB, how exactly each photo's object comes back when it is painted from the grid.
        psnr_matched: (N,) float32, dB, the same after a gain and an offset of each channel, as light changes it.
    """

    colour: np.ndarray
    foreground: np.ndarray
    coverage: np.ndarray
    spread: np.ndarray
    gains: np.ndarray
    extent: float
    unfolding: Unfolding
    distortion: Distortion
    distortion_before: Distortion
    psnr: np.ndarray
    psnr_matched: np.ndarray

    @property
    def resolution(self) -> int:
        """Cells along a side."""
        return len(self.foreground)

    def place(self, canonical: np.ndarray) -> np.ndarray:
        """(..., 2) canonical coordinates to (..., 2) float32 grid cells, (0, 0) = the centre of the top-left cell."""
        plane = self.unfolding(torch.from_numpy(np.ascontiguousarray(canonical, np.float32))).numpy()
        return to_cells(plane, self.extent, self.resolution)

    def sample(self, canonical: np.ndarray) -> np.ndarray:
        """The grid's colours at (h, w, 2) canonical coordinates, bilinear: (h, w, 3) float32; beyond it, its edge's."""
        x, y = np.moveaxis(self.place(canonical), -1, 0)
        return cv2.remap(self.colour, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def reconstruct(self, photo: "MappedPhoto") -> np.ndarray:
        """A photo painted from the grid, as if taken in the grid's light: (h, w, 3) float32; read it in its mask."""
        return self.sample(photo.canonical)


def map_photo(
    photo: Photo, canonical: Tensor, confidence: Tensor, mask: np.ndarray, resolution: int = RESOLUTION
) -> MappedPhoto:
    """Brings a photo, its map and its mask to one size.

    Args:
        photo: the photo.
        canonical: (G, G, 2) float, canonical coordinates of its cells.
        confidence: (G, G) float in [0, 1].
        mask: (H, W) of the photo or smaller, float in [0, 1] or uint8 of which 255 = object.
        resolution: of the grid that it is for.
    """
    longest = round(_DENSITY * resolution)
    scale = longest / max(photo.size)
    size = (max(1, round(photo.size[0] * scale)), max(1, round(photo.size[1] * scale)))
    shrinks = size[0] < photo.pixels.shape[1]
    pixels = cv2.resize(photo.pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    shrinks = size[0] < mask.shape[1]
    share = cv2.resize(mask, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    share = share.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
    return MappedPhoto(
        pixels.astype(np.float32) / 255,
        cells_to_photo(canonical.float().cpu().numpy(), size, smooth=True),
        cells_to_photo(confidence.float().cpu().numpy(), size).clip(0, 1),
        share.clip(0, 1),
    )


def map_photos(alignment: "Alignment", resolution: int = RESOLUTION) -> Iterator[MappedPhoto]:
    """All photos of an alignment with their maps, one after the other: hundreds would not fit into memory."""
    for i, photo in enumerate(alignment.collection):
        yield map_photo(photo, alignment.canonical[i], alignment.confidence[i], alignment.mask(photo.name), resolution)


def find_grid(alignment: "Alignment", resolution: int = RESOLUTION) -> CanonicalGrid:
    """The canonical grid of an alignment.

    Args:
        alignment: the alignment; nothing of it is fitted anew.
        resolution: R, cells along a side.

    Raises:
        CollectionError: the mask of a photo was changed since it was loaded.

    Example:
        >>> find_grid(alignment).colour.shape  # doctest: +SKIP
        (256, 256, 3)
    """
    canonical, confidence = alignment.canonical.cpu(), alignment.confidence.cpu()
    return solve_grid(map_photos(alignment, resolution), canonical, confidence, resolution)


def solve_grid(
    photos: Iterable[MappedPhoto], canonical: Tensor, weight: Tensor, resolution: int = RESOLUTION
) -> CanonicalGrid:
    """Solves for the grid, given the maps.

    Args:
        photos: N photos with their maps; each is asked for once, and let go before the next.
        canonical: (N, G, G, 2) float, the maps at the cells, from which the plane is unfolded.
        weight: (N, G, G) float, what each cell counts there: its confidence.
        resolution: R.
    """
    if not bool((weight > 0).any()):  # nothing is known of any photo: all of them count as they are
        weight = torch.ones_like(weight)
    unfolding, reach = unfold(canonical, weight)
    extent = reach * _MARGIN
    side = (resolution, resolution)
    colours, weights = np.zeros((len(canonical), *side, 3), np.float32), np.zeros((len(canonical), *side), np.float32)
    shares, objects = np.zeros((*side, 2), np.float32), []
    for number, photo in enumerate(photos):
        places = to_cells(unfolding(torch.from_numpy(photo.canonical)).numpy(), extent, resolution)
        colours[number], weights[number], share = _lay_out(photo, places, resolution)
        shares += share
        inside = photo.mask > 0.5
        objects.append((places[inside], photo.pixels[inside]))
    gains = _exposure(colours, weights)
    colours *= gains[:, None, None]
    colour, spread = _medians(colours, weights)
    foreground = shares[..., 0] / np.maximum(shares[..., 1], 1e-6)
    coverage = weights.sum(0)
    colour = fill_holes(colour, np.clip(coverage / _KNOWN, 0, 1) * foreground).clip(0, 1)
    figures = np.array([_psnr(pixels, _colours_at(colour, places)) for places, pixels in objects], np.float32)
    return CanonicalGrid(
        colour,
        foreground.clip(0, 1),
        coverage,
        spread,
        gains,
        extent,
        unfolding,
        measure_distortion(unfolding(canonical), weight),
        measure_distortion(canonical, weight),
        psnr=figures[:, 0],
        psnr_matched=figures[:, 1],
    )


def _medians(colours: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What most photos show at each place, and by how much they disagree there.

    Args:
        colours: (N, R, R, 3) float32.
        weights: (N, R, R) float32.

    Returns:
        (R, R, 3) float32 weighted medians, and (R, R) float32 weighted median distances from them; 0 where no photo
        shows anything.
    """
    colour, spread = np.zeros(colours.shape[1:], np.float32), np.zeros(weights.shape[1:], np.float32)
    for top in range(0, len(colour), _STRIP):
        rows = slice(top, top + _STRIP)
        shown = weights[:, rows].any(0)
        some, weight = colours[:, rows][:, shown], weights[:, rows][:, shown]
        middle = weighted_median(some, weight[..., None])
        colour[rows][shown] = middle
        spread[rows][shown] = weighted_median(np.abs(some - middle).mean(-1), weight)
    return colour, spread


def _colours_at(colour: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n, 3) float32 bilinear values of an (R, R, 3) picture at (n, 2) cells; beyond it, its edge's."""
    if not len(places):
        return np.zeros((0, 3), np.float32)
    # OpenCV takes no picture that is wider or higher than 32767: the places are laid into rows.
    rows = np.resize(places, (-(-len(places) // _ROW), _ROW, 2))
    x, y = (np.ascontiguousarray(rows[..., axis]) for axis in (0, 1))
    found = cv2.remap(colour, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(-1, 3)[: len(places)]


def lay_out_cells(grid: CanonicalGrid, canonical: Tensor, cells: Tensor, weight: Tensor) -> np.ndarray:
    """Values of the photos' cells in the grid, the mean over all photos.

    Args:
        grid: where they are laid out.
        canonical: (N, G, G, 2) float, canonical coordinates.
        cells: (N, G, G, D) float, the values.
        weight: (N, G, G) float, what each counts.

    Returns:
        (R, R, D) float32; NaN where no photo says anything.
    """
    size = (grid.resolution, grid.resolution)
    total = np.zeros((*size, cells.shape[-1] + 1), np.float32)
    for where, values, counts in zip(canonical, cells, weight, strict=True):
        stacked = torch.cat([where, values, counts[..., None]], -1).float().cpu().numpy()
        fine = cells_to_photo(stacked, size).reshape(-1, stacked.shape[-1])
        count = fine[:, -1:].clip(0)
        total += splat(grid.place(fine[:, :2]), np.hstack([fine[:, 2:-1] * count, count]), grid.resolution)
    total = cv2.GaussianBlur(total, (0, 0), 2.0)
    count = total[..., -1:]
    return np.where(count > 1e-3, total[..., :-1] / np.maximum(count, 1e-9), np.nan).astype(np.float32)


def _psnr(pixels: np.ndarray, painted: np.ndarray) -> tuple[float, float]:
    """Peak signal-to-noise ratio of (n, 3) colours, dB; as it is, and after a gain and an offset for each channel."""
    wanted, found = pixels.astype(np.float64), painted.astype(np.float64)
    if len(wanted) == 0:
        return 0.0, 0.0
    matched = np.empty_like(found)
    for channel in range(3):
        level, spread = found[:, channel].mean(), found[:, channel].var()
        covariance = ((found[:, channel] - level) * wanted[:, channel]).mean()
        gain = covariance / spread if spread > 1e-12 else 0.0
        matched[:, channel] = wanted[:, channel].mean() + gain * (found[:, channel] - level)
    return _decibels(wanted - found), _decibels(wanted - matched)


def _decibels(error: np.ndarray) -> float:
    return -10 * float(np.log10(max((error**2).mean(), 1e-10)))


def to_cells(plane: np.ndarray, extent: float, resolution: int) -> np.ndarray:
    """(..., 2) coordinates in [-extent, extent]^2 to (..., 2) float32 cells of an R x R grid over it."""
    return ((plane / extent + 1) * (resolution / 2) - 0.5).astype(np.float32)


def _lay_out(photo: MappedPhoto, places: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One photo in the plane; ``places`` are its pixels' (h, w, 2) grid cells.

    Returns:
        (R, R, 3) float32 colours, (R, R) float32 weight in [0, 1] of the object's colours there, and (R, R, 2) float32:
        how much object and how much of anything the photo shows there, in [0, 1].
    """
    weight = (photo.confidence.clip(0.02) * photo.mask).reshape(-1)
    mask = photo.mask.reshape(-1)
    values = np.column_stack([photo.pixels.reshape(-1, 3) * weight[:, None], weight, mask, np.ones_like(mask)])
    sums = cv2.GaussianBlur(splat(places.reshape(-1, 2), values, resolution), (0, 0), _SHARPEST)
    colours = sums[..., :3] / np.maximum(sums[..., 3:4], 1e-9)
    count = np.maximum(sums[..., 5], 1e-9)
    seen = np.clip(2 * sums[..., 5], 0, 1)
    return colours, sums[..., 3] / count * seen, np.dstack([sums[..., 4] / count * seen, seen])


def _exposure(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, 3) float32 gains that bring each photo's channels to those of the others, 1 in the geometric mean."""
    level = np.log(colours[:, ::_GAIN_STEP, ::_GAIN_STEP].clip(0.02))
    weights = weights[:, ::_GAIN_STEP, ::_GAIN_STEP, None]
    gains = np.zeros((len(colours), 3))
    for _ in range(_GAIN_ROUNDS):
        common = weighted_median(level + gains[:, None, None], weights)
        for number, weight in enumerate(weights[..., 0]):
            shown = weight > 0.01
            if shown.any():
                gains[number] = weighted_median((common - level[number])[shown], weight[shown][:, None])
        gains -= gains.mean(0)
    light = gains.mean(1, keepdims=True)
    tint = (gains - light).clip(-_STRONGEST_TINT, _STRONGEST_TINT)
    return np.exp(light.clip(-_STRONGEST_GAIN, _STRONGEST_GAIN) + tint).astype(np.float32)


def grid_bytes(grid: CanonicalGrid) -> bytes:
    """A grid as the content of a safetensors file, which :func:`load_grid` reads."""
    arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(grid, name))) for name in _ARRAYS}
    bent = {f"{name}_before": getattr(grid.distortion_before, name) for name in ("area", "angle")}
    unfolding = grid.unfolding
    tensors = {
        **arrays,
        **bent,
        "area": grid.distortion.area,
        "angle": grid.distortion.angle,
        "weight": grid.distortion.weight,
        "control": unfolding.control,
        "shift": unfolding.shift,
        "lengths": torch.tensor([grid.extent, unfolding.reach], dtype=torch.float64),
    }
    return safetensors_bytes(tensors)


def load_grid(path: Path) -> CanonicalGrid:
    """Reads a file with what :func:`grid_bytes` made.

    Raises:
        StorageError: there is no such file, or it is damaged.
    """
    kinds: dict[str, tuple[torch.dtype, tuple[int | str | None, ...]]] = {
        **{name: (torch.float32, shape) for name, shape in _ARRAYS.items()},
        **{name: (torch.float32, ("N", "G", "G")) for name in ("area", "angle", "weight")},
        **{f"{name}_before": (torch.float32, ("N", "G", "G")) for name in ("area", "angle")},
        "control": (torch.float64, (CONTROL_POINTS**2, 2)),
        "shift": (torch.float64, (2,)),
        "lengths": (torch.float64, (2,)),
    }
    found = read_safetensors(path, kinds)
    extent, reach = found["lengths"].tolist()
    if not (extent > 0 and reach > 0 and found["foreground"].numel()):
        raise StorageError(f"'{path}' is damaged: it holds a grid without a size. Delete it and make it again.")
    return CanonicalGrid(
        **{name: found[name].numpy() for name in _ARRAYS},
        extent=extent,
        unfolding=Unfolding(found["control"], reach, found["shift"]),
        distortion=Distortion(found["area"], found["angle"], found["weight"]),
        distortion_before=Distortion(found["area_before"], found["angle_before"], found["weight"]),
    )
