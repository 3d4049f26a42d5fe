"""Reading keypoints.json, its errors, and the scores of transfers whose quality is known."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asic3d.errors import CollectionError
from asic3d_integrations.keypoint_sets import (
    evaluate_keypoints,
    identity_transfer,
    load_keypoint_set,
    named_transfer,
)

SHARED = Path(__file__).parents[2] / "shared" / "data" / "keypoints"


def entry(file="images/a.jpg", **changes):
    points = {"nose": [10, 20, 1], "tail": [60, 50, 1]}
    return {"file": file, "size": [100, 80], "bbox": [0, 10, 80, 70], "keypoints": points} | changes


@pytest.fixture
def write(tmp_path):
    """Writes entries (or any text) as keypoints.json, with a stand-in for each photo, and returns the folder."""

    def write_set(content):
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / "images" / name).write_bytes(b"")
        text = content if isinstance(content, str) else json.dumps({"images": content})
        (tmp_path / "keypoints.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write_set


def test_reads_points_boxes_and_visibility(write):
    other = entry(
        "images/b.jpg",
        bbox=[5, 5, 25, 45],
        keypoints={"nose": [1.5, 2], "ear": [3, 4, 1], "tail": [9, 9, 0], "hoof": None},
    )
    loaded = load_keypoint_set(write([entry(), other]))
    assert loaded.files == ("images/a.jpg", "images/b.jpg")
    assert loaded.names == ("ear", "hoof", "nose", "tail")
    assert loaded.sizes == ((100, 80), (100, 80))
    assert loaded.extents.tolist() == [80, 40]
    nan = [np.nan, np.nan]
    np.testing.assert_array_equal(loaded.keypoints, [[nan, nan, [10, 20], [60, 50]], [[3, 4], nan, [1.5, 2], nan]])
    assert loaded.visible.tolist() == [[False, False, True, True], [True, False, True, False]]


def test_photo_names_are_those_of_the_photo_folder(write):
    loaded = load_keypoint_set(write([entry(), entry("images/b.jpg")]))
    assert loaded.photo_folder == loaded.folder / "images"
    assert loaded.photo_names == ("a.jpg", "b.jpg")


def test_photos_of_several_folders_keep_their_folder_in_the_name(write, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jpg").write_bytes(b"")
    loaded = load_keypoint_set(write([entry(), entry("more/b.jpg")]))
    assert loaded.photo_folder == tmp_path
    assert loaded.photo_names == ("images/a.jpg", "more/b.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", '{path} must hold {{"images": [...]}} with at least two entries, one for each photo.'),
        ([entry()], '{path} must hold {{"images": [...]}} with at least two entries, one for each photo.'),
        (
            [entry(), {"size": [1, 1]}],
            'Entry 2 of {path} needs a "file": the photo\'s path, relative to the folder.',
        ),
        ([entry(), entry()], "{path} names the photo 'images/a.jpg' twice; keep one entry for each photo."),
        (
            [entry(), entry("images/c.jpg")],
            "'images/c.jpg' in {path} is no photo inside {folder}; correct the path or add the photo.",
        ),
        (
            [entry(), entry("../keypoints.json")],
            "'../keypoints.json' in {path} is no photo inside {folder}; correct the path or add the photo.",
        ),
        (
            [entry(), entry("images/b.jpg", size=[0, 80])],
            "'images/b.jpg' in {path} needs \"size\": [width, height] in whole pixels; found [0, 80].",
        ),
        (
            [entry(), entry("images/b.jpg", bbox=[5, 5, 5, 9])],
            "'images/b.jpg' in {path} needs \"bbox\": [x0, y0, x1, y1] with x1 > x0, y1 > y0; found [5, 5, 5, 9].",
        ),
        (
            [entry(), entry("images/b.jpg", keypoints=None)],
            "'images/b.jpg' in {path} needs \"keypoints\": {{name: [x, y, visible]}}; found None.",
        ),
        (
            [entry(), entry("images/b.jpg", keypoints={"nose": [float("nan"), 1, 1]})],
            "The keypoint 'nose' of 'images/b.jpg' in {path} must be [x, y, visible] or null; found [nan, 1, 1].",
        ),
        (
            [entry(), entry("images/b.jpg", keypoints={"nose": ["1", 1]})],
            "The keypoint 'nose' of 'images/b.jpg' in {path} must be [x, y, visible] or null; found ['1', 1].",
        ),
        (
            [entry(), entry("images/b.jpg", keypoints={"nose": [1, 2, 0], "tail": None})],
            "{path} has no keypoint that is visible in two photos; annotate shared points.",
        ),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(write, content, message):
    folder = write(content)
    with pytest.raises(CollectionError) as caught:
        load_keypoint_set(folder)
    assert str(caught.value) == message.format(path=folder / "keypoints.json", folder=folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CollectionError) as caught:
        load_keypoint_set(tmp_path)
    assert str(caught.value) == f"There is no keypoints.json in {tmp_path}; name a folder that holds one."


@pytest.mark.parametrize("text", ["{", '{"images": 1' + "0" * 10, "[" * 100_000, "\x00"])
def test_what_is_no_json_is_refused(write, text):
    with pytest.raises(
        CollectionError, match=r"keypoints\.json can't be read as JSON \(.*\); check or replace the file\."
    ):
        load_keypoint_set(write(text))


def test_a_number_too_large_for_a_float_is_refused(write):
    with pytest.raises(CollectionError, match="must be \\[x, y, visible\\] or null"):
        load_keypoint_set(write([entry(), entry("images/b.jpg", keypoints={"nose": [10**400, 1]})]))


def test_the_identity_keeps_the_normalised_coordinate(write):
    loaded = load_keypoint_set(write([entry(), entry("images/b.jpg", size=[200, 300])]))
    moved = identity_transfer(loaded)(0, 1, np.array([[49.5, 39.5], [-0.5, 39.5]]))
    # The centre goes to the centre; half of the longer side to the left stays that: 150 px of the larger photo.
    np.testing.assert_allclose(moved, [[99.5, 149.5], [-50.5, 149.5]])


def test_a_perfect_transfer_scores_one_and_the_identity_what_is_planted(write):
    far = {"nose": [10, 26, 1], "tail": [90, 50, 1]}  # 6 px and 30 px from the first photo's, extent 80
    loaded = load_keypoint_set(write([entry(), entry("images/b.jpg", keypoints=far)]))

    def perfect(source, target, points):
        return loaded.keypoints[target][[np.flatnonzero((loaded.keypoints[source] == p).all(1))[0] for p in points]]

    pcks = ("pck@0.1", "pck@0.05", "pck@0.1_per_image", "pck@0.05_per_image")
    best = dict.fromkeys((*pcks, "cycle2@0.1_hops", "cycle2@0.1_return"), 1)
    assert evaluate_keypoints(perfect, loaded) == best | {"points": 4}
    identity = dict(zip(pcks, (0.5, 0, 0.5, 0), strict=True)) | {"cycle2@0.1_hops": 0.75, "cycle2@0.1_return": 1}
    assert evaluate_keypoints(identity_transfer(loaded), loaded) == identity | {"points": 4}


def test_the_extent_is_the_target_photos(write):
    boxes = {"bbox": [0, 0, 40, 40]}
    points = {"nose": [10, 26, 1]}  # 6 px away: right within 8 px of the first photo, wrong within 4 px of the second
    loaded = load_keypoint_set(write([entry(), entry("images/b.jpg", keypoints=points, **boxes)]))
    assert evaluate_keypoints(identity_transfer(loaded), loaded)["pck@0.1"] == 0.5


def test_named_transfer_calls_by_photo_name(write):
    loaded = load_keypoint_set(write([entry(), entry("images/b.jpg")]))
    calls = []

    def transfer(points, *, source, target):
        calls.append((source, target))
        return SimpleNamespace(points=torch.from_numpy(points) + 1)

    assert named_transfer(transfer, loaded)(1, 0, np.zeros((1, 2))).tolist() == [[1, 1]]
    assert calls == [("b.jpg", "a.jpg")]


@pytest.mark.parametrize("name", ["motorbike_S", "cow_left", "dog_front"])
def test_real_sets_load_and_the_identity_is_scored(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the development data {SHARED / name} is absent")
    loaded = load_keypoint_set(SHARED / name)
    figures = evaluate_keypoints(identity_transfer(loaded), loaded, cycles=500)
    assert set(loaded.photo_names) == {p.name for p in (SHARED / name / "images").iterdir()}
    assert figures["cycle3@0.1_return"] == 1
    assert 0 < figures["pck@0.05"] < figures["pck@0.1"] < 0.6
