"""``explorer.html``: all photos on one page, in which every point of the object is followed while the mouse moves.

The page is one file that needs no network. Its content security policy allows its own script and style, by their
hashes, and pictures that are in it; nothing else.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from asic3d import __version__, pictures, verdict
from asic3d.adding import with_photos
from asic3d.config import Progress, ProgressCallback
from asic3d.errors import StorageError
from asic3d.storage import RUN_FILE, sha256_of
from asic3d_integrations import explorer_maps as maps
from asic3d_integrations.canonical_pictures import grid_picture
from asic3d_integrations.report_pictures import View, jpeg, views_of, webp
from asic3d_integrations.report_sections import title
from asic3d_integrations.sampled_matches import spread_photos

if TYPE_CHECKING:
    from asic3d import Alignment

PAGE = "explorer.html"
TRACKS = Path("colmap") / "tracks.npz"
"""Where a run has tracks, if they were exported."""
_LARGEST = 2**30  # bytes of unpacked tracks
MOST_PHOTOS = 100
"""Photos that the page holds: it knows the answers of every pair of them."""
MOST_TRACKS = 4000
"""Tracks that the page holds: those in the most photos."""
_SCRIPTS = ("explorer_maps.js", "explorer_drawing.js", "explorer.js")
_PARTS = ("explorer.html", "explorer.css", *_SCRIPTS)
_STAMP = re.compile(rb'<meta name="asic3d-made-from" content="([0-9a-f]{64})">')
_HEAD = 4096  # bytes of a page, among which its stamp is
_SCENE_HELP = "The cameras with their photos, where they were found, and what all photos share, to be turned."
_NO_SCENE_HELP = "This page leads to none. <code>asic3d view --3d</code> makes it, with viser: pip install viser."
_ARRAYS = {"track": "iu", "photo": "iu", "xy": "f", "names": "U", "sizes": "iu"}
"""What is read of ``tracks.npz``, and the kinds of numbers that each may be."""


def explorer_page(
    alignment: "Alignment",
    tracks: np.ndarray | None = None,
    *,
    stamp: str = "",
    scene: str = "",
    progress: ProgressCallback | None = None,
) -> bytes:
    """The page.

    Args:
        alignment: the alignment; nothing is fitted, points are only followed. Of more than ``MOST_PHOTOS`` photos so
            many are shown, spread over all; the page says so.
        tracks: (L, 4) float64, as :func:`read_tracks` gives them.
        stamp: what the page is made from, as :func:`stamp_of` says.
        scene: address of the page in 3-D that it leads to; '' for none.
        progress: called with the stage ``exploring`` after each photo.

    Example:
        >>> Path("page.html").write_bytes(explorer_page(asic3d.load_alignment("asic3d_out")))  # doctest: +SKIP
    """
    count = len(alignment.names)
    alignment, tracks = _shown(alignment, tracks)
    views = views_of(alignment, side=480 if len(alignment.names) <= 16 else 400)
    samples = maps.sample_photos(alignment)
    blocks = []
    for index in range(len(views)):
        blocks.append(maps.map_photo(alignment, samples, index).packed)
        if progress is not None:
            progress(Progress("exploring", index + 1, len(views)))
    script = "".join(map(_read, _SCRIPTS))
    style = _read("explorer.css")
    page = Template(_read("explorer.html")).substitute(
        version=__version__,
        stamp=stamp,
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
        title=escape(title(alignment)),
        facts=escape(" · ".join([_counted(len(views), count), *verdict.doubts(alignment, ())])),
        scene=f'<a id="scene" href="{escape(scene)}">3-D</a>' if scene else "",
        scene_help=_SCENE_HELP if scene else _NO_SCENE_HELP,
        photos="\n".join(_photo(view, telling([view.name for view in views])) for view in views),
        canonical=webp(grid_picture(alignment.canonical_grid)),
        facts_json=_json(_facts(alignment, views, samples, tracks)),
        blocks="\n".join(
            f'<script type="text/plain" id="answers-{index}">{block}</script>' for index, block in enumerate(blocks)
        ),
    )
    return page.encode("utf-8", "replace")  # a file name that is not valid Unicode must not cost the page


def _shown(alignment: "Alignment", tracks: np.ndarray | None) -> "tuple[Alignment, np.ndarray | None]":
    """The photos of the page, and the tracks in them."""
    chosen = spread_photos(alignment, MOST_PHOTOS)
    if len(chosen) == len(alignment.names):
        return alignment, tracks
    if tracks is not None:
        tracks = tracks[np.isin(tracks[:, 1], chosen)]
        tracks[:, 1] = np.searchsorted(chosen, tracks[:, 1])
    return with_photos(alignment, [alignment.names[index] for index in chosen]), tracks


def _counted(shown: int, count: int) -> str:
    if shown == count:
        return f"{count} photos"
    return f"{shown} of {count} photos, from all over the collection; more would make this page too large"


def stamp_of(run: Path, *, scene: str = "") -> str:
    """What a run's page is made from, as 64 hexadecimal digits: the run, its tracks, and the page's own code.

    Args:
        run: the run folder.
        scene: as :func:`explorer_page` gets it.

    Raises:
        StorageError: a file can't be read.
    """
    return digest((*map(_read, _PARTS), scene), (run / RUN_FILE, run / TRACKS))


def digest(words: Iterable[str], files: Iterable[Path]) -> str:
    """64 hexadecimal digits that change with asic3d's version, the words, the files' content and which are missing.

    Raises:
        StorageError: a file can't be read.
    """
    found = hashlib.sha256(__version__.encode())
    for word in words:
        found.update(word.encode())
    for path in files:
        try:
            found.update(sha256_of(path).encode() if path.is_file() else b"-")
        except OSError as error:
            raise StorageError(f"'{path}' can't be read ({error.strerror or error}).") from error
    return found.hexdigest()


def is_made_from(page: Path, stamp: str) -> bool:
    """Whether a page is there and was made from what the stamp stands for."""
    try:
        with page.open("rb") as file:
            found = _STAMP.search(file.read(_HEAD))
    except OSError:
        return False
    return found is not None and found[1].decode() == stamp


def read_tracks(path: Path, names: tuple[str, ...], sizes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """The tracks of a run's export that are in the most photos, at most ``MOST_TRACKS``.

    Args:
        path: a ``tracks.npz``.
        names: the run's photos.
        sizes: their (width, height).

    Returns:
        (L, 4) float64, a row for each point: track, place of the photo in ``names``, x and y in original pixels. Points
        of photos that the run does not have are left out.

    Raises:
        StorageError: the file is damaged, or of other photos of the same names.
    """
    damaged = StorageError(f"'{path}' is damaged, or of another run. Make it again with export-colmap --overwrite.")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # numpy leaves a bad one open
            if sum(member.file_size for member in file.zip.infolist()) > _LARGEST:
                raise damaged
            arrays = {name: file[name] for name in _ARRAYS}
    except Exception:  # numpy and zip raise whatever comes up in a damaged file
        raise damaged from None
    if any(array.dtype.kind not in _ARRAYS[name] for name, array in arrays.items()):
        raise damaged
    track, photo, points = arrays["track"], arrays["photo"], arrays["xy"]
    theirs = [str(name) for name in arrays["names"].ravel()]
    shapes = track.ndim == 1 and photo.shape == track.shape and points.shape == (len(track), 2)
    if not shapes or arrays["sizes"].shape != (len(theirs), 2) or not np.isfinite(points).all():
        raise damaged
    if len(track) and (min(photo.min(), track.min()) < 0 or photo.max() >= len(theirs) or track.max() >= 2**31):
        raise damaged
    known = dict(zip(names, sizes, strict=True))
    if any(
        known.get(name, tuple(size)) != tuple(size) for name, size in zip(theirs, arrays["sizes"].tolist(), strict=True)
    ):
        raise damaged
    place = np.array([names.index(name) if name in known else -1 for name in theirs] or [0])
    rows = np.column_stack([track, place[photo], points]).astype(np.float64)
    return _most_seen(rows[rows[:, 1] >= 0])


def _most_seen(rows: np.ndarray) -> np.ndarray:
    """The rows of the tracks with the most points, in the order of the tracks."""
    track, counts = np.unique(rows[:, 0], return_counts=True)
    kept = track[np.argsort(-counts, kind="stable")[:MOST_TRACKS]]
    rows = rows[np.isin(rows[:, 0], kept)]
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def telling(names: Sequence[str]) -> int:
    """How many of the last letters of names, without their endings, tell them apart: 3 to 12."""
    stems = [_stem(name) for name in names]
    return next((count for count in range(3, 12) if len({stem[-count:] for stem in stems}) == len(stems)), 12)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _name(view: View, count: int) -> str:
    """A photo's name in three pieces: where there is little room the first is cut off, and the last is not shown."""
    stem = _stem(view.title)
    pieces = (("start", stem[:-count]), ("end", stem[-count:]), ("kind", view.title[len(stem) :]))
    spans = "".join(f'<span class="{kind}">{escape(piece)}</span>' for kind, piece in pieces)
    return f'<span class="name" title="{escape(view.title)}">{spans}</span>'


def _photo(view: View, count: int) -> str:
    """A photo with its place for layers and marks."""
    width, height = view.size
    words = "".join(f'<span class="tag">{escape(word)}</span>' for word in view.standing)
    return (
        f'<figure class="tile" data-photo="{view.index}"><div class="photo" tabindex="0" role="application" '
        f'aria-label="Photo {escape(view.title)}" aria-describedby="keys">'
        f'<img class="picture" width="{width}" height="{height}" src="{jpeg(view.photo)}" alt="">'
        '<img class="layer" alt="" hidden><canvas aria-hidden="true"></canvas></div>'
        f'<figcaption>{_name(view, count)}{words}<span class="answer"></span></figcaption>'
        "</figure>"
    )


def _facts(
    alignment: "Alignment", views: list[View], samples: list[maps.Samples], tracks: np.ndarray | None
) -> dict[str, Any]:
    """What the script needs to know besides the answers."""
    return {
        "steps": maps.STEPS,
        "close": maps.CLOSE,
        "guess": verdict.GUESS,
        "sure": verdict.SURE,
        "grid": alignment.canonical_grid.resolution,
        "tracks": "" if tracks is None or not len(tracks) else _packed_tracks(tracks, alignment.sizes),
        "trackPoints": 0 if tracks is None else len(tracks),
        "photos": [
            {
                "name": view.name,
                "width": alignment.sizes[view.index][0],
                "height": alignment.sizes[view.index][1],
                "rows": one.inside.shape[0],
                "columns": one.inside.shape[1],
                "inside": base64.b64encode(np.packbits(one.inside).tobytes()).decode(),
                "layers": _layers(alignment, view),
            }
            for view, one in zip(views, samples, strict=True)
        ],
    }


def _packed_tracks(tracks: np.ndarray, sizes: tuple[tuple[int, int], ...]) -> str:
    """Rows of :func:`read_tracks` as packed text: track (low and high half), photo, x and y in steps."""
    number, photo = tracks[:, 0].astype(np.int64), tracks[:, 1].astype(np.int64)
    longest = np.array([max(size) for size in sizes])[photo]
    x, y = (np.rint((tracks[:, axis] + 0.5) * (maps.STEPS / longest) + maps.STEPS) for axis in (2, 3))
    return maps.packed(np.stack([number & 65535, number >> 16, photo, x.clip(0, 65535), y.clip(0, 65535)]))


def _layers(alignment: "Alignment", view: View) -> Mapping[str, str]:
    """The pictures that can be laid over a photo, as data URIs."""
    height, width = view.mask.shape
    beside = np.zeros((height, width, 4), np.uint8)
    beside[..., :3], beside[..., 3] = 12, np.rint((255 - view.mask.astype(float)) * 0.82)
    confidence = pictures.at_pixels(alignment.confidence[view.index][..., None], view.size)[..., 0]
    level = np.rint(confidence.clip(0, 1) * 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    return {
        "colours": webp(view.colours),
        "parts": webp(np.dstack([view.parts[..., :3], np.rint(view.parts[..., 3] * 0.75).astype(np.uint8)])),
        "mask": webp(beside),
        "doubt": webp(np.dstack([heat, np.rint(view.mask * 0.85).astype(np.uint8)])),
    }


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (resources.files("asic3d_integrations") / name).read_text("utf-8")
