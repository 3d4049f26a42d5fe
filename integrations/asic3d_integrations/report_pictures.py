"""The photos of an alignment as the report draws them: SVG pictures with marks, colours and outlines on top."""

import base64
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from asic3d import pictures
from asic3d.verdict import photo_levels, standing

if TYPE_CHECKING:
    from asic3d import Alignment

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class View:
    """One photo as the report shows it.

    Attributes:
        index: the photo's place in the collection, from 0.
        name: its name, not escaped.
        size: width and height of the pictures.
        scale: picture pixels per pixel of the original photo.
        photo: (h, w, 3) uint8.
        mask: (h, w) uint8, 255 = object.
        colours: (h, w, 4) uint8, painted by canonical coordinate.
        paint: (h, w, 3) uint8, the same colours without lines, everywhere opaque.
        parts: (h, w, 4) uint8, painted by part of the object.
        level: how well it fits the others, a word of the verdict.
        standing: how it was turned or mirrored to be compared, and whether it shows another thing, in words.
    """

    index: int
    name: str
    size: tuple[int, int]
    scale: float
    photo: np.ndarray
    mask: np.ndarray
    colours: np.ndarray
    paint: np.ndarray
    parts: np.ndarray
    level: str
    standing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Number and name, as people read it; not escaped."""
        return f"{self.index + 1} · {self.name}"

    def shrunk(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) original pixels to (n, 2) coordinates in the SVG picture, whose (0, 0) is the picture's corner."""
        return (points + 0.5) * self.scale

    def hues(self, points: np.ndarray) -> list[str]:
        """The canonical plane's colour at (n, 2) original pixels, as ``#rrggbb``."""
        x, y = np.floor(self.shrunk(points)).astype(int).T
        colours = self.paint[y.clip(0, self.size[1] - 1), x.clip(0, self.size[0] - 1)]
        return ["#" + bytes(colour.tolist()).hex() for colour in colours]

    def svg(self, content: str, label: str, attributes: str = "") -> str:
        """An SVG picture of this photo's size; ``label`` is its alternative text, escaped here."""
        width, height = self.size
        return (
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" {attributes}>{content}</svg>'
        )

    def stored(self) -> str:
        """The photo and its mask, to be defined once in the page and used by the others."""
        width, height = self.size
        path = pictures.outline(self.mask)
        return (
            f'<image id="photo-{self.index}" width="{width}" height="{height}" href="{jpeg(self.photo)}"/>'
            f'<clipPath id="object-{self.index}"><path clip-rule="evenodd" d="{path}"/></clipPath>'
            f'<path id="outline-{self.index}" d="{path}"/>'
        )

    def use(self, what: str, attributes: str = "") -> str:
        """A drawing of something that :meth:`stored` defines: ``photo`` or ``outline``."""
        return f'<use href="#{what}-{self.index}" {attributes}/>'


def views_of(alignment: "Alignment", side: int) -> list[View]:
    """The view of every photo, longer side at most ``side`` pixels."""
    extent, levels = pictures.canonical_extent(alignment), photo_levels(alignment)

    def view(index: int) -> View:
        photo = pictures.photo_picture(alignment, index, side)
        size = (photo.shape[1], photo.shape[0])
        mask = pictures.mask_picture(alignment, index, size)
        paint = pictures.paint_picture(alignment, index, size, extent)
        colours = pictures.colour_picture(alignment, index, mask, paint, extent)
        scale = max(size) / max(alignment.sizes[index])
        parts = pictures.parts_picture(alignment, index, mask)
        name, stands = alignment.names[index], standing(alignment, index)
        return View(index, name, size, scale, photo, mask, colours, paint, parts, levels[index], stands)

    first = view(0)  # finds out what all photos share, once
    return [first, *two_at_a_time(view, range(1, len(alignment.names)))]


def two_at_a_time(make: Callable[[_Item], _Made], items: Iterable[_Item]) -> list[_Made]:
    """What is made of each item, in their order; most of the work of pictures leaves Python's lock alone."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(make, items))


def jpeg(picture: np.ndarray) -> str:
    """A data URI of (h, w, 3) uint8."""
    return _uri(picture, "JPEG", quality=80, optimize=True)


def webp(picture: np.ndarray) -> str:
    """A data URI of (h, w, 4) uint8, with its transparency."""
    return _uri(picture, "WEBP", quality=82, method=2)


def png(picture: np.ndarray) -> str:
    """A data URI of (h, w, 3) uint8, exact."""
    return _uri(picture, "PNG")


def _uri(picture: np.ndarray, form: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
