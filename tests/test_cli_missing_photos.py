"""A photo that is gone, photos that were moved: what needs the missing pixels is refused, all else goes on."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from cli_runner import run
from PIL import Image

GONE = "photo_03.jpg"


@pytest.fixture
def moved(toy, tmp_path, monkeypatch):
    """The run ``toy`` in the working folder; its photos are in ``elsewhere``, and one of them is gone."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy.folder / "images", tmp_path / "photos")
    toy.alignment.save(tmp_path / "toy")
    facts = json.loads((tmp_path / "toy" / "run.json").read_text())
    facts.update(photo_folder=str(tmp_path / "photos"), photo_folder_from_here="../photos")
    (tmp_path / "toy" / "run.json").write_text(json.dumps(facts))
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / GONE).unlink()
    return tmp_path


def edit(toy, name: str) -> None:
    width, height = toy.collection[name].size
    layer = np.zeros((height, width, 4), np.uint8)
    layer[80:110, 80:130] = (200, 0, 90, 255)
    Image.fromarray(layer).save("star.png")


def told(folder) -> str:
    return (
        f"The photo '{GONE}' of this run is gone: there is no file '{folder / GONE}'. Put it back, or say with "
        "--photos DIR (photos=DIR in Python) where the photos are now."
    )


def test_points_are_answered_wherever_the_photos_are(toy, moved):
    words = ("transfer", "toy", "--source", "photo_01.jpg", "--point", "120,90")
    nowhere, found = run(*words), run(*words, "--photos", "elsewhere")
    assert nowhere.exit_code == found.exit_code == 0
    assert nowhere.stdout == found.stdout
    assert [row["target"] for row in csv.DictReader(io.StringIO(found.stdout))] == list(toy.alignment.names[1:])
    assert nowhere.stderr == (
        f"Warning: The photos of this run are gone: they were in '{moved / 'photos'}'. Put them back, or say "
        "with --photos DIR (photos=DIR in Python) where the photos are now. Until then what needs their pixels is "
        "left out.\n"
    )
    assert found.stderr == f"Warning: {told(moved / 'elsewhere')} Until then what needs its pixels is left out.\n"
    (warning,) = json.loads(run(*words, "--photos", "elsewhere", "--json").stdout)["warnings"]
    assert f"Warning: {warning}\n" == found.stderr


def test_the_other_photos_are_painted(toy, moved):
    edit(toy, "photo_01.jpg")
    done = run("propagate", "toy", "--source", "photo_01.jpg", "--edit", "star.png", "--photos", "elsewhere")
    assert done.exit_code == 0, done.output
    assert "of 5 photos were painted" in done.stdout and f"Warning: {told(moved / 'elsewhere')}" in done.stderr
    written = sorted(path.name for path in (moved / "toy" / "edits" / "star").glob("*.png"))
    assert written == [f"{name}.png" for name in toy.alignment.names if name != GONE]


def test_what_is_painted_on_a_photo_that_is_gone_reaches_the_others(toy, moved):
    edit(toy, GONE)
    words = ("propagate", "toy", "--source", GONE, "--edit", "star.png", "--photos", "elsewhere", "-o", "out", "--json")
    assert [entry["photo"] for entry in json.loads(run(*words).stdout)["photos"]] == [
        name for name in toy.alignment.names if name != GONE
    ]


def test_the_explorer_shows_the_photos_that_are_there_and_is_made_again_with_all(toy, moved):
    assert run("view", "toy", "--photos", "elsewhere", "-q").exit_code == 0
    page = (moved / "toy" / "explorer.html").read_text()
    assert "5 photos" in page and GONE not in page
    shutil.copy(toy.folder / "images" / GONE, moved / "elsewhere")
    assert run("view", "toy", "--photos", "elsewhere", "-q").exit_code == 0
    assert GONE in (moved / "toy" / "explorer.html").read_text()


@pytest.mark.parametrize("words", [("add", "toy", "new.png"), ("view", "toy", "-o", "page.html")])
def test_what_needs_the_pixels_says_where_they_were_looked_for(toy, moved, words):
    """Nothing is added beside a photo that is gone; no page is made where all are."""
    Image.fromarray(toy.truth.photos[0].image[:, ::-1]).save("new.png")
    place = () if words[0] == "view" else ("--photos", "elsewhere")
    before = (moved / "toy" / "run.json").read_bytes()
    result = run(*words, *place)
    missing = GONE if words[0] == "add" else "photo_01.jpg"
    folder = "elsewhere" if words[0] == "add" else "photos"
    assert result.exit_code == 1
    assert f"Error: {told(moved / folder).replace(GONE, missing)}" in result.stderr
    assert (moved / "toy" / "run.json").read_bytes() == before and not (moved / "page.html").exists()


def test_a_photo_is_added_where_the_others_were_moved(toy, moved):
    shutil.copy(toy.folder / "images" / GONE, moved / "elsewhere")
    Image.fromarray(toy.truth.photos[0].image[:, ::-1]).save("new.png")
    assert run("add", "toy", "new.png", "--photos", "elsewhere", "-q").exit_code == 0
    result = run("transfer", "toy", "--source", GONE, "--target", "new.png", "--point", "120,90")
    assert (result.exit_code, result.stderr) == (0, "")  # from now on they are looked for there


def test_an_export_is_made_of_the_photos_that_are_there(moved):
    done = run("export-colmap", "toy", "--photos", "elsewhere", "--tracks", "canonical", "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["warnings"][0].startswith(told(moved / "elsewhere"))
    assert [photo["name"] for photo in report["photos"]] == [f"photo_0{n}.jpg" for n in (1, 2, 4, 5, 6)]


@pytest.mark.parametrize(
    ("what", "message"),
    [("folder", "is a folder. Give the photos in it, file by file"), ("none.jpg", "Give the path of a photo.")],
)
def test_what_is_no_photo_is_not_added(toy, moved, what, message):
    (moved / "folder").mkdir()
    shutil.copy(toy.folder / "images" / GONE, moved / "elsewhere")
    result = run("add", "toy", what, "--photos", "elsewhere")
    assert result.exit_code == 1 and message in result.stderr and what in result.stderr
