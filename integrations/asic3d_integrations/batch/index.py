"""``index.html``: one self-contained page with a row for each collection of a batch, which leads to its report."""

import base64
import contextlib
import io
import os
from collections.abc import Collection, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from PIL import Image

from asic3d import __version__
from asic3d.errors import StorageError
from asic3d.photo_folder import spelled
from asic3d.storage import inside

_WIDTH, _HEIGHT = 240, 150  # of a thumbnail, at most
_WORDS = {"good": "good", "fair": "fair", "poor": "poor"}
_ORDER = ("failed", "running", "waiting", "finished")


def index_page(records: Mapping[str, Mapping[str, Any]], runs: Path) -> bytes:
    """The page.

    Args:
        records: name -> record of each collection, as ``batch.json`` has it.
        runs: the folder that the page is written into; thumbnails are made of the runs there.

    Returns:
        HTML in UTF-8; it fetches nothing and holds no script.
    """
    counts = {state: sum(record["state"] == state for record in records.values()) for state in _ORDER}
    said = [f"{count} {state}" for state, count in counts.items() if count]
    ordered = sorted(records.items(), key=lambda item: (_ORDER.index(item[1]["state"]), item[0].casefold()))
    shared = shared_warnings(records)
    page = Template(_read("batch.html")).substitute(
        version=__version__,
        style=_read("report.css") + _read("batch.css"),
        facts=" · ".join([f"{len(records)} collections", *said]),
        shared="".join(f"<p>{escape(sentence)}</p>" for sentence in shared),
        rows="\n".join(_row(name, record, runs, shared) for name, record in ordered),
    )
    return page.encode("utf-8", "replace")


def shared_warnings(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is to be said of every collection that was aligned, and so better once; nothing where there is only one."""
    said = [list(record.get("warnings", ())) for record in records.values() if record["state"] == "finished"]
    return [sentence for sentence in said[0] if all(sentence in one for one in said)] if len(said) > 1 else []


def _row(name: str, record: Mapping[str, Any], runs: Path, shared: Collection[str]) -> str:
    run, state = str(record.get("run", name)), record["state"]
    title = escape(spelled(name))
    if _file_of(runs, f"{run}/report.html"):
        title = f'<a href="{escape(quote(os.fsencode(run)))}/report.html">{title}</a>'
    verdict = record.get("verdict") or {}
    level = "poor" if state == "failed" else _WORDS.get(verdict.get("level", ""), "")
    said = {"failed": "failed", "finished": level or "finished"}.get(state, state)
    return (
        f'<tr><td class="thumbnail">{_thumbnail(_file_of(runs, f"{run}/figures/canonical.png"))}</td>'
        f'<th scope="row">{title}</th>'
        f'<td><span class="badge {level}">{escape(said)}</span></td>'
        f'<td class="number">{_number(record.get("photos"), "d")}</td>'
        f'<td class="number">{_number((record.get("quality") or {}).get("confidence"), ".2f")}</td>'
        f'<td class="number">{_number(record.get("seconds"), ".1f")}</td>'
        f"<td>{_notes(record, verdict, shared)}</td></tr>"
    )


def _notes(record: Mapping[str, Any], verdict: Mapping[str, Any], shared: Collection[str]) -> str:
    own = [sentence for sentence in record.get("warnings", ()) if sentence not in shared]
    sentences = [record["error"]] if record.get("error") else [verdict.get("text", ""), *own]
    return "".join(f"<p>{escape(str(sentence))}</p>" for sentence in sentences if sentence)


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


def _file_of(runs: Path, name: str) -> Path | None:
    """A file of a run; None where there is none, or where it would lie elsewhere."""
    with contextlib.suppress(StorageError, OSError):
        path = inside(runs, name)
        return path if path.is_file() else None
    return None


def _thumbnail(path: Path | None) -> str:
    """The canonical picture of a run, which all its photos share; nothing where there is none."""
    if path is None:
        return ""
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return ""
    small.thumbnail((_WIDTH, _HEIGHT))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _read(name: str) -> str:
    return (resources.files("asic3d_integrations") / name).read_text("utf-8")
