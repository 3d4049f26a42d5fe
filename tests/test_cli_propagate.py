import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from cli_runner import plant_library, run
from PIL import Image
from planted_alignment import CENTRES, RADII, SIZES

import asic3d
from asic3d_integrations.contact_sheets import _GAP, _LINE, _MARK, CELL
from asic3d_integrations.edited_photos import write_edited


@pytest.fixture
def planted(tmp_path, monkeypatch):
    plant_library(tmp_path, monkeypatch)
    layer = np.zeros((*SIZES[0][::-1], 4), np.uint8)
    cv2.circle(layer, (42, 28), 8, (0, 200, 100, 255), -1)
    Image.fromarray(layer).save("edit.png")
    Image.fromarray(np.full((*SIZES[1][::-1], 4), 90, np.uint8)).save("tall.png")
    return tmp_path


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_photo_is_painted_into_the_run(planted):
    done = run("propagate", "--source", "a.jpg", "--edit", "edit.png")
    folder = planted / "asic3d_out" / "edits" / "edit"
    assert done.exit_code == 0, done.output
    assert "3 of 3 photos were painted; see asic3d_out/edits/edit/overview.jpg" in done.output
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg.png", "b.jpg.png", "c.jpg.png", "overview.jpg"]
    for name, size in zip("abc", SIZES, strict=True):
        before, after = pixels(f"photos/{name}.jpg"), pixels(folder / f"{name}.jpg.png")
        assert after.shape == (size[1], size[0], 3)
        changed = (before != after).any(-1)
        assert 0.005 < changed.mean() < 0.2
        assert ((after == (0, 200, 100)).all(-1)).sum() > 50
    assert min(pixels(folder / "overview.jpg").shape[:2]) > 150


def test_layers_are_written_where_they_are_wanted(planted):
    done = run("propagate", "--source", "a.jpg", "--edit", "edit.png", "-o", "painted", "--layers", "--json")
    told = json.loads(done.output)
    assert told["folder"] == "painted" and [entry["photo"] for entry in told["photos"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert np.array_equal(pixels("painted/layers/a.jpg.png"), pixels("edit.png"))
    layer = pixels("painted/layers/c.jpg.png")
    assert layer.shape == (80, 80, 4)
    assert told["photos"][2]["painted"] == pytest.approx(layer[..., 3].mean() / 255)


def test_nothing_is_replaced_unasked(planted):
    words = ("propagate", "--source", "a.jpg", "--edit", "edit.png", "-o", "painted")
    assert run(*words).exit_code == 0
    again = run(*words)
    assert again.exit_code == 1
    assert again.output == (
        "Error: 'painted/a.jpg.png' is there already. Replace it with --overwrite, or choose a folder with -o.\n"
    )
    assert run(*words, "--overwrite", "--quiet").output == ""


def test_photos_that_do_not_show_the_place_are_named(planted):
    layer = np.zeros((*SIZES[0][::-1], 4), np.uint8)
    layer[:5, :5] = 255  # beside the object
    Image.fromarray(layer).save("corner.png")
    done = run("propagate", "--source", "a.jpg", "--edit", "corner.png")
    assert "1 of 3 photos were painted" in done.output
    assert "Not painted, because the place was not found in them: b.jpg, c.jpg" in done.output
    folder = planted / "asic3d_out" / "edits" / "corner"
    assert np.array_equal(pixels(folder / "b.jpg.png"), pixels("photos/b.jpg"))


def test_what_is_painted_only_in_part_is_said(planted, monkeypatch):
    """In c.jpg most of the place is uncertain."""
    plain = asic3d.load_alignment(None, photos=None)
    whole = type(plain).dense

    def dense(self, source, target):
        found = whole(self, source, target)
        seen = torch.arange(found.confidence.shape[1]) > CENTRES[2][0] + 0.3 * RADII[2]
        return replace(found, confidence=found.confidence * seen) if source == "c.jpg" else found

    monkeypatch.setattr(type(plain), "dense", dense)
    words = ("propagate", "--source", "a.jpg", "--edit", "edit.png")
    done = run(*words)
    assert "3 of 3 photos were painted, 1 of them only in part; see " in done.output
    assert "Painted only in part, because the place is partly hidden or uncertain in them: c.jpg (" in done.output
    told = {entry["photo"]: entry for entry in json.loads(run(*words, "-o", "again", "--json").stdout)["photos"]}
    assert {name: entry["in_part"] for name, entry in told.items()} == {"a.jpg": False, "b.jpg": False, "c.jpg": True}
    assert told["a.jpg"]["covered"] == 1 and told["b.jpg"]["covered"] == pytest.approx(1, abs=0.15)
    assert 0 < told["c.jpg"]["covered"] < 0.5


def test_the_sheet_marks_the_edited_photo_and_has_room_for_names(planted):
    assert run("propagate", "--source", "b.jpg", "--edit", "tall.png").exit_code == 0
    sheet = pixels(planted / "asic3d_out" / "edits" / "tall" / "overview.jpg").astype(int)
    frame = (np.abs(sheet - _MARK).max(-1) < 40).any(0).nonzero()[0]
    assert sheet.shape[:2] == (2 * (CELL + _GAP + _LINE) + _GAP, 2 * (CELL + _GAP) + _GAP)
    assert frame.min() > CELL and frame.max() > CELL + _GAP  # the second of two in the first row
    names = sheet[_GAP + SIZES[1][1] + 6 : _GAP + SIZES[1][1] + _LINE]  # no picture is taller
    assert (names.max(-1) < 80).any()


def test_an_edit_that_is_transparent_everywhere_is_refused_before_the_work(planted):
    Image.new("RGBA", SIZES[0]).save("empty.png")
    done = run("propagate", "--source", "a.jpg", "--edit", "empty.png")
    assert (done.exit_code, done.output) == (
        1,
        "Error: Nothing is painted in 'empty.png': it is transparent everywhere.\n",
    )
    assert not (planted / "asic3d_out").exists()


def test_an_edit_without_transparency_is_one_sentence(planted):
    Image.new("RGB", SIZES[0]).save("opaque.png")
    done = run("propagate", "--source", "a.jpg", "--edit", "opaque.png")
    assert done.exit_code == 1
    assert done.output.startswith("Error: The edit 'opaque.png' can't be used: it has no transparency")
    assert done.output.count("\n") == 1
    assert not (planted / "asic3d_out").exists()


def test_a_scaled_edit_is_warned_of(planted):
    with Image.open("edit.png") as edit:
        edit.resize((192, 144)).save("large.png")
    done = run("propagate", "--source", "a.jpg", "--edit", "large.png")
    assert done.exit_code == 0
    assert done.output.count("Warning: The edit 'large.png' is 192 x 144 pixels") == 1


def test_photos_in_folders_keep_them_and_no_name_leads_out(tmp_path):
    from planted_alignment import plant

    from asic3d.errors import StorageError

    layer = tmp_path / "edit.png"
    Image.fromarray(np.full((*SIZES[0][::-1], 4), 99, np.uint8)).save(layer)
    nested = plant(tmp_path / "photos", ("x/a.jpg", "x/y/b.jpg", "c.jpg"))
    written = [entry.path for entry in write_edited(nested, layer, "x/a.jpg", tmp_path / "out")]
    assert written[1] == tmp_path / "out" / "x" / "y" / "b.jpg.png" and written[1].is_file()
    climbing = plant(tmp_path / "photos", ("../a.jpg", "b.jpg", "c.jpg"))
    with pytest.raises(StorageError, match="is not that of a file"):
        list(write_edited(climbing, layer, "b.jpg", tmp_path / "out"))


def test_nothing_is_painted_among_photos(planted):
    there = sorted((planted / "photos").iterdir())
    done = run("propagate", "--source", "a.jpg", "--edit", "edit.png", "-o", "photos", "--overwrite")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == (
        "Error: 'photos' holds other files, such as 'a.jpg', and nothing was painted. Choose an empty or new folder "
        "with -o."
    )
    assert sorted((planted / "photos").iterdir()) == there
