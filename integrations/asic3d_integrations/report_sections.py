"""The parts of the report's page as HTML. Every text that is not ours is escaped here."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from asic3d import pictures, verdict
from asic3d.canonical_grid import map_photo
from asic3d_integrations import canonical_pictures
from asic3d_integrations.canonical_pictures import HeatMap
from asic3d_integrations.report_pictures import View, png, two_at_a_time, webp
from asic3d_integrations.sampled_matches import NUMBERED, SampledMatches

if TYPE_CHECKING:
    from asic3d import Alignment

_NOTHING = "nothing to compare"
_WEAKEST = 24
"""Photos in the table of which fits which, where there are too many for all of them; more are shown weakest first."""
_LEVELS = (verdict.POOR, verdict.FAIR, verdict.GOOD)


def sections(
    alignment: "Alignment", views: list[View], samples: SampledMatches, heats: Sequence[HeatMap]
) -> dict[str, str]:
    """The placeholders of ``report.html`` but those for version, style and script, with their HTML."""
    level, sentence = verdict.verdict(alignment)
    reference = views[samples.reference()]
    compared = not verdict.shows_nothing(alignment)
    many, fits = len(views) > _WEAKEST, verdict.photo_fits(alignment)
    weakest_first = sorted(views, key=lambda view: (_LEVELS.index(view.level), fits[view.index]))
    return {
        "title": escape(title(alignment)),
        "facts": _facts(alignment),
        "extent": "some" if _followed_all(views, samples) else "many",
        "level": level,
        "level_word": level.capitalize(),
        "verdict": escape(sentence),
        "warnings": _warnings(alignment),
        "photos": "\n".join(two_at_a_time(View.stored, views)),
        "frame": _frame(alignment),
        "order": " The photos that fit least come first." if many else "",
        "pairs": "\n".join(two_at_a_time(partial(_pair, compared=compared), weakest_first if many else views)),
        "points_text": _points_text(views, reference, samples),
        "points": "\n".join(_points(view, reference, samples) for view in views),
        "cutouts": "\n".join(_cutout(view) for view in views),
        "parts_key": _parts_key(alignment.config.parts),
        "parts": "\n".join(two_at_a_time(_parts, views)),
        "canonical_text": _canonical_text(alignment),
        "canonical": _canonical(alignment, heats),
        "repainted": "\n".join(two_at_a_time(partial(_repainted, alignment), views)),
        "figures": _figures(alignment),
        "matrix_text": _matrix_text(views, samples),
        "matrix": _matrix(views, samples),
        "timings": _timings(alignment.timings),
        "settings": _settings(alignment),
        "matches": _matches(views, samples),
    }


def _followed_all(views: list[View], samples: SampledMatches) -> bool:
    return len(samples.sources) == len(views)


def title(alignment: "Alignment") -> str:
    """What the alignment is called: its photo folder, or the folder above where that one is just called images."""
    folder = alignment.collection.root.resolve()
    return (folder.parent if folder.name in ("images", "photos") else folder).name or "photos"


def _facts(alignment: "Alignment") -> str:
    seconds = sum(alignment.timings.values())
    facts = [f"{len(alignment.names)} photos", alignment.backbone, f"aligned in {seconds:.1f} s on {alignment.device}"]
    return " · ".join(escape(fact) for fact in facts)


def _warnings(alignment: "Alignment") -> str:
    """What a person should look at, as a list; empty where nothing is wrong."""
    sentences = verdict.warnings_of(alignment)
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<h2 class="small">What to look at</h2><ul class="warnings">{items}</ul>'


def _frame(alignment: "Alignment") -> str:
    """The shared frame: its colours, and the object in it."""
    extent, side = pictures.canonical_extent(alignment), 240
    span = 1.35 * extent
    line = (np.arange(side) + 0.5) / side * 2 * span - span
    key = pictures.canonical_colours(np.stack(np.meshgrid(line, line), -1), extent)
    disc = np.hypot(line, line[:, None]) < span
    key = np.rint(np.dstack([key, disc]) * 255).astype(np.uint8)
    canonical = canonical_pictures.grid_picture(alignment.canonical_grid)
    pair = (
        (key, "Colour key of the shared frame", "The shared frame"),
        (canonical, "The object in the canonical plane, from all photos", "All photos in one"),
    )
    figures = (
        f'<figure><img src="{webp(picture)}" width="{side}" height="{side}" alt="{alt}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for picture, alt, caption in pair
    )
    return f'<div class="frame">{"".join(figures)}</div>'


def _pair(view: View, *, compared: bool) -> str:
    """A photo beside itself coloured."""
    width, height = view.size
    photo = view.svg(
        view.use("photo") + view.use("outline", 'class="halo"') + view.use("outline", 'class="outline"'),
        f"Photo {view.title} with the outline of the object",
    )
    painted = view.svg(
        view.use("photo", 'class="ghost"') + f'<image width="{width}" height="{height}" href="{webp(view.colours)}"/>',
        f"Photo {view.title} painted by place in the shared frame",
    )
    words = verdict.in_words(view.standing, view.level) if compared else (_NOTHING,)
    *standing, fit = words
    tags = f'<span class="tag">{", ".join(standing)}</span>' if standing else ""
    return (
        f'<li><figure><div class="two">{photo}{painted}</div><figcaption>'
        f'<span class="name">{escape(view.title)}</span>{tags}<span class="fit {view.level}">{fit}</span>'
        "</figcaption></figure></li>"
    )


def _points_text(views: list[View], reference: View, samples: SampledMatches) -> str:
    available = samples.of(reference.index)[0].shape[1]
    text = (
        f"{min(NUMBERED, available)} places of photo {escape(reference.title)}, found again in every other photo under "
        "the same number. Large and solid is sure; small is less so; a hollow ring is a guess."
    )
    if _followed_all(views, samples):
        return text
    return (
        f"{text} Of these {len(views)} photos, points of {len(samples.sources)} were followed into all others; in the "
        "rest, the nearest place of the photo named above is taken. <code>asic3d view</code> follows any point."
    )


def _points(view: View, reference: View, samples: SampledMatches) -> str:
    """One photo with the reference photo's numbered points in it; the script adds the point that follows the mouse."""
    points, sure_of = samples.of(reference.index)
    places, confidence = view.shrunk(points[view.index][:NUMBERED]), sure_of[view.index][:NUMBERED]
    colours = reference.hues(points[reference.index][:NUMBERED])
    radius = (0.026 if len(points) == len(samples.sources) else 0.04) * max(view.size)  # those of many photos are small
    marks = "".join(
        _mark(place, number, colour, float(sure), radius)
        for number, (place, sure, colour) in enumerate(zip(places, confidence, colours, strict=True), 1)
    )
    sure = int((confidence >= verdict.GUESS).sum())
    label = f"Photo {view.title}: {sure} of {len(places)} points found with confidence"
    content = f'{view.use("photo")}<g class="numbers">{marks}</g><g class="live"></g>'
    picture = view.svg(content, label, f'tabindex="0" data-photo="{view.index}"')
    note = '<span class="tag">the points come from here</span>' if view.index == reference.index else ""
    return _framed(view, picture, note)


def _mark(place: np.ndarray, number: int, colour: str, sure: float, radius: float) -> str:
    """A numbered point of an SVG picture."""
    x, y = place
    strength = min(sure / verdict.SURE, 1)
    size = radius * (0.7 + 0.3 * strength)
    kind = "sure" if sure >= verdict.GUESS else "guess"
    return (
        f'<g class="mark {kind}" transform="translate({x:.1f} {y:.1f})" opacity="{0.5 + 0.5 * strength:.2f}">'
        f"<title>point {number}, confidence {100 * sure:.0f} of 100</title>"
        f'<circle r="{size:.1f}" style="--hue:{colour}"/>'
        f'<text y="{0.36 * size:.1f}" font-size="{1.15 * size:.1f}">{number}</text></g>'
    )


def _cutout(view: View) -> str:
    share = float((view.mask > 127).mean())
    picture = view.svg(
        view.use("photo", f'clip-path="url(#object-{view.index})"'), f"The object of photo {view.title}, cut out"
    )
    return _framed(view, picture, f'<span class="quiet">{100 * share:.0f}% of the photo</span>')


def _parts_key(count: int) -> str:
    """The colours of the parts with their numbers."""
    items = "".join(
        f'<li><span style="background:rgb({",".join(map(str, colour))})"></span>Part {number}</li>'
        for number, colour in enumerate(pictures.part_colours(count).tolist(), 1)
    )
    return f'<ul class="key">{items}</ul>'


def _parts(view: View) -> str:
    width, height = view.size
    if verdict.OTHER_THING in view.standing:
        picture = view.svg(view.use("photo"), f"Photo {view.title}, not painted")
        return _framed(view, picture, f'<span class="tag">{verdict.OTHER_THING}</span>')
    painted = f'<image width="{width}" height="{height}" opacity=".75" href="{webp(view.parts)}"/>'
    picture = view.svg(view.use("photo") + painted, f"Photo {view.title} painted by part of the object")
    return _framed(view, picture, "")


def _canonical_text(alignment: "Alignment") -> str:
    grid = alignment.canonical_grid
    before, after = grid.distortion_before, grid.distortion
    return (
        f"Painted back from this one picture, the photos come out with a PSNR of {grid.psnr.mean():.1f} dB, and "
        f"{grid.psnr_matched.mean():.1f} dB once their light is matched. (The first was 12 to 14 where photos show "
        "different individuals, 15 to 18 where they show one thing.) The plane was unfolded, so that the photos keep "
        f"their shapes: angles change by up to {after.mean_angle:.0f}° in the mean ({before.mean_angle:.0f}° before), "
        f"areas are off by a factor of {after.mean_stretch:.2f} ({before.mean_stretch:.2f}), and "
        f"{after.folded:.1%} of the object lies folded over."
    )


def _canonical(alignment: "Alignment", heats: Sequence[HeatMap]) -> str:
    """The canonical picture and the heat maps over it."""
    grid = alignment.canonical_grid
    scale = png(canonical_pictures.scale_picture(128, 4))
    figures = [_figure(canonical_pictures.grid_picture(grid), "The object, from all photos", "")]
    for heat in heats:
        legend = f'<span class="scale">{heat.low} <img src="{scale}" alt="from dark to bright"> {heat.high}</span>'
        figures.append(_figure(heat.picture, heat.caption, legend))
    return "".join(figures)


def _figure(picture: np.ndarray, caption: str, legend: str) -> str:
    height, width = picture.shape[:2]
    image = f'<img src="{webp(picture)}" width="{width}" height="{height}" alt="{escape(caption)}">'
    return f'<figure>{image}<figcaption><span class="name">{escape(caption)}</span> {legend}</figcaption></figure>'


def _repainted(alignment: "Alignment", view: View) -> str:
    """A photo beside its object painted from the grid."""
    grid, index = alignment.canonical_grid, view.index
    canonical, confidence = alignment.canonical[index], alignment.confidence[index]
    photo = map_photo(alignment.collection[index], canonical, confidence, view.mask, grid.resolution)
    width, height = view.size
    painted = canonical_pictures.repainted(grid, photo, (width // 2, height // 2))
    image = f'<image width="{width}" height="{height}" href="{webp(painted)}"/>'
    one = view.svg(view.use("photo", f'clip-path="url(#object-{view.index})"'), f"The object of photo {view.title}")
    other = view.svg(image, f"The object of photo {view.title}, painted from the canonical picture")
    figures = f"{grid.psnr[view.index]:.1f} dB · {grid.psnr_matched[view.index]:.1f} dB in its light"
    return (
        f'<li><figure><div class="two">{one}{other}</div>'
        f'<figcaption><span class="name">{escape(view.title)}</span> <span class="quiet">{figures}</span></figcaption>'
        "</figure></li>"
    )


def _framed(view: View, picture: str, note: str) -> str:
    """A picture with the photo's name and a note below it."""
    return (
        f'<figure><div class="fit-box">{picture}</div>'
        f'<figcaption><span class="name">{escape(view.title)}</span> {note}</figcaption></figure>'
    )


def _figures(alignment: "Alignment") -> str:
    """The quality figures with what they mean."""
    items = []
    for figure in verdict.quality_figures(alignment):
        badge = f'<span class="badge {figure.level}">{figure.level.capitalize()}</span>' if figure.level else ""
        items.append(
            f'<div class="figure"><dt>{escape(figure.label)}</dt>'
            f'<dd><span class="value">{escape(figure.text)}</span> {badge}<p>{escape(figure.meaning)}</p></dd></div>'
        )
    return f'<dl class="figures">{"".join(items)}</dl>'


def _matrix_text(views: list[View], samples: SampledMatches) -> str:
    """What :func:`_matrix` shows."""
    if _followed_all(views, samples):
        return (
            f"How surely points of one photo (row) are found in another (column), in hundredths. "
            f"{escape(verdict.CONFIDENCE_MEANING)} A pale row or column is a photo that shares little with the rest."
        )
    return (
        f"How surely points of {len(samples.sources)} photos from all over the collection (column) are found in others "
        f"(row), in hundredths. Of {len(views)} photos, the {min(_WEAKEST, len(views))} where they are found least are "
        f"listed, the palest first. {escape(verdict.CONFIDENCE_MEANING)} A pale row is a photo that shares little with "
        "the rest."
    )


def _matrix(views: list[View], samples: SampledMatches) -> str:
    """The table of how surely points of one photo are found in another; of many photos, in those that fit worst."""
    table, rows, columns = samples.pair_confidence(), views, views
    if not _followed_all(views, samples):
        table = table.T
        rows = [views[index] for index in np.nanmean(table, 1).argsort(kind="stable")[:_WEAKEST]]
        columns = [views[index] for index in samples.sources]
    head = "".join(f'<th scope="col" title="{escape(view.name)}">{view.index + 1}</th>' for view in columns)
    lines = []
    for view in rows:
        cells = "".join(
            '<td class="self">·</td>' if np.isnan(sure) else f'<td style="--sure:{sure:.2f}">{100 * sure:.0f}</td>'
            for sure in table[view.index]
        )
        lines.append(f'<tr><th scope="row">{escape(view.title)}</th>{cells}</tr>')
    return f'<table class="matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _timings(timings: dict[str, float]) -> str:
    longest = max([*timings.values(), 1e-9])
    rows = "".join(
        f'<tr><th scope="row">{escape(verdict.STAGES.get(stage, stage))}</th><td>{seconds:.1f} s</td>'
        f'<td class="bar" aria-hidden="true"><span style="--share:{seconds / longest:.3f}"></span></td></tr>'
        for stage, seconds in timings.items()
    )
    total = f'<tr class="total"><th scope="row">Together</th><td>{sum(timings.values()):.1f} s</td><td></td></tr>'
    return f'<table class="timings"><tbody>{rows}{total}</tbody></table>'


def _settings(alignment: "Alignment") -> str:
    settings = {**dataclasses.asdict(alignment.config), "photos": str(alignment.collection.root)}
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value)) or '–'}</dd>" for name, value in settings.items())


def _matches(views: list[View], samples: SampledMatches) -> str:
    """All sampled points as JSON for the script; each is ``x, y, 100 * confidence`` in a picture's coordinates."""
    data = {
        "guess": round(100 * verdict.GUESS),
        "sure": round(100 * verdict.SURE),
        "names": [view.title for view in views],
        "sources": samples.sources,
        "reference": samples.reference(),
        "colours": [views[source].hues(samples.of(source)[0][source]) for source in samples.sources],
        "points": [
            [_flat(view, points[view.index], confidence[view.index]) for view in views]
            for points, confidence in zip(samples.points, samples.confidence, strict=True)
        ],
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _flat(view: View, points: np.ndarray, confidence: np.ndarray) -> list[int]:
    return np.rint(np.column_stack([view.shrunk(points), 100 * confidence])).astype(int).flatten().tolist()
