"""COLMAP's database: written whole or not at all, verified, and read back.

COLMAP checks nothing that is written: :class:`asic3d.tracks.MatchGraph` has done so. Its pixels have (0, 0) at the
CORNER of the top-left pixel; this package adds the half pixel, and no other part of asic3d knows of it.
"""

import contextlib
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import ExportError, StorageError
from asic3d.temporaries import temporary_path
from asic3d.tracks import MatchGraph, Pair
from asic3d_integrations.colmap.cameras import Camera, Cameras

HALF = np.float32(0.5)
"""From our pixels to COLMAP's."""
_LEAST = 2**18
"""Bytes that are free where a disk is not full: an empty database takes as much."""
_ERROR, _EXACT = 4.0, 2.0  # of the verification, in expected errors of a keypoint


@dataclass(frozen=True)
class Verification:
    """How matches are verified by COLMAP's two-view geometry.

    Attributes:
        max_error: pixels by which a match may be off.
        min_inliers: matches that a pair needs.
        min_inlier_ratio: share of its matches that a pair needs.
        seed: of the random samples.
    """

    max_error: float
    min_inliers: int = 15
    min_inlier_ratio: float = 0.25
    seed: int = 0

    @staticmethod
    def of(graph: MatchGraph, seed: int = 0, *, exact: bool = False) -> "Verification":
        """In proportion to the expected error of the graph's keypoints; COLMAP's own bound is 4 pixels.

        Args:
            graph: the keypoints.
            seed: of the random samples.
            exact: bound closely what is said to be exact: sides that look alike differ by little.
        """
        return Verification((_EXACT if exact else _ERROR) * max(1.0, graph.deviation), seed=seed)


@dataclass(frozen=True, eq=False)
class Content:
    """What a database holds, in our pixels.

    Attributes:
        names: images in the order of their numbers.
        cameras: the cameras of ``names``.
        keypoints: (K, 2) float32 for each image.
        matches: pair i < j of places in ``names`` -> (M, 2) int64.
        verified: the same, of those that passed the verification.
    """

    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    keypoints: tuple[np.ndarray, ...]
    matches: dict[Pair, np.ndarray]
    verified: dict[Pair, np.ndarray]

    @property
    def inlier_ratio(self) -> float:
        """Share of all matches that passed; NaN where there are none."""
        total = sum(map(len, self.matches.values()))
        return sum(map(len, self.verified.values())) / total if total else float("nan")


def write_database(
    graph: MatchGraph,
    cameras: Cameras,
    path: Path,
    *,
    images: Sequence[str] | None = None,
    overwrite: bool = False,
    verification: Verification | None = None,
    verified: Mapping[Pair, np.ndarray] | None = None,
) -> Content:
    """Writes a database with cameras, rigs, frames, images, keypoints, matches and verified two-view geometries.

    Args:
        graph: keypoints and matches of N photos.
        cameras: their cameras.
        path: the file. It is written beside its place and renamed when it is complete.
        images: how COLMAP is to call the photos; as they are called here where it is not given.
        overwrite: replace a database that is there.
        verification: how to verify; in proportion to ``graph.deviation`` where it is not given.
        verified: matches that are verified already, in place of a verification by COLMAP.

    Returns:
        What the database holds, read back from it.

    Raises:
        StorageError: a database is there and ``overwrite`` is not set, or it can't be written.
        ExportError: the database does not hold what was written.
    """
    refuse_existing(path, overwrite)
    names = tuple(images or graph.names)
    with new_file(path) as temporary:
        with opened(temporary) as database:
            _write_images(database, names, cameras)
            for number, points in enumerate(graph.keypoints, 1):
                database.write_keypoints(number, points + HALF)
            for (i, j), rows in graph.matches.items():
                database.write_matches(i + 1, j + 1, rows.astype(np.uint32))
            for (i, j), rows in (verified or {}).items():
                if len(rows):
                    database.write_two_view_geometry(i + 1, j + 1, _geometry(rows))
        if verified is None:
            _verify(temporary, verification or Verification.of(graph))
        content = read_database(temporary)
        _check(content, graph, names)
    return content


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises StorageError where a file is there that may not be replaced."""
    if path.exists() and not overwrite:
        raise StorageError(
            f"'{path}' is there already, and nothing was changed. Replace it with --overwrite, or choose another "
            "folder with -o."
        )


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file that takes its place when the block ends well, and is gone otherwise, with what SQLite puts beside it."""
    temporary = temporary_path(path, "db")  # not locked: SQLite has locks of its own, and loses them
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
        for ending in ("-wal", "-shm", "-journal"):  # of the database that was replaced: they would be taken for ours
            path.with_name(path.name + ending).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"'{path}' can't be written ({error.strerror or error}). Choose another folder.") from error
    except StorageError as error:
        if "disk is full" in str(error) or shutil.disk_usage(path.parent).free < _LEAST:
            raise StorageError(
                f"The disk is full: '{path}' was not written, and what was there before is unchanged. Free some space "
                "and run it again."
            ) from error
        raise StorageError(str(error).replace(str(temporary), str(path))) from error
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                temporary.with_name(temporary.name + ending).unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A database of pycolmap, whose own errors become ours."""
    pycolmap = quiet_pycolmap()
    try:
        with pycolmap.Database.open(path) as database:
            yield database
    except (RuntimeError, ValueError, LookupError, MemoryError) as error:  # what damaged tables make it run into
        raise StorageError(f"'{path}' can't be used as a database of COLMAP ({_first_line(error)}).") from error


def quiet_pycolmap() -> Any:
    """pycolmap, which else writes a log to the terminal, and takes SIGTERM for a crash. Only imported here."""
    with _keeping_sigterm():
        import pycolmap

        pycolmap.logging.minloglevel = 3  # what it calls an error, such as no model, is told by us
    return pycolmap


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Gives SIGTERM back what it does in Python: pycolmap puts a handler that prints a crash in its place.

    Only the main thread may say what a signal does; in others it stays as it is.
    """
    if "pycolmap" in sys.modules or threading.current_thread() is not threading.main_thread():
        yield
        return
    held = hasattr(signal, "pthread_sigmask")  # meanwhile none comes through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]) if held else set()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
        if held:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _write_images(database: Any, names: Sequence[str], cameras: Cameras) -> None:
    """One rig for each camera and one frame for each image: COLMAP 4 takes all of them or none."""
    pycolmap = quiet_pycolmap()

    made = []
    for number, camera in enumerate(cameras.cameras, 1):
        one = pycolmap.Camera.create_from_model_name(number, camera.model, camera.focal, *camera.size)
        one.has_prior_focal_length = camera.known
        database.write_camera(one, use_camera_id=True)
        rig = pycolmap.Rig()
        rig.rig_id = number
        rig.add_ref_sensor(one.sensor_id)
        database.write_rig(rig, use_rig_id=True)
        made.append(one)
    for number, (name, camera) in enumerate(zip(names, cameras.of_photo, strict=True), 1):
        image = pycolmap.Image(image_id=number, camera_id=camera + 1, name=name)
        database.write_image(image, use_image_id=True)
        frame = pycolmap.Frame()
        frame.frame_id, frame.rig_id = number, camera + 1
        frame.add_data_id(image.data_id)
        database.write_frame(frame, use_frame_id=True)


def _geometry(rows: np.ndarray) -> Any:
    """Verified matches, without the matrix: mappers pass over a geometry whose configuration is not set."""
    pycolmap = quiet_pycolmap()

    geometry = pycolmap.TwoViewGeometry(inlier_matches=rows.astype(np.uint32))
    geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
    return geometry


def _verify(path: Path, wanted: Verification) -> None:
    pycolmap = quiet_pycolmap()

    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = wanted.min_inliers
    options.min_inlier_ratio = wanted.min_inlier_ratio
    options.ransac.max_error = wanted.max_error
    options.ransac.random_seed = wanted.seed
    # Our matches may well reach the border of a photo, which is no watermark.
    options.detect_watermark = False
    verifier = pycolmap.GeometricVerifierOptions()
    verifier.num_threads = 1  # with more, the same seed gives other samples
    try:
        quiet_pycolmap().geometric_verification(path, verifier_options=verifier, two_view_geometry_options=options)
    except RuntimeError as error:  # on a full disk it can't open what it could before
        raise StorageError(f"'{path}' can't be used as a database of COLMAP ({_first_line(error)}).") from error


def read_database(path: Path) -> Content:
    """Reads a database.

    Raises:
        StorageError: there is none, or it can't be read.
    """
    if not path.is_file():
        raise StorageError(f"There is no database '{path}'.")
    with opened(path) as database:
        images = sorted(database.read_all_images(), key=lambda image: image.image_id)
        place = {image.image_id: index for index, image in enumerate(images)}
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        return Content(
            tuple(image.name for image in images),
            tuple(_camera(cameras[image.camera_id]) for image in images),
            tuple(np.array(database.read_keypoints(image.image_id)[:, :2]) - HALF for image in images),
            _by_pair(database.read_all_matches(), place, lambda rows: rows),
            _by_pair(database.read_two_view_geometries(), place, lambda geometry: geometry.inlier_matches),
        )


_ARRAYS = {"keypoints": 4, "descriptors": 1, "matches": 4, "two_view_geometries": 4}
"""Table -> bytes of a number in its ``data``, which has ``rows`` times ``cols`` of them."""
_BLOBS = {"F": 72, "E": 72, "H": 72, "qvec": 32, "tvec": 24}
_SOUND = (
    ("images", "typeof(image_id) = 'integer' AND typeof(name) = 'text' AND typeof(camera_id) = 'integer'"),
    ("images", "camera_id IN (SELECT camera_id FROM cameras)"),
    ("cameras", "typeof(camera_id) = 'integer' AND typeof(model) = 'integer' AND typeof(params) = 'blob'"),
    ("cameras", "typeof(width) = 'integer' AND typeof(height) = 'integer' AND length(params) BETWEEN 8 AND 800"),
    ("cameras", "width BETWEEN 1 AND 1000000 AND height BETWEEN 1 AND 1000000 AND length(params) % 8 = 0"),
)
"""What holds of every row, in SQL."""


def check_tables(file: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where rows do not hold what they say: COLMAP reads beyond them, and crashes."""
    conditions = list(_SOUND)
    for table, size in _ARRAYS.items():
        whole = "typeof(rows) = 'integer' AND typeof(cols) = 'integer' AND rows >= 0 AND cols BETWEEN 0 AND 100000"
        fits = f"rows < 1000000000 AND coalesce(length(data), 0) = rows * cols * {size}"
        stored = "typeof(data) IN ('blob', 'null')"
        conditions += [(table, f"{whole} AND {fits} AND {stored}")]
    pairs = "pair_id BETWEEN 2147483648 AND 4611686018427387903 AND typeof(pair_id) = 'integer' AND cols IN (0, 2)"
    conditions += [(table, pairs) for table in ("matches", "two_view_geometries")]
    known = {row[1] for row in file.execute("PRAGMA table_info(two_view_geometries)")}
    conditions += [
        ("two_view_geometries", f"{name} IS NULL OR (typeof({name}) = 'blob' AND length({name}) IN (0, {size}))")
        for name, size in _BLOBS.items()
        if name in known
    ]
    for table, condition in conditions:
        (wrong,) = file.execute(f"SELECT COUNT(*) FROM {table} WHERE NOT coalesce({condition}, 0)").fetchone()
        if wrong:
            raise sqlite3.DatabaseError(f"{wrong} of the rows of its table {table} are damaged")


def _camera(camera: Any) -> Camera:
    return Camera(
        camera.model_name,
        (camera.width, camera.height),
        float(camera.mean_focal_length()),
        camera.has_prior_focal_length,
    )


def _by_pair(
    stored: tuple[list[int], list[Any]], place: Mapping[int, int], rows_of: Callable[[Any], np.ndarray]
) -> dict[Pair, np.ndarray]:
    """Matches by pairs i < j of places, without the empty ones."""
    pycolmap = quiet_pycolmap()

    found = {}
    for number, value in zip(*stored, strict=True):
        i, j = (place[image] for image in pycolmap.pair_id_to_image_pair(number))
        rows = np.array(rows_of(value), np.int64).reshape(-1, 2)
        if len(rows):
            found[min(i, j), max(i, j)] = rows if i < j else rows[:, ::-1]
    return dict(sorted(found.items()))


def _check(content: Content, graph: MatchGraph, names: tuple[str, ...]) -> None:
    """Refuses a database that does not hold what was written."""
    wanted = {pair: rows for pair, rows in graph.matches.items() if len(rows)}
    same = content.names == names and content.matches.keys() == wanted.keys()
    same = same and all((content.matches[pair] == rows).all() for pair, rows in wanted.items())
    points = zip(content.keypoints, graph.keypoints, strict=True)
    if not same or not all(a.shape == b.shape and np.allclose(a, b, atol=1e-3) for a, b in points):
        raise ExportError("The database does not hold what was written; is pycolmap of another version installed?")
