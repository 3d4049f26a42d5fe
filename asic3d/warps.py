"""Random warps and colours of photos, under which the map into the canonical space shall not change.

Every draw comes from the generator that is handed in, on the generator's device: with one on the CPU the draws are the
same wherever the photos are.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.coordinates import cell_centres

_ANCHORS = ((-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (0.0, 0.0))  # control points: corners and middle
_JITTER_SHARE = 0.8  # of the photos whose brightness, contrast, saturation and hue change
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.4, 0.4, 0.2, 0.1  # largest changes; hue in turns
_GRAY_SHARE = 0.2  # of the photos that lose their colours
_SOLARISED_SHARE = 0.2  # of the photos whose bright half is inverted
_LUMA = (0.299, 0.587, 0.114)
# From RGB to luma and two colour differences (YIQ): a change of hue turns the latter.
_YIQ = (_LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(frozen=True, eq=False)
class WarpedPhotos:
    """Photos in other shapes and colours.

    Attributes:
        warp: (B, H, W, 2), where each pixel was taken from, normalised coordinates of the photo.
        photos: (B, 3, H, W), sRGB in [0, 1]; beyond the photo its border goes on.
        masks: (B, 1, H, W) in [0, 1]; 0 beyond the photo.
    """

    warp: Tensor
    photos: Tensor
    masks: Tensor


@torch.no_grad()
def warp_photos(photos: Tensor, masks: Tensor, *, scale: float, generator: torch.Generator) -> WarpedPhotos:
    """Warps each photo by a thin-plate spline of its own and changes its colours.

    Args:
        photos: (B, 3, H, H), sRGB in [0, 1].
        masks: (B, 1, H, H) in [0, 1].
        scale: as :func:`random_warps` has it.
        generator: makes every draw.
    """
    warp = random_warps(len(photos), photos.shape[-1], scale=scale, generator=generator).to(photos)
    both = F.grid_sample(torch.cat([photos, masks], 1), warp, padding_mode="border", align_corners=False)
    inside = (warp.abs() <= 1).all(-1)[:, None]
    return WarpedPhotos(warp, colour_jitter(both[:, :3], generator), both[:, 3:] * inside)


def random_warps(count: int, size: int, *, scale: float, generator: torch.Generator) -> Tensor:
    """Sampling grids of random thin-plate splines.

    The spline that moves the corners and the middle of the square at random gives, for each pixel of the WARPED photo,
    the place in the photo where it comes from: what sampling needs, without inverting anything.

    Args:
        count: B.
        size: H, side in pixels.
        scale: the five points move by up to this much, in x and in y, evenly distributed; the square is [-1, 1]^2.
        generator: makes the draws.

    Returns:
        (B, H, H, 2) float32 normalised, on the generator's device.
    """
    draws = torch.rand(count, len(_ANCHORS), 2, generator=generator, device=generator.device)
    moved = _influence(size, generator.device) @ (scale * (2 * draws - 1))
    return (cell_centres(size, generator.device) + moved).reshape(count, size, size, 2)


@lru_cache(maxsize=4)
def _influence(size: int, device: torch.device) -> Tensor:
    """(H * H, 5) float32: how far each pixel follows each of the five points.

    A thin-plate spline through fixed points is linear in where they are moved to: the system, which depends on the
    points alone, is solved once, and a warp is one small matrix product.
    """
    anchors = torch.tensor(_ANCHORS, dtype=torch.float64)
    count = len(anchors)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count, :count] = _bending_kernel(anchors, anchors)
    system[:count, count:] = F.pad(anchors, (1, 0), value=1.0)
    system[count:, :count] = system[:count, count:].T
    pixels = cell_centres(size).double()
    terms = torch.cat([_bending_kernel(pixels, anchors), F.pad(pixels, (1, 0), value=1.0)], 1)
    return (terms @ torch.linalg.inv(system)[:, :count]).float().to(device)


def _bending_kernel(points: Tensor, anchors: Tensor) -> Tensor:
    """(n, 2) and (m, 2) to (n, m): r^2 log r^2, the kernel of thin plates."""
    squared = (points[:, None] - anchors).square().sum(2)
    return torch.xlogy(squared, squared)


@torch.no_grad()
def colour_jitter(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Changes each photo's brightness, contrast, saturation and hue; makes some gray, and solarises some.

    All but the last are affine in a pixel's colour: one matrix for each photo does them at once. Colours that leave
    [0, 1] are cut off once, at the end.

    Args:
        photos: (B, 3, H, W), sRGB in [0, 1].
        generator: makes the draws.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    draws = torch.rand(len(photos), 8, generator=generator, device=generator.device).to(photos)
    matrix, brightness, contrast = _colour_matrices(draws)
    gray = brightness * (photos.mean((2, 3)) @ photos.new_tensor(_LUMA))[:, None]  # saturation and hue leave it
    offset = ((1 - contrast) * gray)[..., None]  # contrast moves colours away from the photo's mean gray
    changed = torch.baddbmm(offset, (contrast * brightness)[..., None] * matrix, photos.flatten(2))
    changed = changed.clamp_(0, 1).reshape(photos.shape)
    threshold = torch.where(draws[:, 6] < _SOLARISED_SHARE, 0.4 + 0.2 * draws[:, 7], 2.0)
    return torch.where(changed >= threshold[:, None, None, None], 1 - changed, changed)


def _colour_matrices(draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 8) in [0, 1) to matrices (B, 3, 3) of saturation and hue, and factors (B, 1) of brightness and contrast."""
    limits = draws.new_tensor([_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE])
    change = (2 * draws[:, :4] - 1) * limits * (draws[:, 4:5] < _JITTER_SHARE)
    brightness, contrast, saturation, hue = change.split(1, 1)
    saturation = torch.where(draws[:, 5:6] < _GRAY_SHARE, 0.0, 1 + saturation)
    cosine, sine = saturation * (2 * torch.pi * hue).cos(), saturation * (2 * torch.pi * hue).sin()
    one, none = torch.ones_like(hue), torch.zeros_like(hue)
    turn = torch.cat([one, none, none, none, cosine, -sine, none, sine, cosine], 1).reshape(-1, 3, 3)
    to_yiq = draws.new_tensor(_YIQ)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq, 1 + brightness, 1 + contrast
