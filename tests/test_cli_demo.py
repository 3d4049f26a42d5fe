"""The command line with the real library, on rendered photos."""

import csv
import io
import json
import math
import shutil
import statistics

import pytest
from cli_runner import run
from PIL import Image

import asic3d
from asic3d.verdict import STAGES, quality_figures
from asic3d_cli.console import _Lines


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo of four photos: (run folder, what it told as JSON)."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    result = run("demo", "-o", folder, "--photos", "4", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return folder, json.loads(result.stdout)


def test_demo_takes_the_embedded_backbone_without_a_word(demo):
    assert demo[1]["backbone"] == "efficientnet-lite0"
    assert asic3d.load_alignment(demo[0]).config.backbone == "efficientnet-lite0"


def test_help_shows_the_settings_that_it_mentions():
    help_of_demo = run("demo", "--help").output
    assert "see below" in help_of_demo and "Settings for --set:" in help_of_demo


def test_demo_is_near_the_truth_and_beats_its_baselines(demo):
    _, told = demo
    exact, neighbour, identity = (
        told["truth"]["methods"][name]["pck@0.1"] for name in ("asic3d", "nearest neighbour", "identity")
    )
    assert exact > neighbour > identity and exact > 0.85
    assert told["truth"]["mask_iou"] > 0.75
    assert told["verdict"]["level"] == "good" and told["warnings"] == []


def test_every_figure_and_stage_is_explained(demo):
    folder, told = demo
    figures = quality_figures(asic3d.load_alignment(folder))
    assert len(figures) == len(told["quality"])
    assert [figure.label for figure in figures if not figure.meaning or not figure.level] == []
    assert set(told["seconds"]) <= set(STAGES)


def test_demo_writes_the_run_folder_and_keeps_the_truth(demo):
    folder, told = demo
    assert {entry.name for entry in folder.iterdir()} == {
        ".asic3d", "alignment.safetensors", "cache", "canonical_grid.safetensors", "collection", "figures", "masks",
        "report.html", "run.json",
    }  # fmt: skip
    assert {entry.name for entry in (folder / "masks").iterdir()} == {f"{name}.png" for name in told["photos"]}
    assert (folder / "collection" / "keypoints.json").is_file()
    result = run("demo", "-o", folder)
    assert result.exit_code == 1 and "holds a finished run" in result.stderr
    assert "--resume" not in result.stderr  # which demo does not have


def test_transfer_in_the_demo_finds_what_is_there(demo):
    folder, _ = demo
    images = json.loads((folder / "collection" / "keypoints.json").read_text())["images"]
    source, target = (image["keypoints"] for image in images[:2])
    both = [name for name in source if source[name][2] and target[name][2]]
    points = [f"--point={source[name][0]},{source[name][1]}" for name in both]
    result = run("transfer", folder, "--source", "photo_01.jpg", "--target", "photo_02.jpg", *points)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    x0, y0, x1, y1 = images[1]["bbox"]
    errors = [
        math.hypot(float(row["x"]) - target[name][0], float(row["y"]) - target[name][1]) / max(x1 - x0, y1 - y0)
        for name, row in zip(both, rows, strict=True)
    ]
    assert len(errors) > 5 and statistics.median(errors) < 0.05


def test_add_to_the_demo_places_the_photo_and_leaves_the_others(demo, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(demo[0], folder)
    new = folder / "collection" / "images" / "photo_02.jpg"
    Image.open(new).save(tmp_path / "again.jpg", quality=80)
    result = run("add", folder, tmp_path / "again.jpg", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert list(told["photos"]) == [*demo[1]["photos"], "again.jpg"]
    found = run("transfer", folder, "--source", "photo_02.jpg", "--target", "again.jpg", "--point", "120,160", "--json")
    x, y = json.loads(found.stdout)["targets"]["again.jpg"]["points"][0]
    assert math.hypot(x - 120, y - 160) < 8


def test_an_interrupted_fit_goes_on_and_ends_the_same(demo, tmp_path, monkeypatch):
    def stop(self, progress):
        if (progress.stage, progress.done) == ("canonical", 2):
            raise KeyboardInterrupt

    arguments = ("align", demo[0] / "collection" / "images", "-o", tmp_path / "run", "--backbone", "efficientnet-lite0")
    with monkeypatch.context() as patch:
        patch.setattr(_Lines, "__call__", stop)
        assert run(*arguments).exit_code == 130
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    result = run(*arguments, "--resume")
    assert result.exit_code == 0, result.stderr
    whole, resumed = (asic3d.load_alignment(folder) for folder in (demo[0], tmp_path / "run"))
    assert (whole.canonical - resumed.canonical).abs().max() < 1e-4
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
