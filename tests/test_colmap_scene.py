"""A model for nerfstudio, GLB and pictures: cameras stand and look where they should."""

import json
import sys

import numpy as np
import pycolmap
import pytest
import trimesh
from colmap_scene import scene

from asic3d.errors import ExportError, MissingExtraError
from asic3d_integrations.colmap.nerfstudio import write_nerfstudio
from asic3d_integrations.colmap.scene import draw_scene, frusta, open3d_geometries, write_glb, write_ply


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


def test_nerfstudio_projects_points_where_the_photos_have_them(tmp_path):
    graph, cameras, points = scene()
    (tmp_path / "out").mkdir()
    write_nerfstudio(model_of(), tmp_path / "out", tmp_path / "photos")
    content = json.loads((tmp_path / "out" / "transforms.json").read_text())
    assert [frame["file_path"] for frame in content["frames"]] == [f"../photos/{name}" for name in graph.names]
    for frame, camera in zip(content["frames"], cameras, strict=True):
        to_camera = np.linalg.inv(frame["transform_matrix"])
        seen = (points @ to_camera[:3, :3].T + to_camera[:3, 3]) * [1, -1, -1]  # y up and z back again
        pixels = seen[:, :2] / seen[:, 2:] * [frame["fl_x"], frame["fl_y"]] + [frame["cx"], frame["cy"]]
        assert np.abs(pixels - 0.5 - camera.project(points)[0]).max() < 1e-6  # half a pixel: as COLMAP has it
        assert [frame["w"], frame["h"]] == list(camera.size)


def test_nerfstudio_reads_the_points(tmp_path):
    write_nerfstudio(model_of(), tmp_path, tmp_path)
    cloud = trimesh.load(tmp_path / "sparse_pc.ply")
    assert np.allclose(cloud.vertices, scene()[2], atol=1e-5)
    assert (np.asarray(cloud.colors)[:, :3] == [255, 0, 0]).all()


@pytest.mark.parametrize(
    ("camera_model", "params", "expected"),
    [
        ("SIMPLE_RADIAL", (0.1,), [0.1, 0, 0, 0]),
        ("RADIAL", (0.1, 0.2), [0.1, 0.2, 0, 0]),
        ("OPENCV", (0.1, 0.2, 0.3, 0.4), [0.1, 0.2, 0.3, 0.4]),
        ("PINHOLE", (), [0, 0, 0, 0]),
    ],
)
def test_distortion_keeps_its_place(tmp_path, camera_model, params, expected):
    write_nerfstudio(model_of(camera_model, params), tmp_path, tmp_path)
    frame = json.loads((tmp_path / "transforms.json").read_text())["frames"][0]
    assert [frame[name] for name in ("k1", "k2", "p1", "p2")] == expected


def test_a_camera_that_nerfstudio_does_not_know(tmp_path):
    with pytest.raises(
        ExportError, match=r"^nerfstudio does not know COLMAP's camera model FOV; map with --camera-model"
    ):
        write_nerfstudio(model_of("FOV"), tmp_path, tmp_path)


def test_frusta_stand_at_the_cameras_and_open_towards_what_they_see():
    _, cameras, points = scene()
    for corners, camera in zip(frusta(model_of()), cameras, strict=True):
        assert np.allclose(corners[0], camera.centre, atol=1e-9)
        pixels, depth = camera.project(corners[1:])
        assert (depth > 0).all()
        width, height = camera.size
        wanted = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
        assert np.abs(pixels - wanted).max() < 1e-6
        assert np.dot(corners[1:].mean(0) - corners[0], points.mean(0) - corners[0]) > 0


def test_glb_holds_points_and_cameras(tmp_path):
    write_glb(model_of(), tmp_path / "scene.glb")
    loaded = trimesh.load(tmp_path / "scene.glb")
    kinds = [type(geometry).__name__ for geometry in loaded.geometry.values()]
    assert (kinds.count("PointCloud"), kinds.count("Trimesh")) == (1, 5)
    points = scene()[2] * [1, -1, -1]
    cloud = next(geometry for geometry in loaded.geometry.values() if isinstance(geometry, trimesh.PointCloud))
    node = loaded.graph.geometry_nodes[next(k for k, v in loaded.geometry.items() if v is cloud)][0]
    placed = trimesh.transform_points(cloud.vertices, loaded.graph[node][0])
    assert np.allclose(placed, points, atol=1e-5)


def test_ply_holds_the_edges_of_the_cameras(tmp_path):
    model = model_of()
    write_ply(model, tmp_path / "scene.ply")
    header, body = (tmp_path / "scene.ply").read_bytes().split(b"end_header\n")
    points = len(model.points3D)
    assert f"element vertex {points + 25}\n".encode() in header
    assert b"element edge 40\n" in header
    edges = np.frombuffer(body[-40 * 8 :], "<i4").reshape(-1, 2)
    assert edges.min() == points and edges.max() == points + 24
    assert len(body) == (points + 25) * 15 + 40 * 8


def test_the_picture_shows_points_and_cameras():
    picture = draw_scene(model_of(), (320, 240))
    assert picture.shape == (240, 320, 3)
    reddish = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    orange = (np.abs(picture.astype(int) - [230, 100, 30]).max(-1) < 30).sum()
    assert reddish.sum() > 200 and orange > 200
    assert (picture == 255).all(-1).mean() > 0.5


def test_an_empty_model_is_drawn_and_written(tmp_path):
    empty = pycolmap.Reconstruction()
    assert (draw_scene(empty, (60, 40)) == 255).all()
    write_ply(empty, tmp_path / "scene.ply")
    write_nerfstudio(empty, tmp_path, tmp_path)
    assert json.loads((tmp_path / "transforms.json").read_text())["frames"] == []


def test_without_open3d_people_are_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingExtraError, match=r'^The view needs Open3D: pip install "asic3d\[viz\]"\.$'):
        open3d_geometries(model_of())


def test_open3d_gets_points_and_frusta():
    pytest.importorskip("open3d", reason="Open3D is not installed", exc_type=ImportError)
    cloud, lines = open3d_geometries(model_of())
    assert np.allclose(np.asarray(cloud.points), scene()[2], atol=1e-5)
    assert (len(lines.points), len(lines.lines)) == (25, 40)
