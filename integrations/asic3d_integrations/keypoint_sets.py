"""Photos with annotated keypoints: reads a folder's keypoints.json and scores a transfer against it.

::

    {"images": [{"file": "images/a.jpg", "size": [w, h], "bbox": [x0, y0, x1, y1], "keypoints": {"nose": [x, y, 1]}}]}

Pixels, x right, y down, (0, 0) = the centre of the top-left pixel. A point is ``null`` or its third number 0 where it
is not visible; without a third number it is visible.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from asic3d.coordinates import normalised_to_pixels, pixels_to_normalised
from asic3d.errors import CollectionError
from asic3d.metrics import Transfer
from asic3d.photo_folder import shown
from asic3d.reading import read_text_bounded
from asic3d_integrations.scoring import all_pairs, score_keypoints

FILE_NAME = "keypoints.json"


@dataclass(frozen=True, eq=False)
class KeypointSet:
    """Annotated photos of one object or category.

    Attributes:
        folder: where keypoints.json lies.
        files: path of each photo relative to ``folder``, forward slashes.
        sizes: (width, height) of each upright photo in pixels.
        boxes: (N, 4) float64, the object's box x0, y0, x1, y1 in pixels.
        names: the keypoints' names, sorted.
        keypoints: (N, K, 2) float64 pixels, NaN where a keypoint is not visible.
    """

    folder: Path
    files: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    boxes: np.ndarray
    names: tuple[str, ...]
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @property
    def extents(self) -> np.ndarray:
        """(N,) float64: longer side of each photo's box in pixels, the unit of PCK."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).max(1)

    @property
    def visible(self) -> np.ndarray:
        """(N, K) bool: where a keypoint is visible."""
        return np.isfinite(self.keypoints.sum(-1))

    @property
    def photo_folder(self) -> Path:
        """The deepest folder that holds all photos: the one to load as a collection."""
        return self.folder / self._common

    @property
    def photo_names(self) -> tuple[str, ...]:
        """Each photo's name in the collection of ``photo_folder``, in this set's order."""
        return tuple(str(PurePosixPath(file).relative_to(self._common)) for file in self.files)

    @property
    def _common(self) -> PurePosixPath:
        first, *others = (PurePosixPath(file) for file in self.files)
        return next(p for p in first.parents if all(p in other.parents for other in others))


def load_keypoint_set(folder: str | Path) -> KeypointSet:
    """Reads the annotations of a folder; the photos themselves are not opened.

    Args:
        folder: holds keypoints.json and the photos that it names.

    Raises:
        CollectionError: the file is missing or malformed, or names a photo that is not there.

    Example:
        >>> load_keypoint_set("cows").photo_names  # doctest: +SKIP
        ('2008_000073.jpg', '2008_002778.jpg')
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    entries = _read_entries(path)
    photos = [_parse_photo(folder, path, number, entry) for number, entry in enumerate(entries, 1)]
    files = [photo["file"] for photo in photos]
    twice = sorted({file for file in files if files.count(file) > 1})
    if twice:
        raise CollectionError(f"{path} names the photo {shown(twice[0])} twice; keep one entry for each photo.")
    names = sorted({name for photo in photos for name in photo["keypoints"]})
    keypoints = np.array([[photo["keypoints"].get(name, (math.nan,) * 2) for name in names] for photo in photos])
    keypoints = keypoints.reshape(len(photos), len(names), 2)
    if not (np.isfinite(keypoints[..., 0]).sum(0) > 1).any():
        raise CollectionError(f"{path} has no keypoint that is visible in two photos; annotate shared points.")
    return KeypointSet(
        folder=folder,
        files=tuple(files),
        sizes=tuple(photo["size"] for photo in photos),
        boxes=np.array([photo["bbox"] for photo in photos], float),
        names=tuple(names),
        keypoints=keypoints,
    )


def identity_transfer(keypoint_set: KeypointSet) -> Transfer:
    """The baseline that leaves each point where it is: the same normalised coordinate in the target photo."""

    def transfer(source: int, target: int, points: np.ndarray) -> np.ndarray:
        normalised = pixels_to_normalised(torch.from_numpy(points), keypoint_set.sizes[source])
        return normalised_to_pixels(normalised, keypoint_set.sizes[target]).numpy()

    return transfer


def named_transfer(transfer: Callable[..., Any], keypoint_set: KeypointSet | Sequence[str]) -> Transfer:
    """A transfer between photos by name, as ``alignment.transfer`` is, as one between a set's photos by index.

    Args:
        transfer: ``transfer(points, source=NAME, target=NAME)``, whose result has ``.points`` (n, 2) in pixels.
        keypoint_set: its ``photo_names`` are the names, the alignment is one of its ``photo_folder``; or the names.
    """
    names = keypoint_set.photo_names if isinstance(keypoint_set, KeypointSet) else tuple(keypoint_set)

    def by_index(source: int, target: int, points: np.ndarray) -> np.ndarray:
        return np.asarray(transfer(points, source=names[source], target=names[target]).points, np.float64)

    return by_index


def evaluate_keypoints(
    transfer: Transfer, keypoint_set: KeypointSet, *, cycles: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Scores a transfer over all ordered pairs of photos and over 2- and 3-cycles.

    Args:
        transfer: moves points between two photos of the set, both by index.
        keypoint_set: photos with the truth.
        cycles: up to this many ordered k-tuples all are walked, otherwise a sample of this many.
        seed: seed of that sample.

    Returns:
        Figures in [0, 1] as :func:`asic3d_integrations.scoring.score_keypoints` names them.
    """
    keypoints, extents = keypoint_set.keypoints, keypoint_set.extents
    pairs = all_pairs(keypoints, extents)
    return score_keypoints(transfer, pairs, keypoints, extents, cycles=cycles, seed=seed)


def _read_entries(path: Path) -> list[Any]:
    """The list under "images" of a keypoints.json."""
    try:
        content = json.loads(read_text_bounded(path))
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise CollectionError(
                f"There is no folder '{path.parent}'; name one that holds {FILE_NAME} and the photos."
            ) from None
        raise CollectionError(f"There is no {FILE_NAME} in {path.parent}; name a folder that holds one.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CollectionError(
            f"{path} can't be read as JSON ({getattr(error, 'strerror', None) or error}); check or replace the file."
        ) from error
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) < 2:
        raise CollectionError(f'{path} must hold {{"images": [...]}} with at least two entries, one for each photo.')
    return entries


def _parse_photo(folder: Path, path: Path, number: int, entry: Any) -> dict[str, Any]:
    """One entry with its "file", "size", "bbox" and "keypoints" (NaN where not visible), all checked."""
    file = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(file, str) or not file:
        raise CollectionError(f'Entry {number} of {path} needs a "file": the photo\'s path, relative to the folder.')
    where = f"{shown(file)} in {path}"
    parts = PurePosixPath(file)
    if parts.is_absolute() or ".." in parts.parts or "\\" in file or not _is_file(folder / parts):
        raise CollectionError(f"{where} is no photo inside {folder}; correct the path or add the photo.")
    size, box = _numbers(entry.get("size"), (2,)), _numbers(entry.get("bbox"), (4,))
    if size is None or not all(side >= 1 and side == int(side) for side in size):
        raise CollectionError(f'{where} needs "size": [width, height] in whole pixels; found {entry.get("size")!r}.')
    if box is None or not (box[2] > box[0] and box[3] > box[1]):
        raise CollectionError(
            f'{where} needs "bbox": [x0, y0, x1, y1] with x1 > x0, y1 > y0; found {entry.get("bbox")!r}.'
        )
    points = entry.get("keypoints")
    if not isinstance(points, dict):
        raise CollectionError(f'{where} needs "keypoints": {{name: [x, y, visible]}}; found {points!r}.')
    keypoints = {}
    for name, value in points.items():
        point = _numbers(value, (2, 3))
        if point is None and value is not None:
            raise CollectionError(
                f"The keypoint {shown(name)} of {where} must be [x, y, visible] or null; found {value!r}."
            )
        visible = point is not None and (len(point) == 2 or point[2])
        keypoints[name] = point[:2] if point is not None and visible else (math.nan, math.nan)
    return {"file": str(parts), "size": (int(size[0]), int(size[1])), "bbox": box, "keypoints": keypoints}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # longer than names may be, or of letters that no name has
        return False


def _numbers(value: Any, lengths: tuple[int, ...]) -> tuple[float, ...] | None:
    """A JSON list of so many finite numbers as floats; None for anything else."""
    if not isinstance(value, list) or len(value) not in lengths:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return None
    return tuple(float(v) for v in value) if all(abs(v) < 1e9 for v in value) else None  # false for NaN too
