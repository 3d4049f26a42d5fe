"""The recording for Rerun, read back with Rerun's own reader."""

import io
import sys

import numpy as np
import pytest
from colmap_scene import model_of, scene
from PIL import Image
from planted_alignment import plant

from asic3d.errors import MissingExtraError
from asic3d_integrations.colmap.scene import scene_of
from asic3d_integrations.recording import recording
from asic3d_integrations.stages import PHOTOS, Shot, stage_of_cameras, stage_of_descriptors, stage_of_plane


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    planted = plant(tmp_path_factory.mktemp("planted"))
    cameras = stage_of_cameras(scene_of(model_of()))
    shots = tuple(Shot(f"sub/{shot.name}", shot.corners, np.full((30, 40, 3), 99, np.uint8)) for shot in cameras.shots)
    return (
        type(cameras)(**{**vars(cameras), "shots": (*shots[:-1], Shot("odd \udce9.jpg", shots[-1].corners, None))}),
        stage_of_plane(planted),
        stage_of_descriptors(planted),
    )


@pytest.fixture(scope="module")
def read(stages, tmp_path_factory):
    """Path -> component -> value, of the whole recording."""
    pytest.importorskip("rerun", reason="Rerun is not installed (extra rerun)")
    from rerun.chunk import RrdReader

    file = tmp_path_factory.mktemp("recording") / "scene.rrd"
    file.write_bytes(recording(stages))
    found = {}
    for chunk in RrdReader(file).stream():
        columns = chunk.to_record_batch().to_pydict()
        found.setdefault(chunk.entity_path, {}).update({name: rows[0] for name, rows in columns.items()})
    return found


def test_all_clouds_are_in_it(read, stages):
    assert np.allclose(read["/cameras/points"]["Points3D:positions"], stages[0].clouds[0].points)
    for stage in stages[1:]:
        for cloud in stage.clouds:
            path = f"/{stage.key}/{cloud.group}/{cloud.name}".replace(" ", "\\ ")
            entry = read[path]
            assert np.allclose(entry["Points3D:positions"], cloud.points)
            red = np.array(entry["Points3D:colors"], np.uint32) >> 24
            assert (red == cloud.colours[:, 0]).all()
    assert sum(PHOTOS.replace(" ", "\\ ") in path for path in read) == 6


def test_cameras_see_points_where_the_photos_have_them(read, stages):
    """A point at a corner of a photo is seen at that corner, through Rerun's camera."""
    cameras = [read[path] for path in sorted(read) if path.startswith("/cameras/cameras/") and "view_" in path]
    assert len(cameras) == 4
    for entry, shot in zip(cameras, stages[0].shots, strict=False):
        turn = np.array(entry["Transform3D:mat3x3"][0]).reshape(3, 3).T  # by columns
        lens = np.array(entry["Pinhole:image_from_camera"][0]).reshape(3, 3).T
        local = (shot.corners[1:] - np.array(entry["Transform3D:translation"][0])) @ turn
        pixels = local @ lens.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        assert np.abs(pixels - [[0, 0], [40, 0], [40, 30], [0, 30]]).max() < 1e-3
        assert entry["Pinhole:resolution"][0] == [40, 30]
        photo = np.asarray(Image.open(io.BytesIO(bytes(entry["EncodedImage:blob"][0]))))
        assert np.abs(photo.astype(int) - 99).max() < 3


def test_the_facts_are_told(read, stages):
    assert [read[f"/{stage.key}/about"]["TextDocument:text"] for stage in stages] == [[s.facts] for s in stages]
    assert f"{len(scene()[2])} points" in stages[0].facts


def test_without_rerun(stages, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"^A recording needs Rerun: pip install rerun-sdk\.$"):
        recording(stages)
