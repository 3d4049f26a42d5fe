"""SAMURAI (Boss et al. 2022): photos of one object in different places, with masks and without keypoints.

::

    OBJECT/NAME.jpg, or OBJECT/images/NAME.jpg
    OBJECT/masks/NAME.png, or masks/OBJECT/NAME.png, or OBJECT_masks/NAME.png       "mask" will do

Without keypoints, what can be measured is whether points of the object come back from cycles. The points are a grid
over the mask, the unit is the longer side of the mask's box. The masks are used for nothing else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from asic3d.decoding import UnreadableError, decode_mask
from asic3d.photo_folder import find_photos, match_masks
from asic3d_integrations.datasets.annotated import AnnotatedCollection, Source, chosen, malformed, need_two

SOURCE = Source(
    title="SAMURAI",
    fetch="download the data sets from the SAMURAI project page of Boss et al. (NeurIPS 2022), unpack them",
    layout="the folder that holds a folder for each object, with its masks in a folder 'masks' there",
    folders=(),
)
_MASKS, _IMAGES = ("masks", "mask"), ("images", "image")
GRID_POINTS = 36
"""Points of each photo, about."""


def read_samurai(
    root: str | Path, categories: Sequence[str] = (), limit: int | None = None
) -> Iterator[AnnotatedCollection]:
    """Reads folders of photos with masks, object by object.

    Args:
        root: holds a folder for each object.
        categories: names of objects; all that have masks where none is given.
        limit: photos of an object at most, the first ones by name; None for all.

    Yields:
        The photos of each object with points on a grid over its masks; ``pairs`` is None.

    Raises:
        CollectionError: something is missing or malformed.
    """
    root = SOURCE.find(root, ())
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    masks = {path.name: mask for path in folders if (mask := _mask_folder(path)) is not None}
    if not masks:
        raise SOURCE.missing(f"no folder in '{root}' has photos of an object with masks")
    for category in chosen(list(masks), categories, SOURCE.title):
        yield _read_object(root, category, masks[category], limit)


def _mask_folder(folder: Path) -> Path | None:
    """Where the masks of an object lie; None where the folder is none of an object."""
    places = [folder / name for name in _MASKS]
    places += [folder.parent / name / folder.name for name in _MASKS]
    places += [folder.parent / f"{folder.name}_{name}" for name in _MASKS]
    return next((place for place in places if place.is_dir()), None)


def _read_object(root: Path, category: str, mask_folder: Path, limit: int | None) -> AnnotatedCollection:
    folder = next((root / category / name for name in _IMAGES if (root / category / name).is_dir()), root / category)
    names = list(find_photos(folder, passed_over=mask_folder).photos)
    masks = match_masks(names, mask_folder)
    names = names[:limit]
    need_two(names, category)
    for name in names:
        if name not in masks:
            raise SOURCE.missing(f"the photo '{folder / name}' has no mask in '{mask_folder}'")
    found = [_grid(masks[name]) for name in names]
    points = np.full((len(names), max(len(grid) for grid, _, _ in found), 2), np.nan)
    for row, (grid, _, _) in zip(points, found, strict=True):
        row[: len(grid)] = grid
    return AnnotatedCollection(
        name=category,
        root=folder,
        photo_names=tuple(names),
        keypoint_names=tuple(str(number) for number in range(points.shape[1])),
        keypoints=points,
        extents=np.array([extent for _, extent, _ in found]),
        pairs=None,
        sizes=tuple(size for _, _, size in found),
    )


def _grid(path: Path) -> tuple[np.ndarray, float, tuple[int, int]]:
    """(n, 2) pixels of the mask at about equal distances, the longer side of its box, and its (width, height)."""
    try:
        mask = decode_mask(path)
    except UnreadableError as error:
        raise malformed(path, str(error)) from error
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise malformed(path, "it is black everywhere")
    step = max(1.0, (len(rows) / GRID_POINTS) ** 0.5)
    y, x = (np.arange(v.min() + step / 2 - 0.5, v.max() + 0.5, step) for v in (rows, columns))
    across = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    inside = across[mask[tuple(np.rint(across).astype(int).T[::-1])]]
    if not len(inside):  # thinner than the grid is wide: its pixel nearest to the middle
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        inside = np.array([[columns[middle], rows[middle]]], float)
    return inside, float(max(np.ptp(rows), np.ptp(columns)) + 1), (mask.shape[1], mask.shape[0])
