"""Scores of poses against truths that are known by hand, and asic3d evaluate poses."""

import json

import numpy as np
import pycolmap
import pytest
from cli_runner import run
from colmap_scene import scene
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import asic3d
from asic3d.errors import CollectionError, StorageError
from asic3d.metrics import score_poses
from asic3d_integrations.colmap.cameras import Camera, Cameras
from asic3d_integrations.colmap.database import write_database
from asic3d_integrations.colmap.models import poses_of, read_model, score_model
from asic3d_integrations.reference_cameras import load_cameras


def random_poses(seed: int, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return Rotation.random(count, random_state=seed).as_matrix(), generator.normal(size=(count, 3))


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_frame_and_scale_do_not_matter(seed, scale):
    R, t = random_poses(seed)
    turn, shift = random_poses(seed + 1, 1)
    moved = R @ turn[0].T  # the same cameras in a frame whose points are turn X + shift, and larger
    scores = score_poses(moved, scale * (t - moved @ shift[0]), R, t)
    assert max(scores.rotation.max(), scores.translation.max()) < 1e-3
    assert scores.registered == 5


def test_the_same_cameras_are_right():
    R, t = random_poses(3)
    scores = score_poses(R, 2 * t, R, t)
    assert max(scores.rotation.max(), scores.translation.max()) < 1e-4
    assert scores.auc(5) == pytest.approx(1, abs=1e-4)


def test_one_camera_turned_by_ten_degrees():
    R, t = random_poses(4, 4)
    off = R.copy()
    off[2] = Rotation.from_rotvec([0, np.radians(10), 0]).as_matrix() @ R[2]
    scores = score_poses(off, t, R, t)
    pairs = list(zip(*np.triu_indices(4, 1), strict=True))
    wanted = [10.0 if 2 in pair else 0.0 for pair in pairs]
    assert scores.rotation == pytest.approx(wanted, abs=1e-4)
    assert scores.median(scores.rotation) == pytest.approx(5, abs=1e-4)


def test_a_photo_without_a_pose_is_wrong_in_all_its_pairs():
    R, t = random_poses(5, 4)
    partial = R.copy()
    partial[1] = np.nan
    scores = score_poses(partial, t, R, t)
    assert scores.registered == 3
    assert (scores.rotation == 180).sum() == 3
    assert scores.auc(30) == pytest.approx(0.5, abs=1e-4)
    assert scores.median(scores.rotation) < 1e-4
    nothing = score_poses(np.full((4, 3, 3), np.nan), t, R, t)
    assert (nothing.registered, nothing.auc(30)) == (0, 0)
    assert np.isnan(nothing.median(nothing.rotation))


def test_a_translation_that_points_back_is_wrong():
    R, t = np.repeat(np.eye(3)[None], 2, 0), np.array([[0.0, 0, 0], [1, 0, 0]])
    assert score_poses(R, -t, R, t).translation.tolist() == [180]
    assert score_poses(R, t * [1, 0, 0] + [[0, 0, 0], [0, 1, 0]], R, t).translation.tolist() == pytest.approx([45])
    assert score_poses(R, t, R, 0 * t).translation.tolist() == [0]


def test_area_by_hand():
    R, t = np.repeat(np.eye(3)[None], 2, 0), np.array([[0.0, 0, 0], [1, 0, 0]])
    turned = np.stack([np.eye(3), Rotation.from_rotvec([np.radians(6), 0, 0]).as_matrix()])
    # Recall rises from 0 to 1 between 0 and 6 degrees, then stays: (3 + 24) / 30.
    assert score_poses(turned, t, R, t).auc(30) == pytest.approx(27 / 30, abs=1e-6)
    assert score_poses(turned, t, R, t).auc(5) == 0


# The file of cameras


def entry(name: str, **changes) -> dict:
    return {"file": name, "size": [4, 3], "K": np.eye(3).tolist(), "R": np.eye(3).tolist(), "t": [0, 0, 1], **changes}


def written(tmp_path, *entries):
    (tmp_path / "cameras.json").write_text(json.dumps({"images": list(entries)}))
    return tmp_path / "cameras.json"


def test_cameras_by_name(tmp_path):
    cameras = load_cameras(written(tmp_path, entry("images/a.jpg"), entry("images/b.jpg", t=[1, 2, 3])))
    assert cameras.of(["b.jpg"]).t.tolist() == [[1, 2, 3]]
    assert cameras.of(["set/images/b.jpg", "images/a.jpg"]).t.tolist() == [[1, 2, 3], [0, 0, 1]]
    with pytest.raises(
        CollectionError, match=r"^There is no camera of the photo 'c\.jpg'; the cameras are of 'images/a"
    ):
        cameras.of(["c.jpg"])


def test_a_name_that_fits_two_cameras(tmp_path):
    cameras = load_cameras(written(tmp_path, entry("x/a.jpg"), entry("y/a.jpg")))
    with pytest.raises(CollectionError, match=r"^There are several cameras of the photo 'a\.jpg'"):
        cameras.of(["a.jpg"])


BAD = {
    "no R": (entry("a.jpg", R=None), "needs \"R\": 3 x 3 finite numbers"),
    "text": (entry("a.jpg", t=["x", 0, 0]), "needs \"t\": 3 finite numbers"),
    "stretched": (entry("a.jpg", R=(2 * np.eye(3)).tolist()), 'The "R" of the photo \'a.jpg\''),
    "mirrored": (entry("a.jpg", R=np.diag([1, 1, -1]).tolist()), "is no rotation"),
    "no file": ({"R": 1}, 'Entry 1 of .* needs a "file"'),
    "twice": (entry("b.jpg"), "names a photo twice"),
}  # fmt: skip


@pytest.mark.parametrize(("first", "message"), BAD.values(), ids=BAD)
def test_cameras_that_are_none(tmp_path, first, message):
    with pytest.raises(CollectionError, match=message):
        load_cameras(written(tmp_path, first, entry("b.jpg")))


@pytest.mark.parametrize("content", ["", "[]", '{"images": []}', "{"])
def test_no_file_of_cameras(tmp_path, content):
    (tmp_path / "cameras.json").write_text(content)
    with pytest.raises(CollectionError, match=r"can't be read as JSON|must hold"):
        load_cameras(tmp_path / "cameras.json")
    with pytest.raises(CollectionError, match=r"^There is no file"):
        load_cameras(tmp_path / "none.json")


# Models


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A folder with the model of a planted scene, and the scene's cameras."""
    folder = tmp_path_factory.mktemp("mapped")
    graph, truth, _ = scene()
    cameras = Cameras(tuple(Camera("PINHOLE", size, 1.2 * max(size), False) for size in graph.sizes), tuple(range(5)))
    write_database(graph, cameras, folder / "d.db")
    options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0)
    models = pycolmap.incremental_mapping(folder / "d.db", folder, folder, options)
    best = max(models, key=lambda number: models[number].num_reg_images())
    entries = [
        entry(name, K=camera.K.tolist(), R=camera.R.tolist(), t=camera.t.tolist())
        for name, camera in zip(graph.names, truth, strict=True)
    ]
    (folder / "cameras.json").write_text(json.dumps({"images": entries}))
    return folder / str(best), folder / "cameras.json", graph


def test_a_model_is_scored_by_its_names(mapped):
    model, cameras, graph = mapped
    poses, truth = poses_of(read_model(model)), load_cameras(cameras)
    scores = score_model(poses, graph.names, truth)
    assert scores["registered"] == 5
    assert scores["auc@5"] > 0.8
    assert scores["median_rotation"] < 1
    turned = score_model(poses, graph.names[::-1], truth)
    assert turned["auc@5"] < 0.2
    missing = score_model(poses, (*graph.names[:4], "other.jpg"), truth)
    assert missing["registered"] == 4 and missing["auc@30"] == pytest.approx(0.6, abs=0.03)


def test_no_model(tmp_path):
    with pytest.raises(StorageError, match=r"^There is no model of COLMAP in"):
        read_model(tmp_path)
    for name in ("images", "cameras", "points3D", "rigs", "frames"):
        (tmp_path / f"{name}.bin").write_bytes(b"12345678")
    with pytest.raises(StorageError, match="can't be read; make it again"):
        read_model(tmp_path)


def test_command(mapped, toy, tmp_path, monkeypatch):
    """The model of the toy's photos is planted: the true cameras, one of them missing."""
    model = pycolmap.Reconstruction()
    for number, (name, photo) in enumerate(zip(toy.truth.names[1:], toy.truth.photos[1:], strict=True), 1):
        camera = pycolmap.Camera.create_from_model_name(number, "PINHOLE", photo.K[0, 0], *photo.size)
        model.add_camera_with_trivial_rig(camera)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(photo.R), photo.t)
        model.add_image_with_trivial_frame(pycolmap.Image(name=name, camera_id=number, image_id=number), pose)
    folder = tmp_path / "run" / "colmap" / "sparse" / "0"
    folder.mkdir(parents=True)
    model.write_binary(folder)
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: toy.alignment)
    result = run("evaluate", "poses", tmp_path / "run", "--cameras", toy.folder / "cameras.json", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert printed["methods"]["model"]["registered"] == 5
    assert printed["methods"]["model"]["auc@5"] == pytest.approx(10 / 15, abs=0.01)
    assert 0 <= printed["methods"]["COLMAP SIFT"]["registered"] <= 6
    shown = run("evaluate", "poses", tmp_path / "run", "--cameras", toy.folder / "cameras.json")
    assert "model" in shown.output and "5 of 6" in shown.output and "66." in shown.output


def test_command_without_a_model(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: toy.alignment)
    result = run("evaluate", "poses", tmp_path, "--cameras", toy.folder / "cameras.json")
    assert result.exit_code == 1
    assert "has no cameras yet. Find them: asic3d export-colmap" in result.output
