"""The paper's objective: six terms, weighed as the settings say, of one batch of photos and their maps."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.config import AlignmentConfig
from asic3d.coordinates import cell_centres
from asic3d.losses import (
    RENDERED_SIDE,
    Distance,
    contrastive_loss,
    equivariance_loss,
    mask_loss,
    parts_loss,
    reconstruction_loss,
    sample_grid,
    sample_map,
    total_variation_loss,
)
from asic3d.warps import WarpedPhotos

TERMS = ("contrastive", "smoothness", "parts", "equivariance", "reconstruction", "mask")
"""The six terms; the setting ``weight_NAME`` weighs each."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one iteration sees of B photos, all square, and of P pairs among them.

    Attributes:
        photos: (B, 3, H, H), sRGB in [0, 1].
        masks: (B, 1, H, H) in [0, 1], the object.
        parts: (B, H, H) int64, the part of the object that each pixel shows; -1 for none.
        pairs: (P, 2) int64, which photos of the batch are matched.
        first: (P, K, 2), normalised, best buddies in the first photo of each pair.
        second: (P, K, 2), normalised, their partners in the second.
        used: (P, K) bool; the other entries are padding.
        warped: the same photos in other shapes and colours; None where equivariance is not asked for.
        rest: (B, H, H, 2), the maps whose total variation counts as none; None for the identity.
    """

    photos: Tensor
    masks: Tensor
    parts: Tensor
    pairs: Tensor
    first: Tensor
    second: Tensor
    used: Tensor
    warped: WarpedPhotos | None = None
    rest: Tensor | None = None


def map_both(network: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The maps of the photos and of the warped photos, (B, H, H, 2) each, in one pass of the network."""
    if batch.warped is None:
        return network(batch.photos), None
    both = network(torch.cat([batch.photos, batch.warped.photos]))
    return both[: len(batch.photos)], both[len(batch.photos) :]


def objective(
    batch: Batch,
    canonical: Tensor,
    canonical_of_warped: Tensor | None,
    grid: Tensor | None,
    config: AlignmentConfig,
    distance: Distance | None = None,
) -> dict[str, Tensor]:
    """The terms and their weighted sum. A term of weight 0 is not computed.

    With warped photos, reconstruction and mask are means over both passes, as in the paper.

    Args:
        batch: the photos and what is known of them.
        canonical: (B, H, H, 2), their map.
        canonical_of_warped: (B, H, H, 2), the map of the warped photos; None where there are none.
        grid: (4, R, R), the canonical grid; None where neither reconstruction nor mask has a weight.
        config: has the weights and the temperature.
        distance: compares the reconstruction with the photos; None where that has no weight.

    Returns:
        Every name in :data:`TERMS`, unweighted, 0 where its weight is 0, and ``total``: scalars.
    """
    weights = {name: getattr(config, f"weight_{name}") for name in TERMS}
    found = dict.fromkeys(TERMS, canonical.new_zeros(()))
    if weights["contrastive"]:
        matched = canonical.index_select(0, batch.pairs.T.flatten())
        first, second = sample_map(matched, torch.cat([batch.first, batch.second])).chunk(2)
        found["contrastive"] = contrastive_loss(first, second, batch.used, temperature=config.temperature)
    if weights["smoothness"]:
        rest = _identity(canonical) if batch.rest is None else batch.rest
        found["smoothness"] = total_variation_loss(canonical - rest)
    if weights["parts"]:
        found["parts"] = parts_loss(canonical, batch.parts, config.parts)
    if weights["equivariance"]:
        assert batch.warped is not None and canonical_of_warped is not None
        inside = batch.warped.masks[:, 0] > 0.5
        found["equivariance"] = equivariance_loss(canonical, canonical_of_warped, batch.warped.warp, inside)
    if weights["reconstruction"] or weights["mask"]:
        assert grid is not None
        view = _render(batch, canonical, canonical_of_warped, grid)
        if weights["reconstruction"]:
            assert distance is not None
            found["reconstruction"] = reconstruction_loss(view.photos, view.rendered[:, :3], view.masks, distance)
        if weights["mask"]:
            found["mask"] = mask_loss(view.rendered[:, 3], view.masks[:, 0])
    total = torch.stack([weights[name] * found[name] for name in TERMS if weights[name]] or [found["mask"]]).sum()
    return {**found, "total": total}


def _identity(canonical: Tensor) -> Tensor:
    """(H, H, 2): every pixel's own place."""
    side = canonical.shape[1]
    return cell_centres(side, canonical.device).to(canonical.dtype).reshape(side, side, 2)


@dataclass(frozen=True, eq=False)
class _View:
    """Photos (B, 3, h, h), masks (B, 1, h, h) and the grid as they see it (B, 4, h, h), of both passes."""

    photos: Tensor
    masks: Tensor
    rendered: Tensor


def _render(batch: Batch, canonical: Tensor, canonical_of_warped: Tensor | None, grid: Tensor) -> _View:
    photos, masks, maps = batch.photos, batch.masks, canonical
    if batch.warped is not None and canonical_of_warped is not None:
        photos = torch.cat([photos, batch.warped.photos])
        masks = torch.cat([masks, batch.warped.masks])
        maps = torch.cat([maps, canonical_of_warped])
    maps = _reduced(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return _View(_reduced(photos), _reduced(masks), sample_grid(grid, maps))


def _reduced(images: Tensor) -> Tensor:
    """(B, C, H, H) at the side at which they are compared: means over areas."""
    side = images.shape[-1]
    return images if side <= RENDERED_SIDE else F.interpolate(images, size=(RENDERED_SIDE, RENDERED_SIDE), mode="area")
