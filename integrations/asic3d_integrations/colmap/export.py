"""A folder for COLMAP and its relatives, out of an alignment: whole or not at all."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asic3d.config import Progress
from asic3d.errors import StorageError
from asic3d.storage import write_json
from asic3d.temporaries import clear_left, move_folder, temporary_folder
from asic3d.tracks import MatchGraph, taking_part
from asic3d_integrations.colmap.adding import COPY, Added, add_to, check_database
from asic3d_integrations.colmap.cameras import Cameras, choose_cameras, parse_focal
from asic3d_integrations.colmap.database import Content, Verification, write_database
from asic3d_integrations.colmap.exchange import missing_for_hloc, write_hloc, write_pairs, write_text, write_tracks
from asic3d_integrations.colmap.exported import FORMAT, REPORT, files_below, refuse_earlier
from asic3d_integrations.colmap.images import FOLDER, Images, plan_images, write_images, write_masks
from asic3d_integrations.colmap.mapping import INCREMENTAL, MapOptions, Mapped, guess_cameras
from asic3d_integrations.colmap.poses import STAGES as POSES
from asic3d_integrations.colmap.reconstruction import mapping_facts, reconstruct, write_reconstruction
from asic3d_integrations.colmap.sources import AUTO, CANONICAL, Source, find_tracks

if TYPE_CHECKING:
    from asic3d import Alignment

DATABASE = "database.db"
STAGES = {
    **POSES,
    "tracks": "Reading tracks out of the alignment",
    "images": "Copying the photos upright",
    "masks": "Writing the masks",
    "database": "Writing and verifying the database",
    "adding": "Adding the matches to a copy of the other database",
    "files": "Writing the other files",
}
"""Stage of the export -> what it does, in words."""


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        tracks: ``canonical``, ``refined`` or ``auto``.
        sift: join SIFT keypoints to refined tracks.
        max_tracks: most canonical tracks.
        min_views: photos that a canonical track is seen in at least.
        camera_model: COLMAP's camera model.
        shared_camera: one camera for all photos of one size.
        focal: focal length of all photos, ``"1200"`` pixels or ``"50mm"``; '' = from EXIF, else a guess.
        masks: write masks too.
        copy_images: copy the photos also where COLMAP can read them where they are.
        map: look for the cameras' poses.
        force: look for them also where they would mean nothing.
        seed: of the verification.
        mapper: COLMAP's mapper, one of mapping.MAPPERS.
        overwrite: replace an earlier export.
    """

    tracks: str = AUTO
    sift: bool = True

    max_tracks: int = 4000
    min_views: int = 3
    camera_model: str = "SIMPLE_RADIAL"
    shared_camera: bool = False
    focal: str = ""
    masks: bool = False
    copy_images: bool = False
    map: bool = False
    force: bool = False
    seed: int = 0
    mapper: str = INCREMENTAL
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Export:
    """What was written.

    Attributes:
        folder: where.
        graph: the keypoints, matches and tracks.
        cameras: the cameras that COLMAP starts from.
        images: how COLMAP finds the photos.
        image_folder: COLMAP's ``image_path``.
        content: the database, read back.
        report: what ``report.json`` says.
        added: what was added to a copy of another database, where that was asked for.
        mapped: the poses that were found, where that was asked for and made sense.
    """

    folder: Path
    graph: MatchGraph
    cameras: Cameras
    images: Images
    image_folder: Path
    content: Content
    report: dict[str, Any] = field(repr=False)
    added: Added | None = None
    mapped: Mapped | None = None


def export_colmap(
    alignment: "Alignment",
    folder: Path,
    options: ExportOptions | None = None,
    *,
    database: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Export:
    """Writes a folder that COLMAP, hloc and others read; it is complete or as it was before.

    Args:
        alignment: the photos, aligned.
        folder: where to write; made where it is missing.
        options: what to export.
        database: a database of COLMAP; the verified matches are added to a copy of it in the folder.
        progress: called after each step.

    Raises:
        ExportError: no tracks, an unknown camera model or a focal length that can't be used.
        StorageError: an export is there and ``overwrite`` is not set, or the folder can't be written.
        CollectionError: a photo has changed since it was aligned.
    """
    options = options or ExportOptions()
    told = progress or (lambda _: None)
    collection = alignment.collection
    refuse_earlier(folder, options.overwrite)
    if database is not None:
        check_database(database, collection.names, collection.sizes)
    images = plan_images(collection, always=options.copy_images)
    focal = parse_focal(options.focal) if options.focal else None
    cameras = choose_cameras(
        collection.names,
        [photo.path for photo in collection],
        collection.sizes,
        model=options.camera_model,
        focal=focal,
        shared=options.shared_camera,
    )
    start = cameras if options.shared_camera or options.focal else guess_cameras(collection, cameras)
    image_folder = folder / FOLDER if images.copies else collection.root
    with replaced_together(folder) as new:  # made first: that it can't be is said before the work
        source = find_tracks(
            alignment,
            options.tracks,
            max_tracks=options.max_tracks,
            min_views=options.min_views,
            sift=options.sift,
            seed=options.seed,
            progress=told,
            cameras=start if options.map else None,
            mapper=options.mapper,
        )
        graph = source.graph
        if images.copies:
            write_images(collection, images, new / FOLDER, lambda done: told(Progress("images", done, len(collection))))
        if options.masks:
            write_masks(alignment.mask, collection, images, new / "masks")
            told(Progress("masks", 1, 1))
        verification = Verification.of(graph, options.seed, exact=source.kind != CANONICAL)
        content = write_database(graph, cameras, new / DATABASE, images=images.names, verification=verification)
        told(Progress("database", 1, 1))
        _write_others(new, graph, images, content)
        report = _report(alignment, source, cameras, images, content, verification, options, image_folder)
        added = None
        if database is not None:
            added = add_to(database, graph, content.verified, new / COPY)
            report["added"] = {"database": database, **added.facts()}
            told(Progress("adding", 1, 1))
        mapped = None
        if options.map:
            mapped, report["mapping"] = _mapped(source, start, images, new, collection.root, options, told)
        report["files"] = sorted([*files_below(new), REPORT])
        write_json(new / REPORT, report)
        told(Progress("files", 1, 1))
    return Export(folder, graph, cameras, images, image_folder, content, report, added, mapped)


def _write_others(new: Path, graph: MatchGraph, images: Images, content: Content) -> None:
    write_pairs(new / "pairs.txt", images.names, list(content.verified))
    write_tracks(new / "tracks.npz", graph, images.names)
    write_text(new / "text", graph, images.names)
    if not missing_for_hloc():
        write_hloc(new, graph, images.names, content.verified)


@contextlib.contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of another when the block ends well."""
    asked, folder, new = folder, folder.resolve(), Path()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_left(folder.parent)
        with temporary_folder(folder) as new:
            yield new
            move_folder(new, folder)
    except OSError as error:
        raise StorageError(
            f"'{folder}' can't be written ({error.strerror or error}). Choose another folder with -o."
        ) from error
    except StorageError as error:  # it speaks of the new folder, of which nobody knows
        raise StorageError(str(error).replace(str(new), str(asked))) from error


def _mapped(
    source: Source,
    cameras: Cameras,
    images: Images,
    new: Path,
    root: Path,
    options: ExportOptions,
    told: Callable[[Progress], None],
) -> tuple[Mapped | None, dict[str, Any]]:
    """The poses, written, and what the report says about them; or why they were not looked for."""
    if source.doubt and not options.force:
        return None, {"refused": source.doubt}
    mapped = reconstruct(source, cameras, MapOptions(seed=options.seed, mapper=options.mapper), told)
    write_reconstruction(mapped, new, images, new / FOLDER if images.copies else root)
    return mapped, mapping_facts(mapped, source, cameras)


def _report(
    alignment: "Alignment",
    source: Source,
    cameras: Cameras,
    images: Images,
    content: Content,
    verification: Verification,
    options: ExportOptions,
    image_folder: Path,
) -> dict[str, Any]:
    graph, part = source.graph, set(taking_part(alignment))
    other = "it was asked for" if options.copy_images else "another photo needs a copy"
    return {
        "format": FORMAT,
        "options": dataclasses.asdict(options),
        "image_folder": str(image_folder.resolve()),
        "photos": [
            {
                "name": name,
                "image": images.names[index],
                "keypoints": len(graph.keypoints[index]),
                "focal": cameras[index].focal,
                "focal_known": cameras[index].known,
                **({} if index in part else {"left_out": why_left_out(alignment, index)}),
                **({"copied": images.reasons.get(name, other)} if images.copies else {}),
            }
            for index, name in enumerate(alignment.names)
        ],
        "cameras": len(cameras.cameras),
        "kind": source.kind,
        "tracks": len(graph.lengths),
        "mean_track_length": float(np.mean(graph.lengths)),
        "deviation": graph.deviation,
        "verification": dataclasses.asdict(verification),
        "pairs_matched": len(content.matches),
        "pairs_verified": len(content.verified),
        "inlier_ratio": None if math.isnan(content.inlier_ratio) else content.inlier_ratio,
        "refining": source.facts,
        "hloc": missing_for_hloc() == "",
        "versions": {name: version(name) for name in ("pycolmap", "numpy")},
    }


def why_left_out(alignment: "Alignment", index: int) -> str:
    """Why a photo takes no part in the matches, a phrase."""
    if alignment.names[index] in alignment.outliers:
        return "it seems to show something else"
    if not alignment.collection[index].holds_shapes:
        return "nothing in it can be recognised: it is of one colour, or all shading or grain"
    return "it was mirrored to fit the others, and no camera sees things mirrored"
