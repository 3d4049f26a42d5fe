"""Matches for programs beside COLMAP 4: old COLMAP's text files, hloc's h5 files, numpy."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import MissingExtraError
from asic3d.extras import load_extra
from asic3d.storage import atomic_write, inside
from asic3d.tracks import MatchGraph, Pair
from asic3d_integrations.colmap.database import HALF

_NO_DESCRIPTOR = " 0" * 128


def write_pairs(path: Path, images: Sequence[str], pairs: Sequence[Pair]) -> None:
    """Writes ``pairs.txt``: two image names on each line, as COLMAP's and hloc's lists of pairs have it."""
    lines = "".join(f"{images[i]} {images[j]}\n" for i, j in pairs)
    atomic_write(path, lambda file: file.write(lines.encode()))


def write_tracks(path: Path, graph: MatchGraph, images: Sequence[str]) -> None:
    """Writes ``tracks.npz``, which holds no pickles.

    ========== =========================================================================================
    track      (L,) int64, the track of each point
    photo      (L,) int64, place in ``names``
    keypoint   (L,) int64, the photo's keypoint in the database
    xy         (L, 2) float32, original upright pixels, (0, 0) = centre of the top-left pixel
    names      (N,) text, the photos
    images     (N,) text, what COLMAP calls them
    sizes      (N, 2) int64, width and height
    deviation  float64, expected error of a point, pixels
    ========== =========================================================================================
    """
    track, photo, keypoint = graph.tracks.T
    start = np.concatenate([[0], np.cumsum([len(points) for points in graph.keypoints])])
    file = io.BytesIO()
    np.savez_compressed(
        file,
        track=track,
        photo=photo,
        keypoint=keypoint,
        xy=np.concatenate(graph.keypoints)[start[photo] + keypoint],
        names=np.array(graph.names, np.str_),
        images=np.array(images, np.str_),
        sizes=np.array(graph.sizes, np.int64),
        deviation=graph.deviation,
    )
    atomic_write(path, lambda out: out.write(file.getvalue()))


def write_text(folder: Path, graph: MatchGraph, images: Sequence[str]) -> None:
    """Writes what COLMAP 3.8's ``feature_importer`` and ``matches_importer`` read.

    ``keypoints/IMAGE.txt`` (x, y, scale, orientation and an empty descriptor), ``matches.txt`` (raw matches) and
    ``images.txt`` (the names).
    """
    for name, points in zip(images, graph.keypoints, strict=True):
        lines = [f"{len(points)} 128"]
        lines += [f"{x:.4f} {y:.4f} 1 0{_NO_DESCRIPTOR}" for x, y in (points + HALF).tolist()]
        _write_lines(inside(folder, f"keypoints/{name}.txt"), lines)
    _write_lines(folder / "images.txt", list(images))
    blocks = []
    for (i, j), rows in graph.matches.items():
        blocks += [f"{images[i]} {images[j]}", *(f"{a} {b}" for a, b in rows.tolist()), ""]
    _write_lines(folder / "matches.txt", blocks)


def _write_lines(path: Path, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    atomic_write(path, lambda file: file.write(content))


def missing_for_hloc() -> str:
    """Why hloc's files can't be written, a sentence; '' where they can."""
    try:
        _h5py()
    except MissingExtraError as error:
        return str(error)
    return ""


def _h5py() -> Any:
    return load_extra("h5py", "hloc's files need h5py", "h5py")


def write_hloc(folder: Path, graph: MatchGraph, images: Sequence[str], verified: Mapping[Pair, np.ndarray]) -> None:
    """Writes hloc's ``features.h5`` and ``matches.h5``; its pixels are ours.

    hloc knows one match for each keypoint of a pair: where there are several the first is written, verified ones first.

    Raises:
        MissingExtraError: h5py is not installed.
    """
    h5py = _h5py()
    features, matches = io.BytesIO(), io.BytesIO()
    with h5py.File(features, "w") as file:
        for name, size, points in zip(images, graph.sizes, graph.keypoints, strict=True):
            group = file.create_group(name)
            group.create_dataset("keypoints", data=points).attrs["uncertainty"] = graph.deviation
            group.create_dataset("scores", data=np.ones(len(points), np.float32))
            group.create_dataset("descriptors", data=np.zeros((1, len(points)), np.float32))
            group.create_dataset("image_size", data=np.array(size))
    with h5py.File(matches, "w") as file:
        for (i, j), rows in graph.matches.items():
            group = file.create_group(f"{images[i].replace('/', '-')}/{images[j].replace('/', '-')}")
            partner, score = _partners(len(graph.keypoints[i]), rows, verified.get((i, j)))
            group.create_dataset("matches0", data=partner)
            group.create_dataset("matching_scores0", data=score)
    atomic_write(folder / "features.h5", lambda out: out.write(features.getvalue()))
    atomic_write(folder / "matches.h5", lambda out: out.write(matches.getvalue()))


def _partners(count: int, rows: np.ndarray, verified: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(K,) int32, each keypoint's partner or -1, and (K,) float16 scores: 1 verified, 0.5 not, 0 none."""
    partner, score = np.full(count, -1, np.int32), np.zeros(count, np.float16)
    sure = rows[:0] if verified is None else verified
    for pairs, value in ((rows[::-1], 0.5), (sure[::-1], 1.0)):  # what is written last stays
        partner[pairs[:, 0]] = pairs[:, 1]
        score[pairs[:, 0]] = value
    return partner, score
