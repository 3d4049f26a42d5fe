"""What the alignment network is trained on: photos at the working size, masks, parts and best buddies, in batches."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.best_buddies import NOTHING_MATCHES, BestBuddies, Cells, find_best_buddies, pack_cells
from asic3d.collection import Collection
from asic3d.config import AlignmentConfig
from asic3d.coordinates import cell_centres
from asic3d.errors import AlignmentError
from asic3d.features import FeatureMaps, square_images
from asic3d.foreground import Foreground, mask_cells
from asic3d.objective import Batch
from asic3d.parts import find_parts
from asic3d.retrieval import choose_pairs

OBJECT = 0.5
"""Share of a cell or pixel that the mask covers from which it is the object."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """N photos of W x W pixels, and E pairs of them with at most K best buddies each.

    Attributes:
        photos: (N, 3, W, W) float32, sRGB in [0, 1]; the photo's square, padded with its edge pixels.
        masks: (N, 1, W, W) float32 in [0, 1], the object.
        parts: (N, W, W) int64, the part of the object that a pixel belongs to; -1 beside the object.
        pairs: (E, 2) int64, photos, first < second; pairs without a match are left out.
        first: (E, K, 2) float32, the buddies in the first photo, normalised.
        second: (E, K, 2) float32, in the second photo.
        used: (E, K) bool, False for the filling.
        rest: (N, W, W, 2) float32, the maps whose total variation counts as none; None for the identity.
    """

    photos: Tensor
    masks: Tensor
    parts: Tensor
    pairs: Tensor
    first: Tensor
    second: Tensor
    used: Tensor
    rest: Tensor | None = None

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def size(self) -> int:
        """W, the working size."""
        return self.photos.shape[-1]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """Some pairs at random, half of ``batch`` or all, with no photos but theirs.

        Args:
            batch: photos at most.
            generator: on the CPU, so that the draws are the same on every device.

        Returns:
            The batch, and the (B,) int64 indices of its photos.
        """
        chosen = torch.randperm(len(self.pairs), generator=generator)[: max(1, batch // 2)].to(self.pairs.device)
        index, pairs = torch.unique(self.pairs[chosen], return_inverse=True)
        used = self.used[chosen]
        longest = int(used.sum(1).max())  # the filling comes last
        picked = Batch(
            self.photos[index],
            self.masks[index],
            self.parts[index],
            pairs,
            self.first[chosen, :longest],
            self.second[chosen, :longest],
            used[:, :longest],
            rest=None if self.rest is None else self.rest[index],
        )
        return picked, index


def make_training_set(
    collection: Collection,
    maps: FeatureMaps,
    foreground: Foreground,
    config: AlignmentConfig,
    matches: tuple[BestBuddies, Tensor],
    *,
    canonical: Tensor | None = None,
) -> TrainingSet:
    """What the photos give to train on (sections 3.1 and 3.2 of the paper).

    Args:
        collection: N photos.
        maps: their features.
        foreground: their objects.
        config: of it, ``working_size``, ``parts`` and ``seed``.
        matches: best buddies, and the (E, 2) pairs of photos that were matched.
        canonical: (N, G, G, 2), where the cells are known to lie; parts heed it.
    """
    size, device = config.working_size, maps.features.device
    masks = torch.stack([mask_cells(mask, size) for mask in foreground.masks]).to(device)
    objects = foreground.probability * maps.valid
    labels = find_parts(maps.features, objects, config.parts, config.seed, canonical=canonical)
    parts = F.interpolate(labels[:, None].float(), (size, size), mode="nearest")[:, 0].long()
    return TrainingSet(
        torch.cat([square_images(photo.pixels, (size,))[0] for photo in collection]).to(device),
        masks[:, None],
        torch.where(masks > OBJECT, parts, -1),
        *pack_buddies(*matches, maps.grid),
    )


def object_of(maps: FeatureMaps, foreground: Foreground) -> Cells:
    """The cells that the object covers; in a photo that shows hardly any of it, those that it covers most."""
    covered = torch.where(maps.valid, foreground.probability, -1.0)
    return pack_cells(covered >= torch.clamp(covered.amax((1, 2), keepdim=True), max=OBJECT))


def raw_buddies(maps: FeatureMaps, cells: Cells, partners: int, search: str = "exact") -> tuple[BestBuddies, Tensor]:
    """Best buddies by the features alone (section 3.2), and the (E, 2) int64 pairs of photos that were matched.

    Args:
        maps: features of N photos.
        cells: the cells that may be matched.
        partners: as :func:`choose_pairs` has it.
        search: likewise.

    Raises:
        AlignmentError: nothing in the photos can be matched.
    """
    features = maps.features.flatten(1, 2)
    pairs = choose_pairs(features, cells, partners, search)
    buddies = find_best_buddies(features, cells, pairs)
    if len(buddies) < 3:
        raise AlignmentError(NOTHING_MATCHES)
    return buddies, pairs


def pack_buddies(buddies: BestBuddies, pairs: Tensor, grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Best buddies pair by pair: pairs, first, second and used, as :class:`TrainingSet` has them.

    Args:
        buddies: the matches.
        pairs: (E, 2) int64.
        grid: cells along a side.
    """
    count = int(pairs.max()) + 1
    keys = pairs[:, 0] * count + pairs[:, 1]
    row = torch.searchsorted(keys, buddies.first * count + buddies.second)
    sizes = torch.bincount(row, minlength=len(pairs))
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    centres = cell_centres(grid, row.device)
    sides = []
    for cells in (buddies.first_cell, buddies.second_cell):
        side = torch.zeros(len(pairs), int(sizes.max()), 2, device=row.device)
        side[row, place] = centres[cells]
        sides.append(side)
    used = torch.arange(sides[0].shape[1], device=row.device) < sizes[:, None]
    matched = sizes > 0
    return pairs[matched], sides[0][matched], sides[1][matched], used[matched]
