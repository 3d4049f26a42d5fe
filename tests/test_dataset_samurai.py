"""Reading SAMURAI from miniature copies of its layouts, and what is said about a broken one."""

from pathlib import Path

import miniature_sets as mini
import numpy as np
import pytest
from miniature_sets import told
from PIL import Image

from asic3d_integrations.datasets.annotated import load_photos
from asic3d_integrations.datasets.samurai import GRID_POINTS, read_samurai


@pytest.mark.parametrize("place", ["inside", "beside", "apart"])
def test_samurai_points_lie_on_the_object(tmp_path, truth, place):
    root = mini.write_samurai(tmp_path, truth, place)
    (duck,) = read_samurai(root)
    assert (duck.name, duck.photo_names, duck.pairs) == ("duck", tuple(f"{i}.jpg" for i in range(4)), None)
    for i in range(4):
        mask = np.asarray(Image.open(truth.folder / "masks" / f"{Path(truth.files[i]).name}.png")) > 0
        points = duck.keypoints[i][np.isfinite(duck.keypoints[i, :, 0])]
        assert mask[tuple(np.rint(points).astype(int).T[::-1])].all()
        assert GRID_POINTS / 2 < len(points) < GRID_POINTS * 2
        rows, columns = np.nonzero(mask)
        assert duck.extents[i] == max(np.ptp(rows), np.ptp(columns)) + 1
        assert np.ptp(points, axis=0).max() > 0.6 * duck.extents[i]  # spread over all of it
    assert load_photos(duck).sizes == truth.sizes


def test_samurai_photos_in_a_folder_of_their_own(tmp_path, truth):
    root = mini.write_samurai(tmp_path, truth)
    (root / "duck" / "images").mkdir()
    for path in (root / "duck").glob("*.jpg"):
        path.rename(root / "duck" / "images" / path.name)
    (duck,) = read_samurai(root, limit=3)
    assert duck.photo_names == ("0.jpg", "1.jpg", "2.jpg") and duck.root == root / "duck" / "images"


def test_samurai_that_is_not_there(tmp_path):
    (tmp_path / "duck").mkdir()
    assert told(read_samurai, tmp_path) == (
        f"SAMURAI is not complete: no folder in '{tmp_path}' has photos of an object with masks; download the data "
        "sets from the SAMURAI project page of Boss et al. (NeurIPS 2022), unpack them and give as --root the folder "
        "that holds a folder for each object, with its masks in a folder 'masks' there."
    )


def test_samurai_with_a_mask_missing_empty_or_broken(tmp_path, truth):
    masks = mini.write_samurai(tmp_path, truth) / "duck" / "masks"
    (masks / "1.png").write_bytes(b"")
    assert told(read_samurai, tmp_path) == (
        f"'{masks / '1.png'}' is malformed: the file is empty; unpack the data set again."
    )
    Image.new("L", (160, 120)).save(masks / "1.png")
    assert "is malformed: it is black everywhere;" in told(read_samurai, tmp_path)
    (masks / "1.png").unlink()
    found = f"the photo '{tmp_path / 'duck' / '1.jpg'}' has no mask in '{masks}';"
    assert told(read_samurai, tmp_path).startswith(f"SAMURAI is not complete: {found} download ")


def test_a_thin_mask_has_a_point(tmp_path, truth):
    masks = mini.write_samurai(tmp_path, truth) / "duck" / "masks"
    thin = np.zeros((120, 160), np.uint8)
    np.fill_diagonal(thin[20:90, 30:130], 255)
    Image.fromarray(thin).save(masks / "0.png")
    (duck,) = read_samurai(tmp_path)
    points = duck.keypoints[0][np.isfinite(duck.keypoints[0, :, 0])]
    assert len(points) and thin[tuple(np.rint(points).astype(int).T[::-1])].all()
