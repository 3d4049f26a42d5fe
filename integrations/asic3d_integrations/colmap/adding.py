"""Our matches in a copy of a database that someone made with COLMAP."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import ExportError, StorageError
from asic3d.photo_folder import listed, shown
from asic3d.tracks import MatchGraph, Pair
from asic3d_integrations.colmap.database import (
    HALF,
    Content,
    check_tables,
    new_file,
    opened,
    quiet_pycolmap,
    read_database,
    refuse_existing,
)

_PATIENCE = 2.0  # seconds that a locked database is waited for
COPY = "added.db"
"""Name of the copy."""


@dataclass(frozen=True, eq=False)
class Added:
    """What was added to the copy.

    Attributes:
        images: photo -> the image of the database that it is.
        missing: photos that the database does not hold.
        pairs: pairs of images that got verified matches.
        matches: how many they got.
        content: the copy, read back.
    """

    images: dict[str, str]
    missing: tuple[str, ...]
    pairs: int
    matches: int
    content: Content

    def facts(self) -> dict[str, Any]:
        """What was added, for a report."""
        return {"images": self.images, "missing": self.missing, "pairs": self.pairs, "matches": self.matches}


def add_to(
    database: Path, graph: MatchGraph, verified: dict[Pair, np.ndarray], path: Path, *, overwrite: bool = False
) -> Added:
    """Adds keypoints and verified matches to a copy of a database; the database itself is only read.

    Its own keypoints, descriptors, matches and cameras stay as they are. Our keypoints follow its own, so that each
    image has two sets; ours get descriptors of zeros, which match nothing, where the others have descriptors.

    Args:
        database: an existing database of COLMAP.
        graph: keypoints of N photos.
        verified: the verified matches, pair of photos -> (M, 2).
        path: where the copy is written.
        overwrite: replace an earlier copy.

    Raises:
        StorageError: there is no such database, it can't be read, or the copy is there already.
        ExportError: fewer than two photos are in it, or an image is of another size than the photo.
    """
    if path.exists() and database.exists() and path.samefile(database):
        raise StorageError(
            f"'{path}' is the database itself; matches are added to a copy. Choose another file with -o."
        )
    refuse_existing(path, overwrite)
    with new_file(path) as temporary:
        _copy(database, temporary)
        before = read_database(temporary)
        place = _places(graph.names, before.names, database)
        _check_sizes(graph.names, graph.sizes, [camera.size for camera in before.cameras], place)
        chosen = {pair: rows for pair, rows in verified.items() if all(photo in place for photo in pair) and len(rows)}
        with opened(temporary) as file:
            numbers = {image.name: image.image_id for image in file.read_all_images()}
            image_of = {photo: numbers[before.names[index]] for photo, index in place.items()}
            shift = {photo: _add_keypoints(file, image, graph.keypoints[photo]) for photo, image in image_of.items()}
            for (i, j), rows in chosen.items():
                moved = (rows + np.array([shift[i], shift[j]])).astype(np.uint32)
                _add_matches(file, image_of[i], image_of[j], moved)
        _pad_descriptors(temporary, {image: len(graph.keypoints[photo]) for photo, image in image_of.items()})
        after = read_database(temporary)
        _check(before, after, sum(map(len, chosen.values())))
    return Added(
        {graph.names[photo]: before.names[index] for photo, index in place.items()},
        tuple(name for photo, name in enumerate(graph.names) if photo not in place),
        len(chosen),
        sum(map(len, chosen.values())),
        after,
    )


def check_database(database: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
    """Raises what :func:`add_to` would raise about a database that can't be used: before the work, not after it.

    Args:
        database: an existing database of COLMAP.
        names: N photos.
        sizes: (width, height) of each, pixels.

    Raises:
        StorageError, ExportError: as :func:`add_to`.
    """
    with _reading(database) as source:
        (found,) = source.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            why = " ".join(found.split()).removeprefix("*** in database main *** ")
            raise StorageError(f"'{database}' is damaged ({why}). Take a copy from before, or make it again.")
        rows = source.execute(
            "SELECT name, width, height FROM images JOIN cameras USING (camera_id) ORDER BY image_id"
        ).fetchall()
    place = _places(names, [name for name, _, _ in rows], database)
    _check_sizes(names, sizes, [(width, height) for _, width, height in rows], place)


def _places(names: Sequence[str], images: Sequence[str], database: Path) -> dict[int, int]:
    """Photo -> image: of the same name, or of the same file name where one image alone has it."""
    found: dict[int, int] = {}
    for photo, name in enumerate(names):
        same = [index for index, image in enumerate(images) if image == name]
        if not same and [other.rpartition("/")[2] for other in names].count(name.rpartition("/")[2]) == 1:
            last = name.rpartition("/")[2]
            same = [index for index, image in enumerate(images) if image.rpartition("/")[2] == last]
        if len(same) == 1:
            found[photo] = same[0]
    if len(found) < 2:
        raise ExportError(
            f"'{database}' holds {len(found)} of the {len(names)} photos; at least 2 are needed. Its images are "
            f"{listed(images) or 'none'}; the photos are {listed(names)}."
        )
    return found


def _check_sizes(
    names: Sequence[str], sizes: Sequence[tuple[int, int]], theirs: Sequence[tuple[int, int]], place: dict[int, int]
) -> None:
    for photo, index in place.items():
        size, other = sizes[photo], theirs[index]
        if size != other:
            turned = (
                " COLMAP took it as it is stored, before its EXIF orientation: start that project with upright copies."
            )
            raise ExportError(
                f"{shown(names[photo])} is {size[0]} x {size[1]} pixels upright, but {other[0]} x {other[1]} in the "
                f"database.{turned if other == size[::-1] else ' Align the photos that the database was made of.'}"
            )


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't change the database; pycolmap's would bring an old one up to date."""
    if database.is_dir():
        inside = database / "database.db"
        example = f", such as '{inside}'" if inside.is_file() else ""
        raise StorageError(f"'{database}' is a folder. Name the file of the database{example}.")
    if not database.is_file():
        raise StorageError(f"There is no database '{database}'.")
    try:
        source = sqlite3.connect(f"{database.resolve().as_uri()}?{_how(database)}", uri=True, timeout=_PATIENCE)
        with contextlib.closing(source):
            check_tables(source)
            yield source
    except sqlite3.Error as error:
        if "locked" in str(error) or "busy" in str(error):
            raise StorageError(f"'{database}' is locked. Close the program that uses it and try again.") from error
        raise StorageError(f"'{database}' can't be used as a database of COLMAP ({error}).") from error
    except PermissionError as error:
        raise StorageError(f"'{database}' can't be read ({error.strerror}).") from error


def _how(database: Path) -> str:
    """How SQLite is to open a database, so that nothing is written beside it either.

    A database with a log of changes, as COLMAP makes them, wants that log and an index of it even for reading, leaves
    both behind, and can't be read where they can't be made. Where there is no log nobody has the database open: then
    SQLite may take the file as it is.
    """
    with database.open("rb") as file:
        logged = file.read(20)[18:] == b"\x02\x02"
    unused = not database.with_name(f"{database.name}-wal").exists()
    return "mode=ro&immutable=1" if logged and unused else "mode=ro"


def _copy(database: Path, path: Path) -> None:
    """A copy of a database, with what still stands in its write-ahead log."""
    with _reading(database) as source, contextlib.closing(sqlite3.connect(path)) as copy:
        source.backup(copy)


def _add_keypoints(file: Any, image: int, points: np.ndarray) -> int:
    """Appends keypoints to those of an image; how many there were before."""
    had = np.array(file.read_keypoints(image), np.float32) if file.exists_keypoints(image) else np.zeros((0, 2))
    new = np.zeros((len(points), had.shape[1] or 2), np.float32)
    new[:, :2] = points + HALF
    new[:, 2:] = [[1, 0], [1, 0, 0, 1]][new.shape[1] == 6][: new.shape[1] - 2]  # size 1, upright
    both = np.concatenate([had.reshape(len(had), new.shape[1]), new]).astype(np.float32)
    (file.update_keypoints if file.exists_keypoints(image) else file.write_keypoints)(image, both)
    return len(had)


def _pad_descriptors(path: Path, counts: dict[int, int]) -> None:
    """Descriptors of zeros for the keypoints that were added; pycolmap can't change descriptors."""
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        rows = file.execute("SELECT image_id, rows, cols, data FROM descriptors").fetchall()
        for image, count, width, data in rows:
            if count and image in counts:
                padded = (data or b"") + bytes(len(data) // count * counts[image])
                file.execute(
                    "UPDATE descriptors SET rows = ?, cols = ?, data = ? WHERE image_id = ?",
                    (count + counts[image], width, padded, image),
                )


def _add_matches(file: Any, first: int, second: int, rows: np.ndarray) -> None:
    """Appends matches of two images to their matches and to those that are verified."""
    pycolmap = quiet_pycolmap()

    had = np.zeros((0, 2), np.uint32)
    if file.exists_matches(first, second):
        had = np.array(file.read_matches(first, second), np.uint32).reshape(-1, 2)
        file.delete_matches(first, second)
    file.write_matches(first, second, np.concatenate([had, rows]))
    known = file.exists_two_view_geometry(first, second)
    geometry = file.read_two_view_geometry(first, second) if known else pycolmap.TwoViewGeometry()
    inliers = np.array(geometry.inlier_matches, np.uint32).reshape(-1, 2)
    geometry.inlier_matches = np.concatenate([inliers, rows])
    if len(inliers) == 0:
        geometry.config = pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED
    (file.update_two_view_geometry if known else file.write_two_view_geometry)(first, second, geometry)


def _check(before: Content, after: Content, added: int) -> None:
    """Refuses a copy that is not the database with our matches behind its own."""

    def total(content: Content) -> int:
        return sum(map(len, content.verified.values()))

    kept = (
        all(
            len(old) == 0 or np.array_equal(old, new[: len(old)])  # no keypoints have no columns either
            for old, new in zip(before.keypoints, after.keypoints, strict=True)
        )
        and all(np.array_equal(rows, after.verified[pair][: len(rows)]) for pair, rows in before.verified.items())
    )
    if before.names != after.names or not kept or total(after) != total(before) + added:
        raise ExportError("The copy does not hold what was added; is pycolmap of another version installed?")
