"""One more photo in an alignment that stays as it is."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import load_backbone
from asic3d.best_buddies import Cells, find_best_buddies, pack_cells, propagate
from asic3d.canonical import AFFINE_SCALES, affine_map, place_affine, place_spline, start_affine
from asic3d.collection import Collection, Photo, load_photo
from asic3d.coordinates import photo_cells
from asic3d.correspondences import CanonicalSpace, as_stored, cell_confidence
from asic3d.errors import AlignmentError, CollectionError
from asic3d.features import describe, extract_photo
from asic3d.fitting import OBJECT, match_weights, object_cells
from asic3d.foreground import classify, mask_cells, quantised, sharpen
from asic3d.photo_folder import shown

if TYPE_CHECKING:
    from asic3d.alignment import Alignment


def add_photo(alignment: "Alignment", photo: str | Path | Photo) -> "Alignment":
    """Places a photo by the others, which do not move.

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
        features, valid = _described(alignment, photo)
        probability, mask = _object(alignment, photo, features, valid)
        descriptors = F.normalize(
            (features.flatten(0, 1) - alignment.placing.mean) @ alignment.placing.projection, dim=1
        )
        newest = len(space.descriptors)
        pairs = torch.stack([torch.arange(newest), torch.full((newest,), newest)], 1).to(space.valid.device)
        likely = torch.cat([alignment.foreground, probability[None]])
        cells = pack_cells(object_cells(likely, torch.cat([space.valid, valid.flatten()[None]]).reshape(likely.shape)))
        canonical = _place(alignment, descriptors, probability * valid, likely.flatten(1), cells, pairs)
        everyone = CanonicalSpace(
            descriptors=torch.cat([space.descriptors, descriptors[None]]),
            canonical=torch.cat([space.canonical, canonical[None]]),
            foreground=likely.flatten(1),
            valid=torch.cat([space.valid, valid.flatten()[None]]),
            prior=space.prior,
        )
        shared = propagate(everyone.descriptors, cells, pairs, everyone.canonical, config.sharing_prior)[newest]
        everyone = dataclasses.replace(everyone, descriptors=torch.cat([space.descriptors, as_stored(shared)[None]]))
        confidence = cell_confidence(everyone, cells, pairs)[0][newest]
    grid = space.grid
    collection = alignment.collection
    return dataclasses.replace(
        alignment,
        collection=Collection(collection.root, (*collection.photos, photo), collection.left_out, collection.warnings),
        space=everyone,
        features=torch.cat([alignment.features, as_stored(features.flatten(0, 1))[None]]),
        confidence=torch.cat([alignment.confidence, confidence.reshape(1, grid, grid)]),
        masks=(*alignment.masks, quantised(mask)),
        timings={**alignment.timings, "adding": alignment.timings.get("adding", 0.0) + time.perf_counter() - started},
    )


def _described(alignment: "Alignment", photo: Photo) -> tuple[Tensor, Tensor]:
    """(G, G, C) features of the new photo, centred as the others are, and (G, G) valid cells."""
    device = alignment.space.valid.device
    wishes = alignment.config.backbone_options
    backbone = load_backbone(alignment.backbone, weights=alignment.placing.weights, device=device, wishes=wishes)
    raw = extract_photo(photo, backbone)
    features = describe(raw, alignment.placing.centres, backbone.tap_weights, alignment.space.grid)
    return features, photo_cells(photo.size, alignment.space.grid).to(device)


def _object(alignment: "Alignment", photo: Photo, features: Tensor, valid: Tensor) -> tuple[Tensor, np.ndarray]:
    """(G, G) probability of the object, and its mask."""
    if photo.mask is not None:
        mask = sharpen(photo, valid.float(), alignment.config.sharpening)
        return mask_cells(mask, len(valid)).to(valid.device), mask
    probability = classify(features, valid, alignment.placing.classifier)
    if probability.amax() < OBJECT:  # the classifier sees no object: all of the photo may be it
        probability = valid.float()
    return probability, sharpen(photo, probability, alignment.config.sharpening)


def _place(
    alignment: "Alignment", descriptors: Tensor, probability: Tensor, objects: Tensor, cells: Cells, pairs: Tensor
) -> Tensor:
    """(G * G, 2) float32 canonical coordinates of the new photo's cells."""
    config, space = alignment.config, alignment.space
    both = torch.cat([space.descriptors, descriptors[None]])
    start = start_affine(probability[None])[0]
    affine, canonical = start, None
    for done in range(config.affine_rounds + config.spline_rounds):
        near = None if canonical is None else torch.cat([space.canonical, canonical[None].float()])
        buddies = find_best_buddies(both, cells, pairs, near, config.match_prior)
        if len(buddies) < 3:
            raise AlignmentError("Nothing in the new photo can be matched with the others; is it the same object?")
        weight = match_weights(buddies, objects, config.similarity_power)
        targets = space.canonical[buddies.first, buddies.first_cell].double()
        if done < config.affine_rounds:
            scales = AFFINE_SCALES[min(done, 1)]
            affine = place_affine(buddies.second_cell, targets, weight, start, affine, space.grid, scales)
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
