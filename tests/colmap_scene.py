"""A scene of points seen by known cameras, as a graph: what the tests of the export plant."""

from pathlib import Path

import numpy as np
import pycolmap

from asic3d.rendering.cameras import Camera, make_camera
from asic3d.tracks import MatchGraph, graph_of_tracks

SIZES = ((400, 300), (300, 400), (360, 360), (400, 300), (320, 400))


def scene(seed: int = 0, points: int = 300, noise: float = 0.3) -> tuple[MatchGraph, tuple[Camera, ...], np.ndarray]:
    """A graph of five photos, their cameras, and the (n, 3) points of its tracks."""
    generator = np.random.default_rng(seed)
    cloud = generator.uniform(-1, 1, (points, 3))
    cameras = tuple(
        make_camera(cloud, size, 0.35 * index, 0.1 * index, np.random.default_rng([seed, index]))
        for index, size in enumerate(SIZES)
    )
    rows = []
    for photo, camera in enumerate(cameras):
        pixels = camera.project(cloud)[0] + generator.normal(0, noise, (points, 2))
        seen = ((pixels > 0) & (pixels < np.array(camera.size) - 1)).all(1) & (generator.random(points) < 0.8)
        rows += [(track, photo, *pixels[track]) for track in np.flatnonzero(seen)]
    rows = np.array(rows)
    shown = np.unique(rows[:, 0], return_counts=True)
    rows = rows[np.isin(rows[:, 0], shown[0][shown[1] > 1])]
    names = tuple(f"view_{index}.jpg" for index in range(len(cameras)))
    return graph_of_tracks(names, SIZES, rows, 1.0), cameras, cloud[np.unique(rows[:, 0]).astype(int)]


def model_of(camera_model: str = "PINHOLE", params=()) -> pycolmap.Reconstruction:
    """The planted scene with its true cameras, and its points red, as a model."""
    graph, cameras, points = scene()
    model = pycolmap.Reconstruction()
    for number, (name, camera) in enumerate(zip(graph.names, cameras, strict=True), 1):
        made = pycolmap.Camera.create_from_model_name(number, camera_model, camera.K[0, 0], *camera.size)
        if params:
            made.params = [*made.params[: len(made.params) - len(params)], *params]
        model.add_camera_with_trivial_rig(made)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(camera.R), camera.t)
        model.add_image_with_trivial_frame(pycolmap.Image(name=name, camera_id=number, image_id=number), pose)
    for point in points:
        model.add_point3D(point, pycolmap.Track(), np.array([255, 0, 0], np.uint8))
    return model


def as_sets(tracks: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """Tracks without their numbers."""
    return {frozenset(map(tuple, tracks[tracks[:, 0] == number, 1:].tolist())) for number in np.unique(tracks[:, 0])}


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
