"""Pictures of a canonical grid: the object that all photos share, what they disagree about, and what the maps bend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from asic3d.canonical_grid import CanonicalGrid, MappedPhoto, lay_out_cells

if TYPE_CHECKING:
    from asic3d import Alignment

_FAINT, _SOLID = 0.2, 0.45
"""Probability of the object from which a place shows, and from which it is opaque."""
_BAR = 26  # pixels, height of a scale with its numbers
_MOST_STRETCH = 2.0
_MOST_ANGLE = 60.0


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A figure over the canonical grid.

    Attributes:
        caption: what it shows, for people.
        picture: (R, R, 4) uint8 RGBA.
        low: the value of the darkest colour, as text.
        high: that of the brightest.
    """

    caption: str
    picture: np.ndarray
    low: str
    high: str


def grid_opacity(grid: CanonicalGrid) -> np.ndarray:
    """(R, R) float in [0, 1]: what of the grid is shown."""
    return np.clip((grid.foreground - _FAINT) / (_SOLID - _FAINT), 0, 1)


def grid_picture(grid: CanonicalGrid) -> np.ndarray:
    """The object in the canonical plane: (R, R, 4) uint8 RGBA."""
    return np.rint(np.dstack([grid.colour, grid_opacity(grid)]).clip(0, 1) * 255).astype(np.uint8)


def heat_maps(alignment: "Alignment", grid: CanonicalGrid) -> tuple[HeatMap, ...]:
    """Disagreement of the photos, stretch of areas and change of angles."""
    canonical, distortion = alignment.canonical.cpu(), grid.distortion
    cells = torch.stack([distortion.area.abs().clamp(0.05, 20).log().abs(), distortion.angle], -1)
    laid_out = lay_out_cells(grid, canonical, cells, distortion.weight)
    stretch, angle = np.exp(laid_out[..., 0]), laid_out[..., 1]
    spread = cv2.GaussianBlur(grid.spread, (0, 0), 1.5)
    inside = spread[grid.foreground > 0.5]
    most = max(0.05, float(np.quantile(inside, 0.98)) if len(inside) else 0.0)
    return (
        HeatMap("Where the photos disagree", _heat(grid, spread / most), "0", f"{100 * most:.0f}% of white"),
        HeatMap(
            "Areas stretched or shrunk", _heat(grid, (stretch - 1) / (_MOST_STRETCH - 1)), "1 ×", f"{_MOST_STRETCH:g} ×"
        ),
        HeatMap("Angles changed", _heat(grid, angle / _MOST_ANGLE), "0°", f"{_MOST_ANGLE:g}°"),
    )


def _heat(grid: CanonicalGrid, values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as colours, dark to bright: (R, R, 4) uint8, transparent beside the object."""
    level = np.rint(np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    return np.dstack([colours, np.rint(255 * grid_opacity(grid) * np.isfinite(values)).astype(np.uint8)])


def scale_picture(width: int, height: int) -> np.ndarray:
    """The colours of a heat map from low to high: (height, width, 3) uint8."""
    line = np.rint(np.linspace(0, 255, width)).astype(np.uint8)[None]
    return cv2.cvtColor(cv2.applyColorMap(np.repeat(line, height, 0), cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)


def repainted(grid: CanonicalGrid, photo: MappedPhoto, size: tuple[int, int]) -> np.ndarray:
    """A photo's object painted from the grid, in the photo's own light: (h, w, 4) uint8 RGBA of a (width, height)."""
    painted = grid.reconstruct(photo)
    colours = cv2.resize(painted * _gains(painted, photo), size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(photo.mask, size, interpolation=cv2.INTER_AREA)
    return np.rint(np.dstack([colours, mask]).clip(0, 1) * 255).astype(np.uint8)


def _gains(painted: np.ndarray, photo: MappedPhoto) -> np.ndarray:
    """(3,) by what the painted channels are multiplied to have the photo's means in its mask."""
    inside = photo.mask > 0.5
    if not inside.any():
        return np.ones(3, np.float32)
    return photo.pixels[inside].mean(0) / np.maximum(painted[inside].mean(0), 1e-3)


def heat_map_sheet(maps: Sequence[HeatMap]) -> Image.Image:
    """Heat maps side by side on white, each with its caption and its scale."""
    side, gap = max(len(maps[0].picture), 256), 16
    sheet = Image.new("RGB", (len(maps) * (side + gap) + gap, side + 3 * _BAR + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, heat in enumerate(maps):
        left = gap + number * (side + gap)
        picture = Image.fromarray(heat.picture).resize((side, side), Image.Resampling.BILINEAR)
        draw.text((left, 6), heat.caption, fill="black", font=font)
        sheet.paste(picture, (left, _BAR), picture)
        sheet.paste(Image.fromarray(scale_picture(side, 10)), (left, _BAR + side + 4))
        draw.text((left, _BAR + side + 18), heat.low, fill="black", font=font)
        draw.text((left + side, _BAR + side + 18), heat.high, fill="black", font=font, anchor="ra")
    return sheet
