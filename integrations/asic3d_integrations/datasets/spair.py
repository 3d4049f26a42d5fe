"""SPair-71k: pairs of photos of 18 categories, with the keypoints that both show.

::

    JPEGImages/CATEGORY/NAME.jpg
    PairAnnotation/test/NUMBER-SOURCE-TARGET:CATEGORY.json
    ImageAnnotation/CATEGORY/NAME.json

A collection is all photos in the test pairs of a category. PCK is measured on these pairs, in units of the longer side
of the TARGET's box; cycles on the keypoints of the photos' own annotation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asic3d_integrations.datasets.annotated import (
    AnnotatedCollection,
    Source,
    chosen,
    longer_side,
    malformed,
    need_two,
    numbers,
    read_object,
)
from asic3d_integrations.scoring import KeypointPairs

SOURCE = Source(
    title="SPair-71k",
    fetch="download SPair-71k.tar.gz from the SPair-71k project page of POSTECH, unpack it",
    layout="the folder that holds JPEGImages, PairAnnotation and ImageAnnotation",
    folders=("SPair-71k",),
)
_PHOTOS, _PAIRS, _IMAGES = "JPEGImages", "PairAnnotation/test", "ImageAnnotation"


@dataclass(frozen=True, eq=False)
class _Pair:
    """One pair file: two photos' names, (n, 2) points in each, their ids, and the target's extent in pixels."""

    path: Path
    source: str
    target: str
    points: np.ndarray
    truth: np.ndarray
    ids: tuple[str, ...]
    extent: float


@dataclass(frozen=True, eq=False)
class _Image:
    """One photo's own annotation: its size, its keypoints that are visible by id, and its extent in pixels."""

    size: tuple[int, int]
    keypoints: dict[str, np.ndarray]
    extent: float


def read_spair(
    root: str | Path, categories: Sequence[str] = (), limit: int | None = None
) -> Iterator[AnnotatedCollection]:
    """Reads the test pairs of SPair-71k, category by category.

    Args:
        root: holds JPEGImages, PairAnnotation and ImageAnnotation, or a folder SPair-71k that does.
        categories: names such as "cat"; all where none is given.
        limit: photos of a category at most, the first ones by name; None for all.

    Yields:
        The photos of each category's test pairs.

    Raises:
        CollectionError: something is missing or malformed.

    Example:
        >>> [len(cats) for cats in read_spair("SPair-71k", ["cat"])]  # doctest: +SKIP
        [25]
    """
    base = SOURCE.find(root, (_PHOTOS, _PAIRS, _IMAGES))
    files = sorted((base / _PAIRS).glob("*.json"))
    known = sorted({_category(path) for path in files} - {""})
    if not known:
        raise SOURCE.missing(f"'{base / _PAIRS}' holds no pair such as 000001-A-B:cat.json")
    for category in chosen(known, categories, SOURCE.title):
        yield _read_category(base, category, [path for path in files if _category(path) == category], limit)


def _category(path: Path) -> str:
    """What stands behind the colon."""
    return path.stem.rpartition(":")[2] if ":" in path.stem else ""


def _read_category(base: Path, category: str, files: list[Path], limit: int | None) -> AnnotatedCollection:
    pairs = [_read_pair(path) for path in files]
    names = sorted({name for pair in pairs for name in (pair.source, pair.target)})[:limit]
    need_two(names, category)
    index = {name: number for number, name in enumerate(names)}
    pairs = [pair for pair in pairs if pair.source in index and pair.target in index]
    images = [_read_image(base, category, name) for name in names]
    ids = sorted({part for image in images for part in image.keypoints}, key=lambda part: (len(part), part))
    column = {part: number for number, part in enumerate(ids)}
    keypoints = np.full((len(names), len(ids), 2), np.nan)
    for row, image in zip(keypoints, images, strict=True):
        for part, point in image.keypoints.items():
            row[column[part]] = point
    return AnnotatedCollection(
        name=category,
        root=base / _PHOTOS,
        photo_names=tuple(f"{category}/{name}" for name in names),
        keypoint_names=tuple(ids),
        keypoints=keypoints,
        extents=np.array([image.extent for image in images]),
        pairs=_stacked(pairs, index, column),
        sizes=tuple(image.size for image in images),
    )


def _stacked(pairs: list[_Pair], index: dict[str, int], column: dict[str, int]) -> KeypointPairs:
    """The pair files as arrays, keypoints by id."""
    points, truth = (np.full((len(pairs), len(column), 2), np.nan) for _ in range(2))
    for row, pair in enumerate(pairs):
        unknown = [part for part in pair.ids if part not in column]
        if unknown:
            raise malformed(pair.path, f"no photo's own annotation has its keypoint '{unknown[0]}'")
        columns = [column[part] for part in pair.ids]
        points[row, columns], truth[row, columns] = pair.points, pair.truth
    return KeypointPairs(
        source=np.array([index[pair.source] for pair in pairs], int),
        target=np.array([index[pair.target] for pair in pairs], int),
        points=points,
        truth=truth,
        extents=np.array([pair.extent for pair in pairs], float),
    )


def _read_pair(path: Path) -> _Pair:
    content = read_object(path)
    if content.get("mirror", 0):
        raise malformed(path, "its photos are mirrored, which no test pair's are")
    ids = content.get("kps_ids")
    if not isinstance(ids, list) or len(set(map(str, ids))) != len(ids):
        raise malformed(path, "kps_ids must be a list of different ids")
    points = {side: numbers(content.get(f"{side}_kps"), (None, 2), path, f"{side}_kps") for side in ("src", "trg")}
    for side, found in points.items():
        if len(found) != len(ids):
            raise malformed(path, f"{side}_kps has {len(found)} points for {len(ids)} kps_ids")
    box = numbers(content.get("trg_bndbox"), (4,), path, "trg_bndbox")
    return _Pair(
        path=path,
        source=_photo_name(content.get("src_imname"), path, "src_imname"),
        target=_photo_name(content.get("trg_imname"), path, "trg_imname"),
        points=points["src"],
        truth=points["trg"],
        ids=tuple(map(str, ids)),
        extent=longer_side(box, path, "trg_bndbox"),
    )


def _photo_name(value: Any, path: Path, what: str) -> str:
    if not isinstance(value, str) or not value or Path(value).name != value:
        raise malformed(path, f"{what} must be the name of a photo")
    return value


def _read_image(base: Path, category: str, name: str) -> _Image:
    photo, path = base / _PHOTOS / category / name, base / _IMAGES / category / f"{Path(name).stem}.json"
    for needed in (photo, path):
        if not needed.is_file():
            raise SOURCE.missing(f"'{needed}' is not there, and a test pair needs it")
    content = read_object(path)
    found = content.get("kps")
    if not isinstance(found, dict):
        raise malformed(path, "kps must be an object of points by id")
    keypoints = {
        part: numbers(point, (2,), path, f"the keypoint '{part}'") for part, point in found.items() if point is not None
    }
    size = numbers([content.get("image_width"), content.get("image_height")], (2,), path, "image_width, image_height")
    box = numbers(content.get("bndbox"), (4,), path, "bndbox")
    return _Image((int(size[0]), int(size[1])), keypoints, longer_side(box, path, "bndbox"))
