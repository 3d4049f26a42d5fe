"""``report.html``: one self-contained page about an alignment that a person understands at a glance.

The page needs no network: pictures are ``data:`` URIs, style and script are in it, and its content security policy
forbids everything else. Each photo is stored once and drawn again wherever it appears.
"""

import io
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from PIL import Image

from asic3d import __version__
from asic3d.canonical_grid import GRID_FILE, grid_bytes
from asic3d.journal import write_together
from asic3d_integrations import report_sections as sections
from asic3d_integrations.canonical_pictures import grid_picture, heat_map_sheet, heat_maps
from asic3d_integrations.contact_sheets import contact_sheets
from asic3d_integrations.report_pictures import views_of
from asic3d_integrations.sampled_matches import SOURCES, sample_matches

if TYPE_CHECKING:
    from asic3d import Alignment


PAGE = "report.html"
_SOME, _MANY = 16, 40
"""Photos above which pictures are smaller and fewer points are followed, and above which those of a few photos are."""


def write_report(alignment: "Alignment", folder: str | Path) -> Path:
    """Writes ``report.html``, the pictures in ``figures/``, and the canonical grid that they show.

    Args:
        alignment: the alignment; nothing is fitted, points are only followed.
        folder: the run folder; made if it is missing. An older report in it is replaced.

    Returns:
        The path of the page.

    Raises:
        StorageError: the folder can't be written.

    Example:
        >>> write_report(asic3d.load_alignment("asic3d_out"), "asic3d_out")  # doctest: +SKIP
    """
    folder = Path(folder)
    write_together({folder / name: content for name, content in report_files(alignment).items()})
    return folder / PAGE


def report_files(alignment: "Alignment") -> dict[str, bytes]:
    """What :func:`write_report` writes: path in the run folder, with forward slashes, to content; the page last."""
    count = len(alignment.names)
    many = count > _MANY
    views = views_of(alignment, side=320 if many else 440 if count > _SOME else 640)
    samples = sample_matches(alignment, count=60 if count > _SOME else 120, most=SOURCES if many else None)
    grid = alignment.canonical_grid
    heats = heat_maps(alignment, grid)
    parts = sections.sections(alignment, views, samples, heats)
    page = _template("report.html").substitute(
        parts, version=__version__, style=_read("report.css"), script=_read("report.js")
    )
    sheets = contact_sheets(views, samples, alignment.config.parts)
    side = (2 * grid.resolution, 2 * grid.resolution)
    canonical = Image.fromarray(grid_picture(grid)).resize(side, Image.Resampling.BICUBIC)
    return {
        **{f"figures/{name}": _picture(sheet, "JPEG", quality=88) for name, sheet in sheets},
        "figures/canonical.png": _picture(canonical, "PNG"),
        "figures/distortion.png": _picture(heat_map_sheet(heats), "PNG"),
        GRID_FILE: grid_bytes(grid),
        # "replace": a file name that is not valid Unicode must not cost the report
        PAGE: page.encode("utf-8", "replace"),
    }


def _picture(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _read(name: str) -> str:
    return (resources.files("asic3d_integrations") / name).read_text("utf-8")


def _template(name: str) -> Template:
    return Template(_read(name))
