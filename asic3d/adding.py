"""More photos in an alignment that stays as it is."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asic3d.backbones import Backbone, load_backbone
from asic3d.best_buddies import find_best_buddies, propagate
from asic3d.canonical import affine_map
from asic3d.collection import Collection, Photo, load_photo
from asic3d.config import Progress, ProgressCallback
from asic3d.content import first_of_picture
from asic3d.correspondences import as_stored, cell_confidence
from asic3d.errors import AlignmentError, CollectionError
from asic3d.foreground import mask_shares, quantised
from asic3d.judgement import (
    Further,
    agreeing,
    enlarged_quality,
    fit_warnings,
    mask_warnings,
    object_warnings,
    photo_fits,
    standing_warnings,
)
from asic3d.new_photo import NewPhoto, fitted, look_at, placed, usual_support
from asic3d.photo_folder import shown
from asic3d.scratch import forget, scratch

if TYPE_CHECKING:
    from asic3d.alignment import Alignment


STRANGER = 0.04
"""By what a cell's probability of the object is multiplied where the photo shows something else."""
_UNLIKE = 0.1
"""A new photo whose support is below this share of the usual one shows something else. Measured on eleven collections:
0.14 to 1.4 for photos of the same thing, 0.00 to 0.08 for others, but for a sheep among cows (0.35) and the like."""


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
        CollectionError: a photo can't be used, one of the same name is there, or the file of one that is there is gone.
        AlignmentError: nothing in a photo can be matched, or a network maps the photos of this alignment.
    """
    started = time.perf_counter()
    if alignment.config.mapping == "network":
        raise AlignmentError(
            "A photo can't be added here: the network of this alignment was trained on the pixels of its own photos. "
            "Align all photos again, or align them with --preset fast (preset 'fast' in Python), which takes more "
            "photos later."
        )
    loaded = _loaded(alignment, photos)
    if not loaded:
        return alignment
    device, wishes = alignment.space.valid.device, alignment.config.backbone_options
    backbone = load_backbone(alignment.backbone, weights=alignment.placing.weights, device=device, wishes=wishes)
    before = alignment.timings.get("adding", 0.0)
    with torch.no_grad():
        alignment = dataclasses.replace(alignment, features=_with_room(alignment.features, len(loaded)))
        least = 0.0 if stranger or not alignment.config.outliers else _UNLIKE * usual_support(alignment)
        for number, photo in enumerate(loaded, 1):
            alignment = _with_photo(alignment, photo, backbone, stranger, least)
            if progress is not None:
                progress(Progress("adding", number, len(loaded)))
    return dataclasses.replace(
        alignment, timings={**alignment.timings, "adding": before + time.perf_counter() - started}
    )


def _loaded(alignment: "Alignment", photos: Sequence[str | Path | Photo]) -> list[Photo]:
    """All photos, before any work is done for one; those that are there are compared with them."""
    loaded: list[Photo] = []
    if alignment.collection.absent:
        raise CollectionError(alignment.collection.gone())
    for photo in photos:
        found = photo if isinstance(photo, Photo) else load_photo(photo)
        if found.name in alignment.names:
            same = alignment.collection[found.name].sha256 == found.sha256
            raise CollectionError(
                f"The photo {shown(found.name)} is in this alignment already; there is nothing to add."
                if same
                else f"There is another photo {shown(found.name)} in this alignment already; rename the new one."
            )
        if found.name in [other.name for other in loaded]:
            raise CollectionError(f"Two of the new photos are called {shown(found.name)}; rename one.")
        loaded.append(found)
    return loaded


def _with_photo(alignment: "Alignment", photo: Photo, backbone: Backbone, known: bool, least: float) -> "Alignment":
    """The alignment with one more photo, its figures and its warnings.

    Args:
        alignment: the photos so far.
        photo: the new one.
        backbone: the network.
        known: the photo is known to show something else, and it has been said.
        least: support below which it shows something else.
    """
    config, space = alignment.config, alignment.space
    look = look_at(alignment, photo, backbone)
    newest = len(space.descriptors)
    stranger = known or look.kinship < least
    try:
        canonical = placed(alignment, look, photo.name)
    except AlignmentError:
        if not known:
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
        features=_grown(alignment.features, as_stored(look.features.flatten(0, 1))),
        confidence=torch.cat([alignment.confidence, confidence[newest].reshape(1, space.grid, space.grid)]),
        masks=(*alignment.masks, quantised(look.mask)),
        turns=(*alignment.turns, look.turns),
        mirrored=(*alignment.mirrored, look.mirrored),
        outliers=(*alignment.outliers, photo.name) if stranger else alignment.outliers,
    )
    if known:
        return enlarged
    return _as_stranger(enlarged) if stranger else _judged_again(alignment, enlarged, look, by_pair)


def _with_room(features: Tensor, more: int) -> Tensor:
    """(N, ...) features in storage, perhaps a file, that has room for those of more photos."""
    found = scratch((len(features) + more, *features.shape[1:]), features.device)[: len(features)]
    found.copy_(features)
    forget()
    return found


def _grown(features: Tensor, newest: Tensor) -> Tensor:
    """(N, ...) features of :func:`_with_room` and those of one photo more."""
    found = features.as_strided((len(features) + 1, *features.shape[1:]), features.stride())
    found[-1] = newest
    forget()
    return found


def _as_stranger(alignment: "Alignment") -> "Alignment":
    """Says that the newest photo shows something else; the figures are about the others."""
    warning = (
        f"{shown(alignment.names[-1])} seems to show something else than the other photos: its correspondences get "
        "little confidence. If it shows the same, align all photos together with --set outliers=false "
        "(outliers=False in Python)."
    )
    return dataclasses.replace(alignment, warnings=(*alignment.warnings, warning))


def _judged_again(before: "Alignment", after: "Alignment", look: NewPhoto, by_pair: Tensor) -> "Alignment":
    """The enlarged alignment with the figures and the warnings of all its photos.

    A copy of a photo that is there agrees with it in everything, which says nothing: it leaves the figures as they are.
    """
    config, space, count, newest = after.config, after.space, len(look.pairs), len(after.names) - 1
    quality, pairs = before.quality, before.pairs
    stale, names, fits = set(fit_warnings(*_fitted(before))), *_fitted(after)
    if first_of_picture([photo.pixels for photo in after.collection])[-1] == newest:
        buddies = find_best_buddies(space.descriptors, look.few, look.pairs, space.canonical, config.match_prior)
        agreeing_matches = int(agreeing(buddies, space.canonical).sum())
        further = Further(count, float(by_pair.sum()), len(buddies), agreeing_matches)
        quality, pairs = enlarged_quality(quality, pairs, further, fits), pairs + count
    warnings = (
        *(sentence for sentence in before.warnings if sentence not in stale),
        *fit_warnings(names, fits),
        *object_warnings(after.names, [newest] if look.whole else []),
        *mask_warnings(after.names, mask_shares(after.masks), [newest] if newest in after.collection.unmasked else []),
        *standing_warnings(after.names[-1:], [look.turns], [look.mirrored], quality),
    )
    return dataclasses.replace(
        after,
        quality=quality,
        pairs=pairs,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _fitted(alignment: "Alignment") -> tuple[list[str], Tensor]:
    """Names and fits of the photos that are not known to show something else."""
    kept = fitted(alignment)
    fits = photo_fits(alignment.confidence.flatten(1), alignment.space.foreground)
    return [alignment.names[index] for index in kept], fits[kept]


def with_outliers(alignment: "Alignment", collection: Collection, outliers: tuple[str, ...]) -> "Alignment":
    """The photos that show something else, placed as well as can be, and all photos in the collection's order again."""
    alignment = add_photos(alignment, [collection[name] for name in outliers], stranger=True)
    ordered = with_photos(alignment, collection.names)
    return dataclasses.replace(ordered, collection=collection, outliers=outliers)


def with_photos(alignment: "Alignment", names: Sequence[str]) -> "Alignment":
    """An alignment with these of its photos, in this order; each stays exactly where it is."""
    order = [alignment.names.index(name) for name in names]
    photos = tuple(alignment.collection.photos[index] for index in order)
    return with_copies(alignment, dataclasses.replace(alignment.collection, photos=photos), order)


def with_copies(alignment: "Alignment", collection: Collection, order: list[int]) -> "Alignment":
    """The photos of a collection, each of which lies where the photo of the alignment with this index lies."""
    space = alignment.space
    return dataclasses.replace(
        alignment,
        collection=collection,
        space=dataclasses.replace(
            space,
            descriptors=space.descriptors[order],
            canonical=space.canonical[order],
            foreground=space.foreground[order],
            valid=space.valid[order],
        ),
        features=torch.index_select(
            alignment.features,
            0,
            torch.tensor(order, device=space.canonical.device),
            out=scratch((len(order), *alignment.features.shape[1:]), space.canonical.device),
        ),
        confidence=alignment.confidence[order],
        masks=tuple(alignment.masks[index] for index in order),
        turns=tuple(alignment.turns[index] for index in order if alignment.turns),
        mirrored=tuple(alignment.mirrored[index] for index in order if alignment.mirrored),
        outliers=tuple(
            name
            for name, index in zip(collection.names, order, strict=True)
            if alignment.names[index] in alignment.outliers
        ),
    )
