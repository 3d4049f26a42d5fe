"""Models of COLMAP: read, and how right their poses are beside those of COLMAP's SIFT."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.collection import Collection
from asic3d.errors import StorageError
from asic3d.metrics import PoseScores, score_poses
from asic3d.temporaries import temporary_folder
from asic3d_integrations.colmap.database import quiet_pycolmap
from asic3d_integrations.colmap.images import FOLDER, plan_images, write_images
from asic3d_integrations.reference_cameras import ReferenceCameras

LIMITS = (5, 10, 30)
"""Degrees up to which the area under the recall curve is taken."""
Pose = tuple[np.ndarray, np.ndarray]
"""R (3, 3) and t (3,), ``x_cam = R X + t``."""


def read_model(folder: Path) -> Any:
    """A model of COLMAP, binary or text.

    Raises:
        StorageError: there is none, or it can't be read.
    """
    pycolmap = quiet_pycolmap()
    if not any((folder / f"images.{ending}").is_file() for ending in ("bin", "txt")):
        raise StorageError(f"There is no model of COLMAP in '{folder}'; it would hold images.bin and cameras.bin.")
    try:
        _check_whole(folder)
        model = pycolmap.Reconstruction(folder)
        for image in model.images.values():
            image.name.encode()  # a name that is no text is found out here
        return model
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # a file that is cut off asks for any memory
        raise StorageError(f"The model of COLMAP in '{folder}' can't be read; make it again.") from error


def _check_whole(folder: Path) -> None:
    """Raises ValueError where a binary file is cut off: COLMAP would take minutes and all memory to fail.

    Walks from one variable length to the next. An image is 64 bytes, its name, a zero, how many points it has, and 24
    bytes for each; a point is 43 bytes, how many images show it, and 8 bytes for each.
    """
    for name, fixed, named, each in (("images.bin", 64, True, 24), ("points3D.bin", 43, False, 8)):
        if not (folder / name).is_file():
            continue
        content = (folder / name).read_bytes()
        count, place = _number(content, 0), 8
        for _ in range(count):
            place += fixed
            if named:
                place = content.index(b"\0", place) + 1
            place += 8 + each * _number(content, place)
        if place != len(content):
            raise ValueError(f"{name} holds {len(content)} bytes, not {place}")


def _number(content: bytes, place: int) -> int:
    if place + 8 > len(content):
        raise ValueError("a number is cut off")
    return int.from_bytes(content[place : place + 8], "little")


def poses_of(model: Any) -> dict[str, Pose]:
    """Image name -> pose, of the images that have one."""
    return {
        image.name: (image.cam_from_world().rotation.matrix(), np.array(image.cam_from_world().translation))
        for image in model.images.values()
        if image.has_pose
    }


def score_model(poses: Mapping[str, Pose], images: Sequence[str], truth: ReferenceCameras) -> dict[str, float]:
    """The figures of a model: registered photos, AUC and median errors.

    Args:
        poses: image name -> pose.
        images: what the model calls the N photos of ``truth``.
        truth: their cameras.
    """
    missing = np.full((3, 3), np.nan), np.full(3, np.nan)
    R, t = (np.stack(values) for values in zip(*(poses.get(name, missing) for name in images), strict=True))
    return figures(score_poses(R, t, truth.R, truth.t))


def figures(scores: PoseScores) -> dict[str, float]:
    """Scores by name; AUC as fractions, errors in degrees."""
    return {
        "registered": scores.registered,
        **{f"auc@{limit}": scores.auc(limit) for limit in LIMITS},
        "median_rotation": scores.median(scores.rotation),
        "median_translation": scores.median(scores.translation),
    }


def map_by_sift(collection: Collection, *, shared: bool, seed: int = 0) -> dict[str, Pose]:
    """COLMAP as it is: SIFT, every photo with every other, incremental mapping; the largest model's poses by photo.

    Args:
        collection: the photos.
        shared: one camera took all of them, and all are of one size.
        seed: of COLMAP's random samples.
    """
    pycolmap = quiet_pycolmap()
    images = plan_images(collection)
    with temporary_folder() as root:
        place = root / FOLDER if images.copies else collection.root
        if images.copies:
            write_images(collection, images, place)
        mode = pycolmap.CameraMode.SINGLE if shared else pycolmap.CameraMode.AUTO
        extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
        extraction.use_gpu = matching.use_gpu = False
        geometry = pycolmap.TwoViewGeometryOptions()
        geometry.ransac.random_seed = seed
        cpu, database = pycolmap.Device.cpu, root / "sift.db"
        pycolmap.extract_features(
            database, place, image_names=list(images.names), camera_mode=mode, extraction_options=extraction, device=cpu
        )
        pycolmap.match_exhaustive(database, matching_options=matching, verification_options=geometry, device=cpu)
        options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=seed)
        models = pycolmap.incremental_mapping(database, place, root, options).values()
        largest = max(models, key=lambda model: model.num_reg_images(), default=None)
        poses = {} if largest is None else poses_of(largest)
    return {photo: poses[image] for photo, image in zip(collection.names, images.names, strict=True) if image in poses}
