"""Coarse matches between photos from a network's features: where flow starts, and which pairs are worth it."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import EMBEDDED, Backbone, load_backbone
from asic3d.collection import Photo
from asic3d.coordinates import cell_centres, grid_to_normalised, normalised_to_pixels, photo_cells  # noqa: F401
from asic3d.features import describe, extract_photo, principal_axes, tap_centres
from asic3d_integrations.colmap.flow import agreeing

GRID = 64
"""Cells along one side of a photo's square."""
_CHANNELS = 160
_SMOOTH = (0.025, 0.015)
"""How far a match's displacement may be from its neighbours', of the photo's longer side."""
FEWEST = 25
"""Matches that agree with their neighbours, below which a pair is hopeless."""

Matches = tuple[np.ndarray, np.ndarray]
"""(M, 2) float64 each: pixels of the first and of the second photo."""


def coarse_backbone(device: torch.device | str = "cpu") -> Backbone:
    """The embedded network, read where it still knows places from each other: finer than for an alignment."""
    return load_backbone(EMBEDDED, device=device, sides=(512,), blocks=(4, 10, 15), tap_weights=(1.0, 1.0, 1.0))


def describe_photos(photos: Sequence[Photo], backbone: Backbone) -> Tensor:
    """(N, G * G, C) float32, unit length: what the network sees in each cell of each photo and its neighbours."""
    raw = [extract_photo(photo, backbone) for photo in photos]
    centres = tap_centres(raw)
    maps = torch.stack([describe(one, centres, backbone.tap_weights, GRID) for one in raw])
    axes, mean = principal_axes(maps.flatten(0, 2)[:: max(1, maps[..., 0].numel() // 20000)])
    reduced = ((maps - mean) @ axes[:, :_CHANNELS]).permute(0, 3, 1, 2)
    smooth = F.avg_pool2d(F.pad(reduced, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return F.normalize(smooth, dim=1).permute(0, 2, 3, 1).flatten(1, 2)


def used_cells(photo: Photo, mask: np.ndarray) -> Tensor:
    """(K,) int64: the cells of a photo that lie on its mask, (h, w) uint8."""
    height, width = mask.shape
    centres = normalised_to_pixels(cell_centres(GRID), (width, height)).round().long()
    x, y = centres[:, 0].clamp(0, width - 1), centres[:, 1].clamp(0, height - 1)
    inside = photo_cells((width, height), GRID).flatten()
    return (inside & (torch.from_numpy(mask)[y, x] > 0)).nonzero()[:, 0]


def coarse_matches(
    photos: Sequence[Photo], masks: Sequence[np.ndarray], backbone: Backbone
) -> dict[tuple[int, int], Matches]:
    """Mutual nearest neighbours that move as their neighbours do, for all pairs that have enough of them.

    Args:
        photos: N photos; their ``pixels`` are what is looked at.
        masks: (h, w) uint8 for each, of the shape of its pixels; 0 = not the object.
        backbone: the network.

    Returns:
        (i, j) with i < j -> matches in working pixels.
    """
    described = describe_photos(photos, backbone)
    cells = [used_cells(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    places = [
        normalised_to_pixels(cell_centres(GRID).double(), mask.shape[::-1]).numpy()  # type: ignore[arg-type]
        for mask in masks
    ]
    found = {}
    for j in range(len(photos)):
        for i in range(j):
            a, b = _mutual(described[i][cells[i]], described[j][cells[j]])
            first, second = places[i][cells[i][a]], places[j][cells[j][b]]
            # The grid is coarse: what is smooth depends on its cell, not on the photo's pixels.
            side = max(*masks[i].shape, *masks[j].shape)
            kept = agreeing(first, second, tuple(share * side for share in _SMOOTH))
            if len(kept) >= FEWEST:
                found[i, j] = first[kept], second[kept]
    return dict(sorted(found.items()))


def _mutual(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if not len(one) or not len(other):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    similarity = one @ other.T
    forth, back = similarity.argmax(1), similarity.argmax(0)
    mutual = (back[forth] == torch.arange(len(one), device=forth.device)).nonzero()[:, 0]
    return mutual.cpu(), forth[mutual].cpu()


def promising_pairs(matches: dict[tuple[int, int], Matches], partners: int) -> list[tuple[int, int]]:
    """The pairs that are among the ``partners`` best supported ones of either photo, in order."""
    best: dict[int, list[tuple[int, tuple[int, int]]]] = {}
    for pair, (first, _) in matches.items():
        for photo in pair:
            best.setdefault(photo, []).append((-len(first), pair))
    return sorted({pair for ranked in best.values() for _, pair in sorted(ranked)[:partners]})
