"""A model for nerfstudio, viewers and pictures: cameras stand and look where they should."""

import json
import sys

import cv2
import numpy as np
import pycolmap
import pytest
import trimesh
from colmap_scene import model_of, scene
from PIL import Image

from asic3d.errors import ExportError, MissingExtraError
from asic3d_integrations.colmap.drawing import draw_scene
from asic3d_integrations.colmap.nerfstudio import write_nerfstudio
from asic3d_integrations.colmap.scene import scene_of, write_glb, write_ply
from asic3d_integrations.colmap.viewpoint import choose_view
from asic3d_integrations.colmap.window import geometries, picture, show


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
    for corners, camera in zip(scene_of(model_of()).frusta, cameras, strict=True):
        assert np.allclose(corners[0], camera.centre, atol=1e-9)
        pixels, depth = camera.project(corners[1:])
        assert (depth > 0).all()
        width, height = camera.size
        wanted = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
        assert np.abs(pixels - wanted).max() < 1e-6
        assert np.dot(corners[1:].mean(0) - corners[0], points.mean(0) - corners[0]) > 0


def test_glb_holds_points_and_cameras(tmp_path):
    write_glb(scene_of(model_of()), tmp_path / "scene.glb")
    loaded = trimesh.load(tmp_path / "scene.glb")
    kinds = [type(geometry).__name__ for geometry in loaded.geometry.values()]
    assert (kinds.count("PointCloud"), kinds.count("Trimesh")) == (1, 5)
    points = scene()[2] * [1, -1, -1]
    cloud = next(geometry for geometry in loaded.geometry.values() if isinstance(geometry, trimesh.PointCloud))
    node = loaded.graph.geometry_nodes[next(k for k, v in loaded.geometry.items() if v is cloud)][0]
    placed = trimesh.transform_points(cloud.vertices, loaded.graph[node][0])
    assert np.allclose(placed, points, atol=1e-5)


def test_ply_is_one_cloud_of_points_and_dotted_cameras(tmp_path):
    model = model_of()
    write_ply(scene_of(model), tmp_path / "scene.ply")
    cloud = trimesh.load(tmp_path / "scene.ply")
    assert isinstance(cloud, trimesh.PointCloud)  # as which every viewer shows all of it
    red = (np.asarray(cloud.colors)[:, :3] == [255, 0, 0]).all(1)
    assert np.allclose(cloud.vertices[red], scene()[2], atol=1e-5)
    dots = np.asarray(cloud.vertices[~red])
    for camera in scene()[1]:
        assert np.linalg.norm(dots - camera.centre, axis=1).min() < 1e-4
    assert len(dots) == 5 * 8 * 40


def with_photos(folder):
    """The scene with a photo of one colour for each camera but the last: blue above, green below."""
    folder.mkdir()
    graph, cameras, _ = scene()
    for name, camera in zip(graph.names[:-1], cameras, strict=False):
        width, height = camera.size
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2], pixels[height // 2 :] = (0, 0, 255), (0, 200, 0)
        Image.fromarray(pixels).save(folder / name.replace(".jpg", ".png"))
    model = model_of()
    for image in model.images.values():
        image.name = image.name.replace(".jpg", ".png")
    return scene_of(model, folder)


def blue_and_green(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are more blue, and more green, than anything else."""
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return (blue > red + 60) & (blue > green + 60), (green > red + 60) & (green > blue + 60)


def test_photos_are_shown_small_and_missing_ones_are_not(tmp_path):
    shown = with_photos(tmp_path / "photos")
    assert [None if photo is None else max(photo.shape) for photo in shown.photos] == [320, 320, 320, 320, None]
    model = model_of()
    model.images[1].name = "../photos/view_0.png"  # a name from elsewhere leads nowhere else
    assert scene_of(model, tmp_path / "photos").photos == (None,) * 5
    assert scene_of(model).photos == (None,) * 5


def test_the_picture_shows_points_and_cameras():
    picture = draw_scene(scene_of(model_of()), (320, 240))
    assert picture.shape == (240, 320, 3)
    reddish = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    orange = (np.abs(picture.astype(int) - [230, 100, 30]).max(-1) < 30).sum()
    assert reddish.sum() > 200 and orange > 200
    assert (picture == 255).all(-1).mean() > 0.5


def test_the_picture_shows_the_photos_upright(tmp_path):
    blue, green = blue_and_green(draw_scene(with_photos(tmp_path / "photos"), (640, 480)))
    assert blue.sum() > 100 and green.sum() > 100
    assert np.nonzero(blue)[0].mean() < np.nonzero(green)[0].mean()


def test_an_empty_model_is_drawn_and_written(tmp_path):
    empty = scene_of(pycolmap.Reconstruction())
    assert (draw_scene(empty, (60, 40)) == 255).all()
    write_ply(empty, tmp_path / "scene.ply")
    assert b"element vertex 0\n" in (tmp_path / "scene.ply").read_bytes()
    write_nerfstudio(pycolmap.Reconstruction(), tmp_path, tmp_path)
    assert json.loads((tmp_path / "transforms.json").read_text())["frames"] == []


def test_without_open3d_people_are_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingExtraError, match=r"^The view needs Open3D: pip install open3d\.$"):
        geometries(scene_of(model_of()))


@pytest.fixture
def open3d():
    return pytest.importorskip("open3d", reason="Open3D is not installed (extra viz)", exc_type=ImportError)


def test_open3d_gets_points_frusta_and_photos(open3d, tmp_path):
    cloud, lines, *photos = geometries(with_photos(tmp_path / "photos"))
    assert np.allclose(np.asarray(cloud.points), scene()[2], atol=1e-5)
    assert (len(lines.points), len(lines.lines)) == (25, 40)
    assert len(photos) == 4
    assert np.asarray(photos[0].textures[0])[0, 0].tolist() == [0, 0, 255]


def test_open3d_reads_the_files(open3d, tmp_path):
    one = scene_of(model_of())
    write_ply(one, tmp_path / "scene.ply")
    write_glb(one, tmp_path / "scene.glb")
    assert len(open3d.io.read_point_cloud(str(tmp_path / "scene.ply")).points) == len(one.points) + 5 * 8 * 40
    assert len(open3d.io.read_triangle_mesh(str(tmp_path / "scene.glb")).triangles) == 5 * 8


def test_open3d_draws_a_picture_without_a_window(open3d, tmp_path):
    try:
        drawn = picture(with_photos(tmp_path / "photos"), (320, 240))
    except ExportError as error:
        pytest.skip(str(error))
    blue, green = blue_and_green(drawn)
    assert drawn.shape == (240, 320, 3)
    assert blue.sum() > 30 and np.nonzero(blue)[0].mean() < np.nonzero(green)[0].mean()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
@pytest.mark.parametrize("display", ["", ":4711"])
def test_no_window_without_a_display(open3d, monkeypatch, display):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(ExportError, match=r"^There is no display here to open a window on\. Take --picture FILE"):
        show(scene_of(model_of()))


def test_a_wall_is_seen_from_its_front_with_nothing_before_it():
    across = np.stack(np.meshgrid(np.linspace(-5, 5, 20), np.linspace(-3, 3, 12)), -1).reshape(-1, 2)
    wall = np.column_stack([across, np.full(len(across), 10.0)])
    corners = np.array([[0, 0, 0], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) * 0.8
    frusta = np.array([corners + np.array([x, 0, 0]) for x in (-3, 0, 3)])
    view, up = choose_view(np.tile(np.eye(3), (3, 1, 1)), wall, frusta)
    assert np.allclose(view @ view.T, np.eye(3)) and np.linalg.det(view) > 0
    assert np.allclose(up, [0, -1, 0]) and -1 < np.dot(view[1], up) < 0  # from above
    assert np.degrees(np.arccos(view[2, 2])) < 40
    seen, quads = wall @ view.T, frusta @ view.T
    covered = [
        cv2.pointPolygonTest(cv2.convexHull(quad[:, :2].astype(np.float32)), tuple(place), False) >= 0
        for quad in quads
        for place in seen[:, :2].tolist()
    ]
    assert np.mean(covered) < 0.02
