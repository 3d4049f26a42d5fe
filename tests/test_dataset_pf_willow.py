"""Reading PF-WILLOW from miniature copies of its layouts, and what is said about a broken one."""

import miniature_sets as mini
import numpy as np
import pytest
from miniature_sets import told
from scipy.io import savemat

from asic3d_integrations.datasets.pf_willow import read_pf_willow


@pytest.mark.parametrize("table", ["", "columns", "semicolons"])
@pytest.mark.parametrize("folder", ["PF-dataset", "PF-dataset-WILLOW", "any"])
def test_pf_willow_is_read_back_counted_from_zero(tmp_path, truth, table, folder):
    root = mini.write_pf_willow(tmp_path / folder, truth, table=table, mats=not table)
    (cars,) = read_pf_willow(root if folder == "any" else tmp_path)
    points = mini.ten_points(truth)
    assert (cars.name, cars.photo_names) == ("car(S)", tuple(f"car(S)/Cars_{i:03d}a.png" for i in range(4)))
    np.testing.assert_allclose(cars.keypoints, points, atol=1e-9)
    tight = (points.max(1) - points.min(1)).max(1)
    np.testing.assert_allclose(cars.extents, tight)
    assert cars.pairs is not None
    pairs = list(zip(cars.pairs.source.tolist(), cars.pairs.target.tolist(), strict=True))
    assert pairs == ([(0, 1), (0, 2), (0, 3)] if table else [(i, j) for i in range(4) for j in range(4) if i != j])
    np.testing.assert_allclose(cars.pairs.extents, tight[cars.pairs.target])
    np.testing.assert_allclose(cars.pairs.truth, points[cars.pairs.target], atol=1e-9)


def test_pf_willow_that_is_not_there(tmp_path):
    assert told(read_pf_willow, tmp_path) == (
        f"PF-WILLOW is not complete: '{tmp_path}' has no folder with .mat files, and no test_pairs_pf.csv; download "
        "the PF-WILLOW archive from the Proposal Flow project page of WILLOW (Inria), unpack it and give as --root the "
        "folder that holds car(S), duck(S) and the other folders."
    )


def test_a_pf_willow_photo_that_is_not_there(tmp_path, truth):
    root = mini.write_pf_willow(tmp_path, truth)
    (root / mini.FOLDER / "Cars_002a.png").unlink()
    found = f"'{root / mini.FOLDER / 'Cars_002a.png'}' is not there, and its keypoints are;"
    assert told(read_pf_willow, root).startswith(f"PF-WILLOW is not complete: {found} download ")


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (np.ones((2, 9)), "pts_coord must be numbers of the shape 2 x 10"),
        (np.full((2, 10), np.nan), "pts_coord must be finite numbers"),
        (
            np.ones((2, 10)),
            "the box around the keypoints of 'car(S)/Cars_001a.png' must be x0, y0, x1, y1 with x1 > x0 and y1 > y0",
        ),
        (None, "it is no MATLAB file of version 4 to 7.2"),
    ],
)
def test_a_malformed_mat_file_is_named(tmp_path, truth, points, why):
    path = mini.write_pf_willow(tmp_path, truth) / mini.FOLDER / "Cars_001a.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, not really") if points is None else savemat(path, {"pts_coord": points})
    assert told(read_pf_willow, tmp_path) == f"'{path}' is malformed: {why}; unpack the data set again."


def test_a_mat_file_without_its_points_is_named(tmp_path, truth):
    path = mini.write_pf_willow(tmp_path, truth) / mini.FOLDER / "Cars_001a.mat"
    savemat(path, {"other": np.ones(3)})
    assert "pts_coord must be numbers of the shape 2 x 10" in told(read_pf_willow, tmp_path)


def test_the_csv_file_is_enough(tmp_path, truth):
    root = mini.write_pf_willow(tmp_path, truth, table="columns", mats=False)
    assert len(list(read_pf_willow(root))) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: [*rows, "a/b.png,a/c.png,1"], "row 5 has 3 columns, not 42 or 6"),
        (lambda rows: [rows[0], rows[1].replace(";", ",", 1), *rows[2:]], "row 2 has 7 columns, not 42 or 6"),
        (
            lambda rows: [rows[0], rows[1].replace(";", ";nan;", 1)],
            "the coordinates in row 2 must be numbers of the shape 10",
        ),
        (
            lambda rows: [rows[0], rows[1].replace("PF-dataset/car(S)/", "", 1)],
            "row 2 must begin with two photos as FOLDER/NAME.png",
        ),
        (lambda rows: [rows[0], rows[1].replace("car(S)", "duck(S)", 1)], "row 2 must name two photos of one folder"),
        (
            lambda rows: [*rows, rows[1].replace(".", "0.", 3).replace("a0.png", "a.png")],
            "the points of 'car(S)/Cars_000a.png' differ between rows",
        ),
        (lambda rows: rows[:1], "it lists no pair"),
    ],
)
def test_a_malformed_pair_list_is_named(tmp_path, truth, change, why):
    table = mini.write_pf_willow(tmp_path, truth, table="semicolons") / "test_pairs_pf.csv"
    table.write_text("\n".join(change(table.read_text().splitlines())))
    assert told(read_pf_willow, tmp_path) == f"'{table}' is malformed: {why}; unpack the data set again."
