"""What is seen in 3-D: cameras where the model has them, photos where the canonical plane has them."""

import numpy as np
import pycolmap
import pytest
from colmap_scene import model_of, scene
from planted_alignment import RADII, plant

from asic3d_integrations import stages
from asic3d_integrations.colmap.scene import scene_of
from asic3d_integrations.stages import (
    PHOTOS,
    PLACES,
    SPAN,
    Stage,
    stage_of_cameras,
    stage_of_descriptors,
    stage_of_plane,
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"))


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, proper rotation and shift of the nearest similarity, by Umeyama's method."""
    mine, theirs = source - source.mean(0), target - target.mean(0)
    left, sizes, right = np.linalg.svd(theirs.T @ mine)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = (left * signs) @ right
    scale = float((sizes * signs).sum() / (mine**2).sum())
    return scale, turn, target.mean(0) - scale * turn @ source.mean(0)


def in_sight(stage: Stage, angle: float, aspect: float) -> np.ndarray:
    """(k, 2) where the extent is seen: the picture is [-1, 1]^2."""
    seen = (stage.extent - stage.eye(angle, aspect)) @ stage.view.T
    assert (seen[:, 2] > 0).all()
    return seen[:, :2] / seen[:, 2:] / (np.tan(angle / 2) * np.array([aspect, 1]))


def test_the_stage_is_the_model_as_a_whole():
    one = scene_of(model_of())
    stage = stage_of_cameras(one)
    (cloud,) = stage.clouds
    scale, turn, shift = similarity(one.points.astype(float), cloud.points.astype(float))
    assert np.allclose(one.points @ turn.T * scale + shift, cloud.points, atol=1e-5)
    assert (cloud.colours == [255, 0, 0]).all() and len(cloud.points) == len(scene()[2])
    for shot, corners, name in zip(stage.shots, one.frusta, one.names, strict=True):
        assert shot.name == name
        assert np.allclose(corners @ turn.T * scale + shift, shot.corners, atol=1e-5)
    assert np.allclose(turn @ one.up, [0, 0, 1], atol=1e-6)
    low, high = stage.extent.min(0), stage.extent.max(0)
    assert np.linalg.norm(high - low) < 1.5 * SPAN


def test_up_is_where_the_photos_have_it():
    one = scene_of(model_of())
    down = np.mean([camera.R[1] for camera in scene()[1]], axis=0)
    assert np.allclose(one.up, -down / np.linalg.norm(down), atol=1e-9)


def test_a_ring_of_photos_on_their_side_stands_upright():
    """Cameras all around, each lying on its side: the mean of what they call down says nothing."""
    model = pycolmap.Reconstruction()
    for number in range(1, 13):
        angle = 2 * np.pi * number / 12
        ahead = np.array([np.cos(angle), np.sin(angle), 0])
        up = np.array([0.0, 0, 1])
        rotation = np.stack([up, np.cross(ahead, up), ahead])  # right, down, ahead: right is up in the world
        camera = pycolmap.Camera.create_from_model_name(number, "PINHOLE", 500, 400, 300)
        model.add_camera_with_trivial_rig(camera)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), rotation @ (5 * ahead))
        model.add_image_with_trivial_frame(pycolmap.Image(name=f"{number}", camera_id=number, image_id=number), pose)
    assert np.allclose(scene_of(model).up, [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("aspect", [0.6, 1.8])
@pytest.mark.parametrize("kind", ["cameras", "plane", "descriptors"])
def test_all_of_it_is_in_sight(planted, kind, aspect):
    stage = {
        "cameras": lambda: stage_of_cameras(scene_of(model_of())),
        "plane": lambda: stage_of_plane(planted),
        "descriptors": lambda: stage_of_descriptors(planted),
    }[kind]()
    reach = np.abs(in_sight(stage, 0.8, aspect)).max()
    assert stage.key == kind and 0.7 < reach < 1


def test_an_empty_model_has_a_stage():
    stage = stage_of_cameras(scene_of(pycolmap.Reconstruction()))
    assert len(stage.clouds[0].points) == 0 and stage.shots == ()
    assert np.allclose(np.linalg.norm(stage.eye(0.8, 1.0)), SPAN)


def test_a_place_lies_at_the_same_place_of_every_layer(planted):
    """The planted disc is round in every photo: so is each layer, of one size and around one axis."""
    stage = stage_of_plane(planted)
    layers = [cloud for cloud in stage.clouds if cloud.group == PHOTOS]
    assert [cloud.name for cloud in layers] == list(planted.names)
    depths = np.array([np.unique(cloud.points[:, 1]) for cloud in layers])
    assert depths.shape == (3, 1) and (np.diff(depths[:, 0]) > 0.1).all()
    radii = []
    for cloud in layers:
        across = cloud.points[:, [0, 2]]
        middle = (across.min(0) + across.max(0)) / 2
        radii.append(np.linalg.norm(across - middle, axis=1).max())
        assert np.abs(middle).max() < 0.1 * radii[-1]
    assert max(radii) / min(radii) < 1.1 < max(RADII) / min(RADII)
    for cloud, other in zip(layers, stage.clouds[1::2], strict=True):
        assert (other.group, other.name, other.shown) == (PLACES, cloud.name, False)
        assert (cloud.points == other.points).all() and (cloud.colours != other.colours).any()


def test_layers_are_upright_and_in_the_photos_colours(planted):
    """The planted waves come back where they are in the photo: nothing is turned over or mirrored."""
    cloud = stage_of_plane(planted).clouds[0]
    across, up = (cloud.points[:, [0, 2]] / np.abs(cloud.points[:, [0, 2]]).max()).T

    def likeness(x: np.ndarray, y: np.ndarray) -> float:
        waves = np.stack([np.sin(5 * x), np.cos(4 * y), np.sin(3 * x + 4 * y)])
        return float(np.corrcoef(waves.ravel(), cloud.colours.T.ravel())[0, 1])

    assert likeness(across, -up) > 0.9
    assert max(likeness(across, up), likeness(-across, -up), likeness(-across, up)) < 0.8


def test_cells_of_one_place_have_one_descriptor(planted):
    """The planted descriptors depend on the place alone: a cell's nearest one of another photo is near its place."""
    stage = stage_of_descriptors(planted)
    shown = {cloud.name: cloud for cloud in stage.clouds if cloud.group == PLACES and cloud.shown}
    assert list(shown) == list(planted.names)
    inside = planted.foreground > 0.5
    places = [planted.canonical[index][inside[index]].numpy() for index in range(3)]
    a, c = shown["a.jpg"].points, shown["c.jpg"].points
    assert (len(a), len(c)) == (len(places[0]), len(places[2]))
    nearest = np.linalg.norm(a[:, None] - c, axis=-1).argmin(1)
    assert np.median(np.linalg.norm(places[0] - places[2][nearest], axis=1)) < 0.15
    share = int(stage.facts.split("% of the variance")[0].rsplit(" ", 1)[1])
    values = planted.features[inside.flatten(1)].numpy()
    powers = np.linalg.svd(values - values.mean(0), compute_uv=False) ** 2
    assert abs(share - 100 * powers[:3].sum() / powers.sum()) <= 0.51


def test_many_photos_get_fewer_samples_each(planted, monkeypatch):
    whole = sum(len(cloud.points) for cloud in stage_of_plane(planted).clouds[::2])
    monkeypatch.setattr(stages, "_MOST", 900)
    fewer = sum(len(cloud.points) for cloud in stage_of_plane(planted).clouds[::2])
    assert 500 < fewer < 1200 < whole
