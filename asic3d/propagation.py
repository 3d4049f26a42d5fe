"""What is painted on one photo, painted on all the others: the layer is warped backwards into each of them.

Every pixel of a photo is asked where it lies in the photo that the edit was painted on. The answers come from the dense
map at a reduced size; they are smoothed by local affine fits that leave outliers out, and where they jump, return to
somewhere else or leave the object, the edit fades instead of being smeared.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from asic3d.correspondences import DenseMap
from asic3d.decoding import UnreadableError, decode_layer
from asic3d.errors import EditError, EditWarning

if TYPE_CHECKING:
    from asic3d.alignment import Alignment

_WINDOW = 2.5
"""Samples of the dense map: deviation of the window in which an affine map is fitted."""
_FITS = 4
_OUTLIER = 0.02
"""Residual at which a sample counts a quarter, in units of the edited photo's longer side."""
_UNSURE, _SURE = 0.08, 0.3
"""Confidence below which nothing is painted, and from which the edit is painted in full."""
_LOOSE = 0.03
"""Mean residual at which the edit has faded to nothing, in units of the edited photo's longer side."""
_LARGEST_STRETCH = 8.0
"""A pixel that would cover more pixels of the edit than this squared lies on a jump: nothing is painted."""
_EDGE = 0.7
"""Pixels: deviation of the smoothing of the mask's edge."""
_STRIP = 2_000_000
"""Pixels that are warped at once."""
_ASPECT = 0.01
"""By how much the proportions of an edit may differ from those of its photo."""


@dataclass(frozen=True, eq=False)
class BackwardMap:
    """Where the pixels of a photo lie in the photo that is edited.

    Attributes:
        points: (h, w, 2) float32, original pixels of the edited photo; (h, w) has the photo's shape, reduced.
        opacity: (h, w) float32 in [0, 1], how far the points can be relied on.
        size: (width, height) of the original photo, pixels.
    """

    points: np.ndarray
    opacity: np.ndarray
    size: tuple[int, int]


def propagate(alignment: "Alignment", edit: "str | Path | np.ndarray", source: str) -> Iterator[tuple[str, np.ndarray]]:
    """Paints on every photo what is painted on one.

    Args:
        alignment: the aligned photos.
        edit: an image file with transparency, or (h, w, 4) uint8 RGBA, upright as its photo; in another size it is
            scaled to the photo's, with a warning.
        source: name of the photo that it is painted on.

    Returns:
        An iterator, which works photo by photo, over each photo's name and its layer: (height, width, 4) uint8 RGBA,
        not premultiplied, of the photo's original upright size. The edited photo's own layer is the edit exactly.
        Photos come in their order; one whose file is gone is passed over.

    Raises:
        EditError: the edit can't be read, has no transparency, or has other proportions than its photo.
        CollectionError: there is no photo of that name.

    Example:
        >>> for name, layer in propagate(alignment, "edit.png", "a.jpg"):  # doctest: +SKIP
        ...     print(name, layer.shape)
    """
    index = alignment.collection.index(source)
    source = alignment.names[index]
    return _layers(alignment, fitted_edit(edit, alignment.sizes[index], source), source)


def _layers(alignment: "Alignment", layer: np.ndarray, source: str) -> Iterator[tuple[str, np.ndarray]]:
    pyramid = _pyramid(_premultiplied(layer))
    for name in alignment.names:
        if name in alignment.collection.absent:
            continue
        if name == source:
            yield name, layer
            continue
        found = backward_map(alignment.dense(name, source), max(layer.shape[:2]))
        yield name, warp_layer(pyramid, found, alignment.mask(name))


def fitted_edit(edit: "str | Path | np.ndarray", size: tuple[int, int], source: str) -> np.ndarray:
    """An edit as (height, width, 4) uint8 RGBA of its photo's size.

    Args:
        edit: a file, or the layer itself.
        size: (width, height) of the original upright photo.
        source: the photo's name, for messages.

    Raises:
        EditError: as :func:`propagate`.
    """
    if isinstance(edit, np.ndarray):
        layer, called = edit, "The edit"
        if layer.ndim != 3 or layer.shape[2] != 4 or layer.dtype != np.uint8 or not layer.size:
            raise EditError(f"The edit must be (h, w, 4) uint8 RGBA; this one is {layer.dtype} {layer.shape}.")
    else:
        called = f"The edit '{edit}'"
        try:
            layer = decode_layer(Path(edit))
        except UnreadableError as error:
            raise EditError(f"{called} can't be used: {error}.") from error
    height, width = layer.shape[:2]
    if (width, height) == size:
        return layer
    found = f"{called} is {width} x {height} pixels, but the photo '{source}' is {size[0]} x {size[1]} upright"
    if abs(width * size[1] / (height * size[0]) - 1) > _ASPECT:
        raise EditError(f"{found}, which has other proportions. Paint it over the whole upright photo.")
    warnings.warn(f"{found}: it was scaled to the photo.", EditWarning, stacklevel=3)
    shrinks = width > size[0]
    scaled = cv2.resize(_premultiplied(layer), size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return _straight(scaled)


def backward_map(dense: DenseMap, longest: int) -> BackwardMap:
    """A dense map as it is painted through: smooth, and faded where it can't be relied on.

    At each sample an affine map is fitted to the samples around it, weighted by a Gaussian window, their confidence and
    how well they agreed with the last fit: what a few samples say against all around them is not heard.

    Args:
        dense: of the photo that is painted on, into the edited photo.
        longest: longer side of the edited photo, pixels.
    """
    points, confidence = dense.points.numpy().astype(np.float64), dense.confidence.numpy().astype(np.float64)
    trust = confidence.clip(1e-3)
    fitted, residual = points, np.zeros(confidence.shape)
    for number in range(_FITS):
        fitted = _local_affine(points, trust)
        residual = np.linalg.norm(points - fitted, axis=-1) / longest
        scale = _OUTLIER * 2.0 ** (_FITS - 2 - number)  # from coarse to fine
        trust = confidence.clip(1e-3) * (scale**2 / (scale**2 + residual**2)) ** 2
    loose = _blurred(np.minimum(residual, 3 * _LOOSE) * confidence.clip(1e-3)) / _blurred(confidence.clip(1e-3))
    sure = np.clip((_blurred(confidence) - _UNSURE) / (_SURE - _UNSURE), 0, 1)
    opacity = (
        _smoothstep(sure)
        * _smoothstep(np.clip(2 - 2 * loose / _LOOSE, 0, 1))
        * _unbroken(fitted, confidence, dense.size, longest)
    )
    return BackwardMap(fitted.astype(np.float32), opacity.astype(np.float32), dense.size)


def _local_affine(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(h, w, 2) values, each replaced by that of the affine map fitted around it; (h, w) weights."""
    height, width = weight.shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    total = _blurred(weight)
    mean_x, mean_y = _blurred(weight * x) / total, _blurred(weight * y) / total
    xx = _blurred(weight * x * x) / total - mean_x**2 + 1e-2
    yy = _blurred(weight * y * y) / total - mean_y**2 + 1e-2
    xy = _blurred(weight * x * y) / total - mean_x * mean_y
    determinant = xx * yy - xy**2
    fitted = np.empty_like(values)
    for axis in range(2):
        value = values[..., axis]
        mean = _blurred(weight * value) / total
        vx = _blurred(weight * value * x) / total - mean * mean_x
        vy = _blurred(weight * value * y) / total - mean * mean_y
        slope_x, slope_y = (vx * yy - vy * xy) / determinant, (vy * xx - vx * xy) / determinant
        fitted[..., axis] = mean + slope_x * (x - mean_x) + slope_y * (y - mean_y)
    return fitted


def _blurred(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), _WINDOW, borderType=cv2.BORDER_CONSTANT)


def _smoothstep(values: np.ndarray) -> np.ndarray:
    return values * values * (3 - 2 * values)


def _jacobian(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the edited photo per pixel of the photo: (h, w) largest stretch, and (h, w) determinant.

    Args:
        points: (h, w, 2), of a :class:`BackwardMap`.
        size: (width, height) of the original photo.
    """
    height, width = points.shape[:2]
    if min(height, width) < 2:
        return np.ones((height, width)), np.ones((height, width))
    across = np.gradient(points, axis=1) * (width / size[0])
    down = np.gradient(points, axis=0) * (height / size[1])
    total = (across**2).sum(-1) + (down**2).sum(-1)
    determinant = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    return np.sqrt((total + np.sqrt(np.maximum(total**2 - 4 * determinant**2, 0))) / 2), determinant


def _unbroken(points: np.ndarray, trust: np.ndarray, size: tuple[int, int], longest: int) -> np.ndarray:
    """(h, w) in [0, 1]: 0 where the map jumps or turns over against the rest of it, 1 where it is smooth."""
    stretch, determinant = _jacobian(points, size)
    stretch = stretch * (max(size) / longest)
    facing = -1 if (np.sign(determinant) * trust).sum() < 0 else 1  # one of the two photos may face the other way
    return np.clip(2 - 2 * stretch / _LARGEST_STRETCH, 0, 1) * (facing * determinant > 0)


def warp_layer(pyramid: list[np.ndarray], found: BackwardMap, mask: np.ndarray) -> np.ndarray:
    """An edit in another photo.

    Args:
        pyramid: premultiplied (h, w, 4) float32 edit, and its halves.
        found: where the photo's pixels lie in the edited one.
        mask: (height, width) uint8 of the photo, 255 = object.

    Returns:
        (height, width, 4) uint8 RGBA, not premultiplied.
    """
    width, height = found.size
    layer = np.zeros((height, width, 4), np.uint8)
    box = _touched(pyramid[0], found)
    if box is None:
        return layer
    left, top, right, bottom = box
    opaque = cv2.GaussianBlur(mask, (0, 0), _EDGE)
    values = np.dstack([found.points, found.opacity, _jacobian(found.points, found.size)[0]]).astype(np.float64)
    across = _cubic_rows(values.shape[1], width, np.arange(left, right, 0.5) + 0.25 - 0.5)
    rows = max(1, _STRIP // (4 * (right - left)))
    for start in range(top, bottom, rows):
        stop = min(start + rows, bottom)
        down = _cubic_rows(values.shape[0], height, np.arange(start, stop, 0.5) + 0.25 - 0.5)
        fine = np.einsum("yh,hwc->ywc", down, values, optimize=True)
        fine = np.einsum("xw,ywc->yxc", across, fine, optimize=True).astype(np.float32)
        colours = _sampled(pyramid, fine[..., :2], fine[..., 3] / 2) * fine[..., 2:3].clip(0, 1)
        colours = colours.reshape(stop - start, 2, right - left, 2, 4).mean((1, 3))
        colours *= opaque[start:stop, left:right, None].astype(np.float32) / 255
        layer[start:stop, left:right] = _straight(colours)
    return layer


def _touched(edit: np.ndarray, found: BackwardMap) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the photo's pixels that the edit may reach; None where it reaches none."""
    rows, columns = np.flatnonzero(edit[..., 3].any(1)), np.flatnonzero(edit[..., 3].any(0))
    if not len(rows):
        return None
    step = np.array(found.size) / found.points.shape[1::-1]
    reach = 2 + 2 * float(step.max()) * np.minimum(_jacobian(found.points, found.size)[0], 2 * _LARGEST_STRETCH)
    x, y = found.points[..., 0], found.points[..., 1]
    near = (x > columns[0] - reach) & (x < columns[-1] + reach) & (y > rows[0] - reach) & (y < rows[-1] + reach)
    at_y, at_x = np.nonzero(near & (cv2.dilate(found.opacity, np.ones((5, 5))) > 0))
    if not len(at_y):
        return None
    left, right = (at_x.min() - 2) * step[0], (at_x.max() + 3) * step[0]
    top, bottom = (at_y.min() - 2) * step[1], (at_y.max() + 3) * step[1]
    width, height = found.size
    return max(int(left), 0), max(int(top), 0), min(int(np.ceil(right)), width), min(int(np.ceil(bottom)), height)


def _cubic_rows(count: int, length: int, places: np.ndarray) -> np.ndarray:
    """(P, count) weights that interpolate ``count`` samples, spread over ``length`` pixels, at (P,) pixels.

    Catmull and Rom's cubic, written out because OpenCV rounds the place to a 32nd of a sample, which would show as
    steps where one sample stands for many pixels.
    """
    at = ((places + 0.5) * (count / length) - 0.5).clip(0, count - 1)
    first = np.floor(at).astype(int)
    t = at - first
    parts = (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (t**3 - t**2) / 2,
    )
    weights = np.zeros((len(places), count))
    for offset, part in zip((-1, 0, 1, 2), parts, strict=True):
        np.add.at(weights, (np.arange(len(places)), (first + offset).clip(0, count - 1)), part)
    return weights


def _pyramid(edit: np.ndarray) -> list[np.ndarray]:
    """An edit, (h, w, 4) float32 premultiplied, and its halves down to a few pixels."""
    levels = [edit]
    while min(levels[-1].shape[:2]) >= 4:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
    return levels


def _sampled(pyramid: list[np.ndarray], points: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """The edit at (h, w, 2) pixels of it, each averaged over about (h, w) ``stretch`` pixels: (h, w, 4) float32."""
    level = np.log2(np.maximum(stretch, 1)).clip(0, len(pyramid) - 1)
    total = np.zeros((*points.shape[:2], 4), np.float32)
    height, width = pyramid[0].shape[:2]
    for number in range(int(level.min()), int(np.ceil(level.max())) + 1):
        share = (1 - np.abs(level - number)).clip(0, None)[..., None].astype(np.float32)
        picture = pyramid[number]
        x = (points[..., 0] + 0.5) * (picture.shape[1] / width) - 0.5
        y = (points[..., 1] + 0.5) * (picture.shape[0] / height) - 0.5
        total += share * cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return total


def _premultiplied(layer: np.ndarray) -> np.ndarray:
    """(h, w, 4) uint8 RGBA to (h, w, 4) float32 in [0, 255], colours times opacity."""
    values = layer.astype(np.float32)
    values[..., :3] *= values[..., 3:] / 255
    return values


def _straight(values: np.ndarray) -> np.ndarray:
    """The opposite of :func:`_premultiplied`; colours are 0 where nothing is painted."""
    alpha = np.rint(values[..., 3:].clip(0, 255))
    colours = np.where(alpha > 0, values[..., :3] * (255 / np.maximum(values[..., 3:], 1e-6)), 0)
    return np.rint(np.concatenate([colours.clip(0, 255), alpha], -1)).astype(np.uint8)


def painted(pixels: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """A layer laid over a photo: (h, w, 3) uint8 and (h, w, 4) uint8 RGBA to (h, w, 3) uint8.

    Where the layer is transparent, the photo's pixels are returned as they are.
    """
    rows, columns = np.flatnonzero(layer[..., 3].any(1)), np.flatnonzero(layer[..., 3].any(0))
    result = pixels.copy()
    if len(rows):
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        share = layer[part][..., 3:].astype(np.float32) / 255
        result[part] = np.rint(layer[part][..., :3] * share + pixels[part] * (1 - share))
    return result
