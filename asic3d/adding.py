"""More photos in an alignment that stays as it is."""

import dataclasses
import time
from collections.abc import Sequence
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
from asic3d.collection import Photo, load_photo
from asic3d.config import Progress, ProgressCallback
from asic3d.coordinates import photo_cells
from asic3d.correspondences import as_stored, cell_confidence
from asic3d.errors import AlignmentError, CollectionError
from asic3d.features import describe, extract_photo
from asic3d.fitting import OBJECT, match_weights, object_cells
from asic3d.foreground import classify, mask_cells, quantised, sharpen
from asic3d.judgement import (
    Further,
    agreeing,
    enlarged_quality,
    fit_warnings,
    object_warnings,
    photo_fits,
    standing_warnings,
)
from asic3d.orientations import MIRRORED, UPRIGHT, oriented, pair_support
from asic3d.photo_folder import shown

if TYPE_CHECKING:
    from asic3d.alignment import Alignment


STRANGER = 0.04
"""By what a cell's probability of the object is multiplied where the photo shows something else."""


def add_photos(
    alignment: "Alignment",
    photos: Sequence[str | Path | Photo],
    *,
    stranger: bool = False,
    progress: ProgressCallback | None = None,
) -> "Alignment":
    """Places photos by the others, which do not move.

    Args:
        alignment: the photos that are there.
        photos: files, or photos.
        stranger: they are known to show something else: they are placed as well as can be, never refused, and their
            correspondences get little confidence.
        progress: called with the stage ``adding`` after each photo.

    Raises:
        CollectionError: a photo can't be used, or one of the same name is there.
        AlignmentError: nothing in a photo can be matched, or a network maps the photos of this alignment.
    """
    started = time.perf_counter()
    if alignment.config.mapping == "network":
        raise AlignmentError(
            "A photo can't be added here: the network of this alignment was trained on the pixels of its own photos. "
            "Align all photos again, or align them with --preset fast, which takes more photos later."
        )
    loaded = _loaded(alignment, photos)
    if not loaded:
        return alignment
    device, wishes = alignment.space.valid.device, alignment.config.backbone_options
    backbone = load_backbone(alignment.backbone, weights=alignment.placing.weights, device=device, wishes=wishes)
    before = alignment.timings.get("adding", 0.0)
    with torch.no_grad():
        for number, photo in enumerate(loaded, 1):
            alignment = _with_photo(alignment, photo, backbone, stranger)
            if progress is not None:
                progress(Progress("adding", number, len(loaded)))
    return dataclasses.replace(
        alignment, timings={**alignment.timings, "adding": before + time.perf_counter() - started}
    )


def _loaded(alignment: "Alignment", photos: Sequence[str | Path | Photo]) -> list[Photo]:
    """All photos, before any work is done for one."""
    loaded: list[Photo] = []
    for photo in photos:
        found = photo if isinstance(photo, Photo) else load_photo(photo)
        if found.name in alignment.names:
            raise CollectionError(
                f"There is a photo {shown(found.name)} in this alignment already; rename the new one."
            )
        if found.name in [other.name for other in loaded]:
            raise CollectionError(f"Two of the new photos are called {shown(found.name)}; rename one.")
        loaded.append(found)
    return loaded


def _with_photo(alignment: "Alignment", photo: Photo, backbone: Backbone, stranger: bool) -> "Alignment":
    """The alignment with one more photo, its figures and its warnings."""
    config, space = alignment.config, alignment.space
    look = _upright(alignment, photo, backbone)
    newest = len(space.descriptors)
    try:
        canonical = _place(alignment, look, photo.name)
    except AlignmentError:
        if not stranger:
            raise
        canonical = affine_map(look.start[None], space.grid)[0].float()
    probability = look.probability * (STRANGER if stranger else 1.0)
    everyone = dataclasses.replace(
        space,
        descriptors=torch.cat([space.descriptors, look.descriptors[None]]),
        canonical=torch.cat([space.canonical, canonical[None]]),
        foreground=torch.cat([space.foreground, probability.flatten()[None]]),
        valid=torch.cat([space.valid, look.valid.flatten()[None]]),
    )
    shared = propagate(everyone.descriptors, look.cells, look.pairs, everyone.canonical, config.sharing_prior)
    stored = as_stored(shared[newest])
    everyone = dataclasses.replace(everyone, descriptors=torch.cat([space.descriptors, stored[None]]))
    confidence, by_pair = cell_confidence(everyone, look.cells, look.pairs)
    enlarged = dataclasses.replace(
        alignment,
        collection=alignment.collection.with_photo(photo),
        space=everyone,
        features=torch.cat([alignment.features, as_stored(look.features.flatten(0, 1))[None]]),
        confidence=torch.cat([alignment.confidence, confidence[newest].reshape(1, space.grid, space.grid)]),
        masks=(*alignment.masks, quantised(look.mask)),
        turns=(*alignment.turns, look.turns),
        mirrored=(*alignment.mirrored, look.mirrored),
        outliers=(*alignment.outliers, photo.name) if stranger else alignment.outliers,
    )
    return enlarged if stranger else _judged_again(alignment, enlarged, look, by_pair)


def _judged_again(before: "Alignment", after: "Alignment", look: "_Look", by_pair: Tensor) -> "Alignment":
    """The enlarged alignment with the figures and the warnings of all its photos."""
    config, space, count = after.config, after.space, len(look.pairs)
    buddies = find_best_buddies(space.descriptors, look.few, look.pairs, space.canonical, config.match_prior)
    agreeing_matches = int(agreeing(buddies, space.canonical).sum())
    further = Further(count, float(by_pair.sum()), len(buddies), agreeing_matches)
    stale, names, fits = set(fit_warnings(*_fitted(before))), *_fitted(after)
    warnings = (
        *(sentence for sentence in before.warnings if sentence not in stale),
        *fit_warnings(names, fits),
        *object_warnings(after.names, [len(after.names) - 1] if look.whole else []),
        *standing_warnings(after.names[-1:], [look.turns], [look.mirrored]),
    )
    return dataclasses.replace(
        after,
        quality=enlarged_quality(before.quality, before.pairs, further, fits),
        pairs=before.pairs + count,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _fitted(alignment: "Alignment") -> tuple[list[str], Tensor]:
    """Names and fits of the photos that are not known to show something else."""
    kept = [index for index, name in enumerate(alignment.names) if name not in alignment.outliers]
    fits = photo_fits(alignment.confidence.flatten(1), alignment.space.foreground)
    return [alignment.names[index] for index in kept], fits[kept]


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
        whole: whether no object was found and all of it is taken for one.
        cells: the object cells of all photos, the new one last.
        few: every second one of them, as matches are counted.
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
    whole: bool
    cells: Cells
    few: Cells
    pairs: Tensor
    buddies: BestBuddies
    start: Tensor
    support: float


def _upright(alignment: "Alignment", photo: Photo, backbone: Backbone) -> _Look:
    """The photo in the orientation that the other photos agree on."""
    quarters = range(4) if alignment.config.turns else range(1)
    looks = [_looked_at(alignment, photo, backbone, turns) for turns in quarters]
    return max(looks, key=lambda look: look.support * (UPRIGHT if look.turns == 0 else 1.0))


def _looked_at(alignment: "Alignment", photo: Photo, backbone: Backbone, turns: int) -> _Look:
    space, placing, config = alignment.space, alignment.placing, alignment.config
    raw = extract_photo(photo, backbone, turns=turns)
    features = describe(raw, placing.centres, backbone.tap_weights, space.grid)
    valid = photo_cells(photo.size, space.grid).to(space.valid.device)
    probability, mask, whole = _object(alignment, photo, features, valid)
    descriptors = F.normalize((features.flatten(0, 1) - placing.mean) @ placing.projection, dim=1)
    newest = len(space.descriptors)
    pairs = torch.stack([torch.arange(newest), torch.full((newest,), newest)], 1).to(space.valid.device)
    likely = torch.cat([alignment.foreground, probability[None]])
    everywhere = torch.cat([space.valid, valid.flatten()[None]]).reshape(likely.shape)
    objects = object_cells(likely, everywhere)
    cells = pack_cells(objects)
    line = torch.arange(space.grid, device=objects.device)
    few = pack_cells(objects & ((line[:, None] + line) % 2 == 0))  # a chessboard, as in the fit
    buddies = find_best_buddies(torch.cat([space.descriptors, descriptors[None]]), cells, pairs)
    weight = match_weights(buddies, likely.flatten(1), config.similarity_power)
    start = oriented(start_affine((probability * valid)[None]), torch.tensor([turns]))
    place = torch.cat([space.canonical.double(), affine_map(start, space.grid)])
    ways = (0, MIRRORED) if config.flips else (0,)
    support = pair_support(buddies, weight, place, pairs, ways).sum(0)
    mirrored = int(support.argmax())
    start = oriented(start, torch.tensor([ways[mirrored]]))[0]
    return _Look(
        turns=turns,
        mirrored=mirrored == 1,
        features=features,
        valid=valid,
        descriptors=descriptors,
        probability=probability,
        mask=mask,
        whole=whole,
        cells=cells,
        few=few,
        pairs=pairs,
        buddies=buddies,
        start=start,
        support=float(support[mirrored]),
    )


def _object(alignment: "Alignment", photo: Photo, features: Tensor, valid: Tensor) -> tuple[Tensor, np.ndarray, bool]:
    """(G, G) probability of the object, its mask, and whether all of the photo is taken for it: none was found."""
    if photo.mask is not None:
        mask = sharpen(photo, valid.float(), alignment.config.sharpening)
        return mask_cells(mask, len(valid)).to(valid.device), mask, False
    probability = classify(features, valid, alignment.placing.classifier)
    whole = bool(probability.amax() < OBJECT)  # the classifier sees no object: all of the photo may be it
    if whole:
        probability = valid.float()
    return probability, sharpen(photo, probability, alignment.config.sharpening), whole


def _place(alignment: "Alignment", look: _Look, name: str) -> Tensor:
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
            raise AlignmentError(f"Nothing in {shown(name)} can be matched with the others; is it the same object?")
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
