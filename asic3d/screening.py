"""What is known of the photos before they are laid into the canonical space, and which of them belong together.

Photos that lie on their side are found before their features are computed; photos that face the other way and photos
that show something else by what the best buddies of all pairs agree on.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from asic3d.backbones import Backbone
from asic3d.collection import Collection
from asic3d.config import AlignmentConfig, ProgressCallback
from asic3d.content import first_of_picture
from asic3d.features import FeatureMaps, extract_features, extract_photo
from asic3d.fitting import Problem
from asic3d.foreground import Foreground, find_foreground
from asic3d.memory import Load, check_memory
from asic3d.orientations import find_outliers, look_mirrored, stand_upright
from asic3d.retrieval import check_search
from asic3d.scratch import give_back


@dataclass(frozen=True, eq=False)
class Photos:
    """The photos that are laid into the canonical space together.

    Attributes:
        collection: N photos.
        config: the settings.
        maps: their features.
        foreground: their objects.
        problem: their matches and where their maps start; None where a network maps them.
        outliers: names of the photos that show something else; they are not among the N.
    """

    collection: Collection
    config: AlignmentConfig
    maps: FeatureMaps
    foreground: Foreground
    problem: Problem | None = None
    outliers: tuple[str, ...] = ()

    @property
    def flips(self) -> Tensor:
        """(N,) bool: the photos that face the other way."""
        return torch.zeros(len(self.collection), dtype=torch.bool) if self.problem is None else self.problem.flips


def screen(
    collection: Collection,
    backbone: Backbone,
    config: AlignmentConfig,
    *,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
    seconds: dict[str, float],
) -> Photos:
    """Describes the photos, finds their objects, and settles how they stand and which of them belong together.

    Args:
        collection: two photos or more.
        backbone: the network.
        config: the settings.
        cache: folder of a run's cache.
        progress: called with the stages ``features`` and ``foreground``.
        seconds: gets the time of each stage.

    Raises:
        AlignmentError: nothing in the photos can be matched.
        MemoryLimitError: they may take more memory than ``max_memory``.
        StorageError: the cache can't be written.
    """
    check_search(config.search)
    with timed(seconds, "features"):
        if config.max_memory:
            check_memory(_load(collection, backbone, cache), config)
        turns = stand_upright(collection, backbone, config, cache) if config.turns else None
    photos = _described(collection, backbone, config, turns, cache, progress, seconds)
    if config.mapping != "spline":
        return photos
    photos = _compared(photos, backbone, cache, progress, seconds)
    problem = photos.problem
    outliers = find_outliers(problem.supported, problem.first) if config.outliers and problem is not None else ()
    if not outliers:
        return photos
    kept = [index for index in range(len(collection)) if index not in outliers]
    fewer = replace(collection, photos=tuple(collection.photos[index] for index in kept))
    turns = None if turns is None else turns[kept]
    photos = _described(fewer, backbone, config, turns, cache, progress, seconds)
    return replace(
        _compared(photos, backbone, cache, progress, seconds),
        outliers=tuple(collection.names[index] for index in outliers),
    )


def _load(collection: Collection, backbone: Backbone, cache: Path | None) -> Load:
    """What there is to hold, from what the network says of the first photo."""
    step = len(backbone.tap_weights)
    taps = extract_photo(collection.photos[0], backbone, cache).taps
    return Load(
        photos=len(collection),
        pixels=sum(photo.pixels.nbytes for photo in collection.photos),
        channels=sum(len(tap) for tap in taps[:step]),
        raw=sum(tap.numel() for tap in taps),
        largest=sum(tap.numel() for tap in taps[-step:]),
    )


def _described(
    collection: Collection,
    backbone: Backbone,
    config: AlignmentConfig,
    turns: Tensor | None,
    cache: Path | None,
    progress: ProgressCallback | None,
    seconds: dict[str, float],
    flips: Tensor | None = None,
) -> Photos:
    with timed(seconds, "features"):
        maps = extract_features(collection, backbone, config, turns=turns, flips=flips, cache=cache, progress=progress)
    with timed(seconds, "foreground"):
        foreground = find_foreground(collection, maps, config, progress)
    return Photos(collection, config, maps, foreground)


def _compared(
    photos: Photos,
    backbone: Backbone,
    cache: Path | None,
    progress: ProgressCallback | None,
    seconds: dict[str, float],
) -> Photos:
    """The same with the problem that is to be solved: all photos' matches, and which photos face the other way.

    Best buddies of photos as they are hint at that; those of mirror images are sure. The photos that face the other way
    are then described mirrored: a network sees not quite the same in a mirror image.
    """
    config = photos.config
    with timed(seconds, "canonical"):
        first = first_of_picture([photo.pixels for photo in photos.collection])
        problem = Problem.of(photos.maps, photos.foreground.recurring, config, first)
    if (problem.flips | problem.unsure).any():
        recurring, turns = photos.foreground.recurring, photos.maps.quarters
        with timed(seconds, "features"):
            flips = look_mirrored(photos.collection, backbone, recurring, turns, config, cache)
            if not problem.flips.any() and (flips & ~problem.unsure).any():
                flips = problem.flips  # what was clear is contradicted: the object is nearly its own mirror image
        if flips.any():
            photos = _described(photos.collection, backbone, config, turns, cache, progress, seconds, flips)
        else:
            photos = replace(photos, maps=replace(photos.maps, flips=flips))
        with timed(seconds, "canonical"):
            problem = Problem.of(photos.maps, photos.foreground.recurring, config, first)
    return replace(photos, problem=problem)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds up how long a stage takes, and gives back memory that nobody uses any more."""
    start = time.perf_counter()
    yield
    give_back()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
