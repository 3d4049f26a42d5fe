import csv
import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import plant_library, run
from planted_alignment import CENTRES, RADII, SIZES

import asic3d
from asic3d.config import make_config
from asic3d.verdict import GUESS
from asic3d_cli.points import PointsError, parse_point, read_points


@pytest.fixture
def planted(tmp_path, monkeypatch):
    return plant_library(tmp_path, monkeypatch)


# ---- add -----------------------------------------------------------------------------------------------------------


def test_add_writes_the_run_anew(planted):
    assert run("align", "photos", "-q").exit_code == 0
    result = run("add", "asic3d_out", "photos/a.jpg", "photos/b.jpg")
    assert result.exit_code == 0
    assert "Look at this: a.jpg was added.\nLook at this: b.jpg was added.\n" in result.stdout
    assert "b.jpg was added." in Path("asic3d_out/report.html").read_text("utf-8")
    assert result.stderr.startswith("Making the report: ")


def test_add_needs_photos(planted):
    result = run("add", "asic3d_out")
    assert result.exit_code == 2 and "Missing argument 'PHOTO...'" in result.stderr


# ---- transfer ------------------------------------------------------------------------------------------------------


def test_transfer_prints_csv_where_no_terminal_is(planted):
    result = run("transfer", "--source", "a.jpg", "--target", "b.jpg", "--point", "50,40", "--point", "0,0.5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "source,target,source_x,source_y,x,y,confidence,cycle_error\n"
        "a.jpg,b.jpg,50,40,37.00,59.00,0.900,0.00\n"
        "a.jpg,b.jpg,0,0.5,-8.00,23.45,0.100,0.00\n"
    )


def test_transfer_to_all_is_the_default(planted):
    implied, explicit = (
        run("transfer", "run", "--source", "b.jpg", *targets, "--point", "28,50").stdout
        for targets in ((), ("--target", "all", "--target", "a.jpg"))
    )
    assert implied == explicit
    rows = list(csv.DictReader(io.StringIO(implied)))
    assert [(row["target"], row["x"], row["y"]) for row in rows] == [
        ("a.jpg", "40.00", "30.00"),
        ("c.jpg", "44.00", "38.00"),
    ]


def test_transfer_as_json(planted):
    result = run("transfer", "--source", "a.jpg", "--target", "c.jpg", "--point", "40,30", "--json")
    assert json.loads(result.stdout) == {
        "source": "a.jpg",
        "points": [[40.0, 30.0]],
        "targets": {"c.jpg": {"points": [[44.0, 38.0]], "confidence": [0.9], "cycle_error": [0.0]}},
        "warnings": [],
    }


def test_answers_of_a_network_that_is_not_trained_come_with_the_warning(planted, monkeypatch):
    trained = asic3d.load_alignment("asic3d_out", photos=None)
    hardly = replace(trained, config=make_config("paper"), quality={"agreeing_matches": 0.1})
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: hardly)
    words = ("transfer", "--source", "a.jpg", "--target", "b.jpg", "--point", "40,30")
    result = run(*words)
    assert result.exit_code == 0 and result.stdout.count("\n") == 2
    assert result.stderr.startswith("Warning: Only 10% of the matches agree with the trained map")
    (sentence,) = json.loads(run(*words, "--json").stdout)["warnings"]
    assert f"Warning: {sentence}\n" == result.stderr


def test_answers_of_a_photo_of_something_else_come_with_a_warning(planted, monkeypatch):
    strange = replace(asic3d.load_alignment("asic3d_out", photos=None), outliers=("c.jpg",))
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: strange)
    words = ("transfer", "--source", "a.jpg", "--point", "40,30", "--target")
    assert run(*words, "b.jpg").stderr == ""
    told = "Warning: Points of or in 'c.jpg' are guesses: it seems to show something else.\n"
    assert run(*words, "all").stderr == run(*words, "c.jpg").stderr == told


def test_transfer_names_an_unknown_photo(planted):
    for names in (("--source", "x.jpg"), ("--source", "a.jpg", "--target", "x.jpg")):
        result = run("transfer", *names, "--point", "1,2")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "There is no photo 'x.jpg' in the collection." in result.stderr.replace("“", "'").replace("”", "'")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("12", "'12' is not a point; write X,Y in pixels, for example 120,80."),
        ("1,2,3", "'1,2,3' is not a point; write X,Y in pixels, for example 120,80."),
        ("a,2", "'a' in 'a,2' is not a number; write X,Y in pixels, for example 120,80."),
        ("nan,2", "'nan' in 'nan,2' is not a finite number; write X,Y in pixels, for example 120,80."),
    ],
)
def test_transfer_with_a_wrong_point(planted, point, message):
    result = run("transfer", "--source", "a.jpg", "--point", point)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: Invalid value for '--point': {message}\n")


def test_transfer_without_points(planted):
    result = run("transfer", "--source", "a.jpg")
    assert result.exit_code == 2 and "Give at least one point: --point X,Y or --points FILE." in result.stderr


def test_transfer_of_a_file(planted):
    Path("points.csv").write_text("x,y\n40,30\n50,40\n")
    result = run("transfer", "--source", "a.jpg", "--target", "b.jpg", "--points", "points.csv", "--point", "0,0")
    assert [row["source_x"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["0", "40", "50"]


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3.5,-4e1\n",
        "x,y\n1,2\n\n3.5,-40\n",
        "\ufeffname;Y; X \nnose;2;1\ntail;-40;3.5\n",
        "1\t2\textra\n3.5\t-40\n",
        "1,2\r\n3.5,-40",
        "x;y\n1,0;2\n3,5;-40\n",
        "1\t2,0\n3,5\t-40\n",
    ],
)
def test_points_files(tmp_path, text):
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    assert read_points(tmp_path / "p.csv") == [(1.0, 2.0), (3.5, -40.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x,y\n1,2\nabc,3\n", ", line 3: 'abc' is not a number."),
        (b"1,2\n\n3\n", ", line 3: found '3', but x,y is needed."),
        (b"1,2\n3,inf\n", ", line 2: 'inf' is not a finite number."),
        (b"1,2\n3,\n", ", line 2: '' is not a number."),
        (b"u,v\n1,2\n", " is 'u,v'; it needs columns named x and y."),
        (b"x,y\n", " holds no points. Write one x,y in pixels on each line."),
        (b"", " holds no points. Write one x,y in pixels on each line."),
        (b"\xff\xfe\x00\x01", " is no text file. Give a CSV file with columns x and y."),
    ],
)
def test_wrong_points_files(tmp_path, content, message):
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(PointsError) as error:
        read_points(path)
    assert str(error.value).removeprefix("The header of ") == f"'{path}'{message}"


def test_a_points_file_that_is_not_there(planted):
    result = run("transfer", "--source", "a.jpg", "--points", "none.csv")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: 'none.csv' can't be read ({os.strerror(errno.ENOENT)}). Give a CSV file with columns x and y.\n"
    )


def test_parse_point():
    assert parse_point(" 1.5, -2e1") == (1.5, -20.0)


def test_points_beside_the_photo_are_answered_with_a_warning(planted):
    points = ["--point=-0.5,71.5", "--point=95.5,-0.5", "--point=96,10", "--point=10,-1"]
    result = run("transfer", "--source", "a.jpg", *points)
    assert result.exit_code == 0
    assert len(list(csv.DictReader(io.StringIO(result.stdout)))) == 8
    assert result.stderr == (
        "Warning: 2 of 4 points lie beside the photo 'a.jpg', which is 96 x 72 pixels: what is found for them means "
        "nothing.\n"
    )
    assert "The point lies beside the photo 'a.jpg'" in run("transfer", "--source", "a.jpg", "--point=200,1").stderr
    assert "1 of 2 points lies beside" in run("transfer", "--source", "a.jpg", *points[1:3]).stderr
    assert run("transfer", "--source", "a.jpg", *points[:2]).stderr == ""


def test_help_names_the_confidence_below_which_everything_else_draws_a_guess():
    assert f"below {GUESS} it is a guess" in " ".join(run("transfer", "--help").output.split())


# ---- evaluate ------------------------------------------------------------------------------------------------------


def write_keypoints(folder: Path) -> None:
    """keypoints.json for the planted photos: four places of the disc, in pixels of each photo."""
    images = []
    for name, size, (x, y), radius in zip(("a.jpg", "b.jpg", "c.jpg"), SIZES, CENTRES, RADII, strict=True):
        places = {"left": (-0.7, 0), "right": (0.7, 0), "top": (0, -0.7), "bottom": (0, 0.7)}
        points = {key: [x + u * radius, y + v * radius, 1] for key, (u, v) in places.items()}
        box = [x - radius, y - radius, x + radius, y + radius]
        images.append({"file": f"photos/{name}", "size": size, "bbox": box, "keypoints": points})
    (folder / "keypoints.json").write_text(json.dumps({"images": images}))


def test_evaluate_keypoints_beside_its_baselines(planted, tmp_path):
    write_keypoints(tmp_path)
    result = run("evaluate", "keypoints", ".", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert list(told["methods"]) == ["identity", "nearest neighbour", "buddies + MLS", "asic3d"]
    exact, identity, neighbour = (told["methods"][name] for name in ("asic3d", "identity", "nearest neighbour"))
    assert exact["pck@0.05"] == exact["pck@0.1"] == exact["cycle3@0.1_hops"] == exact["cycle3@0.1_return"] == 1
    assert identity["pck@0.1"] < 1 and identity["cycle2@0.1_return"] == identity["cycle3@0.1_return"] == 1
    assert neighbour["pck@0.1"] == 0  # the stand-in's is 15 pixels off


def test_evaluate_keypoints_as_a_table(planted, tmp_path):
    write_keypoints(tmp_path)
    result = run("evaluate", "keypoints", ".", "-q")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["PCK@0.1", "PCK@0.05", "2-cycle", "(return)", "3-cycle", "(return)"]
    assert lines[4].split()[:3] == ["buddies", "+", "MLS"]
    assert lines[5].split() == ["asic3d", "100.0", "100.0", "100.0", "(100.0)", "100.0", "(100.0)"]
    assert lines[7].startswith("Keypoints found, in percent.")
    assert "it returns from every cycle exactly" in result.stdout
    assert result.stderr == ""


def test_evaluate_without_the_folder(planted):
    result = run("evaluate", "keypoints", "nonexist")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: There is no folder 'nonexist'; name one that holds keypoints.json and the photos.\n"
    )


def test_evaluate_without_annotations(planted):
    result = run("evaluate", "keypoints", "photos")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: There is no keypoints.json in photos; name a folder that holds one.\n"
