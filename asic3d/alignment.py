"""Align a collection; use, extend, save and load the result."""

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asic3d.alignment_network import AlignmentNetwork
from asic3d.backbones import load_backbone
from asic3d.best_buddies import BestBuddies, Cells
from asic3d.collection import Collection, Photo
from asic3d.config import AlignmentConfig, ProgressCallback
from asic3d.coordinates import cell_centres
from asic3d.correspondences import (
    CanonicalSpace,
    Correspondences,
    DenseMap,
    as_stored,
    canonical_space,
    cell_confidence,
    dense,
    nearest_neighbour_space,
    transfer,
)
from asic3d.errors import AlignmentError, ConfigError
from asic3d.features import FeatureMaps, extract_features
from asic3d.fitting import Checkpoint, fit_canonical
from asic3d.foreground import Foreground, find_foreground, full_mask
from asic3d.losses import sample_map
from asic3d.optimisation import NetworkMap, Trained, map_photos, train
from asic3d.refinement import refine
from asic3d.training_set import make_training_set, object_of, raw_buddies

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

OUTLIER = 0.4
"""A photo whose fit is below this share of the usual one does not belong to the others."""


@dataclass(frozen=True, eq=False)
class Placing:
    """What it takes to place one more photo.

    Attributes:
        centres: (C_t,) float32 means of the backbone's taps, as FeatureMaps has them.
        projection: (C, D) float32, from features to descriptors.
        mean: (C,) float32, subtracted from the features first.
        classifier: (C + 1,) float64, from features to the object.
        weights: the file with the backbone's weights, or '' for the usual place.
    """

    centres: tuple[Tensor, ...]
    projection: Tensor
    mean: Tensor
    classifier: Tensor
    weights: str = ""


@dataclass(frozen=True, eq=False)
class Alignment:
    """N photos in one canonical plane: any point of any photo can be followed into every other.

    Attributes:
        collection: the photos.
        config: the settings it was made with.
        space: descriptors and canonical coordinates of all cells.
        features: (N, G * G, C) float32, unit length, the backbone's features.
        confidence: (N, G, G) float32 in [0, 1], how well each cell is explained by the other photos.
        masks: (h, w) float32 in [0, 1] for each photo, the object at a reduced size.
        placing: what it takes to add a photo.
        quality: figures that judge the alignment without any truth, by name.
        timings: seconds of each stage.
        warnings: sentences for people: what looks wrong.
        backbone: name of the network.
        device: where it ran.
        trained: the canonical image and the losses, where a network was trained or the splines were refined.
    """

    collection: Collection
    config: AlignmentConfig
    space: CanonicalSpace
    features: Tensor
    confidence: Tensor
    masks: tuple[np.ndarray, ...]
    placing: Placing
    quality: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    backbone: str = ""
    device: str = "cpu"
    trained: Trained | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The photos' names: their paths relative to the photo folder."""
        return self.collection.names

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every original upright photo, pixels."""
        return self.collection.sizes

    @property
    def canonical(self) -> Tensor:
        """(N, G, G, 2) float32: canonical coordinate of every cell; the object is about 2 wide, around (0, 0)."""
        return self._on_grid(self.space.canonical)

    @property
    def foreground(self) -> Tensor:
        """(N, G, G) float32 in [0, 1]: probability that a cell shows the object."""
        return self._on_grid(self.space.foreground)

    def _on_grid(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), self.space.grid, self.space.grid, *values.shape[2:])

    def transfer(self, points: "ArrayLike", *, source: str, target: str) -> Correspondences:
        """Follows points of one photo into another.

        Args:
            points: (n, 2) float, original pixels of the source: x right, y down, (0, 0) = centre of the top-left pixel.
                Points beside the object or the photo are answered too, with low confidence.
            source: name of the photo that the points are in.
            target: name of the photo where they are wanted.

        Raises:
            CollectionError: there is no photo of that name.
            AlignmentError: the points are not (n, 2) finite numbers.

        Example:
            >>> alignment.transfer([[120, 80]], source="a.jpg", target="b.jpg").points  # doctest: +SKIP
            tensor([[98.4, 131.0]], dtype=torch.float64)
        """
        return self._transfer(self.space, points, source, target)

    def nearest_neighbour(self, points: "ArrayLike", *, source: str, target: str) -> Correspondences:
        """The baseline: as :meth:`transfer`, by the backbone's features alone, without the alignment."""
        return self._transfer(nearest_neighbour_space(self.features, self.space), points, source, target)

    def _transfer(self, space: CanonicalSpace, points: "ArrayLike", source: str, target: str) -> Correspondences:
        found = transfer(
            space,
            _as_points(points).to(space.canonical.device),
            self.collection.index(source),
            self.collection.index(target),
            self.sizes,
        )
        return Correspondences(found.points.cpu(), found.confidence.cpu(), found.cycle_error.cpu())

    def dense(self, source: str, target: str) -> DenseMap:
        """The whole source photo in the target.

        Raises:
            CollectionError: there is no photo of that name.

        Example:
            >>> alignment.dense("a.jpg", "b.jpg").points.shape  # doctest: +SKIP
            torch.Size([120, 160, 2])
        """
        found = dense(self.space, self.collection.index(source), self.collection.index(target), self.sizes)
        return DenseMap(found.points.cpu(), found.confidence.cpu(), found.size)

    def mask(self, name: str) -> np.ndarray:
        """The object in a photo: (H, W) uint8 of the original upright size, 255 = object, 0 = not.

        Raises:
            CollectionError: there is no such photo, or its file changed since it was loaded.
        """
        index = self.collection.index(name)
        return full_mask(self.collection[index], self.masks[index])

    def add(self, photo: str | Path | Photo) -> "Alignment":
        """Places one more photo; nothing is fitted anew and the other photos stay exactly where they are.

        Args:
            photo: a file, or a photo as :func:`asic3d.collection.load_photo` returns it.

        Returns:
            A new alignment with the photo at the end.

        Raises:
            CollectionError: the photo can't be used, or one of the same name is there.
            AlignmentError: nothing in it can be matched.
        """
        from asic3d.adding import add_photo

        return add_photo(self, photo)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes ``alignment.safetensors``, ``masks/`` and, last, ``run.json`` into a run folder.

        Raises:
            StorageError: a finished run is there and ``overwrite`` is not set, or the folder can't be written.
        """
        from asic3d.run_folder import save_alignment

        save_alignment(self, Path(folder), overwrite=overwrite)


def load_alignment(folder: str | Path) -> Alignment:
    """Reads an alignment that :meth:`Alignment.save` wrote.

    Raises:
        StorageError: there is none, it is damaged, or a newer asic3d made it.
        CollectionError: a photo is gone or has changed since the run.
    """
    from asic3d.run_folder import read_alignment

    return read_alignment(Path(folder))


def align(
    collection: Collection,
    config: AlignmentConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cache: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Alignment:
    """Aligns the photos of a collection.

    Args:
        collection: two photos or more.
        config: the settings.
        progress: called after each step of each stage.
        cache: folder where each photo's features are kept, so that a second run does not compute them again.
        checkpoint: file where the fit is kept after each round, or the training every ``checkpoint_every`` iterations;
            an interrupted one of the same photos with the same settings goes on from there. It is deleted at the end.

    Raises:
        AlignmentError: fewer than two photos, nothing in them can be matched, or the training went astray.
        BackboneError: the network's weights are missing or wrong.
        ConfigError: the device is not there.
        StorageError: the cache or the checkpoint can't be written.

    Example:
        >>> align(load_collection("photos"), AlignmentConfig(seed=1)).quality["confidence"]  # doctest: +SKIP
        0.71
    """
    config = config or AlignmentConfig()
    if len(collection) < 2:
        raise AlignmentError(f"An alignment needs two photos or more; this collection has {len(collection)}.")
    device = choose_device(config.device)
    seconds: dict[str, float] = {}
    with torch.no_grad():
        with _timed(seconds, "features"):
            wishes = config.backbone_options
            backbone = load_backbone(config.backbone, weights=config.weights, device=device, wishes=wishes)
            maps = extract_features(
                collection, backbone, config, cache=None if cache is None else Path(cache), progress=progress
            )
        with _timed(seconds, "foreground"):
            foreground = find_foreground(collection, maps, config, progress)
        place = None
        if checkpoint is not None:
            place = Checkpoint(Path(checkpoint), _fingerprint(collection, config, backbone.fingerprint))
        layout = _by_network if config.mapping == "network" else _by_spline
        laid = layout(_Photos(collection, maps, foreground, config, place, progress), seconds)
        with _timed(seconds, "confidence"):
            confidence, by_pair = cell_confidence(laid.space, laid.cells, laid.pairs)
    if place is not None:
        place.path.unlink(missing_ok=True)
    return Alignment(
        collection=collection,
        config=config,
        space=laid.space,
        features=as_stored(maps.features.flatten(1, 2)),
        confidence=confidence.reshape(maps.valid.shape),
        masks=foreground.masks,
        placing=Placing(maps.centres, laid.projection, laid.mean, foreground.classifier, config.weights),
        quality=_quality(laid, confidence, by_pair),
        timings=seconds,
        warnings=tuple(_warnings(collection, foreground, confidence, laid.space.foreground)),
        backbone=backbone.name,
        device=str(device),
        trained=laid.trained,
    )


@dataclass(frozen=True, eq=False)
class _Photos:
    """What is known of the photos before they are laid into the canonical space."""

    collection: Collection
    maps: FeatureMaps
    foreground: Foreground
    config: AlignmentConfig
    checkpoint: Checkpoint | None
    progress: ProgressCallback | None


@dataclass(frozen=True, eq=False)
class _Laid:
    """All photos in the canonical space, by either way."""

    space: CanonicalSpace
    cells: Cells
    pairs: Tensor
    buddies: BestBuddies
    projection: Tensor
    mean: Tensor
    trained: Trained | None = None


def _by_spline(photos: _Photos, seconds: dict[str, float]) -> _Laid:
    """Splines that are solved for, and refined where ``refine_steps`` says so."""
    maps, foreground, config, progress = photos.maps, photos.foreground, photos.config, photos.progress
    trained = None
    with _timed(seconds, "canonical"):
        resumed = None if config.refine_steps else photos.checkpoint  # the refinement keeps its own state there
        fit = fit_canonical(maps, foreground.recurring, config, checkpoint=resumed, progress=progress)
    if config.refine_steps:
        with _timed(seconds, "training"):
            fit, trained = refine(
                photos.collection, maps, foreground, fit, config, checkpoint=photos.checkpoint, progress=progress
            )
    space = CanonicalSpace(
        descriptors=as_stored(fit.descriptors),
        canonical=fit.canonical,
        foreground=foreground.probability.flatten(1),
        valid=maps.valid.flatten(1),
        prior=config.transfer_prior,
    )
    return _Laid(space, fit.cells, fit.pairs, fit.buddies, fit.projection, fit.mean, trained)


def _by_network(photos: _Photos, seconds: dict[str, float]) -> _Laid:
    """The paper's way: a network that is trained on the photos' pixels."""
    maps, foreground, config = photos.maps, photos.foreground, photos.config
    with _timed(seconds, "matching"):
        cells = object_of(maps, foreground)
        matches = raw_buddies(maps, cells, config.partners)
        data = make_training_set(photos.collection, maps, foreground, config, matches)
    with _timed(seconds, "training"):
        network = AlignmentNetwork(config.network_width, seed=config.seed).to(maps.features.device)
        mapping = NetworkMap(network, config)
        trained = train(
            data, mapping, config, steps=config.steps, checkpoint=photos.checkpoint, progress=photos.progress
        )
        centres = cell_centres(maps.grid, maps.features.device).expand(len(maps), -1, -1)
        canonical = sample_map(map_photos(network, data.photos), centres)
    space = canonical_space(canonical, foreground.probability.flatten(1), maps.valid.flatten(1))
    mean = maps.principal_axes(1)[1]
    return _Laid(space, cells, matches[1], matches[0], mean.new_zeros(len(mean), 0), mean, trained)


def choose_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:N' as a device.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"There is no device '{name}'; choose 'auto', 'cpu', 'cuda' or 'cuda:N'.") from None
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ConfigError(
            f"The device '{name}' was asked for, and torch finds {found or 'no'} CUDA device{'s' * (found != 1)} here; "
            "use --device auto or cpu."
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"asic3d runs on 'cpu' and 'cuda', not on '{name}'; use --device auto.")
    return device


def _as_points(points: Any) -> Tensor:
    try:
        array = np.asarray(points, np.float64)
    except (ValueError, TypeError):
        raise AlignmentError("Points must be numbers, one x and one y for each: an array of shape (n, 2).") from None
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise AlignmentError(f"Points must be an array of shape (n, 2), x and y in pixels; this one is {array.shape}.")
    if not np.isfinite(array).all():
        raise AlignmentError("Points must be finite numbers; some are NaN or infinite.")
    return torch.from_numpy(array.copy())


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _fingerprint(collection: Collection, config: AlignmentConfig, backbone: str) -> str:
    facts: Sequence[Any] = (
        sorted(dataclasses.asdict(config).items()),
        [(photo.name, photo.sha256) for photo in collection.photos],
        [
            None if photo.mask is None else hashlib.sha256(photo.mask.tobytes()).hexdigest()
            for photo in collection.photos
        ],
        backbone,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _quality(laid: _Laid, confidence: Tensor, by_pair: Tensor) -> dict[str, float]:
    """Figures without truth; means over cells are weighted by the probability of the object."""
    photos = photo_fits(confidence, laid.space.foreground)
    buddies, canonical = laid.buddies, laid.space.canonical
    residual = canonical[buddies.first, buddies.first_cell] - canonical[buddies.second, buddies.second_cell]
    agreeing = residual.norm(dim=1) < 0.15
    return {
        "confidence": float(photos.mean()),
        "weakest_photo": float(photos.min()),
        "pair_agreement": float(by_pair.mean()),
        "agreeing_matches": float(agreeing.double().mean()),
        "matches_per_pair": len(buddies) / len(laid.pairs),
    }


def photo_fits(confidence: Tensor, objects: Tensor) -> Tensor:
    """(N,) mean confidence of each photo's object, from (N, G * G) confidence and probability of the object."""
    return (confidence * objects).sum(1) / objects.sum(1).clamp(min=1e-6)


def _warnings(collection: Collection, foreground: Foreground, confidence: Tensor, objects: Tensor) -> Iterator[str]:
    names = collection.names
    if len(foreground.whole) == len(names):
        yield "No object stands out from its surroundings: all of every photo was aligned. Is that wrong? Give --masks."
    elif foreground.whole:
        listed = ", ".join(f"'{names[index]}'" for index in foreground.whole)
        yield f"No object was found in {listed}: all of it was aligned. Is that wrong? Give --masks."
    fits = photo_fits(confidence, objects)
    usual = float(fits.median())
    for name, fit in zip(names, fits.tolist(), strict=True):
        if fit < OUTLIER * usual and len(names) > 2:
            yield f"'{name}' hardly fits the others (confidence {fit:.2f}, usual {usual:.2f}): is it the same object?"
