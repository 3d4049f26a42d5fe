"""Feature maps of a collection: what the frozen backbone sees, brought to one grid per photo."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import Backbone
from asic3d.collection import Collection, Photo
from asic3d.config import AlignmentConfig, Progress, ProgressCallback
from asic3d.coordinates import photo_cells
from asic3d.errors import StorageError
from asic3d.scratch import BLOCK, FORGOTTEN, LARGE, forget, scratch
from asic3d.storage import clear_write_errors, read_safetensors, write_safetensors
from asic3d.temporaries import temporary_folder


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """One descriptor per grid cell of every photo.

    Attributes:
        features: (N, G, G, C) float32, unit length over C, centred over the collection.
        valid: (N, G, G) bool, the cells that lie on the photo and not on its padding.
        saliency: (N, G, G) float32 in [0, 1], the class token's attention; None where the backbone has no class token.
        centres: (C_t,) float32 for each side and tap, in the order of :attr:`RawFeatures.taps`: the mean that was
            subtracted, so that a photo which comes later is described in the same way.
        turns: (N,) int64, quarters by which each photo was turned counter-clockwise for the backbone; its features lie
            on the cells of the photo as it is.
        flips: (N,) bool, whether it was mirrored left to right after that; None where nobody has looked yet which
            photos face the other way.
    """

    features: Tensor
    valid: Tensor
    saliency: Tensor | None = None
    centres: tuple[Tensor, ...] = ()
    turns: Tensor | None = None
    flips: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def quarters(self) -> Tensor:
        """(N,) int64: :attr:`turns`, 0 where nothing was said."""
        return torch.zeros(len(self), dtype=torch.long) if self.turns is None else self.turns

    @property
    def grid(self) -> int:
        """Cells along one side of a photo's square."""
        return self.features.shape[1]

    def principal_axes(self, dims: int) -> tuple[Tensor, Tensor]:
        """Principal components of all valid cells: (C, dims) float32 axes and (C,) float32 mean."""
        axes, mean = self._principal
        return axes[:, :dims], mean

    @cached_property
    def _principal(self) -> tuple[Tensor, Tensor]:
        return principal_axes(self.features, self.valid)


@dataclass(frozen=True, eq=False)
class RawFeatures:
    """What a backbone says about one photo alone.

    Attributes:
        taps: (C_t, h, w) float32 each, over the photo's square: all taps of the first side, then of the next.
        saliency: (h, w) float32 in [0, 1], or None.
    """

    taps: tuple[Tensor, ...]
    saliency: Tensor | None = None


def extract_features(
    collection: Collection,
    backbone: Backbone,
    config: AlignmentConfig,
    *,
    turns: Tensor | None = None,
    flips: Tensor | None = None,
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> FeatureMaps:
    """Describes every grid cell of every photo.

    Each tap is normalised, centred over the collection and normalised again (:func:`describe`).

    Args:
        collection: N photos.
        backbone: the network, on the device where the result shall lie.
        config: of it, ``grid`` = G.
        turns: (N,) int64, quarters by which photos are turned counter-clockwise before the backbone sees them.
        flips: (N,) bool, photos that are mirrored left to right after that; None where it is not known yet.
        cache: folder of a run's cache; photos that were seen before with this backbone are read from it.
        progress: called with the stage ``features`` after each photo.

    Raises:
        StorageError: the cache can't be written.

    Example:
        >>> from asic3d.backbones import load_backbone
        >>> maps = extract_features(collection, load_backbone(), AlignmentConfig())  # doctest: +SKIP
        >>> maps.features.shape  # doctest: +SKIP
        torch.Size([10, 40, 40, 304])
    """
    # One photo at a time: as fast as batches on a CPU, which then wait for memory, and no photo's features depend on
    # which others were in the cache.
    quarters = [0] * len(collection) if turns is None else turns.tolist()
    mirrored = [False] * len(collection) if flips is None else flips.tolist()

    def look(index: int, folder: Path | None) -> Sequence[RawFeatures]:
        photo = collection.photos[index]
        return [extract_photo(photo, backbone, folder, turns=quarters[index], mirrored=mirrored[index])]

    with _looks_at(look, len(collection), cache, progress) as looks:
        features, saliency = looks.described(backbone, config.grid)
    return FeatureMaps(
        features=features,
        valid=torch.stack([photo_cells(photo.size, config.grid) for photo in collection.photos]).to(backbone.device),
        saliency=saliency,
        centres=looks.centres,
        turns=torch.tensor(quarters, device=backbone.device),
        flips=flips,
    )


_Look = Callable[[int, Path | None], Sequence[RawFeatures]]
"""Gives what the network says of one photo, by index, in each way that it is looked at; keeps it in a folder, and reads
it from there the next time."""


@contextlib.contextmanager
def _looks_at(
    look: _Look, count: int, cache: Path | None, progress: ProgressCallback | None = None
) -> "Iterator[_Looks]":
    """Looks at all photos; a folder takes what is too much for memory, where there is no cache, while it is needed."""
    looks = _Looks(look, count, cache)
    with contextlib.ExitStack() as stack:
        for index in range(count):
            size = looks.at(index)
            if index % FORGOTTEN == 0:
                forget()
            if looks.cache is None and count * size > LARGE:
                with clear_write_errors(Path(tempfile.gettempdir()) / "(a folder)"):
                    looks.cache = stack.enter_context(temporary_folder())
            if progress is not None:
                progress(Progress("features", index + 1, count))
        yield looks


class _Looks:
    """What the network says of photos, in order: up to LARGE bytes are kept, the others read again for each pass."""

    def __init__(self, look: _Look, count: int, cache: Path | None) -> None:
        self.cache = cache
        self._look, self._count, self._bytes = look, count, 0
        self._kept: list[Sequence[RawFeatures]] = []
        self._means: list[list[Tensor]] = []

    def at(self, index: int) -> int:
        """Looks at one photo, and says how many bytes there are of it."""
        found = self._look(index, self.cache)
        size = sum(tap.nbytes for one in found for tap in one.taps)
        self._bytes += size
        if self._bytes <= LARGE:
            self._kept.append(found)
        self._means += map(_unit_means, found)
        return size

    @property
    def centres(self) -> tuple[Tensor, ...]:
        """As :func:`tap_centres` has them."""
        return _mean_of(self._means)

    def __iter__(self) -> Iterator[RawFeatures]:
        for index in range(self._count):
            yield from self._kept[index] if index < len(self._kept) else self._look(index, self.cache)

    def described(self, backbone: Backbone, grid: int) -> tuple[Tensor, Tensor | None]:
        """(N * W, G, G, C) float32 descriptors, perhaps in a file, and (N * W, G, G) saliency where there is one."""
        features, saliency, centres = torch.empty(0), [], self.centres
        for index, raw in enumerate(self):
            one = describe(raw, centres, backbone.tap_weights, grid)
            if index == 0:
                features = scratch((len(self._means), *one.shape), one.device, self.cache)
            features[index].copy_(one)
            if index % FORGOTTEN == 0:
                forget()
            if raw.saliency is not None:
                saliency.append(_resampled(raw.saliency[None], grid)[0])
        forget()
        return features, torch.stack(saliency) if saliency else None


def extract_photo(
    photo: Photo, backbone: Backbone, cache: Path | None = None, *, turns: int = 0, mirrored: bool = False
) -> RawFeatures:
    """Runs the backbone on one photo, or reads what it said last time.

    Args:
        photo: the photo.
        backbone: the network.
        cache: folder of a run's cache; the file is ``features/<photo's SHA-256>-<backbone's fingerprint>.safetensors``
            in it, with ``-turn1`` to ``-turn3`` before the dot for a turned photo, then ``-mirrored``. A damaged file
            is replaced without a word.
        turns: quarters by which the photo is turned counter-clockwise before the backbone sees it.
        mirrored: whether it is mirrored left to right after that.

    Returns:
        The features, on the backbone's device and laid onto the photo as it is; the same to the last bit with and
        without the cache.
    """
    name = f"{photo.sha256}-{backbone.fingerprint}" + f"-turn{turns}" * (turns > 0) + "-mirrored" * mirrored
    path = None if cache is None else cache / "features" / f"{name}.safetensors"
    raw = None if path is None else _read_cached(path, len(backbone.sides) * len(backbone.tap_weights))
    if raw is None:
        raw = _looked_at(photo, backbone, backbone.sides, turns, mirrored)
        if path is not None:
            _write_cached(path, raw)
    return RawFeatures(
        tuple(_laid_back(tap.to(backbone.device), turns, mirrored) for tap in raw.taps),
        None if raw.saliency is None else _laid_back(raw.saliency.to(backbone.device), turns, mirrored),
    )


def _laid_back(values: Tensor, turns: int, mirrored: bool) -> Tensor:
    """(..., h, w) values of the photo turned, then mirrored, on the photo as it is."""
    return torch.rot90(values.flip(-1) if mirrored else values, -turns, (-2, -1))


def extract_oriented(
    photos: Sequence[Photo],
    backbone: Backbone,
    side: int,
    grid: int,
    orientations: Sequence[Sequence[tuple[int, bool]]],
    cache: Path | None = None,
) -> Tensor:
    """Describes every photo turned and mirrored in several ways, at one size.

    Args:
        photos: N photos.
        backbone: the network.
        side: side length of its input, pixels.
        grid: cells along one side, G.
        orientations: W for each photo: quarters by which it is turned counter-clockwise, and whether it is mirrored
            left to right after that.
        cache: as for :func:`extract_photo`; one file a photo, whose name ends in the turns and the side:
            ``-0-1-2-3-160``, or ``-1-1m-320`` for turned once, plain and mirrored.

    Returns:
        (N, W, G, G, C) float32, unit length over C, centred over all of them, laid onto the photos as they are.
    """

    def look(index: int, folder: Path | None) -> Sequence[RawFeatures]:
        found = _oriented(photos[index], backbone, side, orientations[index], folder)
        return [RawFeatures(tuple(tap.to(backbone.device) for tap in one.taps)) for one in found]

    with _looks_at(look, len(photos), cache) as looks:
        return looks.described(backbone, grid)[0].unflatten(0, (len(photos), -1))


def _oriented(
    photo: Photo, backbone: Backbone, side: int, ways: Sequence[tuple[int, bool]], cache: Path | None
) -> list[RawFeatures]:
    """One for each way, laid onto the photo as it is."""
    code = "-".join(f"{turns}{'m' * mirrored}" for turns, mirrored in ways)
    name = f"{photo.sha256}-{backbone.fingerprint}-{code}-{side}.safetensors"
    path = None if cache is None else cache / "features" / name
    step = len(backbone.tap_weights)
    found = None if path is None else _read_cached(path, step * len(ways))
    if found is None:
        plain = square_images(photo.pixels, (side,))[0]
        turned = [torch.rot90(plain, turns, (2, 3)) for turns, _ in ways]
        images = [image.flip(3) if way[1] else image for image, way in zip(turned, ways, strict=True)]
        seen = backbone(torch.cat(images)).taps
        taps = [_laid_back(tap[k], turns, mirrored) for k, (turns, mirrored) in enumerate(ways) for tap in seen]
        found = RawFeatures(tuple(tap.contiguous() for tap in taps))
        if path is not None:
            _write_cached(path, found)
    return [RawFeatures(found.taps[i : i + step]) for i in range(0, len(found.taps), step)]


def _looked_at(photo: Photo, backbone: Backbone, sides: Sequence[int], turns: int, mirrored: bool) -> RawFeatures:
    """What the backbone sees in the photo turned, then mirrored, in that frame."""
    turned = np.rot90(photo.pixels, turns)
    pixels = np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)
    outputs = [backbone(image) for image in square_images(pixels, sides)]
    saliency = outputs[-1].saliency  # of the largest side
    return RawFeatures(
        tuple(tap[0] for output in outputs for tap in output.taps), None if saliency is None else saliency[0]
    )


def _write_cached(path: Path, raw: RawFeatures) -> None:
    tensors = {f"tap{i}": tap for i, tap in enumerate(raw.taps)}
    write_safetensors(path, {**tensors, "saliency": torch.empty(0, 0) if raw.saliency is None else raw.saliency})


def _read_cached(path: Path, taps: int) -> RawFeatures | None:
    """The cached features of a photo; None, which is no failure, where there are none or the file is damaged."""
    shapes = {f"tap{i}": (torch.float32, (None, f"h{i}", f"h{i}")) for i in range(taps)}
    try:
        found = read_safetensors(path, {**shapes, "saliency": (torch.float32, ("h", "h"))})
    except StorageError:
        return None
    saliency = found.pop("saliency")  # without a single cell where the backbone has none
    return RawFeatures(tuple(found.values()), saliency if saliency.numel() else None)


def square_images(pixels: np.ndarray, sides: Sequence[int]) -> list[Tensor]:
    """A photo's square, edge-padded, at several sizes; each from the photo itself, with antialiasing.

    Args:
        pixels: (h, w, 3) uint8 sRGB.
        sides: side lengths S, pixels.

    Returns:
        (1, 3, S, S) float32 in [0, 1] for each S, on the CPU.
    """
    square = torch.from_numpy(centred_square(pixels)).permute(2, 0, 1)[None]
    # On bytes, torch's resampling is ten times faster than Pillow's, and the same to one grey level.
    return [F.interpolate(square, (side, side), mode="bicubic", antialias=True).float() / 255 for side in sides]


def centred_square(pixels: np.ndarray) -> np.ndarray:
    """The photo in the middle of a square as wide as its longer side, padded with its edge pixels.

    Args:
        pixels: (h, w, 3) uint8.

    Returns:
        (L, L, 3) uint8, L = max(h, w). Where the padding is odd the photo is moved by half a pixel, so that its centre
        is the square's, as coordinates.py has it.
    """
    height, width = pixels.shape[:2]
    side = max(height, width)
    y, x = -((height - side) // 2), -((width - side) // 2)  # rounded up: half a pixel too much on each side when odd
    square = cv2.copyMakeBorder(pixels, y, y, x, x, cv2.BORDER_REPLICATE)
    if square.shape[0] > side:
        square = cv2.addWeighted(square[:-1], 0.5, square[1:], 0.5, 0)
    if square.shape[1] > side:
        square = cv2.addWeighted(square[:, :-1], 0.5, square[:, 1:], 0.5, 0)
    return square


def tap_centres(raw: Iterable[RawFeatures]) -> tuple[Tensor, ...]:
    """The mean unit feature of each side and tap over all photos and cells: (C_t,) float32 each."""
    return _mean_of(map(_unit_means, raw))


def _unit_means(raw: RawFeatures) -> list[Tensor]:
    return [F.normalize(tap, dim=0).mean((1, 2)) for tap in raw.taps]


def _mean_of(means: Iterable[list[Tensor]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(tap).mean(0) for tap in zip(*means, strict=True))


def describe(raw: RawFeatures, centres: Sequence[Tensor], tap_weights: Sequence[float], grid: int) -> Tensor:
    """One photo's descriptors, by the same rule for the photos of a collection and for one that comes later.

    Args:
        raw: the photo's taps, ``len(tap_weights)`` for each side.
        centres: as :func:`tap_centres` returns them for the collection.
        tap_weights: weight of each tap.
        grid: cells along one side, G.

    Returns:
        (G, G, C) float32, unit length over C; the sides are added, the taps lie beside each other.
    """
    maps = [_resampled(_centred(tap, centre), grid) for tap, centre in zip(raw.taps, centres, strict=True)]
    step = len(tap_weights)
    weighted = [tap * tap_weights[i % step] for i, tap in enumerate(maps)]
    sides = [F.normalize(torch.cat(weighted[i : i + step]), dim=0) for i in range(0, len(weighted), step)]
    total = torch.stack(sides).sum(0)
    return F.normalize(total, dim=0).permute(1, 2, 0).contiguous()


def _centred(tap: Tensor, centre: Tensor) -> Tensor:
    """(C_t, h, w) of any length -> unit length over C_t, around the centre (C_t,)."""
    return F.normalize(F.normalize(tap, dim=0) - centre[:, None, None], dim=0)


def _resampled(tap: Tensor, grid: int) -> Tensor:
    """(C_t, h, w) to (C_t, G, G), bilinear; averaged first where the grid is coarser."""
    finer = tap.shape[-1] > grid
    return F.interpolate(tap[None], (grid, grid), mode="bilinear", antialias=finer)[0]


def principal_axes(features: Tensor, used: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Principal components, the same in every run.

    Args:
        features: (..., C) float32 descriptors.
        used: (...) bool, the cells that count; None for all.

    Returns:
        (C, C) float32 orthonormal axes, the strongest first, each with its largest entry positive; (C,) float32 mean.
    """
    count = features[..., 0].numel() if used is None else int(used.sum())
    mean = _summed(cells.double().sum(0) for cells in _blocks(features, used)) / count
    centred = (cells.double() - mean for cells in _blocks(features, used))
    axes = torch.linalg.eigh(_summed(cells.T @ cells for cells in centred)).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (axes * torch.where(largest < 0, -1.0, 1.0)).float(), mean.float()


def project(features: Tensor, axes: Tensor, mean: Tensor, used: Tensor | None = None, *, unit: bool = False) -> Tensor:
    """Descriptors along some axes.

    Args:
        features: (..., C) float32.
        axes: (C, D) float32.
        mean: (C,) float32, subtracted first.
        used: (...) bool, the M cells that are wanted; None for all.
        unit: bring them to unit length over D.

    Returns:
        (..., D) float32, or (M, D) where only some are wanted.
    """
    found = features.new_empty(features[..., 0].numel() if used is None else int(used.sum()), axes.shape[1])
    start = 0
    for cells in _blocks(features, used):
        projected = (cells - mean) @ axes
        found[start : start + len(cells)] = F.normalize(projected, dim=1) if unit else projected
        start += len(cells)
    return found if used is not None else found.reshape(*features.shape[:-1], -1)


def _blocks(features: Tensor, used: Tensor | None) -> Iterator[Tensor]:
    """(m, C) cells of some photos at a time: copies of all of them, in double precision, would not fit in memory."""
    size = max(1, BLOCK // max(1, features[0, ..., 0].numel()))
    for start in range(0, len(features), size):
        part = features[start : start + size]
        yield part.flatten(0, -2) if used is None else part[used[start : start + size]]
        forget()


def _summed(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total
