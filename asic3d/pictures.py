"""Pictures of an alignment: arrays in, arrays out. Reports, notebooks and the run folder's figures are made of them."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.coordinates import pixels_to_normalised
from asic3d.verdict import SURE

if TYPE_CHECKING:
    from asic3d import Alignment, DenseMap, Photo

LINES = 8
"""Lines of the canonical plane's grid that cross the coloured extent in each direction."""

PART_COLOURS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (0, 0, 0),
    ],
    np.uint8,
)
"""(8, 3) uint8: the colours of the first parts: those of Okabe and Ito, which colour-blind people can tell apart."""

_OKLAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]
)


def canonical_colours(canonical: np.ndarray, extent: float) -> np.ndarray:
    """The colour of a place in the canonical plane: hue is the direction from the centre, the centre is pale.

    Equal steps in the plane are about equally visible steps of colour (OKLab), and no two places within the extent
    share a colour. Past the extent the colours saturate.

    Args:
        canonical: (..., 2) float, canonical plane.
        extent: distance from the centre at which the colours are nearly at their strongest.

    Returns:
        (..., 3) float in [0, 1], sRGB; float32 of float32.

    Example:
        >>> canonical_colours(np.zeros((1, 2)), 1.0).round(1).tolist()
        [[0.9, 0.9, 0.9]]
    """
    places = np.asarray(canonical)
    places = places.astype(np.float32 if places.dtype == np.float32 else np.float64) / np.float32(extent)
    distance = np.maximum(np.hypot(places[..., 0], places[..., 1]), 1e-9)[..., None]
    reach = np.tanh(1.5 * distance)
    lab = np.concatenate([0.9 - 0.21 * reach, 0.155 * reach / distance * places], -1)
    cone = lab @ _OKLAB_TO_LMS.T.astype(lab.dtype)
    linear = np.clip((cone * cone * cone) @ _LMS_TO_RGB.T.astype(lab.dtype), 0, 1)
    return np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def canonical_extent(alignment: "Alignment") -> float:
    """Distance from the canonical plane's centre within which nine tenths of the object's cells lie."""
    inside = alignment.foreground.flatten() > 0.5
    radius = alignment.canonical.reshape(-1, 2).norm(dim=1)
    radius = radius[inside] if inside.any() else radius
    return max(float(radius.quantile(0.9)), 1e-3)


def at_pixels(cells: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Values of a photo's grid at every pixel of a picture of that photo, bilinear.

    Args:
        cells: (G, G, D) float.
        size: width and height of the picture, of the photo's own aspect.

    Returns:
        (height, width, D) float32.
    """
    width, height = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = pixels_to_normalised(torch.stack([x, y], -1).float(), size)
    values = F.grid_sample(
        cells.float().permute(2, 0, 1)[None], where[None], align_corners=False, padding_mode="border"
    )
    return values[0].permute(1, 2, 0).numpy()


def picture_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a photo shrunk so that its longer side has at most ``side`` pixels."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def photo_picture(alignment: "Alignment", index: int, side: int) -> np.ndarray:
    """The photo itself: (h, w, 3) uint8, longer side at most ``side``."""
    pixels = alignment.collection[index].pixels
    height, width = pixels.shape[:2]
    return cv2.resize(pixels, picture_size((width, height), side), interpolation=cv2.INTER_AREA)


def mask_picture(alignment: "Alignment", index: int, size: tuple[int, int]) -> np.ndarray:
    """The photo's mask at a picture's (width, height): (h, w) uint8, grey only at the edge of the object."""
    return cv2.resize(alignment.mask(alignment.names[index]), size, interpolation=cv2.INTER_AREA)


def paint_picture(alignment: "Alignment", index: int, size: tuple[int, int], extent: float) -> np.ndarray:
    """The colour of each pixel's place in the canonical plane: (h, w, 3) uint8, everywhere."""
    colours = canonical_colours(at_pixels(alignment.canonical[index], size), extent)
    return np.rint(colours * 255).astype(np.uint8)


def colour_picture(
    alignment: "Alignment", index: int, mask: np.ndarray, paint: np.ndarray, extent: float
) -> np.ndarray:
    """The paint on the object, with lines of the canonical plane's grid.

    Args:
        alignment: the alignment.
        index: the photo's index.
        mask: (h, w) uint8 of the picture's size, 255 = object.
        paint: (h, w, 3) uint8, of :func:`paint_picture`.
        extent: as of :func:`canonical_colours`.

    Returns:
        (h, w, 4) uint8 RGBA; opacity is the mask times the confidence, so that guesses fade.
    """
    size = (mask.shape[1], mask.shape[0])
    lines = _grid_lines(at_pixels(alignment.canonical[index], size), 2 * extent / LINES)[..., None]
    confidence = at_pixels(alignment.confidence[index][..., None], size)[..., 0]
    opacity = mask * (0.1 + 0.85 * np.clip(confidence / SURE, 0, 1))
    return np.rint(np.dstack([paint + (255 - paint) * (0.75 * lines), opacity])).astype(np.uint8)


def _grid_lines(canonical: np.ndarray, step: float) -> np.ndarray:
    """(h, w) in [0, 1]: how much of a line of the plane's grid, about 1.5 pixels wide, covers each pixel."""
    lines = np.zeros(canonical.shape[:2])
    if min(lines.shape) < 2:
        return lines
    for axis in (0, 1):
        scaled = canonical[..., axis] / step
        down, right = np.gradient(scaled)
        slope = np.hypot(down, right).clip(1e-6)
        distance = np.abs(scaled - np.rint(scaled)) / slope
        crowded = np.clip(4 * (0.25 - slope) / 0.25, 0, 1)  # where the lines would merge into one white patch
        lines = np.maximum(lines, np.clip(1.25 - distance, 0, 1) * crowded)
    return lines


def outline(mask: np.ndarray) -> str:
    """An SVG path around the object (even-odd fill), in the picture's pixels; empty where there is no object."""
    found, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in found:
        corners = cv2.approxPolyDP(contour, 0.8, True).reshape(-1, 2)
        if len(corners) > 2:
            parts.append("M" + "L".join(f"{x + 0.5:g} {y + 0.5:g}" for x, y in corners) + "Z")
    return "".join(parts)


def part_colours(count: int) -> np.ndarray:
    """(count, 3) uint8: the colour of each part; past the eighth the colours come again, paler each time."""
    number = np.arange(count)
    white = (1 - 0.6 ** (number // len(PART_COLOURS)))[:, None]
    return np.rint(PART_COLOURS[number % len(PART_COLOURS)] * (1 - white) + 255 * white).astype(np.uint8)


def parts_picture(alignment: "Alignment", index: int, mask: np.ndarray) -> np.ndarray:
    """The parts of a photo in their colours: (h, w, 4) uint8 RGBA of its mask's size, transparent beside the object."""
    parts = alignment.part_map(alignment.names[index], mask)
    colours = part_colours(max(int(parts.max()) + 1, 1))[parts.clip(0)]
    return np.dstack([colours, np.where(parts < 0, 0, mask).astype(np.uint8)])


def over(front: np.ndarray, back: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """One picture laid over another: (h, w, 3) uint8, from (h, w, 3) each and (h, w) opacity from 0 to 255."""
    share = opacity[..., None] / 255
    return np.rint(front * share + back * (1 - share)).astype(np.uint8)


def cut_out(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A photo's object on light grey: (h, w, 3) uint8."""
    return over(photo, np.full(photo.shape, 238.0), mask)


def coloured(photo: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A :func:`colour_picture` over its pale grey photo: (h, w, 3) uint8."""
    grey = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return over(colours[..., :3], 0.3 * grey + 0.7 * 255, colours[..., 3])


def overview_picture(alignment: "Alignment", index: int, side: int) -> np.ndarray:
    """A photo's object cut out and, right of it, coloured by its place on the object: (h, 2 w, 3) uint8.

    Made of the reduced masks, so that many photos are quick.
    """
    photo = photo_picture(alignment, index, side)
    size = (photo.shape[1], photo.shape[0])
    reduced = np.rint(255 * alignment.masks[index]).astype(np.uint8)
    mask = cv2.resize(reduced, size, interpolation=cv2.INTER_AREA)
    extent = canonical_extent(alignment)
    paint = paint_picture(alignment, index, size, extent)
    colours = colour_picture(alignment, index, mask, paint, extent)
    return np.hstack([cut_out(photo, mask), coloured(photo, colours)])


def carried_picture(dense: "DenseMap", target: "Photo") -> np.ndarray:
    """The target's pixels where they are in the source: (h, w, 4) uint8 RGBA of the map's size, guesses fade."""
    height, width = target.pixels.shape[:2]
    scale = np.array([width, height], np.float32) / np.array(target.size, np.float32)
    x, y = np.moveaxis(((dense.points.numpy() + 0.5) * scale - 0.5).astype(np.float32), -1, 0)
    pixels = cv2.remap(target.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.dstack([pixels, np.rint(255 * np.clip(dense.confidence.numpy() / SURE, 0, 1)).astype(np.uint8)])
