"""Reading SPair-71k from a miniature copy of its layout, and what is said about a broken one."""

import json
import shutil
from pathlib import Path

import miniature_sets as mini
import numpy as np
import pytest
from miniature_sets import told

from asic3d.errors import CollectionError
from asic3d_integrations.datasets.annotated import load_photos
from asic3d_integrations.datasets.spair import read_spair


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def spair(tmp_path, truth) -> Path:
    return mini.write_spair(tmp_path / "SPair-71k", truth)


FIRST_PAIR = "PairAnnotation/test/000001-2008_0-2008_1:cat.json"


def test_spair_is_read_back(spair, truth):
    (cats,) = read_spair(spair)
    assert (cats.name, cats.photo_names) == ("cat", tuple(f"cat/2008_{i}.jpg" for i in range(4)))
    columns = [int(part) for part in cats.keypoint_names]
    assert columns == sorted(columns)  # 10 after 9, not after 1
    seen = truth.keypoints[:, columns]
    np.testing.assert_array_equal(cats.keypoints, seen)
    np.testing.assert_array_equal(cats.extents, truth.extents)
    assert cats.sizes == truth.sizes
    assert cats.pairs is not None and len(cats.pairs) == 12
    both = (truth.visible[cats.pairs.source] & truth.visible[cats.pairs.target])[:, columns, None]
    np.testing.assert_array_equal(cats.pairs.truth, np.where(both, seen[cats.pairs.target], np.nan))
    np.testing.assert_array_equal(cats.pairs.points, np.where(both, seen[cats.pairs.source], np.nan))
    np.testing.assert_array_equal(cats.pairs.extents, truth.extents[cats.pairs.target])


def test_spair_takes_the_target_box_of_the_pair(spair):
    edit(spair / FIRST_PAIR, src_bndbox=[0, 0, 1000, 1000], trg_bndbox=[10, 20, 40, 90])
    (cats,) = read_spair(spair)
    assert cats.pairs is not None and cats.pairs.extents[0] == 70


def test_spair_by_its_parent_folder_and_by_category(tmp_path, truth):
    mini.write_spair(tmp_path / "SPair-71k", truth, ("cat", "train", "dog"))
    assert [read.name for read in read_spair(tmp_path)] == ["cat", "dog", "train"]
    assert [read.name for read in read_spair(tmp_path, ["train"])] == ["train"]
    message = told(read_spair, tmp_path, ["cow"])
    assert message == "SPair-71k has no category 'cow' here; it has 'cat', 'dog', 'train'. Correct --category."


def test_spair_photos_are_loaded_under_their_names(spair):
    (cats,) = read_spair(spair, limit=3)
    collection = load_photos(cats)
    assert collection.names == cats.photo_names and len(collection) == 3
    assert collection.sizes == cats.sizes
    assert cats.pairs is not None and len(cats.pairs) == 6


def test_spair_that_is_not_there(tmp_path):
    assert told(read_spair, tmp_path) == (
        f"SPair-71k is not complete: '{tmp_path / 'JPEGImages'}' is not there; download SPair-71k.tar.gz from the "
        "SPair-71k project page of POSTECH, unpack it and give as --root the folder that holds JPEGImages, "
        "PairAnnotation and ImageAnnotation."
    )


@pytest.mark.parametrize(
    ("gone", "found"),
    [
        ("PairAnnotation", "'{root}/PairAnnotation/test' is not there;"),
        ("ImageAnnotation", "'{root}/ImageAnnotation' is not there;"),
        ("JPEGImages/cat/2008_2.jpg", "'{root}/JPEGImages/cat/2008_2.jpg' is not there, and a test pair needs it;"),
        (
            "ImageAnnotation/cat/2008_1.json",
            "'{root}/ImageAnnotation/cat/2008_1.json' is not there, and a test pair needs it;",
        ),
    ],
)
def test_spair_half_there(spair, gone, found):
    path = spair / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert told(read_spair, spair).startswith(f"SPair-71k is not complete: {found.format(root=spair)} download ")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kps_ids": ["0"]}, "src_kps has {n} points for 1 kps_ids"),
        ({"kps_ids": ["0", "0"]}, "kps_ids must be a list of different ids"),
        (
            {"kps_ids": ["99"], "src_kps": [[1, 2]], "trg_kps": [[1, 2]]},
            "no photo's own annotation has its keypoint '99'",
        ),
        ({"src_kps": [[1, float("nan")]], "kps_ids": ["0"]}, "src_kps must be finite numbers"),
        ({"trg_kps": [[1, 2, 3]]}, "trg_kps must be numbers of the shape any x 2"),
        ({"trg_bndbox": [5, 5, 5, 9]}, "trg_bndbox must be x0, y0, x1, y1 with x1 > x0 and y1 > y0"),
        ({"src_imname": "../2008_0.jpg"}, "src_imname must be the name of a photo"),
        ({"mirror": 1}, "its photos are mirrored, which no test pair's are"),
    ],
)
def test_a_malformed_spair_pair_is_named(spair, truth, changes, why):
    n = int((truth.visible[0] & truth.visible[1]).sum())
    edit(spair / FIRST_PAIR, **changes)
    assert (
        told(read_spair, spair) == f"'{spair / FIRST_PAIR}' is malformed: {why.format(n=n)}; unpack the data set again."
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kps": None}, "kps must be an object of points by id"),
        ({"kps": {"0": [1, float("nan")]}}, "the keypoint '0' must be finite numbers"),
        ({"bndbox": [1, 2, 3]}, "bndbox must be numbers of the shape 4"),
        ({"image_width": None}, "image_width, image_height must be finite numbers"),
    ],
)
def test_a_malformed_spair_photo_is_named(spair, changes, why):
    path = spair / "ImageAnnotation" / "cat" / "2008_0.json"
    edit(path, **changes)
    assert told(read_spair, spair) == f"'{path}' is malformed: {why}; unpack the data set again."


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"{", "it is no JSON"), (b"[1]", "it holds no JSON object"), (b"\xff\xfe\x00", "it can't be read (no text)")],
)
def test_what_is_no_json_is_named(spair, content, why):
    (spair / FIRST_PAIR).write_bytes(content)
    assert told(read_spair, spair) == f"'{spair / FIRST_PAIR}' is malformed: {why}; unpack the data set again."


def test_a_photo_of_another_size_than_its_annotation_is_refused(spair):
    edit(spair / "ImageAnnotation" / "cat" / "2008_0.json", image_width=320)
    (cats,) = read_spair(spair)
    with pytest.raises(CollectionError) as caught:
        load_photos(cats)
    assert str(caught.value) == (
        f"The photo '{spair / 'JPEGImages/cat/2008_0.jpg'}' is 160 x 120 pixels and its annotation is for 320 x 120; "
        "use the data set's own photos."
    )
