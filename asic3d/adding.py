"""One more photo in an alignment that stays as it is."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import Backbone, load_backbone
from asic3d.best_buddies import BestBuddies, Cells, find_best_buddies, pack_cells, propagate
from asic3d.canonical import AFFINE_SCALES, affine_map, place_affine, place_spline, start_affine
from asic3d.collection import Collection, Photo, load_photo
from asic3d.coordinates import photo_cells
from asic3d.correspondences import CanonicalSpace, as_stored, cell_confidence
from asic3d.errors import AlignmentError, CollectionError
from asic3d.features import describe, extract_photo
from asic3d.fitting import OBJECT, match_weights, object_cells
from asic3d.foreground import classify, mask_cells, quantised, sharpen
from asic3d.orientations import MIRRORED, UPRIGHT, oriented, pair_support
from asic3d.photo_folder import shown

if TYPE_CHECKING:
    from asic3d.alignment import Alignment


STRANGER = 0.04
"""By what a cell's probability of the object is multiplied where the photo shows something else."""


def add_photo(alignment: "Alignment", photo: str | Path | Photo, *, stranger: bool = False) -> "Alignment":
    """Places a photo by the others, which do not move.

    Args:
        alignment: the photos that are there.
        photo: a file, or a photo.
        stranger: it is known to show something else: it is placed as well as can be, never refused, and its
            correspondences get little confidence.

    Raises:
        CollectionError: the photo can't be used, or one of the same name is there.
        AlignmentError: nothing in it can be matched, or a network maps the photos of this alignment.
    """
    started = time.perf_counter()
    if alignment.config.mapping == "network":
        raise AlignmentError(
            "A photo can't be added here: the network of this alignment was trained on the pixels of its own photos. "
            "Align all photos again, or align them with --preset fast, which takes more photos later."
        )
    if not isinstance(photo, Photo):
        photo = load_photo(photo)
    if photo.name in alignment.names:
        raise CollectionError(f"There is a photo {shown(photo.name)} in this alignment already; rename the new one.")
    config, space = alignment.config, alignment.space
    with torch.no_grad():
        look = _upright(alignment, photo)
        newest = len(space.descriptors)
        try:
            canonical = _place(alignment, look)
        except AlignmentError:
            if not stranger:
                raise
            canonical = affine_map(look.start[None], space.grid)[0].float()
        probability, mask = look.probability, look.mask
        if stranger:
            probability = probability * STRANGER
        everyone = CanonicalSpace(
            descriptors=torch.cat([space.descriptors, look.descriptors[None]]),
            canonical=torch.cat([space.canonical, canonical[None]]),
            foreground=torch.cat([space.foreground, probability.flatten()[None]]),
            valid=torch.cat([space.valid, look.valid.flatten()[None]]),
            prior=space.prior,
            learned=space.learned,
        )
        shared = propagate(everyone.descriptors, look.cells, look.pairs, everyone.canonical, config.sharing_prior)
        stored = as_stored(shared[newest])
        everyone = dataclasses.replace(everyone, descriptors=torch.cat([space.descriptors, stored[None]]))
        confidence = cell_confidence(everyone, look.cells, look.pairs)[0][newest]
    grid = space.grid
    collection = alignment.collection
    return dataclasses.replace(
        alignment,
        collection=Collection(collection.root, (*collection.photos, photo), collection.left_out, collection.warnings),
        space=everyone,
        features=torch.cat([alignment.features, as_stored(look.features.flatten(0, 1))[None]]),
        confidence=torch.cat([alignment.confidence, confidence.reshape(1, grid, grid)]),
        masks=(*alignment.masks, quantised(mask)),
        turns=(*alignment.turns, look.turns),
        mirrored=(*alignment.mirrored, look.mirrored),
        outliers=(*alignment.outliers, photo.name) if stranger else alignment.outliers,
        timings={**alignment.timings, "adding": alignment.timings.get("adding", 0.0) + time.perf_counter() - started},
    )


@dataclass(frozen=True, eq=False)
class _Look:
    """The new photo, described as it stands when turned by some quarters, and its matches with all others.

    Attributes:
        turns: quarters by which it is turned counter-clockwise.
        mirrored: whether it faces the other way.
        features: (G, G, C) float32.
        valid: (G, G) bool.
        descriptors: (G * G, D) float32, unit length.
        probability: (G, G) float32, of the object.
        mask: the object in the photo.
        cells: the object cells of all photos, the new one last.
        pairs: (N, 2) int64, every other photo with it.
        buddies: the matches by cosine.
        start: (3, 2) float64, its upright map.
        support: weight of the matches that agree with the others' places.
    """

    turns: int
    mirrored: bool
    features: Tensor
    valid: Tensor
    descriptors: Tensor
    probability: Tensor
    mask: np.ndarray
    cells: Cells
    pairs: Tensor
    buddies: BestBuddies
    start: Tensor
    support: float


def _upright(alignment: "Alignment", photo: Photo) -> _Look:
    """The photo in the orientation that the other photos agree on."""
    device = alignment.space.valid.device
    wishes = alignment.config.backbone_options
    backbone = load_backbone(alignment.backbone, weights=alignment.placing.weights, device=device, wishes=wishes)
    quarters = range(4) if alignment.config.turns else range(1)
    looks = [_looked_at(alignment, photo, backbone, turns) for turns in quarters]
    return max(looks, key=lambda look: look.support * (UPRIGHT if look.turns == 0 else 1.0))


def _looked_at(alignment: "Alignment", photo: Photo, backbone: Backbone, turns: int) -> _Look:
    space, placing, config = alignment.space, alignment.placing, alignment.config
    raw = extract_photo(photo, backbone, turns=turns)
    features = describe(raw, placing.centres, backbone.tap_weights, space.grid)
    valid = photo_cells(photo.size, space.grid).to(space.valid.device)
    probability, mask = _object(alignment, photo, features, valid)
    descriptors = F.normalize((features.flatten(0, 1) - placing.mean) @ placing.projection, dim=1)
    newest = len(space.descriptors)
    pairs = torch.stack([torch.arange(newest), torch.full((newest,), newest)], 1).to(space.valid.device)
    likely = torch.cat([alignment.foreground, probability[None]])
    everywhere = torch.cat([space.valid, valid.flatten()[None]]).reshape(likely.shape)
    cells = pack_cells(object_cells(likely, everywhere))
    buddies = find_best_buddies(torch.cat([space.descriptors, descriptors[None]]), cells, pairs)
    weight = match_weights(buddies, likely.flatten(1), config.similarity_power)
    start = oriented(start_affine((probability * valid)[None]), torch.tensor([turns]))
    place = torch.cat([space.canonical.double(), affine_map(start, space.grid)])
    ways = (0, MIRRORED) if config.flips else (0,)
    support = pair_support(buddies, weight, place, pairs, ways).sum(0)
    mirrored = int(support.argmax())
    start = oriented(start, torch.tensor([ways[mirrored]]))[0]
    best = float(support[mirrored])
    return _Look(
        turns, mirrored == 1, features, valid, descriptors, probability, mask, cells, pairs, buddies, start, best
    )


def _object(alignment: "Alignment", photo: Photo, features: Tensor, valid: Tensor) -> tuple[Tensor, np.ndarray]:
    """(G, G) probability of the object, and its mask."""
    if photo.mask is not None:
        mask = sharpen(photo, valid.float(), alignment.config.sharpening)
        return mask_cells(mask, len(valid)).to(valid.device), mask
    probability = classify(features, valid, alignment.placing.classifier)
    if probability.amax() < OBJECT:  # the classifier sees no object: all of the photo may be it
        probability = valid.float()
    return probability, sharpen(photo, probability, alignment.config.sharpening)


def _place(alignment: "Alignment", look: _Look) -> Tensor:
    """(G * G, 2) float32 canonical coordinates of the new photo's cells."""
    config, space = alignment.config, alignment.space
    both = torch.cat([space.descriptors, look.descriptors[None]])
    objects = torch.cat([space.foreground, look.probability.flatten()[None]])
    affine, canonical = look.start, None
    for done in range(config.affine_rounds + config.spline_rounds):
        near = None if canonical is None else torch.cat([space.canonical, canonical[None].float()])
        buddies = (
            look.buddies if near is None else find_best_buddies(both, look.cells, look.pairs, near, config.match_prior)
        )
        if len(buddies) < 3:
            raise AlignmentError("Nothing in the new photo can be matched with the others; is it the same object?")
        weight = match_weights(buddies, objects, config.similarity_power)
        targets = space.canonical[buddies.first, buddies.first_cell].double()
        if done < config.affine_rounds:
            scales = AFFINE_SCALES[min(done, 1)]
            affine = place_affine(buddies.second_cell, targets, weight, look.start, affine, space.grid, scales)
            canonical = affine_map(affine[None], space.grid)[0]
        else:
            base = affine_map(affine[None], space.grid)[0]
            canonical = place_spline(
                buddies.second_cell,
                targets,
                weight,
                base,
                base if canonical is None else canonical,
                control_points=config.control_points,
                bending=config.bending,
            )
    assert canonical is not None, "there is at least one affine round"
    return canonical.float()
