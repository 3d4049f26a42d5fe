"""Ordinary SIFT, by COLMAP: what good photos need no more than, and what flow is joined with."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from asic3d.collection import Photo
from asic3d.temporaries import temporary_folder
from asic3d.tracks import MatchGraph, Pair, tracks_of
from asic3d_integrations.colmap.database import quiet_pycolmap, read_database
from asic3d_integrations.colmap.working import Working

ORDINARY, GENEROUS = 0.0067, 0.002
"""Peak thresholds: COLMAP's own, and one that finds more on an object with little texture."""


def sift_graph(
    photos: Sequence[Photo],
    working: Sequence[Working],
    *,
    peak: float = ORDINARY,
    most: int = 8192,
    threads: int = 2,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> MatchGraph:
    """SIFT keypoints and their matches, every photo with every other, not verified.

    Args:
        photos: N photos.
        working: the same, as they are worked on.
        peak: contrast that a keypoint needs.
        most: keypoints of a photo at most.
        threads: processor cores to use.
        told: called with 0, 1 and 2 of 2: before the keypoints are found, before they are matched, and after that.
    """
    pycolmap = quiet_pycolmap()
    told(0, 2)
    names = [f"{index:05d}.png" for index in range(len(photos))]
    with temporary_folder() as root:
        for kind in ("images", "masks"):
            (root / kind).mkdir()
        reader = pycolmap.ImageReaderOptions()
        if any(one.masked for one in working):
            reader.mask_path = root / "masks"
        for name, one in zip(names, working, strict=True):
            Image.fromarray(one.pixels).save(root / "images" / name, compress_level=1)
            if reader.mask_path:  # COLMAP leaves out photos that have none where others do
                Image.fromarray(one.mask).save(root / "masks" / f"{name}.png")
        extraction, matching = pycolmap.FeatureExtractionOptions(), pycolmap.FeatureMatchingOptions()
        extraction.num_threads = matching.num_threads = threads
        extraction.use_gpu = matching.use_gpu = False
        extraction.sift.peak_threshold, extraction.sift.max_num_features = peak, most
        pycolmap.extract_features(
            root / "sift.db",
            root / "images",
            camera_mode=pycolmap.CameraMode.PER_IMAGE,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )
        told(1, 2)
        geometry = pycolmap.TwoViewGeometryOptions()
        geometry.ransac.min_num_trials = geometry.ransac.max_num_trials = (
            1  # COLMAP verifies as it matches; only the matches are read
        )
        pycolmap.match_exhaustive(
            root / "sift.db",
            matching_options=matching,
            verification_options=geometry,
            device=pycolmap.Device.cpu,
        )
        content = read_database(root / "sift.db")
    told(2, 2)
    places = [content.names.index(name) for name in names]
    keypoints = tuple(
        one.to_original(content.keypoints[place]).astype(np.float32) for one, place in zip(working, places, strict=True)
    )
    return _graph(photos, keypoints, content.matches, places)


def _graph(
    photos: Sequence[Photo],
    keypoints: tuple[np.ndarray, ...],
    found: dict[Pair, np.ndarray],
    places: list[int],
) -> MatchGraph:
    """The matches under the photos' own numbers."""
    number = {place: index for index, place in enumerate(places)}
    matches = {}
    for (a, b), rows in found.items():
        i, j = number[a], number[b]
        matches[min(i, j), max(i, j)] = rows if i < j else rows[:, ::-1]
    ordered = {pair: np.ascontiguousarray(np.unique(rows, axis=0)) for pair, rows in sorted(matches.items())}
    names, sizes = tuple(photo.name for photo in photos), tuple(photo.size for photo in photos)
    return MatchGraph(names, sizes, keypoints, ordered, tracks_of(ordered, [len(points) for points in keypoints]))
