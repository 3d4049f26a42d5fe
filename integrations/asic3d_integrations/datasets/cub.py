"""CUB-200-2011: 200 species of birds with boxes and 15 parts.

::

    images.txt                      id path
    images/CLASS/NAME.jpg
    bounding_boxes.txt              id x y width height, counted from 1
    parts/parts.txt                 id name
    parts/part_locs.txt             id part x y visible, counted from 1
    train_test_split.txt            id 1 (training) or 0
    cachedir/cub/data/test_cub_cleaned.mat, or val_...      where present: which photos are used (images.rel_path)

A collection is one class. As in the evaluation of ACSM, photos are cut to a square around the box, padded by 5 % on
each side, the photo's border repeated, and resized to 256 pixels. PCK is measured on all ordered pairs, in units of the
crop's side.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath

import numpy as np

from asic3d_integrations.datasets.annotated import (
    CROP_SIDE,
    AnnotatedCollection,
    Crop,
    Source,
    chosen,
    malformed,
    need_two,
    numbers,
    read_text,
)
from asic3d_integrations.datasets.matlab import read_mat
from asic3d_integrations.scoring import all_pairs

SOURCE = Source(
    title="CUB-200-2011",
    fetch="download CUB_200_2011.tgz from the CUB-200-2011 page of Caltech, unpack it",
    layout="the folder that holds images.txt, images and parts",
    folders=("CUB_200_2011",),
)
_LIST, _BOXES, _SPLIT = "images.txt", "bounding_boxes.txt", "train_test_split.txt"
_PARTS, _PLACES = "parts/parts.txt", "parts/part_locs.txt"
_CLEANED = ("test_cub_cleaned.mat", "val_cub_cleaned.mat")
_PADDING = 0.05  # of the box's width and height, on each side
_DIGITS = 9  # of a photo's or a part's number, at most


@dataclass(frozen=True, eq=False)
class _Annotation:
    """The whole data set's annotation, a row for each photo of images.txt.

    Attributes:
        paths: CLASS/NAME.jpg.
        boxes: (M, 4) float64: x, y, width, height, counted from 1.
        parts: (M, K, 2) float64 pixels, counted from 0, NaN where not visible.
        part_names: K names.
        used: (M,) bool: the test photos, or those that the cleaned list names.
    """

    paths: list[str]
    boxes: np.ndarray
    parts: np.ndarray
    part_names: tuple[str, ...]
    used: np.ndarray


def read_cub(
    root: str | Path, categories: Sequence[str] = (), limit: int | None = None
) -> Iterator[AnnotatedCollection]:
    """Reads CUB-200-2011, class by class.

    Args:
        root: holds images.txt and the rest, or a folder CUB_200_2011 that does.
        categories: classes as "001.Black_footed_Albatross" or by number, "1" or "001"; where none is given, all that
            have two photos.
        limit: photos of a class at most, the first ones of images.txt; None for all.

    Yields:
        The photos of each class, as crops.

    Raises:
        CollectionError: something is missing or malformed.
    """
    base = SOURCE.find(root, (_LIST, "images", _BOXES, _PARTS, _PLACES, _SPLIT))
    annotation = _read_annotation(base)
    known = sorted({_class(path) for path in annotation.paths})
    by_number = {name.partition(".")[0].lstrip("0"): name for name in known}
    wanted = [by_number.get(name.lstrip("0"), name) for name in categories]
    for category in chosen(known, wanted, SOURCE.title) if wanted else _usable(base, annotation):
        yield _read_class(base, annotation, category, limit)


def _usable(base: Path, annotation: _Annotation) -> list[str]:
    """The classes of which two photos or more are used."""
    used = Counter(_class(path) for path, is_used in zip(annotation.paths, annotation.used, strict=True) if is_used)
    usable = sorted(name for name, count in used.items() if count > 1)
    if not usable:
        raise SOURCE.missing(f"no class in '{base}' has two test photos")
    return usable


def _class(path: str) -> str:
    return path.split("/")[0]


def _read_class(base: Path, annotation: _Annotation, category: str, limit: int | None) -> AnnotatedCollection:
    rows = [row for row, path in enumerate(annotation.paths) if annotation.used[row] and _class(path) == category]
    rows = rows[:limit]
    need_two([annotation.paths[row] for row in rows], category)
    for row in rows:
        if not (base / "images" / annotation.paths[row]).is_file():
            raise SOURCE.missing(f"'{base / 'images' / annotation.paths[row]}' is not there, and {_LIST} lists it")
    crops = tuple(square_crop(annotation.boxes[row]) for row in rows)
    keypoints = np.stack([crop.moved(annotation.parts[row]) for crop, row in zip(crops, rows, strict=True)])
    extents = np.full(len(rows), float(CROP_SIDE))
    return AnnotatedCollection(
        name=category,
        root=base / "images",
        photo_names=tuple(annotation.paths[row] for row in rows),
        keypoint_names=annotation.part_names,
        keypoints=keypoints,
        extents=extents,
        pairs=all_pairs(keypoints, extents),
        crops=crops,
    )


def square_crop(box: np.ndarray) -> Crop:
    """The square around a padded box.

    Args:
        box: (4,) float64: x, y, width, height in pixels, x and y counted from 1.

    Returns:
        A crop in whole pixels; the shorter side is widened on both sides.

    Example:
        >>> square_crop(np.array([11.0, 21.0, 100.0, 60.0]))
        Crop(x=5, y=-5, side=110)
    """
    first, size = box[:2] - 1, box[2:]
    low = [_rounded(value) for value in first - _PADDING * size]
    high = [_rounded(value) for value in first + size - 1 + _PADDING * size]
    width, height = high[0] - low[0] + 1, high[1] - low[1] + 1
    side = max(width, height)
    return Crop(low[0] - _rounded((side - width) / 2), low[1] - _rounded((side - height) / 2), side)


def _rounded(value: float) -> int:
    """To the nearest integer, halves away from zero, as ACSM's crops were made."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _read_annotation(base: Path) -> _Annotation:
    paths = dict(_read_names(base / _LIST))
    for path in paths.values():
        if len(PurePosixPath(path).parts) != 2 or ".." in path:
            raise malformed(base / _LIST, f"'{path}' is no path such as CLASS/NAME.jpg")
    part_names = dict(_read_names(base / _PARTS))
    ids = list(paths)
    boxes = _by_photo(base / _BOXES, ids, 5, 1)[:, 0, 1:]
    if not (boxes[:, 2:] >= 1).all():
        raise malformed(base / _BOXES, "every box needs a width and a height of at least 1")
    split = _by_photo(base / _SPLIT, ids, 2, 1)[:, 0, 1]
    places = _by_photo(base / _PLACES, ids, 5, len(part_names))
    if (places[:, :, 1] != np.array(list(part_names))).any():
        raise malformed(base / _PLACES, f"the parts of each photo must come in the order of {_PARTS}")
    parts = np.where(places[:, :, 4:] > 0, places[:, :, 2:4] - 1, np.nan)
    return _Annotation(
        list(paths.values()), boxes, parts, tuple(part_names.values()), _used(base, list(paths.values()), split)
    )


def _used(base: Path, paths: list[str], split: np.ndarray) -> np.ndarray:
    """(M,) bool: the photos of the cleaned list where there is one, else of the test split."""
    for file in (base / "cachedir" / "cub" / "data" / name for name in _CLEANED):
        if file.is_file():
            images = np.atleast_1d(read_mat(file).get("images", np.array([])))
            kept = {str(getattr(image, "rel_path", "")) for image in images}
            if not kept & set(paths):
                raise malformed(file, f"images.rel_path names no photo of {_LIST}")
            return np.array([path in kept for path in paths])
    return split == 0


def _read_names(path: Path) -> Iterator[tuple[int, str]]:
    """Rows of a number and a text."""
    for line in read_text(path).splitlines():
        number, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if not number.isdecimal() or len(number) > _DIGITS or not name.strip():
            raise malformed(path, f"'{line.strip()[:40]}' is no number and name")
        yield int(number), name.strip()


def _by_photo(path: Path, ids: list[int], columns: int, rows: int) -> np.ndarray:
    """(M, rows, columns) float64: a table whose first column is the photo's id, in the order of ``ids``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file, which is told below
            table = np.loadtxt(StringIO(read_text(path)), ndmin=2)
    except ValueError:
        raise malformed(path, "it must hold numbers alone, as many in each row") from None
    table = numbers(table, (None, columns), path, "its rows")
    table = table[np.argsort(table[:, 0], kind="stable")]
    if not np.array_equal(table[:, 0], np.repeat(np.sort(np.array(ids, float)), rows)):
        raise malformed(path, f"it must have {rows} row{'s' * (rows > 1)} for each of the {len(ids)} photos of {_LIST}")
    order = np.argsort(np.argsort(np.array(ids)))
    return table.reshape(len(ids), rows, columns)[order]
