"""The evaluation of published data sets, from the command line to files, on miniature copies."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import miniature_sets as mini
import numpy as np
import pytest
from cli_runner import run

import asic3d
from asic3d.baselines import BUDDIES, IDENTITY, NEAREST_NEIGHBOUR
from asic3d.config import AlignmentConfig
from asic3d_integrations.datasets.annotated import load_photos
from asic3d_integrations.datasets.evaluation import (
    FIGURES,
    METHODS,
    CategoryScores,
    evaluate_collection,
    mean_scores,
    scores_as_csv,
    scores_as_json,
)
from asic3d_integrations.datasets.published import published_figures, published_mean
from asic3d_integrations.datasets.spair import read_spair
from asic3d_integrations.scoring import all_pairs, score_keypoints, score_returns

QUICK = ("--backbone", "efficientnet-lite0", "--device", "cpu", "--cycles", "20")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, truth) -> tuple[Path, dict]:
    """SPair-mini of one category, evaluated from the command line: its folder and what was printed."""
    root = tmp_path_factory.mktemp("evaluated")
    mini.write_spair(root / "SPair-71k", truth)
    result = run("evaluate", "spair", "--root", root, "-o", root / "out", "--csv", root / "a.csv", "--json", *QUICK)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return root, json.loads(result.stdout)


def test_spair_from_the_command_line(evaluated, truth):
    _, told = evaluated
    (cats,) = told["categories"]
    both = truth.visible[:, None] & truth.visible[None]
    points = int(both.sum() - truth.visible.sum())
    assert (told["data_set"], cats["name"], cats["photos"], cats["pairs"]) == ("spair", "cat", 4, 12)
    assert list(cats["methods"]) == list(METHODS)
    for figures in cats["methods"].values():
        assert set(figures) == {*FIGURES, "points"}
        assert figures["points"] == points
        assert 0 <= figures["pck@0.05"] <= figures["pck@0.1"] <= 1
    assert cats["methods"][IDENTITY]["cycle4@0.1_return"] == 1
    assert cats["methods"]["asic3d"]["pck@0.1"] > cats["methods"][IDENTITY]["pck@0.1"] + 0.1
    assert cats["asic_published"] == {"pck@0.1": 0.531, "cycle2@0.1_hops": 0.656, "cycle3@0.1_hops": 0.615}
    assert told["mean"]["asic_published"] == {}  # the published mean is over 18 categories


def test_the_files_hold_what_was_printed(evaluated):
    root, told = evaluated
    assert json.loads((root / "out" / "scores.json").read_text()) == told
    assert (root / "out" / "scores.csv").read_bytes() == (root / "a.csv").read_bytes()
    rows = list(csv.DictReader((root / "a.csv").read_text().splitlines()))
    assert [(row["category"], row["method"]) for row in rows] == [(c, m) for c in ("cat", "mean") for m in METHODS]
    methods = told["categories"][0]["methods"]
    for row in rows:
        for figure in FIGURES:
            assert float(row[figure]) == pytest.approx(methods[row["method"]][figure], abs=1e-5)
    assert [row["asic_published_pck@0.1"] for row in rows] == ["0.531"] * 4 + [""] * 4


def test_features_are_kept_in_the_output_folder(evaluated):
    root, _ = evaluated
    assert len(list((root / "out" / "cache" / "features").iterdir())) == 8  # as it is, and in all turns


def test_spair_figures_are_those_of_its_photos_and_pairs(evaluated):
    root, told = evaluated
    (cats,) = read_spair(root)
    config = AlignmentConfig(backbone="efficientnet-lite0", device="cpu")
    alignment = asic3d.align(load_photos(cats), config, cache=root / "out" / "cache")
    right = counted = 0
    pairs = cats.pairs
    assert pairs is not None
    for row in range(len(pairs)):
        names = {"source": cats.photo_names[pairs.source[row]], "target": cats.photo_names[pairs.target[row]]}
        seen = pairs.visible[row]
        found = alignment.transfer(pairs.points[row, seen], **names).points.numpy()
        error = np.linalg.norm(found - pairs.truth[row, seen], axis=1)
        right, counted = right + (error <= 0.1 * pairs.extents[row]).sum(), counted + seen.sum()
    assert told["categories"][0]["methods"]["asic3d"]["pck@0.1"] == pytest.approx(right / counted, abs=1e-9)


@pytest.fixture
def planted_align(monkeypatch):
    """Alignments that are the identity in all ways, where only the layout of the output is looked at."""
    from planted_alignment import PlantedAlignment

    class Still(PlantedAlignment):
        def transfer(self, points, *, source, target):
            import torch

            points = torch.as_tensor(np.asarray(points, np.float64))
            return asic3d.Correspondences(points, torch.ones(len(points)), torch.zeros(len(points)))

        nearest_neighbour = transfer

    def align(collection, config, *, progress=None, cache=None):
        import torch

        line = torch.linspace(-1, 1, 8)
        canonical = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None].repeat(len(collection), 1, 1, 1)
        whole = torch.ones(canonical.shape[:3])
        return Still(collection, canonical, whole, whole, config, warnings=("Something is odd.",))

    monkeypatch.setitem(vars(asic3d), "align", align)


def test_samurai_as_a_table(tmp_path, truth, planted_align):
    mini.write_samurai(mini.write_samurai(tmp_path, truth), truth, "beside", name="robot")
    result = run("evaluate", "samurai", "--root", tmp_path, "--limit", 3, "--cycles", 10)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["2-cycle", "3-cycle", "4-cycle"]
    assert lines[1].split() == ["return"] * 3
    assert [line.split() for line in lines[3:6]] == [
        ["duck", "(3)"],
        ["identity", "100.0", "100.0", "–"],
        ["nearest", "neighbour", "100.0", "100.0", "–"],
    ]
    assert "robot (3)" in result.stdout and "mean of 2" in result.stdout
    assert "Percent of the points on the object that come back to within a tenth of its size." in result.stdout
    assert "duck: Scoring: asic3d: " in result.stderr
    assert "Warning: robot: Something is odd.\n" in result.stderr


def test_samurai_for_programs(tmp_path, truth):
    mini.write_samurai(tmp_path, truth)
    result = run("evaluate", "samurai", "--root", tmp_path, "--json", *QUICK)
    assert result.exit_code == 0, result.output
    (duck,) = json.loads(result.stdout)["categories"]
    assert (duck["name"], duck["photos"], duck["pairs"]) == ("duck", 4, 0)
    for figures in duck["methods"].values():
        assert set(figures) == {"cycle2@0.1_return", "cycle3@0.1_return", "cycle4@0.1_return", "points"}
    assert duck["methods"][IDENTITY]["cycle3@0.1_return"] == 1
    assert 0.5 < duck["methods"]["asic3d"]["cycle2@0.1_return"] <= 1
    assert duck["methods"][NEAREST_NEIGHBOUR]["cycle4@0.1_return"] < 1


@pytest.mark.parametrize(
    ("data_set", "write", "category"),
    [("cub", mini.write_cub, "2"), ("pf-willow", mini.write_pf_willow, mini.FOLDER)],
)
def test_cub_and_pf_willow_from_the_command_line(tmp_path, truth, planted_align, data_set, write, category):
    write(tmp_path / "data", truth)
    result = run("evaluate", data_set, "--root", tmp_path / "data", "--category", category, "-q", "--cycles", 10)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["PCK@0.1", "PCK@0.05", "2-cycle", "3-cycle", "4-cycle"]
    assert lines[1].split() == ["(per", "image)"] * 2 + ["(return)"] * 3
    assert "PCK is pooled over points, in brackets the mean over pairs of photos." in " ".join(result.stdout.split())
    assert "(100.0)" in next(line for line in lines if "asic3d" in line)


def test_a_table_with_published_figures_fits_a_page(tmp_path, truth, planted_align):
    mini.write_spair(tmp_path, truth, ("cat", "cow"))
    result = run("evaluate", "spair", "--root", tmp_path, "-q", "--cycles", 10)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 110
    (told,) = (line for line in lines if line.endswith(" 53.1 / 65.6 / 61.5"))
    assert told.split()[0] == "asic3d"
    assert "from the repository of ASIC" in result.stdout


def test_photos_without_a_pair_have_cycles_alone(tmp_path, truth, planted_align):
    mini.write_spair(tmp_path, truth)
    for pair in (tmp_path / "PairAnnotation" / "test").glob("*2008_0*2008_1*"):
        pair.unlink()
    (tmp_path / "PairAnnotation" / "test" / "000004-2008_1-2008_0:cat.json").unlink()
    result = run("evaluate", "spair", "--root", tmp_path, "-q", "--cycles", 10, "--limit", 2)
    (row,) = (line.split() for line in result.stdout.splitlines() if line.startswith("  identity"))
    assert row[1:5] == ["–", "(–)", "–", "(–)"] and row[6] == "(100.0)"


def test_what_was_finished_is_kept_when_a_later_category_fails(tmp_path, truth, planted_align):
    mini.write_spair(tmp_path, truth, ("cat", "cow"))
    (tmp_path / "JPEGImages" / "cow" / "2008_1.jpg").write_bytes(b"no picture")
    result = run("evaluate", "spair", "--root", tmp_path, "-o", tmp_path / "out", "-q", "--cycles", 10)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The photo 'cow/2008_1.jpg' can't be used: ")
    assert [c["name"] for c in json.loads((tmp_path / "out" / "scores.json").read_text())["categories"]] == ["cat"]


def test_missing_data_is_one_sentence(tmp_path):
    for data_set, title in (
        ("spair", "SPair-71k"),
        ("cub", "CUB-200-2011"),
        ("pf-willow", "PF-WILLOW"),
        ("samurai", "SAMURAI"),
    ):
        result = run("evaluate", data_set, "--root", tmp_path / "none")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"Error: {title} is not complete: ") and result.stderr.count("\n") == 1
        assert "; download " in result.stderr and " and give as --root the folder that holds " in result.stderr


def test_the_root_is_needed():
    result = run("evaluate", "cub")
    assert result.exit_code == 2 and "Missing option '--root'." in result.stderr


# ---- figures ------------------------------------------------------------------------------------------------------


def scored(name: str, value: float, **figures: float) -> CategoryScores:
    return CategoryScores(name, 4, 12, {"asic3d": {"pck@0.1": value, "points": 10, **figures}}, {}, "planted")


def test_the_mean_weighs_categories_the_same_and_leaves_out_what_one_has_not():
    large = replace(
        scored("b", 1.0, **{"pck@0.05": 0.5}), photos=20, methods={"asic3d": {"pck@0.1": 1.0, "points": 90}}
    )
    mean = mean_scores([scored("a", 0.5, **{"pck@0.05": 0.5}), large])
    assert mean.methods == {"asic3d": {"pck@0.1": 0.75, "points": 100}}
    assert (mean.name, mean.photos, mean.pairs) == ("mean", 24, 24)


def test_csv_and_json_leave_blank_what_is_not_known():
    text = scores_as_csv("pf-willow", [scored("car(S)", 0.5)]).decode()
    header, first, _ = text.splitlines()
    assert header == "data_set,category,photos,pairs,method,points," + ",".join(FIGURES)
    assert first == "pf-willow,car(S),4,12,asic3d,10,0.5" + "," * (len(FIGURES) - 1)
    assert scores_as_json("pf-willow", [scored("car(S)", 0.5)])["asic_published_source"] == ""


def test_published_figures_are_those_that_are_known():
    assert published_figures("spair", "car") == {"pck@0.1": 0.253, "cycle2@0.1_hops": 0.503, "cycle3@0.1_hops": 0.365}
    assert published_figures("spair", "cow") == published_figures("samurai", "duck") == {}
    assert published_mean("spair", 18) == {"pck@0.1": 0.365, "cycle2@0.1_hops": 0.548, "cycle3@0.1_hops": 0.457}
    assert published_mean("spair", 17) == {} and published_mean("cub", 3) == {"pck@0.1": 0.759}


def test_pairs_and_cycles_are_scored_in_their_own_units():
    keypoints = np.array([[[0.0, 0.0], [50.0, 0.0]], [[8.0, 0.0], [50.0, 3.0]], [[0.0, 0.0], [np.nan, np.nan]]])
    extents = np.array([100.0, 60.0, 100.0])
    pairs = all_pairs(keypoints, extents)
    assert pairs.visible.sum(1).tolist() == [2, 1, 2, 1, 1, 1]

    def still(source, target, points):
        return points

    # errors 8 and 3 between 0 and 1: within 10 of photo 0, not within 6 of photo 1; 8 between 1 and 2
    found = score_keypoints(still, pairs, keypoints, extents, lengths=(2, 4))
    assert found["pck@0.1"] == pytest.approx(6 / 8) and found["points"] == 8
    assert found["pck@0.1_per_image"] == pytest.approx((0.5 + 1 + 1 + 1 + 1 + 0) / 6)
    assert found["cycle2@0.1_return"] == 1 and "cycle4@0.1_hops" not in found


def test_returns_need_no_common_points():
    points = np.array([[[0.0, 0.0], [10.0, 10.0]], [[5.0, 5.0], [np.nan, np.nan]]])

    def drift(source, target, where):
        return where + (6.0 if source == 0 else 3.0)  # a way around adds 9 to x and y: 12.7 pixels

    assert score_returns(drift, points, np.array([130.0, 100.0]), lengths=(2, 3)) == {
        "cycle2@0.1_return": pytest.approx(2 / 3),
        "points": 3,
    }


def test_progress_names_every_stage(tmp_path, truth, planted_align):
    (cats,) = read_spair(mini.write_spair(tmp_path, truth), limit=2)
    stages = []
    score = evaluate_collection(cats, AlignmentConfig(), cycles=5, progress=lambda step: stages.append(step.stage))
    assert stages == ["photos", "photos", IDENTITY, NEAREST_NEIGHBOUR, BUDDIES, "asic3d"]
    assert score.pairs == 2 and score.published == {}
