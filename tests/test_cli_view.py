"""asic3d view: the explorer, the report, a window or a picture of the cameras, and what people are told."""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from cli_runner import run
from colmap_scene import files_below, scene
from PIL import Image

from asic3d.errors import ExportError
from asic3d.storage import write_json
from asic3d_integrations.colmap import window
from asic3d_integrations.colmap.exported import FORMAT

POINTS = len(scene()[2])


def blue(path) -> int:
    pixels = np.asarray(Image.open(path)).astype(int)
    return int(((pixels[..., 2] > 200) & (pixels[..., 0] < 100)).sum())


def test_a_picture_with_the_photos(mug):
    result = run("view", "mug", "--picture", "mug.png")
    assert (result.exit_code, result.output) == (0, f"5 cameras and {POINTS} points: mug.png\n")
    with Image.open(mug / "mug.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 900))
    assert blue(mug / "mug.png") > 500
    images = mug / "mug" / "colmap" / "images"  # copies of an export come first
    images.mkdir()
    assert run("view", "mug", "--picture", "without.png").exit_code == 0
    assert blue(mug / "without.png") == 0


def test_a_picture_is_not_replaced_unless_asked(mug):
    (mug / "mug.png").write_bytes(b"mine")
    result = run("view", "mug", "--picture", "mug.png")
    assert result.exit_code == 1
    assert result.output == "Error: 'mug.png' is there already, and nothing was changed. Replace it with --overwrite.\n"
    assert (mug / "mug.png").read_bytes() == b"mine"
    printed = json.loads(run("view", "mug", "--picture", "mug.png", "--overwrite", "--json").output)
    assert printed == {"picture": "mug.png", "points": POINTS, "cameras": 5}
    assert (mug / "mug.png").read_bytes() != b"mine"


def test_a_picture_is_png(mug):
    result = run("view", "mug", "--picture", "mug.jpg")
    assert result.exit_code == 2
    assert "'mug.jpg' is no name of a PNG file" in result.output


def test_another_model(mug):
    elsewhere = mug / "other" / "sparse" / "0"
    (mug / "mug" / "colmap").rename(mug / "other")
    assert run("view", "mug", "--model", elsewhere, "--picture", "mug.png", "-q").output == ""
    assert blue(mug / "mug.png") > 500
    assert "There is no model of COLMAP in 'none'" in run("view", "--model", "none", "--open3d").output
    assert run("view", "mug", "--model", elsewhere).exit_code == 2


def test_the_window(mug, monkeypatch):
    shown = []
    monkeypatch.setattr(window, "show", lambda scene, opened: (shown.append(scene), opened()))
    result = run("view", "mug", "--open3d")
    assert result.output == "Turn with the mouse, move with Ctrl, zoom with the wheel; close with Q.\n"
    assert [photo is None for photo in shown[0].photos] == [False, True, True, True, True]
    assert json.loads(run("view", "mug", "--open3d", "--json").output) == {"points": POINTS, "cameras": 5}


def test_open3d_draws_the_picture_where_it_can(mug, monkeypatch):
    monkeypatch.setattr(window, "picture", lambda scene: np.full((6, 8, 3), 7, np.uint8))
    assert run("view", "mug", "--open3d", "--picture", "mug.png").exit_code == 0
    assert np.asarray(Image.open(mug / "mug.png")).tolist() == [[[7, 7, 7]] * 8] * 6

    def refuse(_):
        raise ExportError("no")

    monkeypatch.setattr(window, "picture", refuse)
    result = run("view", "mug", "--open3d", "--picture", "other.png")
    assert result.exit_code == 0
    assert "Warning: Open3D can't draw here without a display; the picture is asic3d's own drawing." in result.output
    assert blue(mug / "other.png") > 500


def test_without_open3d(mug, monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    result = run("view", "mug", "--open3d")
    assert (result.exit_code, result.output) == (1, "Error: The view needs Open3D: pip install open3d.\n")


def test_without_cameras(mug):
    (mug / "mug" / "colmap").rename(mug / "other")
    result = run("view", "mug", "--open3d")
    assert result.exit_code == 1
    assert result.output == "Error: 'mug' has no cameras yet. Find them: asic3d export-colmap mug --map\n"
    write_json(mug / "mug" / "colmap" / "report.json", {"format": FORMAT})
    assert run("view", "mug", "--open3d").output.endswith("asic3d export-colmap mug --map --overwrite\n")
    write_json(mug / "mug" / "colmap" / "report.json", {"format": FORMAT, "mapping": {"refused": "Cows differ."}})
    assert run("view", "mug", "--open3d").output == "Error: The export in 'mug/colmap' found no cameras. Cows differ.\n"


def test_what_is_no_run(mug):
    for words in ((), ("--open3d",), ("--picture", "x.png")):
        result = run("view", "nothing", *words)
        assert (result.exit_code, result.output[:34]) == (1, "Error: 'nothing' is no run folder:")


@pytest.mark.parametrize("kept", [0, 50, 0.5])
@pytest.mark.parametrize("name", ["images.bin", "points3D.bin", "cameras.bin"])
def test_a_damaged_model(mug, name, kept):
    path = mug / "mug" / "colmap" / "sparse" / "0" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    result = run("view", "mug", "--picture", "mug.png")
    assert result.exit_code == 1
    assert "The model of COLMAP in 'mug/colmap/sparse/0' can't be read; make it again." in result.output


@pytest.mark.parametrize("display", [True, False])
def test_the_report(mug, monkeypatch, no_browser, display):
    monkeypatch.setattr(window, "display_here", lambda: display)
    assert "holds no report.html" in run("view", "mug", "--report").output
    (mug / "mug" / "report.html").write_text("")
    expected = "Opened mug/report.html\n" if display else "Open this file in a browser: mug/report.html\n"
    before = files_below(mug)
    assert run("view", "mug", "--report").output == expected
    printed = json.loads(run("view", "mug", "--report", "--json").output)
    assert printed == {"report": "mug/report.html", "opened": display}
    assert no_browser == [(mug / "mug" / "report.html").as_uri()] * 2 * display
    assert files_below(mug) == before  # looking changes nothing


def test_the_explorer_is_made_once_and_again_when_the_run_changed(mug, aligned, no_browser, monkeypatch):
    page = mug / "mug" / "explorer.html"
    first = run("view", "mug")
    assert (first.exit_code, first.stdout) == (0, "Opened mug/explorer.html\n")
    assert "Following the photos' points: " in first.stderr
    content = page.read_bytes()
    assert json.loads(run("view", "mug", "--json").output) == {"explorer": "mug/explorer.html", "opened": True}
    monkeypatch.setattr(window, "display_here", lambda: False)
    assert run("view", "mug").output == "Open this file in a browser: mug/explorer.html\n"
    assert (len(aligned), page.read_bytes(), no_browser) == (1, content, [page.as_uri()] * 2)
    write_json(mug / "mug" / "run.json", {"format_version": 1, "quality": {}})
    assert run("view", "mug", "-q").output == ""
    assert len(aligned) == 2
    np.savez(mug / "mug" / "colmap" / "tracks.npz", track=np.zeros(0))
    assert "The page is made without tracks. 'mug/colmap/tracks.npz' is damaged" in run("view", "mug").stderr
    assert len(aligned) == 3
    page.write_bytes(b"cut off")
    assert run("view", "mug", "-q").exit_code == 0 and len(page.read_bytes()) > 50000
    assert not (mug / "mug" / ".asic3d.lock").exists()


@pytest.mark.parametrize("words", [(), ("--3d",)])
def test_a_run_that_can_not_be_written_is_looked_at_all_the_same(mug, aligned, no_browser, monkeypatch, words):
    if words:
        pytest.importorskip("viser", reason="viser is not installed (extra viz)")
    name = "scene.html" if words else "explorer.html"
    before = files_below(mug / "mug")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    monkeypatch.setattr(tempfile, "tempdir", str(mug))
    result = run("view", "mug", *words)
    (page,) = mug.glob(f"asic3d_*/{name}")
    assert (result.exit_code, result.stdout, no_browser) == (0, f"Opened {page}\n", [page.as_uri()])
    told = "Warning: 'mug' can't be written: the page is among the system's temporary files. Keep it with -o FILE.\n"
    assert told in result.stderr and files_below(mug / "mug") == before


@pytest.mark.parametrize("words", [(), ("--3d",)])
def test_pages_of_a_run_that_can_not_be_written_are_opened_as_they_are(mug, aligned, no_browser, monkeypatch, words):
    if words:
        pytest.importorskip("viser", reason="viser is not installed (extra viz)")
    assert run("view", "mug", *words).exit_code == 0
    before, asked = files_below(mug / "mug"), len(aligned)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert run("view", "mug", *words).exit_code == 0
    assert files_below(mug / "mug") == before and len(aligned) == asked and no_browser[0] == no_browser[1]


def test_the_explorer_as_a_file(mug, aligned, no_browser):
    result = run("view", "mug", "-o", "mug.html")
    size = (mug / "mug.html").stat().st_size
    assert (result.exit_code, result.stdout) == (0, f"Open this file in a browser: mug.html ({size / 1e6:.1f} MB)\n")
    refused = run("view", "mug", "-o", "mug.html")
    assert (
        refused.output == "Error: 'mug.html' is there already, and nothing was changed. Replace it with --overwrite.\n"
    )
    printed = json.loads(run("view", "mug", "-o", "mug.html", "--overwrite", "--json").output)
    assert printed == {"explorer": "mug.html", "bytes": size}
    assert "'mug.png' is no name of a page" in run("view", "mug", "-o", "mug.png").output
    assert not (mug / "mug" / "explorer.html").exists() and no_browser == []


@pytest.mark.parametrize(
    "words",
    [
        ("--report", "-o", "x.html"),
        ("--report", "--open3d"),
        ("-o", "x.html", "--open3d"),
        ("--3d", "--report"),
        ("--3d", "--picture", "x.png"),
        ("--rerun", "--3d"),
        ("--rerun", "x.rrd", "-o", "x.html"),
    ],
)
def test_one_thing_at_a_time(mug, words):
    result = run("view", "mug", *words)
    assert result.exit_code == 2
    if "-o" in words:
        assert "-o FILE writes the explorer, or with --3d the page in 3-D. Leave out -o, or --" in result.output
    else:
        assert " shows something else of the run. Choose one of them." in result.output
    if words == ("--3d", "--report"):
        assert "Each of --report, --3d shows" in result.output


def test_an_explorer_of_a_run_that_is_being_changed(mug, aligned, no_browser):
    code = "import sys, asic3d.run_lock as r\nwith r.hold_run('mug'): print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        result = run("view", "mug")
        other.stdin.close()
    assert result.exit_code == 1 and "Another asic3d is writing to 'mug'" in result.output
    assert aligned == [] and not (mug / "mug" / "explorer.html").exists()
