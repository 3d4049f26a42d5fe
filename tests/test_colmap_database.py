"""COLMAP's database holds what was exported, in its frame; it is whole or not there; copies of others gain matches."""

import shutil
import sqlite3
from types import SimpleNamespace

import numpy as np
import pycolmap
import pytest
from colmap_scene import SIZES, as_sets, files_below, scene
from PIL import Image

from asic3d.errors import ExportError, StorageError
from asic3d.tracks import graph_of_tracks, tracks_of
from asic3d_integrations.colmap import database
from asic3d_integrations.colmap.adding import add_to
from asic3d_integrations.colmap.cameras import Focal, choose_cameras, exif_focal, parse_focal
from asic3d_integrations.colmap.database import Verification, read_database, write_database


@pytest.fixture(scope="module")
def planted():
    return scene()


def cameras_of(graph, folder, **options):
    paths = []
    for name, size in zip(graph.names, graph.sizes, strict=True):
        Image.new("RGB", size).save(folder / name)
        paths.append(folder / name)
    return choose_cameras(graph.names, paths, graph.sizes, **options)


def test_the_database_holds_the_graph(planted, tmp_path):
    graph, _, _ = planted
    content = write_database(graph, cameras_of(graph, tmp_path), tmp_path / "new" / "database.db")
    assert content.names == graph.names
    assert content.matches.keys() == graph.matches.keys()
    assert content.inlier_ratio > 0.97
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["database.db"]
    again = read_database(tmp_path / "new" / "database.db")
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(again.keypoints, graph.keypoints, strict=True))


def test_pycolmap_reads_it_in_its_own_frame(planted, tmp_path):
    graph, _, _ = planted
    write_database(graph, cameras_of(graph, tmp_path), tmp_path / "d.db")
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        assert (database.num_cameras(), database.num_rigs(), database.num_frames(), database.num_images()) == (5,) * 4
        image = database.read_image_with_name(graph.names[1])
        assert database.read_frame(image.frame_id).has_rig_id()
        points = database.read_keypoints(image.image_id)
        assert np.allclose(points, graph.keypoints[1] + 0.5, atol=1e-4)
        camera = database.read_camera(image.camera_id)
        assert (camera.width, camera.height, camera.principal_point_x) == (300, 400, 150)
        assert (camera.model_name, camera.mean_focal_length()) == ("SIMPLE_RADIAL", 480)
        assert not camera.has_prior_focal_length


def test_tracks_come_back_from_the_reconstruction_up_to_what_was_rejected(planted, tmp_path):
    graph, truth, _ = planted
    content = write_database(graph, cameras_of(graph, tmp_path, model="PINHOLE"), tmp_path / "d.db")
    verified = tracks_of(content.verified, [len(points) for points in content.keypoints])
    kept = as_sets(verified) & as_sets(graph.tracks)
    assert len(kept) > 0.9 * len(graph.lengths)
    options = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0)
    models = pycolmap.incremental_mapping(tmp_path / "d.db", tmp_path, tmp_path, options)
    model = max(models.values(), key=lambda one: one.num_reg_images())
    assert model.num_reg_images() == 5
    numbers = {model.images[number].name: number for number in model.images}
    photo_of = {numbers[name]: index for index, name in enumerate(graph.names)}
    exported = as_sets(graph.tracks)
    found = [
        frozenset((photo_of[element.image_id], element.point2D_idx) for element in point.track.elements)
        for point in model.points3D.values()
    ]
    assert len(found) > 0.9 * len(exported)
    assert all(any(track <= whole for whole in exported) for track in found)
    assert np.mean([track in exported for track in found]) > 0.9
    rotations = [model.images[numbers[name]].cam_from_world().rotation.matrix() for name in graph.names]
    errors = [
        angle(rotations[j] @ rotations[i].T, truth[j].R @ truth[i].R.T) for i in range(5) for j in range(i + 1, 5)
    ]
    assert np.median(errors) < 1


def angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(one @ other.T) - 1) / 2, -1, 1))))


def test_the_same_database_again(planted, tmp_path):
    graph, _, _ = planted
    one, again = (write_database(graph, cameras_of(graph, tmp_path), tmp_path / name) for name in ("a.db", "b.db"))
    assert one.verified.keys() == again.verified.keys()
    assert all(np.array_equal(one.verified[pair], again.verified[pair]) for pair in one.verified)


def test_false_matches_do_not_pass(planted, tmp_path):
    graph, _, _ = planted
    generator = np.random.default_rng(1)
    rows = np.concatenate([np.column_stack([graph.tracks[:, :2], graph.keypoints[0][:1].repeat(len(graph.tracks), 0)])])
    rows[:, 2:] = generator.uniform(0, 299, (len(rows), 2))
    nonsense = graph_of_tracks(graph.names, graph.sizes, rows, 1.0)
    content = write_database(nonsense, cameras_of(graph, tmp_path), tmp_path / "d.db")
    assert content.matches and not content.verified
    assert content.inlier_ratio == 0


def test_coarse_points_are_verified_in_proportion(tmp_path):
    graph, _, _ = scene(noise=6)
    coarse = graph_of_tracks(graph.names, graph.sizes, rows_of(graph), 6.0)
    ratios = [
        write_database(one, cameras_of(graph, tmp_path), tmp_path / f"{one.deviation}.db").inlier_ratio
        for one in (graph, coarse)
    ]
    assert ratios[0] < 0.6 < 0.95 < ratios[1]


def rows_of(graph) -> np.ndarray:
    xy = np.stack([graph.keypoints[photo][keypoint] for _, photo, keypoint in graph.tracks])
    return np.column_stack([graph.tracks[:, :2], xy])


def test_matches_that_are_verified_already(planted, tmp_path):
    graph, _, _ = planted
    chosen = {pair: rows[:20] for pair, rows in list(graph.matches.items())[:3]}
    content = write_database(graph, cameras_of(graph, tmp_path), tmp_path / "d.db", verified=chosen)
    assert content.verified.keys() == chosen.keys()
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        configurations = {geometry.config for geometry in database.read_two_view_geometries()[1]}
    assert configurations == {int(pycolmap.TwoViewGeometryConfiguration.UNCALIBRATED)}


def test_a_photo_without_keypoints_is_in_the_database(planted, tmp_path):
    graph, _, _ = planted
    rows = rows_of(graph)
    partial = graph_of_tracks(graph.names, graph.sizes, rows[rows[:, 1] != 2], 1.0)
    content = write_database(partial, cameras_of(graph, tmp_path), tmp_path / "d.db")
    assert content.names == graph.names
    assert len(content.keypoints[2]) == 0
    assert not any(2 in pair for pair in content.matches)


def test_a_database_is_never_replaced_silently(planted, tmp_path):
    graph, _, _ = planted
    cameras = cameras_of(graph, tmp_path)
    (tmp_path / "d.db").write_bytes(b"mine")
    with pytest.raises(
        StorageError, match=r"d\.db' is there already, and nothing was changed\. Replace it with --over"
    ):
        write_database(graph, cameras, tmp_path / "d.db")
    assert (tmp_path / "d.db").read_bytes() == b"mine"
    write_database(graph, cameras, tmp_path / "d.db", overwrite=True)
    assert read_database(tmp_path / "d.db").names == graph.names


def test_a_failure_leaves_nothing_and_the_old_one(planted, tmp_path, monkeypatch):
    graph, _, _ = planted
    cameras = cameras_of(graph, tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "d.db").write_bytes(b"mine")

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pycolmap, "geometric_verification", fail)
    with pytest.raises(KeyboardInterrupt):
        write_database(graph, cameras, tmp_path / "out" / "d.db", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["d.db"]
    assert (tmp_path / "out" / "d.db").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "content", [b"", b"no database at all, but a text that is longer than a header of sqlite" * 20]
)
def test_no_database(tmp_path, content):
    (tmp_path / "d.db").write_bytes(content)
    if content:
        with pytest.raises(StorageError, match=r"d\.db' can't be used as a database of COLMAP"):
            read_database(tmp_path / "d.db")
    else:
        assert read_database(tmp_path / "d.db").names == ()
    with pytest.raises(StorageError, match=r"^There is no database '.*missing\.db'\.$"):
        read_database(tmp_path / "missing.db")


def test_verification_follows_the_deviation(planted):
    graph, _, _ = planted
    assert Verification.of(graph).max_error == 4
    assert Verification.of(graph_of_tracks(graph.names, graph.sizes, rows_of(graph), 2.5)).max_error == 10
    assert Verification.of(graph_of_tracks(graph.names, graph.sizes, rows_of(graph), 0.1)).max_error == 4


# Cameras


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({0xA405: 28}, 28 * 500 / 43.27),
        ({0x920A: 50.0, 0xA20E: 100.0, 0xA210: 3, 0xA002: 800}, 50 * 10 / 2),
        ({0x920A: 50.0, 0xA20E: 254.0, 0xA210: 2}, 50 * 10),
        ({0x920A: 50.0}, None),
        ({0xA405: 0}, None),
        ({}, None),
    ],
)
def test_focal_length_from_exif(tmp_path, tags, expected):
    image = Image.new("RGB", (400, 300))
    exif = image.getexif()
    exif[0x0110] = "camera"  # Pillow leaves out a block of a PNG that holds nothing else than a further one
    exif.get_ifd(0x8769).update(tags)
    for name in ("a.jpg", "a.png", "a.webp"):
        image.save(tmp_path / name, exif=exif)
        assert exif_focal(tmp_path / name, (400, 300)) == (None if expected is None else pytest.approx(expected))


def test_a_corrupt_exif_block_says_nothing(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff")
    assert exif_focal(tmp_path / "a.jpg", (40, 30)) is None
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    assert exif_focal(tmp_path / "b.jpg", (40, 30)) is None


def test_shared_cameras_are_one_for_each_size(planted, tmp_path):
    graph, _, _ = planted
    cameras = cameras_of(graph, tmp_path, shared=True, focal=Focal(555))
    assert [camera.size for camera in cameras.cameras] == list(dict.fromkeys(SIZES))
    assert cameras.of_photo == (0, 1, 2, 0, 3)
    assert {(camera.focal, camera.known) for camera in cameras.cameras} == {(555, True)}
    content = write_database(graph, cameras, tmp_path / "d.db")
    assert content.cameras[3] == content.cameras[0] == cameras[0]


def test_millimetres_need_the_sensor(planted, tmp_path):
    graph, _, _ = planted
    with pytest.raises(ExportError, match=r"^A focal length in mm needs the sensor's size, which is not in the EXIF"):
        cameras_of(graph, tmp_path, focal=parse_focal("50mm"))


def test_an_unknown_model(planted, tmp_path):
    graph, _, _ = planted
    with pytest.raises(ExportError, match=r"^There is no camera model 'FISH' here; choose one of SIMPLE_PINHOLE, PIN"):
        cameras_of(graph, tmp_path, model="FISH")


@pytest.mark.parametrize(
    ("text", "focal"), [("1200", Focal(1200)), ("1200px", Focal(1200)), (" 50 mm", Focal(50, True)), (".5", Focal(0.5))]
)
def test_focal_lengths_as_people_write_them(text, focal):
    assert parse_focal(text) == focal


@pytest.mark.parametrize("text", ["", "wide", "-3", "0", "12cm", "1e5", "nan"])
def test_no_focal_length(text):
    with pytest.raises(ExportError, match="is no focal length; write pixels, such as 1200, or millimetres"):
        parse_focal(text)


# A copy of someone's database


def others_database(path, names, sizes, columns=4, descriptors=True):
    """A database as COLMAP's own feature extraction and matching leave it."""
    with pycolmap.Database.open(path) as database:
        for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
            camera = pycolmap.Camera.create_from_model_name(number, "OPENCV", 500.0, *size)
            database.write_camera(camera, use_camera_id=True)
            image = pycolmap.Image(image_id=number, camera_id=number, name=name)
            database.write_image(image, use_image_id=True)
            points = np.random.default_rng(number).uniform(0, 200, (40, columns)).astype(np.float32)
            database.write_keypoints(number, points)
            if descriptors:
                data = np.full((40, 128), number, np.uint8)
                kind = pycolmap.FeatureExtractorType.SIFT
                database.write_descriptors(number, pycolmap.FeatureDescriptors(type=kind, data=data))
        rows = np.column_stack([np.arange(30), np.arange(30)]).astype(np.uint32)
        database.write_matches(1, 2, rows)
        geometry = pycolmap.TwoViewGeometry(inlier_matches=rows[:25])
        geometry.config = pycolmap.TwoViewGeometryConfiguration.PLANAR
        database.write_two_view_geometry(1, 2, geometry)


@pytest.mark.parametrize(("columns", "descriptors"), [(2, False), (4, True), (6, True)])
def test_matches_are_added_to_a_copy(planted, tmp_path, columns, descriptors):
    graph, _, _ = planted
    names = ("extra.jpg", *(f"project/{name}" for name in graph.names[:4]))
    others_database(tmp_path / "theirs.db", names, ((50, 50), *SIZES[:4]), columns, descriptors)
    before = (tmp_path / "theirs.db").read_bytes()
    added = add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "copy.db")
    assert (tmp_path / "theirs.db").read_bytes() == before
    assert added.images == {name: f"project/{name}" for name in graph.names[:4]}
    assert added.missing == graph.names[4:]
    wanted = {pair: rows for pair, rows in graph.matches.items() if 4 not in pair}
    assert (added.pairs, added.matches) == (6, sum(map(len, wanted.values())))
    content = read_database(tmp_path / "copy.db")
    for (i, j), rows in wanted.items():  # the images of the database are one further on than the photos
        found = content.verified[i + 1, j + 1][-len(rows) :]
        assert np.allclose(content.keypoints[i + 1][found[:, 0]], graph.keypoints[i][rows[:, 0]], atol=1e-3)
        assert np.allclose(content.keypoints[j + 1][found[:, 1]], graph.keypoints[j][rows[:, 1]], atol=1e-3)
    assert content.verified[0, 1].tolist() == [[k, k] for k in range(25)]
    with pycolmap.Database.open(tmp_path / "copy.db") as database:
        assert len(database.read_keypoints(1)) == 40
        assert database.read_keypoints(2).shape[1] == (columns if columns != 2 else 2)
        if descriptors:
            data = database.read_descriptors(2).data
            assert data.shape == (len(database.read_keypoints(2)), 128)
            assert (data[:40] == 2).all() and not data[40:].any()
        assert database.read_camera(1).model_name == "OPENCV"


def test_matches_join_those_of_the_same_pair(planted, tmp_path):
    graph, _, _ = planted
    others_database(tmp_path / "theirs.db", graph.names, SIZES)
    add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "copy.db")
    content = read_database(tmp_path / "copy.db")
    assert len(content.verified[0, 1]) == 25 + len(graph.matches[0, 1])
    assert len(content.matches[0, 1]) == 30 + len(graph.matches[0, 1])
    with pycolmap.Database.open(tmp_path / "copy.db") as database:
        kept = database.read_two_view_geometry(1, 2)
        assert kept.config == int(pycolmap.TwoViewGeometryConfiguration.PLANAR)


def test_photos_of_another_project(planted, tmp_path):
    graph, _, _ = planted
    others_database(tmp_path / "theirs.db", ("x.jpg", graph.names[1]), SIZES[:2])
    with pytest.raises(
        ExportError, match=r"theirs\.db' holds 1 of the 5 photos; at least 2 are needed\. Its images are"
    ):
        add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((400, 300), (400, 300)), r"'view_1\.jpg' is 300 x 400 pixels upright, but 400 x 300 in the database\. COLM"),
        (((400, 300), (150, 200)), r"but 150 x 200 in the database\. Align the photos that the database was made"),
    ],
)  # fmt: skip
def test_photos_of_another_size(planted, tmp_path, sizes, message):
    graph, _, _ = planted
    others_database(tmp_path / "theirs.db", graph.names[:2], sizes)
    with pytest.raises(ExportError, match=message):
        add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "copy.db")


def test_the_database_itself_is_no_copy(planted, tmp_path):
    graph, _, _ = planted
    others_database(tmp_path / "theirs.db", graph.names, SIZES)
    with pytest.raises(StorageError, match="is the database itself; matches are added to a copy"):
        add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "theirs.db", overwrite=True)


def test_nothing_is_written_beside_a_database_that_is_read(planted, tmp_path):
    graph, _, _ = planted
    theirs = tmp_path / "theirs" / "theirs.db"
    theirs.parent.mkdir()
    others_database(theirs, graph.names, SIZES)
    with sqlite3.connect(theirs) as file:
        file.execute("PRAGMA journal_mode = WAL")
    file.close()
    before = files_below(theirs.parent)
    assert list(before) == ["theirs.db"]
    add_to(theirs, graph, dict(graph.matches), tmp_path / "copy.db")
    assert files_below(theirs.parent) == before


def test_what_still_stands_in_the_log_of_a_database_is_copied_too(planted, tmp_path):
    graph, _, _ = planted
    others_database(tmp_path / "theirs.db", graph.names, SIZES)
    writer = sqlite3.connect(tmp_path / "theirs.db")
    try:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("UPDATE images SET name = 'renamed.jpg' WHERE name = ?", (graph.names[0],))
        writer.commit()
        added = add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "copy.db")
    finally:
        writer.close()
    assert added.missing == (graph.names[0],)
    assert "renamed.jpg" in added.content.names


@pytest.mark.parametrize(
    ("said", "free", "expected"),
    [
        ("[x.cc:1] SQLite error: database or disk is full", 10**9, "The disk is full: '.*d.db' was not written"),
        ("No registered database factory succeeded.", 1000, "The disk is full: '.*d.db' was not written"),
        ("No registered database factory succeeded.", 10**9, "d.db' can't be used as a database of COLMAP"),
    ],
)
def test_a_full_disk_is_called_so(planted, tmp_path, monkeypatch, said, free, expected):
    graph, _, _ = planted

    def fail(*_):
        raise RuntimeError(said)

    monkeypatch.setattr(database, "_write_images", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    cameras = cameras_of(graph, tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match=expected) as caught:
        write_database(graph, cameras, tmp_path / "out" / "d.db")
    assert ".asic3d-" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_locked_database(planted, tmp_path):
    graph, _, _ = planted
    others_database(tmp_path / "theirs.db", graph.names, SIZES)
    locked = sqlite3.connect(tmp_path / "theirs.db")
    locked.execute("PRAGMA locking_mode = EXCLUSIVE")
    locked.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match=r"theirs\.db' is locked\. Close the program that uses it"):
            add_to(tmp_path / "theirs.db", graph, dict(graph.matches), tmp_path / "copy.db")
    finally:
        locked.close()
    assert not (tmp_path / "copy.db").exists()
