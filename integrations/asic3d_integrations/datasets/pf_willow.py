"""PF-WILLOW: ten folders of ten photos, each with ten keypoints.

::

    car(S)/NAME.png, car(S)/NAME.mat      pts_coord, 2 x 10: x, then y, counted from 1
    test_pairs_pf.csv                     where present: the pairs, and the points instead of the .mat files'

The rows of the CSV file are two photos and the points of both, counted from 1, either in 40 columns (10 x and 10 y of
the first photo, then of the second) or in four (XA, YA, XB, YB) with ";" between numbers. Without it, PCK is measured
on all ordered pairs of a folder. Its unit is the longer side of the tight box around the TARGET's keypoints.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from asic3d_integrations.datasets.annotated import (
    AnnotatedCollection,
    Source,
    chosen,
    longer_side,
    malformed,
    need_two,
    numbers,
    read_text,
)
from asic3d_integrations.datasets.matlab import read_mat
from asic3d_integrations.scoring import KeypointPairs, all_pairs

SOURCE = Source(
    title="PF-WILLOW",
    fetch="download the PF-WILLOW archive from the Proposal Flow project page of WILLOW (Inria), unpack it",
    layout="the folder that holds car(S), duck(S) and the other folders",
    folders=("PF-dataset-WILLOW", "PF-dataset"),
)
_CSV = "test_pairs_pf.csv"
_KEYPOINTS = 10
_NAMES = tuple(str(number) for number in range(1, _KEYPOINTS + 1))


@dataclass(frozen=True, eq=False)
class _Row:
    """One row of the CSV file: the photos as FOLDER/NAME, and (10, 2) pixels in each."""

    source: str
    target: str
    points: np.ndarray
    truth: np.ndarray


def read_pf_willow(
    root: str | Path, categories: Sequence[str] = (), limit: int | None = None
) -> Iterator[AnnotatedCollection]:
    """Reads PF-WILLOW, folder by folder.

    Args:
        root: holds the folders such as "car(S)", or a folder PF-dataset that does.
        categories: names of folders; all where none is given.
        limit: photos of a folder at most, the first ones by name; None for all.

    Yields:
        The photos of each folder.

    Raises:
        CollectionError: something is missing or malformed.
    """
    base = SOURCE.find(root, ())
    table = next((path for path in (base / _CSV, Path(root) / _CSV) if path.is_file()), None)
    if table is not None:
        rows = _read_rows(table)
        known = sorted({_folder(row.source) for row in rows})
        for category in chosen(known, categories, SOURCE.title):
            yield _of_rows(base, table, category, [row for row in rows if _folder(row.source) == category], limit)
        return
    known = sorted({path.parent.name for path in base.glob("*/*.mat")})
    if not known:
        raise SOURCE.missing(f"'{base}' has no folder with .mat files, and no {_CSV}")
    for category in chosen(known, categories, SOURCE.title):
        yield _of_folder(base, category, limit)


def _folder(photo: str) -> str:
    return photo.split("/")[0]


def _of_folder(base: Path, category: str, limit: int | None) -> AnnotatedCollection:
    """A folder by its .mat files."""
    files = sorted((base / category).glob("*.mat"))[:limit]
    points = [_read_points(path) for path in files]
    photos = [f"{category}/{path.stem}.png" for path in files]
    return _collection(base, category, photos, points, files, None)


def _read_points(path: Path) -> np.ndarray:
    """(10, 2) float64 pixels, (0, 0) = the centre of the top-left one."""
    points = numbers(read_mat(path).get("pts_coord"), (2, _KEYPOINTS), path, "pts_coord")
    return points.T - 1  # MATLAB counts from 1


def _of_rows(base: Path, table: Path, category: str, rows: list[_Row], limit: int | None) -> AnnotatedCollection:
    """A folder by its rows in the CSV file."""
    points: dict[str, np.ndarray] = {}
    for row in rows:
        for photo, found in ((row.source, row.points), (row.target, row.truth)):
            if not np.array_equal(points.setdefault(photo, found), found):
                raise malformed(table, f"the points of '{photo}' differ between rows")
    photos = sorted(points)[:limit]
    index = {photo: number for number, photo in enumerate(photos)}
    pairs = [(index[row.source], index[row.target]) for row in rows if row.source in index and row.target in index]
    return _collection(base, category, photos, [points[photo] for photo in photos], [table] * len(photos), pairs)


def _collection(
    base: Path,
    category: str,
    photos: list[str],
    points: list[np.ndarray],
    files: list[Path],
    listed_pairs: list[tuple[int, int]] | None,
) -> AnnotatedCollection:
    need_two(photos, category)
    for photo in photos:
        if not (base / photo).is_file():
            raise SOURCE.missing(f"'{base / photo}' is not there, and its keypoints are")
    keypoints = np.stack(points)
    boxes = np.concatenate([keypoints.min(1), keypoints.max(1)], 1)
    extents = [
        longer_side(box, path, f"the box around the keypoints of '{photo}'")
        for box, path, photo in zip(boxes, files, photos, strict=True)
    ]
    pairs = all_pairs(keypoints, np.array(extents))
    return AnnotatedCollection(
        name=category,
        root=base,
        photo_names=tuple(photos),
        keypoint_names=_NAMES,
        keypoints=keypoints,
        extents=np.array(extents),
        pairs=pairs if listed_pairs is None else _only(pairs, listed_pairs),
    )


def _only(pairs: KeypointPairs, listed_pairs: list[tuple[int, int]]) -> KeypointPairs:
    """The listed ones of all pairs, in their order."""
    place = {pair: row for row, pair in enumerate(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True))}
    rows = [place[pair] for pair in listed_pairs]
    return KeypointPairs(
        pairs.source[rows], pairs.target[rows], pairs.points[rows], pairs.truth[rows], pairs.extents[rows]
    )


def _read_rows(table: Path) -> list[_Row]:
    lines = [line for line in csv.reader(read_text(table).splitlines()) if any(cell.strip() for cell in line)]
    first = 2 if lines and _is_header(lines[0]) else 1
    rows = [_read_row(table, number, line) for number, line in enumerate(lines[first - 1 :], first)]
    if not rows:
        raise malformed(table, "it lists no pair")
    return rows


def _is_header(cells: list[str]) -> bool:
    """Whether the third cell is no number."""
    try:
        float("".join(cells[2:3]).split(";")[0])
    except ValueError:
        return True
    return False


def _read_row(table: Path, number: int, cells: list[str]) -> _Row:
    where = f"row {number}"
    if len(cells) == 2 + 4 * _KEYPOINTS:
        values = [cells[start : start + _KEYPOINTS] for start in range(2, len(cells), _KEYPOINTS)]
    elif len(cells) == 6:
        values = [[part for part in cell.split(";") if part.strip()] for cell in cells[2:]]
    else:
        raise malformed(table, f"{where} has {len(cells)} columns, not 42 or 6")
    xa, ya, xb, yb = (numbers(value, (_KEYPOINTS,), table, f"the coordinates in {where}") for value in values)
    source, target = (_photo(table, where, cell) for cell in cells[:2])
    if _folder(source) != _folder(target) or source == target:
        raise malformed(table, f"{where} must name two photos of one folder")
    return _Row(source, target, np.stack([xa, ya], 1) - 1, np.stack([xb, yb], 1) - 1)


def _photo(table: Path, where: str, cell: str) -> str:
    """The last two parts of a path such as PF-dataset/car(S)/NAME.png."""
    parts = PurePosixPath(cell.strip()).parts[-2:]
    if len(parts) != 2 or ".." in parts or "/" in parts:
        raise malformed(table, f"{where} must begin with two photos as FOLDER/NAME.png")
    return "/".join(parts)
