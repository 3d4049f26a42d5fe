"""Align a collection; use, extend, save and load the result."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asic3d.backbones import load_backbone
from asic3d.brief import Brief
from asic3d.canonical_grid import CanonicalGrid, find_grid
from asic3d.collection import Collection, Photo, counted, load_collection
from asic3d.config import AlignmentConfig, ProgressCallback
from asic3d.correspondences import (
    CanonicalSpace,
    Correspondences,
    DenseMap,
    cell_confidence,
    dense,
    nearest_neighbour_space,
    round_as_stored,
    transfer,
    transfer_all,
)
from asic3d.devices import choose_device
from asic3d.errors import AlignmentError, CollectionError
from asic3d.fitting import Checkpoint
from asic3d.foreground import full_mask, mask_shares
from asic3d.judgement import (
    astray_warnings,
    fit_warnings,
    mask_warnings,
    object_warnings,
    outlier_warnings,
    photo_fits,
    standing_warnings,
    training_warnings,
    unrelated_warnings,
)
from asic3d.layout import Layout, lay_out
from asic3d.optimisation import Trained
from asic3d.parts import full_parts, object_parts, part_shares
from asic3d.propagation import propagate
from asic3d.screening import Photos, screen, timed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False, repr=False)
class Placing(Brief):
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


@dataclass(eq=False)
class Origin:
    """The run that an alignment was read from, shared with all that is made from it.

    Attributes:
        folder: the run folder, resolved.
        tensors: SHA-256 of the tensors there, when it was last read or written.
    """

    folder: Path
    tensors: str


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
        turns: quarters by which each photo was turned counter-clockwise to stand as most others do.
        mirrored: whether each photo faces the other way and was mirrored, after it was turned.
        outliers: names of the photos that show something else: they had no say in the fit and were placed afterwards.
        pairs: how many pairs of photos were matched, which ``quality`` is about.
        origin: the run folder that it was read from.
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
    turns: tuple[int, ...] = ()
    mirrored: tuple[bool, ...] = ()
    outliers: tuple[str, ...] = ()
    pairs: int = 0
    origin: Origin | None = None

    def __repr__(self) -> str:
        sure = f", confidence {self.quality['confidence']:.2f}" if "confidence" in self.quality else ""
        return f"<Alignment: {self.collection.in_brief()}, {self.backbone}{sure}{counted(self.warnings)}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The photos' names: their paths relative to the photo folder."""
        return self.collection.names

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every original upright photo, pixels."""
        return self.collection.sizes

    @property
    def present(self) -> "Alignment":
        """This alignment without the photos whose files are gone; its figures are still those of all photos.

        Raises:
            CollectionError: fewer than two photos are there.
        """
        absent = self.collection.absent
        if not absent:
            return self
        if len(self.names) - len(absent) < 2:
            raise CollectionError(self.collection.gone())
        from asic3d.adding import with_photos

        return with_photos(self, [name for name in self.names if name not in absent])

    @property
    def canonical(self) -> Tensor:
        """(N, G, G, 2) float32: canonical coordinate of every cell; the object is about 2 wide, around (0, 0)."""
        return self._on_grid(self.space.canonical)

    @property
    def foreground(self) -> Tensor:
        """(N, G, G) float32 in [0, 1]: probability that a cell shows the object."""
        return self._on_grid(self.space.foreground)

    @cached_property
    def canonical_grid(self) -> CanonicalGrid:
        """What the object looks like in the canonical plane: one picture of all photos, solved for when first used."""
        return find_grid(self)

    @property
    def parts(self) -> Tensor:
        """(N, G, G) int64: part of the object, 0 to ``config.parts - 1``, the same in every photo; -1 = not object."""
        return object_parts(self._part_shares, self.foreground)

    @cached_property
    def _part_shares(self) -> Tensor:
        config = self.config
        return part_shares(self.features, self.foreground, config.parts, config.seed, canonical=self.canonical)

    def part_map(self, name: str, mask: np.ndarray | None = None) -> np.ndarray:
        """The parts of a photo, drawn to its edges: (H, W) int8 of the original upright size; -1 = not the object.

        Args:
            name: the photo. One that shows something else (``outliers``) has no parts.
            mask: (h, w) uint8, 255 = object: a mask of the size that is wanted, in place of :meth:`mask`.

        Raises:
            CollectionError: there is no such photo.
        """
        index = self.collection.index(name)
        wanted = self.mask(name) if mask is None else mask
        if self.names[index] in self.outliers:  # it does not show the object
            return np.full(wanted.shape, -1, np.int8)
        return full_parts(self.collection[index], self._part_shares[index], wanted)

    def propagate(self, edit: "str | Path | np.ndarray", *, source: str) -> Iterator[tuple[str, np.ndarray]]:
        """Paints on every photo what is painted on one; see :func:`asic3d.propagation.propagate`.

        Example:
            >>> layers = dict(alignment.propagate("edit.png", source="a.jpg"))  # doctest: +SKIP
        """
        return propagate(self, edit, source)

    def _on_grid(self, values: Tensor) -> Tensor:
        return values.reshape(len(values), self.space.grid, self.space.grid, *values.shape[2:])

    def transfer(self, points: "ArrayLike", *, source: str, target: str) -> Correspondences:
        """Follows points of one photo into another.

        Args:
            points: (n, 2) float, original pixels of the source: x right, y down, (0, 0) = centre of the top-left pixel.
                Points beside the object or the photo are answered too, with low confidence.
            source: name of the photo that the points are in.
            target: name of the photo where they are wanted. In a copy of the source's file they are where they were.

        Raises:
            CollectionError: there is no photo of that name.
            AlignmentError: the points are not (n, 2) finite numbers.

        Example:
            >>> alignment.transfer([[120, 80]], source="a.jpg", target="b.jpg").points  # doctest: +SKIP
            tensor([[98.4, 131.0]], dtype=torch.float64)
        """
        found = self._transfer(self.space, points, source, target)
        if not self._are_copies(self.collection.index(source), self.collection.index(target)):
            return found
        return dataclasses.replace(found, points=_as_points(points), cycle_error=torch.zeros_like(found.cycle_error))

    def _are_copies(self, first: int, second: int) -> bool:
        """Whether two photos, by index, are the same file, and lie in the same place."""
        same = self.collection[first].sha256 == self.collection[second].sha256
        return same and torch.equal(self.space.canonical[first], self.space.canonical[second])

    def transfer_all(self, points: "Mapping[str, ArrayLike]") -> Iterator[tuple[str, dict[str, tuple[Tensor, Tensor]]]]:
        """Follows a few points of some photos into every photo: much faster than :meth:`transfer` for each pair.

        Args:
            points: name of a photo -> (n, 2) float, original pixels of it.

        Yields:
            The name of each photo in turn, and for each of the sources (n, 2) float64 original pixels and (n,) float64
            confidence, as :meth:`transfer` gives them; cycle errors are not found.

        Raises:
            CollectionError: there is no photo of that name.
            AlignmentError: the points are not (n, 2) finite numbers.

        Example:
            >>> for target, found in alignment.transfer_all({"a.jpg": [[120, 80]]}):  # doctest: +SKIP
            ...     points, confidence = found.get("a.jpg")
        """
        device = self.space.canonical.device
        starts = {self.collection.index(name): _as_points(some).to(device) for name, some in points.items()}
        for target, found in enumerate(transfer_all(self.space, starts, self.sizes)):
            answers = (
                ((starts[source] if self._are_copies(source, target) else place).cpu(), sure.cpu())
                for source, (place, sure) in found.items()
            )
            yield self.names[target], dict(zip(points, answers, strict=True))

    def nearest_neighbour(self, points: "ArrayLike", *, source: str, target: str) -> Correspondences:
        """The baseline: as :meth:`transfer`, by the backbone's features alone, without the alignment."""
        return self._transfer(nearest_neighbour_space(self.features, self.space), points, source, target)

    def _transfer(self, space: CanonicalSpace, points: "ArrayLike", source: str, target: str) -> Correspondences:
        start, i, j = _as_points(points), self.collection.index(source), self.collection.index(target)
        found = transfer(space, start.to(space.canonical.device), i, j, self.sizes)
        answers = found.points.cpu(), found.confidence.cpu(), found.cycle_error.cpu()
        return Correspondences(*answers, start=start, photos=(self.collection[i], self.collection[j]))

    def dense(self, source: str, target: str) -> DenseMap:
        """The whole source photo in the target.

        Raises:
            CollectionError: there is no photo of that name.

        Example:
            >>> alignment.dense("a.jpg", "b.jpg").points.shape  # doctest: +SKIP
            torch.Size([120, 160, 2])
        """
        i, j = self.collection.index(source), self.collection.index(target)
        found = dense(self.space, i, j, self.sizes)
        photos = self.collection[i], self.collection[j]
        return DenseMap(found.points.cpu(), found.confidence.cpu(), found.size, photos=photos)

    def plot(self) -> np.ndarray:
        """Draws every photo's object, coloured by its place on the object, by matplotlib.

        Returns:
            (N,) axes, one for each photo; ``axes[0].figure.savefig(FILE)`` keeps the figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from asic3d.plotting import plot_alignment

        return plot_alignment(self)

    def _repr_html_(self) -> str:
        from asic3d.display import alignment_html

        return alignment_html(self)

    def mask(self, name: str) -> np.ndarray:
        """The object in a photo: (H, W) uint8 of the original upright size, 255 = object, 0 = not.

        Raises:
            CollectionError: there is no such photo, or its file changed since it was loaded.
        """
        index = self.collection.index(name)
        return full_mask(self.collection[index], self.masks[index])

    def add(self, *photos: str | Path | Photo, progress: ProgressCallback | None = None) -> "Alignment":
        """Places more photos; nothing is fitted anew and the other photos stay exactly where they are.

        Figures and warnings are brought up to date, but for the figure ``support``, which is about the photos that were
        fitted.

        Args:
            *photos: files, or photos as :func:`asic3d.collection.load_photo` returns them.
            progress: called with the stage ``adding`` after each photo.

        Returns:
            A new alignment with the photos at the end.

        Raises:
            CollectionError: a photo can't be used, or one of the same name is there.
            AlignmentError: nothing in a photo can be matched.
        """
        from asic3d.adding import add_photos

        return add_photos(self, photos, progress=progress)

    def save(self, folder: str | Path, *, overwrite: bool = False, others: Mapping[str, bytes] | None = None) -> None:
        """Writes ``masks/``, ``alignment.safetensors`` and, last, ``run.json`` into a run folder: all of them or none.

        Args:
            folder: the run folder; made where it is missing.
            overwrite: a finished run there may be replaced.
            others: further files that belong to the run, such as its report: path in the folder to content.

        Raises:
            StorageError: a finished run is there and ``overwrite`` is not set, the run was changed by somebody else
                since it was loaded or is being changed, or the folder can't be written.
        """
        from asic3d.run_folder import save_alignment

        save_alignment(self, Path(folder), overwrite=overwrite, others=others or {})


def load_alignment(folder: str | Path, *, photos: str | Path | None = None) -> Alignment:
    """Reads an alignment that :meth:`Alignment.save` wrote.

    A photo whose file is gone is warned of (CollectionWarning): its points are answered all the same, and what needs
    its pixels, such as :meth:`Alignment.mask`, raises a CollectionError.

    Args:
        folder: the run folder.
        photos: the folder where the photos are now, if they are not where they were.

    Raises:
        StorageError: there is none, it is damaged, or a newer asic3d made it.
        CollectionError: a photo has changed since the run, or there is no such folder of photos.
    """
    from asic3d.run_folder import read_alignment

    return read_alignment(Path(folder), None if photos is None else Path(photos))


def align(
    collection: Collection | str | Path,
    config: AlignmentConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cache: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Alignment:
    """Aligns the photos of a collection.

    A copy of a photo's file lies exactly where the photo does, and has no say.

    Args:
        collection: two photos or more; or the path of their folder, which :func:`load_collection` loads.
        config: the settings.
        progress: called after each step of each stage.
        cache: folder where each photo's features are kept, so that a second run does not compute them again.
        checkpoint: file where the fit is kept after each round, or the training every ``checkpoint_every`` iterations;
            an interrupted one of the same photos with the same settings goes on from there. It is deleted at the end.

    Raises:
        AlignmentError: no collection or fewer than two photos, nothing in them can be matched, or the training went
            astray.
        MemoryLimitError: it may take more memory than ``max_memory``.
        CollectionError: there is no such folder, or fewer than two photos in it that can be used.
        BackboneError: the network's weights are missing or wrong.
        ConfigError: the device is not there.
        StorageError: the cache or the checkpoint can't be written.

    Example:
        >>> align("photos", AlignmentConfig(seed=1)).quality["confidence"]  # doctest: +SKIP
        0.71
    """
    allowed = config.max_memory if isinstance(config, AlignmentConfig) else 0.0
    if isinstance(collection, str | Path):
        collection = load_collection(collection, max_memory=allowed, progress=progress)
    if not isinstance(collection, Collection):
        raise AlignmentError(
            f"Give a folder of photos, or what asic3d.load_collection returns, not {type(collection).__name__}."
        )
    if config is not None and not isinstance(config, AlignmentConfig):
        raise AlignmentError(f"The settings must be an asic3d.AlignmentConfig, not {type(config).__name__}.")
    config = config or AlignmentConfig()
    if len(collection) < 2:
        raise AlignmentError(f"An alignment needs two photos or more; this collection has {len(collection)}.")
    whole, (collection, places) = collection, _without_copies(collection)
    device = choose_device(config.device)
    seconds: dict[str, float] = {}
    with torch.no_grad():
        with timed(seconds, "features"):
            wishes = config.backbone_options
            backbone = load_backbone(config.backbone, weights=config.weights, device=device, wishes=wishes)
        folder = None if cache is None else Path(cache)
        photos = screen(collection, backbone, config, cache=folder, progress=progress, seconds=seconds)
        place = None
        if checkpoint is not None:
            place = Checkpoint(Path(checkpoint), _fingerprint(collection, config, backbone.fingerprint))
        laid = lay_out(photos, checkpoint=place, progress=progress, seconds=seconds)
        with timed(seconds, "confidence"):
            confidence, by_pair = cell_confidence(laid.space, laid.cells, laid.pairs)
    alignment = _judged(photos, laid, confidence, by_pair, backbone.name, seconds)
    if photos.outliers:
        from asic3d.adding import with_outliers

        alignment = with_outliers(alignment, collection, photos.outliers)
    if len(collection) < len(whole):
        from asic3d.adding import with_copies

        alignment = with_copies(alignment, whole, places)
    if place is not None:
        place.path.unlink(missing_ok=True)
    return alignment


def _without_copies(collection: Collection) -> tuple[Collection, list[int]]:
    """The photos but for copies of another's file with the same mask, and for each photo its place among those left.

    All of them where fewer than two would be left.
    """
    left: dict[str, int] = {}
    places = []
    for photo in collection:
        first = None if photo.duplicate_of is None else collection[photo.duplicate_of]
        if first is not None and _same_mask(first, photo):
            places.append(left[first.name])
        else:
            places.append(left.setdefault(photo.name, len(left)))
    if len(left) < 2:
        return collection, list(range(len(collection)))
    return dataclasses.replace(collection, photos=tuple(collection[name] for name in left)), places


def _same_mask(one: Photo, other: Photo) -> bool:
    if one.mask is None or other.mask is None:
        return one.mask is other.mask
    return np.array_equal(one.mask, other.mask)


def _judged(
    photos: Photos, laid: Layout, confidence: Tensor, by_pair: Tensor, backbone: str, seconds: dict[str, float]
) -> Alignment:
    """The alignment, with its figures and what looks wrong with it."""
    config, maps, foreground = photos.config, photos.maps, photos.foreground
    fits = photo_fits(confidence, laid.space.foreground)
    quality = {
        "confidence": float(fits.mean()),
        "weakest_photo": float(fits.min()),
        "pair_agreement": float(by_pair.mean()),
        **laid.agreement(),
    }
    if photos.problem is not None:
        quality["support"] = float(photos.problem.supported.median())
    return Alignment(
        collection=photos.collection,
        config=config,
        space=laid.space,
        features=round_as_stored(maps.features.flatten(1, 2)),  # in place: they may be too many to hold twice
        confidence=confidence.reshape(maps.valid.shape),
        masks=foreground.masks,
        placing=Placing(maps.centres, laid.projection, laid.mean, foreground.classifier, config.weights),
        quality=quality,
        timings=seconds,
        warnings=(
            *object_warnings(photos.collection.names, foreground.whole),
            *mask_warnings(photos.collection.names, mask_shares(foreground.masks), photos.collection.unmasked),
            *fit_warnings(photos.collection.names, fits),
            *astray_warnings(0 if laid.trained is None else laid.trained.again),
            *(training_warnings(quality) if config.mapping == "network" else ()),
            *unrelated_warnings(quality),
            *outlier_warnings(photos.outliers),
            *standing_warnings(photos.collection.names, maps.quarters.tolist(), photos.flips.tolist(), quality),
        ),
        backbone=backbone,
        device=str(maps.features.device),
        trained=laid.trained,
        turns=tuple(maps.quarters.tolist()),
        mirrored=tuple(photos.flips.tolist()),
        pairs=len(laid.pairs),
    )


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


def _fingerprint(collection: Collection, config: AlignmentConfig, backbone: str) -> str:
    facts: Sequence[Any] = (
        sorted(dataclasses.asdict(dataclasses.replace(config, max_memory=0.0)).items()),  # it changes no result
        [(photo.name, photo.sha256) for photo in collection.photos],
        [
            None if photo.mask is None else hashlib.sha256(photo.mask.tobytes()).hexdigest()
            for photo in collection.photos
        ],
        backbone,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()
