"""Reconstructions as files: the largest model first, its photos named as COLMAP finds them, in colour."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.config import Progress
from asic3d.errors import StorageError
from asic3d_integrations.colmap.cameras import Cameras
from asic3d_integrations.colmap.images import Images
from asic3d_integrations.colmap.mapping import MapOptions, Mapped, map_graph
from asic3d_integrations.colmap.models import read_model
from asic3d_integrations.colmap.nerfstudio import coloured, write_nerfstudio
from asic3d_integrations.colmap.scene import scene_of, write_glb, write_ply
from asic3d_integrations.colmap.sources import Source

SPARSE, SCENE, CLOUD = "sparse", "scene.glb", "scene.ply"


def reconstruct(source: Source, cameras: Cameras, options: MapOptions, progress: Callable[[Progress], None]) -> Mapped:
    """The photos' poses: those that came with the tracks, else what the mapper makes of them.

    Args:
        source: the tracks.
        cameras: where to start.
        options: how.
        progress: called with the stage ``mapping``.
    """
    return source.mapped or map_graph(source.graph, cameras, source.edges, options, progress)


def write_reconstruction(mapped: Mapped, folder: Path, images: Images, image_folder: Path) -> None:
    """Writes ``sparse/0``, ``sparse/1``, ..., and of the first one what nerfstudio and viewers read.

    Args:
        mapped: the models; their images get the names that COLMAP knows them by.
        folder: where to write.
        images: those names.
        image_folder: what they are relative to.

    Raises:
        ExportError: nerfstudio does not know the camera model.
        StorageError: the folder can't be written.
    """
    for number, model in enumerate(mapped.reconstructions):
        for image in model.images:
            model.images[image].name = images.names[image - 1]
        coloured(model, image_folder)
        _write_model(model, folder / SPARSE / str(number))
    if mapped.reconstructions:
        first = mapped.reconstructions[0]
        write_nerfstudio(first, folder, image_folder)
        scene = scene_of(first)
        write_glb(scene, folder / SCENE)
        write_ply(scene, folder / CLOUD)


def _write_model(model: Any, place: Path) -> None:
    """Writes a model and reads it back: COLMAP does not notice that a disk is full."""
    place.mkdir(parents=True)
    try:
        model.write_binary(place)
        whole = _contents(read_model(place)) == _contents(model)
    except (RuntimeError, StorageError):
        whole = False
    if not whole:
        raise StorageError(f"'{place}' was not written whole: the disk is full. Free some space and run it again.")


def _contents(model: Any) -> tuple[Any, ...]:
    """What is at the end of each of a model's files."""
    cameras = {number: tuple(camera.params) for number, camera in model.cameras.items()}
    return cameras, model.num_points3D(), model.compute_num_observations(), sorted(model.reg_image_ids())


def mapping_facts(mapped: Mapped, source: Source, cameras: Cameras) -> dict[str, Any]:
    """What a report says about the reconstruction."""
    verdict = mapped.verdict
    facts: dict[str, Any] = {
        "registered": verdict.photos,
        "of": verdict.of,
        "trusted": verdict.trusted,
        "verdict": verdict.words,
        "unregistered": mapped.unregistered,
        "models": [model.num_reg_images() for model in mapped.reconstructions],
        **mapped.facts,
    }
    if mapped.reconstructions:
        model = mapped.reconstructions[0]
        facts |= {
            "points": model.num_points3D(),
            "mean_track_length_exported": float(np.mean(source.graph.lengths)),
            "mean_track_length": model.compute_mean_track_length(),
            "reprojection_error": model.compute_mean_reprojection_error(),
            "focal": {
                model.images[number].name: [
                    cameras[number - 1].focal,
                    model.cameras[model.images[number].camera_id].mean_focal_length(),
                ]
                for number in sorted(model.reg_image_ids())
            },
        }
    return facts
