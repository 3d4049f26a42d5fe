"""The main pictures of a report as image files: one sheet each of colours, points and masks, all photos on it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asic3d.pictures import coloured, cut_out, over, part_colours
from asic3d.verdict import GUESS, SURE
from asic3d_integrations.report_pictures import View
from asic3d_integrations.sampled_matches import NUMBERED, SampledMatches

CELL = 320
"""Pixels of the longer side of a photo on a sheet."""
_GAP = 12


def contact_sheets(views: list[View], samples: SampledMatches, parts: int) -> dict[str, Image.Image]:
    """File name -> sheet: ``colours.jpg`` (each photo and its colouring), ``points.jpg``, ``masks.jpg``, ``parts.jpg``.

    ``parts`` is the number of parts, each of which the last sheet explains.
    """
    reference = samples.reference()
    return {
        "colours.jpg": sheet_of(
            [np.hstack([view.photo, coloured(view.photo, view.colours)]) for view in views], 2 * CELL
        ),
        "points.jpg": sheet_of([_numbered(view, views[reference], samples) for view in views], CELL),
        "masks.jpg": sheet_of([cut_out(view.photo, view.mask) for view in views], CELL),
        "parts.jpg": _with_key(sheet_of([_in_parts(view) for view in views], CELL), parts),
    }


def sheet_of(pictures: list[np.ndarray], cell: int) -> Image.Image:
    """Pictures in rows on white, each shrunk into a cell that is ``cell`` wide and ``CELL`` high."""
    columns = max(1, round((len(pictures) * CELL / cell) ** 0.5 + 0.49))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (cell + _GAP) + _GAP, rows * (CELL + _GAP) + _GAP), "white")
    for place, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        image.thumbnail((cell, CELL))
        row, column = divmod(place, columns)
        left, top = _GAP + column * (cell + _GAP), _GAP + row * (CELL + _GAP)
        sheet.paste(image, (left + (cell - image.width) // 2, top + (CELL - image.height) // 2))
    return sheet


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
    places = view.shrunk(samples.points[source][view.index][:NUMBERED])
    confidence = samples.confidence[source][view.index][:NUMBERED]
    colours = reference.hues(samples.points[source][source][:NUMBERED])
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
