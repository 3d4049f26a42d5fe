"""What notebooks show of an alignment and its answers: pieces of HTML that need no script, style sheet or network."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asic3d.errors import AlignmentError
from asic3d.pictures import canonical_colours, carried_picture, cut_out, over, overview_picture, picture_size
from asic3d.verdict import FAIR, GOOD, GUESS, POOR, photo_levels, quality_figures, standing, verdict, warnings_of

if TYPE_CHECKING:
    from asic3d import Alignment, Correspondences, DenseMap, Photo

_PHOTOS, _POINTS, _ROWS, _WARNINGS = 24, 30, 10, 5  # how many are shown at most
_SIDE, _PAIR_SIDE, _DENSE_SIDE = 130, 340, 230  # pixels of a photo's longer side
_COLOURS = {GOOD: "#2e8b57", FAIR: "#b8860b", POOR: "#c0392b"}  # to be read on white and on black


def alignment_html(alignment: "Alignment") -> str:
    """The verdict, the photos (cut out, and coloured by place on the object) with their quality, and the figures."""
    word, sentence = verdict(alignment)
    levels = photo_levels(alignment)
    photos = [
        _figure(
            overview_picture(alignment, index, _SIDE),
            f"{name}, cut out and coloured by place on the object",
            f"{_text(name)}<br>{_word(levels[index])}{_listed(standing(alignment, index))}",
        )
        for index, name in enumerate(alignment.names[:_PHOTOS])
    ]
    more = len(alignment.names) - len(photos)
    figures = ((_text(one.label), _text(one.text), _word(one.level)) for one in quality_figures(alignment))
    return _whole(
        f"<b>{len(alignment.names)} photos, aligned</b> with {_text(alignment.backbone)}: {_word(word)}. "
        f"{_text(sentence)}",
        _side_by_side(photos),
        f"and {more} more photos" if more > 0 else "",
        _table(("figure", "value", ""), figures),
        _warnings(warnings_of(alignment)),
    )


def correspondences_html(found: "Correspondences") -> str:
    """Both photos with the points in them, where the photos are known, and a table of the first points."""
    shown = f"; {_POINTS} of them are drawn" if found.photos and len(found) > _POINTS else ""
    heading = f"<b>{len(found)} point{'s' * (len(found) != 1)}</b>"
    drawn = ""
    if found.photos is not None:
        source, target = found.photos
        heading += f" of {_text(source.name)} in {_text(target.name)}{shown}"
        if found.start is not None:
            picture, what = matches_picture(found, _PAIR_SIDE), f"Points of {source.name} in {target.name}"
            drawn = _side_by_side([_figure(picture, what, "rings are guesses: low confidence")])
    rest = f"and {len(found) - _ROWS} more points" if len(found) > _ROWS else ""
    return _whole(heading, drawn, _table(_HEADINGS, _rows(found)) if len(found) else "", rest)


def dense_html(dense: "DenseMap") -> str:
    """The source, the target's pixels laid onto it, the target, and the confidence."""
    height, width = dense.confidence.shape
    heading = f"<b>Dense map</b>, {width} x {height}, mean confidence {float(dense.confidence.mean()):.2f}"
    if dense.photos is None:
        return _whole(heading)
    source, target = dense.photos
    pictures = zip(
        dense_pictures(dense, _DENSE_SIDE),
        (source.name, f"{target.name}, laid onto {source.name}", target.name, "confidence: dark 0, bright 1"),
        strict=True,
    )
    shown = [_figure(picture, caption, _text(caption)) for picture, caption in pictures]
    return _whole(f"{heading}: {_text(source.name)} in {_text(target.name)}", _side_by_side(shown))


def dense_pictures(dense: "DenseMap", side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The source, the target laid onto it, the target, the confidence: (h, w, 3) uint8 each.

    Args:
        dense: with its photos.
        side: pixels of a picture's longer side, at most.

    Raises:
        AlignmentError: the photos are not known.
    """
    source, target = known_photos(dense)
    shrunk = _shrunk(source, side)
    size = (shrunk.shape[1], shrunk.shape[0])
    laid = cv2.resize(carried_picture(dense, target), size, interpolation=cv2.INTER_LINEAR)
    level = np.rint(255 * dense.confidence.numpy()).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(cv2.resize(level, size), cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    pale = cut_out(shrunk, np.full(shrunk.shape[:2], 60, np.uint8))
    return shrunk, over(laid[..., :3], pale.astype(float), laid[..., 3]), _shrunk(target, side), heat


def matches_picture(found: "Correspondences", side: int) -> np.ndarray:
    """Both photos beside each other with the points in them and lines between: (h, w, 3) uint8.

    Args:
        found: with its photos and its start.
        side: pixels of a photo's longer side, at most.

    Raises:
        AlignmentError: the photos are not known.
    """
    photos = known_photos(found)
    left, right = (_shrunk(photo, side) for photo in photos)
    sheet = Image.new("RGB", (left.shape[1] + 10 + right.shape[1], max(left.shape[0], right.shape[0])), "white")
    offset = left.shape[1] + 10
    sheet.paste(Image.fromarray(left))
    sheet.paste(Image.fromarray(right), (offset, 0))
    drawn = spread(len(found), _POINTS)
    start, end = (
        (points[drawn] + 0.5) * max(picture.shape[:2]) / max(photo.size)
        for points, picture, photo in zip(ends(found), (left, right), photos, strict=True)
    )
    sure = found.confidence.numpy()[drawn]
    colours = [tuple(colour) for colour in hues(ends(found)[0][drawn])]
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    end = end + np.array([offset, 0])
    marks = list(zip(start.tolist(), end.tolist(), colours, (sure >= GUESS).tolist(), strict=True))
    for one, other, colour, _ in marks:
        draw.line((*one, *other), fill=colour, width=1)
    for number, (one, other, colour, trusted) in enumerate(marks, 1):
        for x, y in (one, other):
            box = (x - 7, y - 7, x + 7, y + 7)
            draw.ellipse(box, fill=colour if trusted else None, outline="white" if trusted else colour, width=2)
            draw.text((x, y), str(number), fill="black" if trusted else "white", font=font, anchor="mm")
    return np.asarray(sheet)


def known_photos(found: "Correspondences | DenseMap") -> "tuple[Photo, Photo]":
    """The photos of answers.

    Raises:
        AlignmentError: they were made without.
    """
    if found.photos is None:
        raise AlignmentError("These answers do not know their photos. Draw what an alignment's own methods return.")
    return found.photos


def ends(found: "Correspondences") -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) float64 each: the points in the source and in the target, original pixels."""
    start = found.points if found.start is None else found.start
    return start.numpy(), found.points.numpy()


def spread(count: int, most: int) -> np.ndarray:
    """Up to ``most`` of ``count`` places, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.zeros(0, int)


def hues(points: np.ndarray) -> list[list[int]]:
    """A colour, red, green and blue from 0 to 255, for each of (n, 2) points: near points have like colours."""
    middle = points - points.mean(0) if len(points) else points
    extent = max(float(np.hypot(*middle.T).max(initial=0)), 1e-6)
    return np.rint(255 * canonical_colours(middle, 0.6 * extent)).astype(int).tolist()


_HEADINGS = ("", "x", "y", "x found", "y found", "confidence", "cycle error")


def _rows(found: "Correspondences") -> Iterable[tuple[str, ...]]:
    numbers = spread(len(found), _POINTS).tolist() if found.photos else list(range(len(found)))
    start, end = ends(found)
    for number, index in enumerate(numbers[:_ROWS], 1):
        first = [f"{value:.1f}" for value in start[index]] if found.start is not None else ["", ""]
        sure, error = float(found.confidence[index]), float(found.cycle_error[index])
        yield str(number), *first, *(f"{value:.1f}" for value in end[index]), f"{sure:.2f}", f"{error:.1f}"


def _shrunk(photo: "Photo", side: int) -> np.ndarray:
    """(h, w, 3) uint8, longer side at most ``side``."""
    height, width = photo.pixels.shape[:2]
    return cv2.resize(photo.pixels, picture_size((width, height), side), interpolation=cv2.INTER_AREA)


def _text(words: str) -> str:
    """Escaped, with invisible characters spelled out, and of valid Unicode."""
    return escape(words if words.isprintable() else ascii(words)).encode("utf-8", "replace").decode()


def _word(level: str) -> str:
    colour = _COLOURS.get(level)
    return f'<b style="color:{colour}">{_text(level)}</b>' if colour else _text(level)


def _listed(words: Sequence[str]) -> str:
    return "".join(f", {_text(word)}" for word in words)


def _figure(picture: np.ndarray, label: str, caption: str) -> str:
    """A picture with its alternative text, escaped here, and a caption of HTML."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    address = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    width, height = picture.shape[1], picture.shape[0]
    return (
        f'<figure style="margin:0"><img src="{address}" alt="{_text(label)}" width="{width}" height="{height}" '
        'style="max-width:100%;height:auto">'
        f'<figcaption style="max-width:{width}px;overflow-wrap:anywhere">{caption}</figcaption></figure>'
    )


def _side_by_side(figures: Sequence[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:8px 0">{"".join(figures)}</div>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(f'<th>{_text(one)}</th>' for one in headings)}</tr></thead>{cells}</table>"


def _warnings(warnings: Sequence[str]) -> str:
    more = len(warnings) - _WARNINGS
    lines = [f"<li>{_text(one)}</li>" for one in warnings[:_WARNINGS]] + [f"<li>and {more} more</li>"] * (more > 0)
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _whole(*parts: str) -> str:
    inner = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div style="font-size:90%;line-height:1.35">{inner}</div>'
