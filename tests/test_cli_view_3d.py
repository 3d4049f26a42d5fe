"""asic3d view --3d and --rerun: a page beside the explorer, or files of their own, and what people are told."""

import json
import re
import sys

import pytest
from cli_runner import run

from asic3d_integrations import recording
from asic3d_integrations.colmap import window


@pytest.fixture
def viser():
    pytest.importorskip("viser", reason="viser is not installed (extra viz)")


@pytest.fixture
def rerun():
    pytest.importorskip("rerun", reason="Rerun is not installed (extra rerun)")


def stages_of(page) -> list[str]:
    return re.findall(r'data-stage="(\w+)" data-facts', page.read_text("utf-8"))


def test_the_page_is_made_once_and_again_when_the_cameras_changed(viser, mug, aligned, no_browser):
    page = mug / "mug" / "scene.html"
    first = run("view", "mug", "--3d")
    assert (first.exit_code, first.output) == (0, "Opened mug/scene.html\n")
    assert stages_of(page) == ["cameras", "plane", "descriptors"]
    content = page.read_bytes()
    assert json.loads(run("view", "mug", "--3d", "--json").output) == {"scene": "mug/scene.html", "opened": True}
    assert (len(aligned), page.read_bytes(), no_browser) == (1, content, [page.as_uri()] * 2)
    (mug / "mug" / "colmap").rename(mug / "other")
    assert run("view", "mug", "--3d", "-q").output == ""
    assert (stages_of(page), len(aligned)) == (["plane", "descriptors"], 2)
    assert not (mug / "mug" / ".asic3d.lock").exists()


def test_the_explorer_leads_there(viser, mug, aligned, no_browser):
    assert run("view", "mug").exit_code == 0
    explorer, scene = ((mug / "mug" / f"{name}.html") for name in ("explorer", "scene"))
    assert '<a id="scene" href="scene.html">3-D</a>' in explorer.read_text("utf-8")
    assert '<a href="explorer.html">Explorer</a>' in scene.read_text("utf-8")
    assert len(aligned) == 1
    scene.unlink()
    assert run("view", "mug").exit_code == 0 and scene.exists()
    assert no_browser == [explorer.as_uri()] * 2


def test_the_page_as_a_file(viser, mug, aligned, no_browser):
    result = run("view", "mug", "--3d", "-o", "mug.html")
    size = (mug / "mug.html").stat().st_size
    assert (result.exit_code, result.stdout) == (0, f"Open this file in a browser: mug.html ({size / 1e6:.1f} MB)\n")
    assert "explorer.html" not in (mug / "mug.html").read_text("utf-8")
    assert "'mug.html' is there already" in run("view", "mug", "--3d", "-o", "mug.html").output
    assert "'mug.png' is no name of a page" in run("view", "mug", "--3d", "-o", "mug.png").output
    assert not (mug / "mug" / "scene.html").exists() and no_browser == []


def test_the_cameras_of_another_model(viser, mug, aligned):
    (mug / "mug" / "colmap").rename(mug / "other")
    words = ("view", "mug", "--3d", "-o", "mug.html")
    assert run(*words, "--model", mug / "other" / "sparse" / "0").exit_code == 0
    assert stages_of(mug / "mug.html") == ["cameras", "plane", "descriptors"]
    refused = run(*words, "--overwrite", "--model", "none")
    assert refused.exit_code == 1 and "There is no model of COLMAP in 'none'" in refused.output


def test_damaged_cameras_cost_the_cameras_alone(viser, mug, aligned):
    path = mug / "mug" / "colmap" / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes()[:50])
    result = run("view", "mug", "--3d", "-o", "mug.html")
    assert result.exit_code == 0
    assert "Warning: The 3-D view has no cameras. The model of COLMAP in" in result.stderr
    assert stages_of(mug / "mug.html") == ["plane", "descriptors"]


def test_without_viser(mug, aligned, no_browser, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    for words in ((), ("-o", "mug.html")):
        result = run("view", "mug", "--3d", *words)
        assert (result.exit_code, result.output) == (1, "Error: The 3-D page needs viser: pip install viser.\n")
    assert run("view", "mug").exit_code == 0
    explorer = (mug / "mug" / "explorer.html").read_text("utf-8")
    assert 'id="scene"' not in explorer and "pip install viser" in explorer
    assert not (mug / "mug" / "scene.html").exists()


def test_a_recording(rerun, mug, aligned, monkeypatch):
    opened = []
    monkeypatch.setattr(recording, "open_recording", opened.append)
    monkeypatch.setattr(window, "display_here", lambda: True)
    result = run("view", "mug", "--rerun", "mug.rrd")
    assert (result.exit_code, result.output) == (0, "Open this file with Rerun: rerun mug.rrd\n")
    assert (mug / "mug.rrd").read_bytes()[:4] == b"RRF2" and opened == []
    assert "'mug.rrd' is there already" in run("view", "mug", "--rerun", "mug.rrd").output
    assert "'mug' is no name of a recording; write one that ends in .rrd." in run("view", "--rerun", "mug").output
    assert run("view", "mug", "--rerun").output == "Opened mug/scene.rrd\n"
    printed = json.loads(run("view", "mug", "--rerun", "--json").output)
    assert printed["recording"] == "mug/scene.rrd" and opened == [(mug / "mug" / "scene.rrd").relative_to(mug)] * 2
    monkeypatch.setattr(window, "display_here", lambda: False)
    assert run("view", "mug", "--rerun").output == "Open this file with Rerun: rerun mug/scene.rrd\n"


def test_without_rerun(mug, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    result = run("view", "mug", "--rerun")
    assert (result.exit_code, result.output) == (1, "Error: A recording needs Rerun: pip install rerun-sdk.\n")


@pytest.mark.parametrize("words", [("--3d",), ("--3d", "-o", "x.html"), ("--rerun", "x.rrd")])
def test_what_is_no_run(mug, words):
    result = run("view", "nothing", *words)
    assert (result.exit_code, result.output[:34]) == (1, "Error: 'nothing' is no run folder:")
