"""A photo that is new to an alignment: how it stands, what it shows, and where the other photos place it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import Backbone
from asic3d.best_buddies import BestBuddies, Cells, find_best_buddies, pack_cells
from asic3d.canonical import AFFINE_SCALES, affine_map, place_affine, place_spline, start_affine
from asic3d.collection import Photo
from asic3d.content import first_of_picture
from asic3d.coordinates import photo_cells
from asic3d.errors import AlignmentError
from asic3d.features import describe, extract_photo
from asic3d.fitting import OBJECT, chessboard, match_weights, object_cells
from asic3d.foreground import classify, mask_cells, sharpen
from asic3d.orientations import MIRRORED, UPRIGHT, oriented, pair_support, photo_support
from asic3d.photo_folder import shown

if TYPE_CHECKING:
    from asic3d.alignment import Alignment

_WITNESSES = 12  # photos by which the usual support is measured


@dataclass(frozen=True, eq=False)
class NewPhoto:
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
        pairs: (E, 2) int64, every other photo with it, but for those that show something else.
        buddies: the matches by cosine.
        start: (3, 2) float64, its upright map.
        support: weight of the matches that agree with the others' places.
        kinship: that of the second best pair, for the size of the objects, as photo_support has it.
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
    kinship: float


def look_at(alignment: "Alignment", photo: Photo, backbone: Backbone) -> NewPhoto:
    """The photo in the orientation that the other photos agree on."""
    quarters = range(4) if alignment.config.turns else range(1)
    looks = [_looked_at(alignment, photo, backbone, turns) for turns in quarters]
    best = max(looks, key=lambda look: look.support * (UPRIGHT if look.turns == 0 else 1.0))
    return _looked_at(alignment, photo, backbone, best.turns, mirrored=True) if best.mirrored else best


def _looked_at(
    alignment: "Alignment", photo: Photo, backbone: Backbone, turns: int, *, mirrored: bool = False
) -> NewPhoto:
    """The photo turned: as it is, with a hint whether it faces the other way, or described mirrored for good."""
    space, placing, config = alignment.space, alignment.placing, alignment.config
    raw = extract_photo(photo, backbone, turns=turns, mirrored=mirrored)
    features = describe(raw, placing.centres, backbone.tap_weights, space.grid)
    valid = photo_cells(photo.size, space.grid).to(space.valid.device)
    probability, mask, whole = _object(alignment, photo, features, valid)
    descriptors = F.normalize((features.flatten(0, 1) - placing.mean) @ placing.projection, dim=1)
    newest = len(space.descriptors)
    partners = torch.tensor(fitted(alignment) or range(newest))
    pairs = torch.stack([partners, torch.full_like(partners, newest)], 1).to(space.valid.device)
    likely = torch.cat([alignment.foreground, probability[None]])
    everywhere = torch.cat([space.valid, valid.flatten()[None]]).reshape(likely.shape)
    objects = object_cells(likely, everywhere)
    cells = pack_cells(objects)
    few = pack_cells(chessboard(objects))
    buddies = find_best_buddies(torch.cat([space.descriptors, descriptors[None]]), cells, pairs)
    weight = match_weights(buddies, likely.flatten(1), config.similarity_power)
    start = oriented(start_affine((probability * valid)[None]), torch.tensor([turns]))
    place = torch.cat([space.canonical.double(), affine_map(start, space.grid)])
    ways = (MIRRORED,) if mirrored else (0, MIRRORED) if config.flips else (0,)
    support = pair_support(buddies, weight, place, pairs, ways)
    way = int(support.sum(0).argmax())
    start = oriented(start, torch.tensor([ways[way]]))[0]
    return NewPhoto(
        turns=turns,
        mirrored=ways[way] == MIRRORED,
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
        support=float(support[:, way].sum()),
        kinship=float(photo_support(support[:, way], pairs, likely.flatten(1).sum(1))[-1]),
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


def placed(alignment: "Alignment", look: NewPhoto, name: str) -> Tensor:
    """(G * G, 2) float32 canonical coordinates of the new photo's cells.

    Raises:
        AlignmentError: nothing in it can be matched; the photo is called by the name.
    """
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


def fitted(alignment: "Alignment") -> list[int]:
    """The photos that are not known to show something else, by index."""
    return [index for index, name in enumerate(alignment.names) if name not in alignment.outliers]


def usual_support(alignment: "Alignment") -> float:
    """Support of the usual photo that is there, as it is measured of a new one; 0 where fewer than three are fitted."""
    known = fitted(alignment)
    if len(known) < 3:
        return 0.0
    chosen = [known[k] for k in np.linspace(0, len(known) - 1, min(len(known), _WITNESSES)).round().astype(int)]
    space, objects = alignment.space, alignment.foreground[chosen]
    likely = objects.flatten(1)
    cells = pack_cells(chessboard(object_cells(objects, space.valid[chosen].reshape(objects.shape))))
    if not cells.used.any():
        return 0.0
    pairs = torch.combinations(torch.arange(len(chosen), device=likely.device))
    buddies = find_best_buddies(space.descriptors[chosen], cells, pairs)
    weight = match_weights(buddies, likely, alignment.config.similarity_power)
    support = pair_support(buddies, weight, space.canonical[chosen].double(), pairs, (0,))
    first = torch.tensor(first_of_picture([alignment.collection[index].pixels for index in chosen]))
    return float(photo_support(support[:, 0], pairs, likely.sum(1), first).median())
