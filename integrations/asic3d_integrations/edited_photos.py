"""An edit painted on all photos, as files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from asic3d.coordinates import cell_centres, normalised_to_pixels
from asic3d.errors import StorageError
from asic3d.photo_folder import shown
from asic3d.pictures import picture_size
from asic3d.propagation import fitted_edit, painted
from asic3d.storage import atomic_write, inside
from asic3d_integrations.contact_sheets import CELL, sheet_of

if TYPE_CHECKING:
    from asic3d import Alignment

SHEET = "overview.jpg"
_WHOLE = 0.5
"""Multiple of what the edit covers in the edited photo below which a photo is painted only in part."""
_UNFINISHED = ".asic3d-painting"
"""The file that is in the folder until all photos are: what is there then is ours, and may be painted again."""


@dataclass(frozen=True)
class EditedPhoto:
    """A photo that was written.

    Attributes:
        name: the photo.
        path: the file.
        painted: share of its pixels that the edit changes, each counted by its opacity.
        covered: share of its object that the edit covers, as a multiple of that in the photo that was edited; 0 where
            the edit lies beside the object.
    """

    name: str
    path: Path
    painted: float
    covered: float

    @property
    def in_part(self) -> bool:
        """Whether much of the edit is missing here: the place is partly hidden, or uncertain."""
        return self.painted > 0 and self.covered < _WHOLE


def write_edited(
    alignment: "Alignment",
    edit: Path,
    source: str,
    folder: Path,
    *,
    layers: bool = False,
    overwrite: bool = False,
) -> Iterator[EditedPhoto]:
    """Writes ``NAME.png`` for each photo ``NAME`` that is there, and at the end ``overview.jpg``, all on one sheet.

    The sheet has their names, and a frame around the photo that was edited.

    Args:
        alignment: the alignment.
        edit: an image file with transparency.
        source: name of the photo that it is painted on.
        folder: where to write; made where it is missing.
        layers: write the layers alone too, ``layers/NAME.png``.
        overwrite: replace such files where they are there.

    Returns:
        An iterator that paints and writes one photo after the other.

    Raises:
        EditError: the edit can't be used.
        CollectionError: there is no such photo, or one has changed since it was loaded.
        StorageError: the folder holds other things or can't be written, or a file is there already and ``overwrite``
            is not set. What an interrupted call left is painted again.
    """
    there = [name for name in alignment.names if name not in alignment.collection.absent]
    places = {name: inside(folder, f"{name}.png") for name in there}
    if layers:
        places |= {f"layers/{name}": inside(folder, f"layers/{name}.png") for name in there}
    again = overwrite or os.path.lexists(folder / _UNFINISHED)
    if not os.path.lexists(folder / _UNFINISHED):
        _refuse_foreign(folder)
    index = alignment.collection.index(source)
    source = alignment.names[index]
    layer = fitted_edit(edit, alignment.sizes[index], source)
    painting = alignment.propagate(layer, source=source)
    for path in places.values():
        if path.exists() and not again:
            raise StorageError(f"'{path}' is there already. Replace it with --overwrite, or choose a folder with -o.")
    whole = _share_of_object(alignment, source, layer)
    return _written(alignment, painting, (source, whole), folder, places)


def _refuse_foreign(folder: Path) -> None:
    """Keeps painted photos out of folders that hold other things: among photos they would be taken for such."""
    try:
        others = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return  # not there yet, or writing into it will say why not
    if others and SHEET not in others:
        raise StorageError(
            f"'{folder}' holds other files, such as {shown(min(others))}, and nothing was painted. Choose an empty or "
            "new folder with -o."
        )


def _written(
    alignment: "Alignment",
    layers: Iterator[tuple[str, np.ndarray]],
    edited: tuple[str, float],
    folder: Path,
    places: dict[str, Path],
) -> Iterator[EditedPhoto]:
    """``edited`` is the name of the photo that was edited, and the share of its object that the edit covers."""
    pictures = {}
    atomic_write(folder / _UNFINISHED, lambda file: file.write(b"The photos here are being painted by asic3d.\n"))
    for name, layer in layers:
        photo = alignment.collection[name]
        pixels = painted(photo.read(max(photo.size)), layer)
        _write_png(places[name], pixels)
        if f"layers/{name}" in places:
            _write_png(places[f"layers/{name}"], layer)
        pictures[name] = cv2.resize(pixels, picture_size(photo.size, 2 * CELL), interpolation=cv2.INTER_AREA)
        covered = _share_of_object(alignment, name, layer) / edited[1] if edited[1] else 0.0
        yield EditedPhoto(name, places[name], float(layer[..., 3].mean()) / 255, covered)
    marked = [name == edited[0] for name in pictures]
    captions = [f"{name}: as painted" if mark else name for name, mark in zip(pictures, marked, strict=True)]
    sheet = sheet_of(list(pictures.values()), CELL, captions=captions, marked=marked)
    atomic_write(inside(folder, SHEET), lambda file: sheet.save(file, "JPEG", quality=90))
    (folder / _UNFINISHED).unlink(missing_ok=True)


def _share_of_object(alignment: "Alignment", name: str, layer: np.ndarray) -> float:
    """Share of a photo's object that a layer, (height, width, 4) uint8, covers; on the grid, which needs no pixels."""
    index = alignment.collection.index(name)
    objects, size = alignment.foreground[index].numpy(), alignment.sizes[index]
    grid = len(objects)
    at = normalised_to_pixels(cell_centres(grid), size).reshape(grid, grid, 2).numpy()
    cell = max(1, round(max(size) / grid))
    opacity = cv2.blur(layer[..., 3].astype(np.float32) / 255, (cell, cell), borderType=cv2.BORDER_CONSTANT)
    sampled = cv2.remap(opacity, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return float((sampled * objects).sum() / max(objects.sum(), 1e-6))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """Writes (h, w, 3) or (h, w, 4) uint8."""
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    content = cv2.imencode(".png", cv2.cvtColor(pixels, order))[1].tobytes()
    atomic_write(path, lambda file: file.write(content))
