"""The main pictures of a report as image files: one sheet each of colours, points and masks, all photos on it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asic3d.pictures import coloured, cut_out, over, part_colours
from asic3d.verdict import GUESS, SURE
from asic3d_integrations.report_pictures import View
from asic3d_integrations.sampled_matches import NUMBERED, SampledMatches

CELL = 320
"""Pixels of the longer side of a photo on a sheet."""
_FULL = 40
"""Photos whose pictures fill a sheet: those of more photos are drawn smaller."""
_GAP = 12
_LINE = 24  # pixels below a picture that has a caption
_MARK = (214, 69, 0)


def contact_sheets(views: list[View], samples: SampledMatches, parts: int) -> Iterator[tuple[str, Image.Image]]:
    """File name and sheet: ``colours.jpg`` (photos and their colouring), ``points.jpg``, ``masks.jpg``, ``parts.jpg``.

    They are drawn one after the other; those of many photos are large. ``parts`` is the number of parts, each of which
    the last sheet explains.
    """
    reference = views[samples.reference()]
    cell = round(CELL * min(1.0, (_FULL / len(views)) ** 0.5))
    beside = [np.hstack([view.photo, coloured(view.photo, view.colours)]) for view in views]
    yield "colours.jpg", sheet_of(beside, 2 * cell, cell)
    yield "points.jpg", sheet_of([_numbered(view, reference, samples) for view in views], cell, cell)
    yield "masks.jpg", sheet_of([cut_out(view.photo, view.mask) for view in views], cell, cell)
    yield "parts.jpg", _with_key(sheet_of([_in_parts(view) for view in views], cell, cell), parts)


def sheet_of(
    pictures: list[np.ndarray],
    cell: int,
    high: int = CELL,
    *,
    captions: Sequence[str] = (),
    marked: Sequence[bool] = (),
) -> Image.Image:
    """Pictures in rows on white, each shrunk into a cell that is ``cell`` wide and ``high`` high.

    Args:
        pictures: (h, w, 3) uint8 each.
        cell: pixels.
        high: pixels.
        captions: a line below each picture; none by default.
        marked: which pictures get a frame.
    """
    columns = max(1, round((len(pictures) * high / cell) ** 0.5 + 0.49))
    rows = -(-len(pictures) // columns)
    height = high + _GAP + (_LINE if captions else 0)
    sheet = Image.new("RGB", (columns * (cell + _GAP) + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        image.thumbnail((cell, high))
        row, column = divmod(place, columns)
        left, top = _GAP + column * (cell + _GAP) + (cell - image.width) // 2, _GAP + row * height
        sheet.paste(image, (left, top))
        if place < len(marked) and marked[place]:
            draw.rectangle((left - 5, top - 5, left + image.width + 4, top + image.height + 4), outline=_MARK, width=4)
        if captions:
            middle = left + image.width // 2, top + image.height + 7
            draw.text(middle, _shortened(captions[place], font, cell), fill="black", font=font, anchor="ma")
    return sheet


def _shortened(text: str, font: Any, width: int) -> str:
    """A text that fits into a width: its end, which tells names of photos apart, and what its font can draw."""
    text = text if text.isprintable() else ascii(text)
    if font.getlength(text) <= width:
        return text
    start = next(start for start in range(len(text) + 1) if font.getlength(f"…{text[start:]}") <= width)
    return f"…{text[start:]}"


def _in_parts(view: View) -> np.ndarray:
    """The parts over the photo: (h, w, 3) uint8."""
    return over(view.parts[..., :3], view.photo.astype(float), 0.75 * view.parts[..., 3])


def _with_key(sheet: Image.Image, parts: int) -> Image.Image:
    """A sheet with the colours of the parts and their numbers below it."""
    step = 100
    columns = max(1, (sheet.width - _GAP) // step)
    taller = Image.new("RGB", (sheet.width, sheet.height + 30 * -(-parts // columns)), "white")
    taller.paste(sheet)
    draw, font = ImageDraw.Draw(taller), ImageFont.load_default(15)
    for number, colour in enumerate(part_colours(parts).tolist()):
        row, column = divmod(number, columns)
        left, top = _GAP + step * column, sheet.height + 30 * row
        draw.rectangle((left, top, left + 18, top + 18), fill=tuple(colour))
        draw.text((left + 25, top + 9), f"part {number + 1}", fill="black", font=font, anchor="lm")
    return taller


def _numbered(view: View, reference: View, samples: SampledMatches) -> np.ndarray:
    """The photo with the reference photo's first points, each with its number; guesses are rings."""
    source = reference.index
    points, sure_of = samples.of(source)
    places, confidence = view.shrunk(points[view.index][:NUMBERED]), sure_of[view.index][:NUMBERED]
    colours = reference.hues(points[source][:NUMBERED])
    image = Image.fromarray(view.photo.copy())
    draw, radius = ImageDraw.Draw(image), 0.03 * max(view.size)
    font = ImageFont.load_default(max(6.0, 1.2 * radius))
    for number, ((x, y), sure, colour) in enumerate(zip(places.tolist(), confidence, colours, strict=True), 1):
        size = radius * (0.7 + 0.3 * min(float(sure) / SURE, 1))
        box = (x - size, y - size, x + size, y + size)
        if sure >= GUESS:
            draw.ellipse(box, fill=colour, outline="white", width=2)
        else:
            draw.ellipse(box, outline=colour, width=2)
        draw.text((x, y), str(number), fill="black" if sure >= GUESS else "white", font=font, anchor="mm")
    return np.asarray(image)
