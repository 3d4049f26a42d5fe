"""What every reader yields: the photos of one category with their truth, and the steps that readers share."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from asic3d.collection import Collection, Photo, load_photo
from asic3d.config import Progress, ProgressCallback
from asic3d.coordinates import pixels_to_crop
from asic3d.errors import CollectionError
from asic3d.photo_folder import listed
from asic3d.reading import read_text_bounded
from asic3d_integrations.scoring import KeypointPairs

CROP_SIDE = 256
"""Side that crops are resized to, pixels."""


@dataclass(frozen=True)
class Crop:
    """A square piece of a photo.

    Attributes:
        x: column of its top-left pixel in the photo; may lie beside it.
        y: row of the same.
        side: pixels of the photo along a side.
    """

    x: int
    y: int
    side: int

    def moved(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) float64 pixels of the photo to pixels of the resized crop."""
        return pixels_to_crop(torch.from_numpy(points), (self.x, self.y), CROP_SIDE / self.side).numpy()

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 to (CROP_SIDE, CROP_SIDE, 3) uint8; what lies beside the photo repeats its edge."""
        height, width = pixels.shape[:2]
        rows = np.arange(self.y, self.y + self.side).clip(0, height - 1)
        columns = np.arange(self.x, self.x + self.side).clip(0, width - 1)
        shrinks = self.side > CROP_SIDE
        return cv2.resize(
            pixels[rows][:, columns],
            (CROP_SIDE, CROP_SIDE),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
        )


@dataclass(frozen=True, eq=False)
class AnnotatedCollection:
    """The photos of one category with what is known of them.

    Attributes:
        name: of the category.
        root: the folder that the photos' names are relative to.
        photo_names: N names, paths relative to ``root`` with forward slashes.
        keypoint_names: K names.
        keypoints: (N, K, 2) float64 pixels of the upright photo, or of its crop; NaN where not visible.
        extents: (N,) float64 pixels, the unit of PCK in each photo.
        pairs: what PCK is measured on; None where points of different photos have nothing to do with each other, so
            that only their return from cycles can be judged.
        sizes: (width, height) of each photo as the annotation has it; empty where it does not say.
        crops: the piece of each photo that is used; empty where all of it is.
    """

    name: str
    root: Path
    photo_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]
    keypoints: np.ndarray
    extents: np.ndarray
    pairs: KeypointPairs | None
    sizes: tuple[tuple[int, int], ...] = ()
    crops: tuple[Crop, ...] = ()

    def __len__(self) -> int:
        return len(self.photo_names)


def load_photos(annotated: AnnotatedCollection, progress: ProgressCallback | None = None) -> Collection:
    """The photos of a category, cropped where the data set says so.

    Args:
        annotated: a category.
        progress: called with the stage "photos" after each.

    Raises:
        CollectionError: a photo can't be read, or has not the size that its annotation says.
    """
    photos = []
    for index, name in enumerate(annotated.photo_names):
        photo = load_photo(annotated.root / name, name=name)
        if annotated.sizes and photo.size != annotated.sizes[index]:
            raise CollectionError(
                f"The photo '{photo.path}' is {_by(photo.size)} pixels and its annotation is for "
                f"{_by(annotated.sizes[index])}; use the data set's own photos."
            )
        photos.append(_cropped(photo, annotated.crops[index]) if annotated.crops else photo)
        if progress is not None:
            progress(Progress("photos", index + 1, len(annotated)))
    return Collection(annotated.root, tuple(photos))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _cropped(photo: Photo, crop: Crop) -> Photo:
    pixels = crop.cut(photo.read())
    pixels.setflags(write=False)
    # Features are cached by this hash: the crop's, not the file's.
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return replace(photo, size=(CROP_SIDE, CROP_SIDE), pixels=pixels, sha256=sha256)


# ---- what readers share -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, for people who don't have it.

    Attributes:
        title: its name.
        fetch: what to download, and from which page.
        layout: what the folder then holds.
        folders: names that the folder with the data goes by.
    """

    title: str
    fetch: str
    layout: str
    folders: tuple[str, ...]

    def find(self, root: str | Path, needed: Sequence[str]) -> Path:
        """The data set's folder: ``root``, or a folder in it that goes by its name.

        Args:
            root: where the user says that the data is.
            needed: files and folders that must be there.

        Raises:
            CollectionError: one of them is missing.
        """
        root = Path(root)
        base = next((root / name for name in self.folders if (root / name).is_dir()), root)
        missing = [name for name in needed if not (base / name).exists()]
        if missing:
            raise self.missing(f"'{base / missing[0]}' is not there")
        return base

    def missing(self, found: str) -> CollectionError:
        """The error that says what to download and how to lay it out."""
        return CollectionError(f"{self.title} is not complete: {found}; {self.fetch} and give as --root {self.layout}.")


def chosen(known: Sequence[str], wanted: Sequence[str], title: str) -> list[str]:
    """The categories that are wanted, all where none is named.

    Raises:
        CollectionError: one of them does not exist.
    """
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise CollectionError(
            f"{title} has no category '{unknown[0]}' here; it has {listed(known, most=20)}. Correct --category."
        )
    return [name for name in known if name in wanted] if wanted else list(known)


def need_two(names: Sequence[str], category: str) -> None:
    """Refuses a category of fewer than two photos."""
    if len(names) < 2:
        raise CollectionError(f"The category '{category}' has fewer than two photos; raise --limit or add photos.")


def malformed(path: Path, why: str) -> CollectionError:
    """The error about an annotation file that is not what it should be."""
    why = why if why.isprintable() else ascii(why)[1:-1]  # it may quote the file
    return CollectionError(f"'{path}' is malformed: {why}; unpack the data set again.")


def read_text(path: Path) -> str:
    """A text file of the data set.

    Raises:
        CollectionError: it can't be read.
    """
    try:
        return read_text_bounded(path)
    except (OSError, UnicodeDecodeError) as error:
        raise malformed(path, f"it can't be read ({getattr(error, 'strerror', None) or 'no text'})") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CollectionError: it does not.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise malformed(path, "it is no JSON") from error
    if not isinstance(content, dict):
        raise malformed(path, "it holds no JSON object")
    return content


def numbers(value: Any, shape: tuple[int | None, ...], path: Path, what: str) -> np.ndarray:
    """Finite numbers of a shape (None: any length) as float64.

    Raises:
        CollectionError: they are something else.
    """
    try:
        array = np.asarray(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.full(0, math.nan)
    if isinstance(value, list) and not value and shape[0] is None:
        array = array.reshape(0, *(length or 0 for length in shape[1:]))
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits:
        raise malformed(path, f"{what} must be numbers of the shape {_shape(shape)}")
    if not np.isfinite(array).all():
        raise malformed(path, f"{what} must be finite numbers")
    return array


def _shape(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if length is None else str(length) for length in shape)


def longer_side(box: np.ndarray, path: Path, what: str) -> float:
    """The longer side of a box x0, y0, x1, y1 in pixels.

    Raises:
        CollectionError: the box is empty.
    """
    width, height = box[2:] - box[:2]
    if not (width > 0 and height > 0):
        raise malformed(path, f"{what} must be x0, y0, x1, y1 with x1 > x0 and y1 > y0")
    return float(max(width, height))


Reader = Callable[[str | Path, Sequence[str], int | None], Iterator[AnnotatedCollection]]
"""``reader(root, categories, limit)``: the categories one after the other, each read when it is its turn; all where
none is named, of each the first ``limit`` photos (None: all)."""
