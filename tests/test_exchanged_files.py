"""What is exported, read by others: old COLMAP's own programs, and hloc's way of reading its files."""

import shutil
import subprocess

import h5py
import numpy as np
import pycolmap
import pytest
from colmap_scene import as_sets, model_of, scene
from PIL import Image

from asic3d.metrics import score_poses
from asic3d.tracks import MatchGraph
from asic3d_integrations.colmap.cameras import Camera, Cameras
from asic3d_integrations.colmap.database import write_database
from asic3d_integrations.colmap.exchange import write_hloc, write_pairs, write_text
from asic3d_integrations.colmap.models import poses_of, read_model

GRAPH, CAMERAS, POINTS = scene()


@pytest.fixture
def photos(tmp_path):
    """Empty photos of the right sizes: both programs read no more of them."""
    (tmp_path / "photos").mkdir()
    for name, size in zip(GRAPH.names, GRAPH.sizes, strict=True):
        Image.new("RGB", size).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def assert_right(poses) -> None:
    """The poses are the planted ones."""
    assert sorted(poses) == sorted(GRAPH.names)
    found = [np.stack(values) for values in zip(*(poses[name] for name in GRAPH.names), strict=True)]
    truth = np.stack([camera.R for camera in CAMERAS]), np.stack([camera.t for camera in CAMERAS])
    scores = score_poses(*found, *truth)
    assert scores.auc(5) > 0.7 and scores.rotation.max() < 3


# Old COLMAP


def colmap(*words) -> str:
    """Runs Debian's COLMAP, a program of 2023 whose database is not today's."""
    program = shutil.which("colmap")
    if program is None:
        pytest.skip("the program colmap is not installed (Debian's package colmap)")
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_old_colmap_maps_the_text_files(photos, tmp_path):
    colmap("help")
    write_text(tmp_path / "text", GRAPH, GRAPH.names)
    (tmp_path / "sparse").mkdir()
    base = ("--database_path", tmp_path / "old.db")
    focal = float(np.mean([camera.K[0, 0] for camera in CAMERAS]))
    colmap(
        "feature_importer", *base, "--image_path", photos,
        "--image_list_path", tmp_path / "text" / "images.txt", "--import_path", tmp_path / "text" / "keypoints",
        "--ImageReader.camera_model", "SIMPLE_PINHOLE", "--ImageReader.default_focal_length_factor", focal / 400,
    )  # fmt: skip
    colmap(
        "matches_importer", *base, "--match_list_path", tmp_path / "text" / "matches.txt", "--match_type", "raw",
        "--SiftMatching.use_gpu", 0,  # without a display it dies on the attempt
    )  # fmt: skip
    colmap("mapper", *base, "--image_path", photos, "--output_path", tmp_path / "sparse", "--Mapper.num_threads", 1)
    model = read_model(tmp_path / "sparse" / "0")
    assert_right(poses_of(model))
    assert model.compute_mean_track_length() > 3


def test_old_colmap_reads_the_model(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "text").mkdir()
    model_of("SIMPLE_RADIAL", (0.05,)).write_binary(tmp_path / "new")
    colmap(
        "model_converter", "--input_path", tmp_path / "new", "--output_path", tmp_path / "text", "--output_type", "TXT"
    )
    lines = (tmp_path / "text" / "images.txt").read_text().splitlines()
    rows = sorted((line.split() for line in lines if line.endswith(".jpg")), key=lambda row: row[-1])
    assert [row[-1] for row in rows] == list(GRAPH.names)
    for row, camera in zip(rows, CAMERAS, strict=True):
        assert np.allclose([float(value) for value in row[5:8]], camera.t)
    assert len((tmp_path / "text" / "points3D.txt").read_text().splitlines()) == 3 + len(POINTS)
    cameras = [line.split() for line in (tmp_path / "text" / "cameras.txt").read_text().splitlines()[3:]]
    assert [(words[1], float(words[-1])) for words in cameras] == [("SIMPLE_RADIAL", pytest.approx(0.05))] * 5


# hloc: features.h5 holds image/keypoints; matches.h5 holds first/second/matches0, the partner of each keypoint of the
# first or -1, with "-" for the slashes of names. Its reconstruction adds half a pixel to the keypoints.


def hloc_keypoints(path, name) -> np.ndarray:
    with h5py.File(path) as file:
        return file[name]["keypoints"][:] + np.float32(0.5)


def hloc_matches(path, first, second) -> np.ndarray:
    """(M, 2): the pair is stored in one order or the other."""
    one, other = (name.replace("/", "-") for name in (first, second))
    with h5py.File(path) as file:
        turned = f"{one}/{other}" not in file
        partner = file[f"{other}/{one}" if turned else f"{one}/{other}"]["matches0"][:]
    rows = np.stack([np.flatnonzero(partner >= 0), partner[partner >= 0]], 1)
    return rows[:, ::-1] if turned else rows


def test_a_reconstruction_the_way_hloc_makes_it(photos, tmp_path):
    cameras = Cameras(
        tuple(Camera("SIMPLE_PINHOLE", camera.size, float(camera.K[0, 0]), True) for camera in CAMERAS), tuple(range(5))
    )
    content = write_database(GRAPH, cameras, tmp_path / "ours.db")
    write_hloc(tmp_path, GRAPH, GRAPH.names, content.verified)
    write_pairs(tmp_path / "pairs.txt", GRAPH.names, list(content.verified))
    pairs = [line.split() for line in (tmp_path / "pairs.txt").read_text().splitlines()]
    assert len(pairs) == 10
    theirs = tmp_path / "theirs.db"
    with pycolmap.Database.open(theirs):
        pass
    pycolmap.import_images(theirs, photos, camera_mode=pycolmap.CameraMode.PER_IMAGE)
    with pycolmap.Database.open(theirs) as database:
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        for name, number in numbers.items():
            database.write_keypoints(number, hloc_keypoints(tmp_path / "features.h5", name))
        for first, second in pairs:
            rows = hloc_matches(tmp_path / "matches.h5", first, second)
            database.write_matches(numbers[first], numbers[second], rows.astype(np.uint32))
            turned = hloc_matches(tmp_path / "matches.h5", second, first)
            assert np.array_equal(turned, rows[:, ::-1])
        for camera in database.read_all_cameras():
            true = CAMERAS[camera.camera_id - 1]
            database.update_camera(
                pycolmap.Camera.create_from_model_name(camera.camera_id, "SIMPLE_PINHOLE", true.K[0, 0], *true.size)
            )
    pycolmap.logging.minloglevel = 3
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = 0
    pycolmap.verify_matches(theirs, tmp_path / "pairs.txt", options)
    (tmp_path / "sparse").mkdir()
    mapping = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0)
    models = pycolmap.incremental_mapping(theirs, photos, tmp_path / "sparse", mapping)
    assert_right(poses_of(models[0]))
    assert len(as_sets(GRAPH.tracks)) * 0.9 < models[0].num_points3D() <= len(as_sets(GRAPH.tracks))


def test_hloc_finds_every_photo_and_each_array_that_it_reads(tmp_path):
    # It asks features.h5 for each photo of its list, and fails where one is not in it: strangers too.
    left_out = np.zeros((0, 2), np.float32)
    graph = MatchGraph(
        (*GRAPH.names, "sub/stranger.jpg"),
        (*GRAPH.sizes, (40, 30)),
        (*GRAPH.keypoints, left_out),
        GRAPH.matches,
        GRAPH.tracks,
    )
    write_hloc(tmp_path, graph, graph.names, {})
    for name, points in zip(graph.names, graph.keypoints, strict=True):
        assert np.array_equal(hloc_keypoints(tmp_path / "features.h5", name), points + np.float32(0.5))
        assert hloc_keypoints(tmp_path / "features.h5", name).shape == (len(points), 2)
    with h5py.File(tmp_path / "features.h5") as features, h5py.File(tmp_path / "matches.h5") as matches:
        assert features["sub/stranger.jpg/keypoints"].attrs["uncertainty"] == graph.deviation
        for first, second in graph.matches:
            pair = matches[graph.names[first].replace("/", "-")][graph.names[second].replace("/", "-")]
            assert len(pair["matches0"]) == len(pair["matching_scores0"]) == len(graph.keypoints[first])
            assert pair["matches0"][:].max() < len(graph.keypoints[second])
