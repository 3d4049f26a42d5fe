"""Reading CUB-200-2011 from a miniature copy of its layout, its crops, and what is said about a broken one."""

from pathlib import Path

import miniature_sets as mini
import numpy as np
import pytest
from miniature_sets import told

from asic3d_integrations.datasets.annotated import CROP_SIDE, Crop, load_photos
from asic3d_integrations.datasets.cub import read_cub, square_crop


@pytest.fixture
def cub(tmp_path, truth) -> Path:
    return mini.write_cub(tmp_path / "CUB_200_2011", truth)


def test_the_crop_is_square_padded_and_counts_from_zero():
    # box: columns 10 to 109 and rows 20 to 79, counted from 0; padded by 5 and 3: 5 to 114, 17 to 82
    assert square_crop(np.array([11.0, 21.0, 100.0, 60.0])) == Crop(x=5, y=17 - 22, side=110)
    assert square_crop(np.array([1.0, 1.0, 20.0, 60.0])) == Crop(x=-23, y=-3, side=66)  # beside the photo


def test_a_crop_keeps_content_under_its_points():
    photo = np.zeros((90, 120, 3), np.uint8)
    photo[33:36, 50:53] = 255  # around (51, 34)
    crop = Crop(40, 20, 64)
    piece = crop.cut(photo)
    assert piece.shape == (CROP_SIDE, CROP_SIDE, 3)
    y, x = (float(np.average(v, weights=w)) for v, w in ((np.arange(CROP_SIDE), piece[..., 0].sum(a)) for a in (1, 0)))
    np.testing.assert_allclose(crop.moved(np.array([[51.0, 34.0]])), [[x, y]], atol=0.05)


def test_a_crop_beside_the_photo_repeats_its_border():
    photo = np.arange(30, dtype=np.uint8).reshape(5, 6, 1).repeat(3, 2)
    piece = Crop(-4, -4, 8).cut(photo)
    assert (piece[:100, :100] == photo[0, 0]).all()


def test_cub_is_read_back_as_crops(cub, truth):
    (birds,) = read_cub(cub, ["2"])
    assert (birds.name, birds.keypoint_names) == (mini.CLASS, tuple(f"part {name}" for name in truth.names))
    assert birds.photo_names == tuple(f"{mini.CLASS}/Laysan_{i}.jpg" for i in range(4))
    np.testing.assert_array_equal(np.isfinite(birds.keypoints[..., 0]), truth.visible)
    for i, crop in enumerate(birds.crops):
        scale = CROP_SIDE / crop.side
        back = (birds.keypoints[i] + 0.5) / scale - 0.5 + [crop.x, crop.y]
        np.testing.assert_allclose(back, truth.keypoints[i], atol=1e-3)
        box = truth.boxes[i]
        assert crop.side == pytest.approx(1.1 * max(box[2:] - box[:2] + 1), abs=2)
    assert (birds.extents == CROP_SIDE).all()
    assert birds.pairs is not None and len(birds.pairs) == 12 and (birds.pairs.extents == CROP_SIDE).all()


def test_cub_photos_are_their_crops(cub):
    (birds,) = read_cub(cub, [mini.CLASS], 2)
    collection = load_photos(birds)
    assert collection.sizes == ((CROP_SIDE, CROP_SIDE),) * 2
    assert [photo.pixels.shape for photo in collection] == [(CROP_SIDE, CROP_SIDE, 3)] * 2
    assert len({photo.sha256 for photo in collection}) == 2


def test_cub_uses_the_test_photos(tmp_path, truth):
    root = mini.write_cub(tmp_path / "CUB_200_2011", truth, training=(1,))
    (birds,) = read_cub(root, ["002"])
    assert birds.photo_names == tuple(f"{mini.CLASS}/Laysan_{i}.jpg" for i in (0, 2, 3))


@pytest.mark.parametrize("name", ["test_cub_cleaned.mat", "val_cub_cleaned.mat"])
def test_cub_uses_the_cleaned_list_where_it_is(tmp_path, truth, name):
    root = mini.write_cub(tmp_path / "CUB_200_2011", truth, training=(1,))
    mini.write_cleaned(root, (1, 3), name)
    (birds,) = read_cub(root, ["2"])
    assert birds.photo_names == tuple(f"{mini.CLASS}/Laysan_{i}.jpg" for i in (1, 3))


def test_cub_tables_in_another_order_are_the_same(cub):
    (before,) = read_cub(cub, ["2"])
    for name in ("bounding_boxes.txt", "train_test_split.txt"):
        lines = (cub / name).read_text().splitlines()
        (cub / name).write_text("\n".join(reversed(lines)))
    (after,) = read_cub(cub, ["2"])
    np.testing.assert_array_equal(after.keypoints, before.keypoints)


def test_a_class_of_one_photo_is_refused(cub):
    message = told(read_cub, cub, ["1"])
    assert message == (
        "The category '001.Black_footed_Albatross' has fewer than two photos; raise --limit or add photos."
    )


def test_all_classes_are_those_of_two_photos(cub, tmp_path, truth):
    assert [birds.name for birds in read_cub(cub)] == [mini.CLASS]
    none = mini.write_cub(tmp_path / "none", truth, training=(0, 1, 2))
    assert f"no class in '{none}' has two test photos;" in told(read_cub, none)


def test_cub_that_is_not_there_or_half(cub):
    (cub / "images" / mini.CLASS / "Laysan_2.jpg").unlink()
    assert told(read_cub, cub, ["2"]) == (
        f"CUB-200-2011 is not complete: '{cub / 'images' / mini.CLASS / 'Laysan_2.jpg'}' is not there, and images.txt "
        "lists it; download CUB_200_2011.tgz from the CUB-200-2011 page of Caltech, unpack it and give as --root the "
        "folder that holds images.txt, images and parts."
    )
    (cub / "parts" / "part_locs.txt").unlink()
    assert f"'{cub / 'parts/part_locs.txt'}' is not there;" in told(read_cub, cub)


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("images.txt", lambda text: text + "6\n", "'6' is no number and name"),
        ("images.txt", lambda text: text + "9" * 400 + " a/b.jpg", f"'{'9' * 40}' is no number and name"),
        (
            "images.txt",
            lambda text: text.replace("Laysan_0", "../0"),
            "'002.Laysan_Albatross/../0.jpg' is no path such as CLASS/NAME.jpg",
        ),
        (
            "bounding_boxes.txt",
            lambda text: text.split("\n", 1)[1],
            "it must have 1 row for each of the 5 photos of images.txt",
        ),
        ("bounding_boxes.txt", lambda text: text + "a b c d e\n", "it must hold numbers alone, as many in each row"),
        ("bounding_boxes.txt", lambda text: "", "its rows must be numbers of the shape any x 5"),
        (
            "bounding_boxes.txt",
            lambda text: text.rsplit(" ", 1)[0] + " 0\n",
            "every box needs a width and a height of at least 1",
        ),
        (
            "parts/part_locs.txt",
            lambda text: text.split("\n", 1)[1],
            "it must have {parts} rows for each of the 5 photos of images.txt",
        ),
        (
            "parts/part_locs.txt",
            lambda text: "1 1 nan 3 1\n" + text.split("\n", 1)[1],
            "its rows must be finite numbers",
        ),
        (
            "parts/part_locs.txt",
            lambda text: text.replace("1 1 ", "1 2 ", 1),
            "the parts of each photo must come in the order of parts/parts.txt",
        ),
    ],
)
def test_a_malformed_cub_table_is_named(cub, truth, name, change, why):
    (cub / name).write_text(change((cub / name).read_text()))
    expected = f"'{cub / name}' is malformed: {why.format(parts=len(truth.names))}; unpack the data set again."
    assert told(read_cub, cub) == expected


def test_a_cleaned_list_of_other_photos_is_named(cub):
    path = mini.write_cleaned(cub, (77,))
    assert told(read_cub, cub) == (
        f"'{path}' is malformed: images.rel_path names no photo of images.txt; unpack the data set again."
    )
