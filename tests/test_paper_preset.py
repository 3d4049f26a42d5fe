"""The paper's preset from photos to answers: every command takes its run; splines refined by its objective."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import run
from safetensors.torch import load_file, save_file

from asic3d.alignment import Alignment, align, load_alignment
from asic3d.best_buddies import pack_cells
from asic3d.collection import Collection
from asic3d.config import make_config
from asic3d.coordinates import cell_centres
from asic3d.correspondences import CanonicalSpace, canonical_space, cell_confidence, transfer
from asic3d.errors import AlignmentError, BackboneError, CheckpointWarning, StorageError
from asic3d.optimisation import COLUMNS
from asic3d.verdict import verdict

SMALL = {
    "backbone": "efficientnet-lite0",
    "device": "cpu",
    "grid": 40,
    "working_size": 32,
    "grid_resolution": 32,
    "network_width": 0.0625,
    "steps": 4,
    "checkpoint_every": 2,
    "sharpening": 128,
}


def options(**changes) -> list[str]:
    return [f"--set={name}={value}" for name, value in {**SMALL, **changes}.items()]


@pytest.fixture(scope="module")
def three(toy) -> Collection:
    return Collection(toy.collection.root, toy.collection.photos[:3])


@pytest.fixture(scope="module")
def trained(toy, three) -> Alignment:
    return align(three, make_config("paper", **SMALL), cache=toy.cache)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "run"
    trained.save(folder)
    return folder


# --- the same uses as every alignment


def test_it_says_what_was_trained(trained):
    assert trained.trained is not None
    assert trained.trained.image.shape == (4, 32, 32) and trained.trained.losses.shape == (4, len(COLUMNS))
    assert trained.canonical.shape == (3, 40, 40, 2)
    assert {"matching", "training"} < set(trained.timings)
    assert not trained.canonical.requires_grad and not trained.trained.image.requires_grad


def test_an_untrained_map_is_warned_of(trained):
    # Four iterations do nothing: the map is the identity still, which closes every cycle.
    assert trained.quality["agreeing_matches"] < 0.5
    (warning,) = [text for text in trained.warnings if "agree" in text]
    assert warning.startswith(f"Only {trained.quality['agreeing_matches']:.0%} of the matches agree with the trained")


def test_points_dense_maps_and_masks(trained):
    a, b = trained.names[:2]
    found = trained.transfer([[120, 90]], source=a, target=b)
    assert found.points.shape == (1, 2) and 0 <= float(found.confidence) <= 1
    assert trained.mask(b)[tuple(found.points[0].round().long().flip(0).tolist())] == 255  # on the object
    assert trained.dense(a, b).points.shape[2] == 2
    assert trained.nearest_neighbour([[120, 90]], source=a, target=b).points.shape == (1, 2)


def test_it_is_loaded_as_it_was_saved(trained, saved):
    again = load_alignment(saved)
    assert again.config == trained.config and again.quality == trained.quality
    for name in ("image", "losses"):
        assert torch.equal(getattr(again.trained, name), getattr(trained.trained, name))
    a, b = trained.names[:2]
    points = np.random.default_rng(0).uniform(0, 180, (50, 2))
    for way in ("transfer", "nearest_neighbour"):
        one, other = (getattr(each, way)(points, source=a, target=b) for each in (trained, again))
        assert torch.equal(one.points, other.points) and torch.equal(one.confidence, other.confidence)


def test_the_losses_are_written_as_a_table(trained, saved):
    header, *rows = csv.reader((saved / "losses.csv").read_text().splitlines())
    assert header == ["iteration", *COLUMNS]
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4]
    np.testing.assert_allclose([[float(v) for v in row[1:]] for row in rows], trained.trained.losses, rtol=1e-5)


def test_a_run_without_training_replaces_the_table(toy, trained, tmp_path):
    trained.save(tmp_path / "run")
    toy.alignment.save(tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "losses.csv").exists()
    assert load_alignment(tmp_path / "run").trained is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("image", torch.zeros(3, 8, 8)), ("image", torch.zeros(4, 8, 9)), ("losses", torch.zeros(4, 6)), ("losses", None)],
)
def test_a_run_whose_training_is_damaged_is_refused(saved, tmp_path, name, value):
    import shutil

    shutil.copytree(saved, tmp_path / "run")
    tensors = load_file(saved / "alignment.safetensors")
    changed = {key: tensor for key, tensor in tensors.items() if key != name}
    save_file(changed if value is None else {**changed, name: value}, tmp_path / "run" / "alignment.safetensors")
    with pytest.raises(StorageError, match="is damaged"):
        load_alignment(tmp_path / "run")


def test_a_photo_is_not_added(toy, trained):
    with pytest.raises(AlignmentError, match=r"^A photo can't be added here: the network of this alignment"):
        trained.add(toy.collection[4])


def test_without_the_papers_weights_the_error_names_the_way_out(three, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("asic3d.vision_transformers.weights_on_disk", lambda name: None)
    with pytest.raises(
        BackboneError, match=r"^The weights of dino-vits8 are not .*--backbone efficientnet-lite0 \(.*\)\.$"
    ):
        align(three, make_config("paper"))


# --- interrupted


class Stop(Exception):
    pass


def stop(progress):
    if (progress.stage, progress.done) == ("training", 3):
        raise Stop


def same(one: Alignment, other: Alignment) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (one.canonical, other.canonical),
            (one.trained.image, other.trained.image),
            (one.trained.losses, other.trained.losses),
            (one.confidence, other.confidence),
        )
    )


@pytest.mark.parametrize("changes", [{}, {"mapping": "spline", "refine_steps": 4}], ids=["network", "splines"])
def test_an_interrupted_alignment_goes_on_to_the_same_bits(toy, three, tmp_path, changes):
    config, path = make_config("paper", **{**SMALL, **changes}), tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        align(three, config, cache=toy.cache, checkpoint=path, progress=stop)
    assert path.is_file()
    seen = []
    resumed = align(three, config, cache=toy.cache, checkpoint=path, progress=seen.append)
    assert [each.done for each in seen if each.stage == "training"] == [3, 4]
    assert same(resumed, align(three, config, cache=toy.cache))
    assert not path.exists()


def test_a_checkpoint_of_other_settings_is_warned_of(toy, three, trained, tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        align(three, make_config("paper", **{**SMALL, "seed": 4}), cache=toy.cache, checkpoint=path, progress=stop)
    with pytest.warns(CheckpointWarning, match="is of other photos or settings"):
        assert same(align(three, trained.config, cache=toy.cache, checkpoint=path), trained)


def test_the_verdict_does_not_call_an_untrained_map_good(trained):
    told = verdict(trained)
    assert told == ("poor", "The training has not brought the photos together yet; points are mostly guesses.")
    agreeing = dataclasses.replace(trained, quality={**trained.quality, "agreeing_matches": 0.9})
    assert verdict(agreeing) != told


# --- the command line


@pytest.fixture(scope="module")
def place(toy, tmp_path_factory):
    """A folder with three photos, their keypoints, and a run of the paper's preset made by the command line."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "photos").mkdir()
    annotated = json.loads((toy.folder / "keypoints.json").read_text())
    annotated["images"] = annotated["images"][:3]
    for entry in annotated["images"]:
        name = Path(entry["file"]).name
        (folder / "photos" / name).write_bytes((toy.folder / entry["file"]).read_bytes())
        entry["file"] = f"photos/{name}"
    (folder / "keypoints.json").write_text(json.dumps(annotated))
    (folder / "paper.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in SMALL.items()))
    result = run(
        "align", folder / "photos", "-o", folder / "run", "--preset", "paper", "--config", folder / "paper.toml"
    )
    assert result.exit_code == 0, result.output
    return folder, result


def test_align_takes_the_preset_and_a_file_of_settings(place):
    folder, result = place
    assert json.loads((folder / "run" / "run.json").read_text())["config"]["mapping"] == "network"
    assert (folder / "run" / "report.html").is_file() and (folder / "run" / "losses.csv").is_file()
    assert "Training the maps into the shared frame" in result.output
    assert "asic3d transfer" in result.output and "asic3d add" not in result.output


def test_transfer_and_add_take_the_run(place):
    folder, _ = place
    names = sorted(path.name for path in (folder / "photos").iterdir())
    result = run("transfer", folder / "run", "--source", names[0], "--point", "120,90", "--json")
    assert result.exit_code == 0 and list(json.loads(result.stdout)["targets"]) == names[1:]
    result = run("add", folder / "run", folder / "photos" / names[0])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: A photo can't be added here: ")


def test_evaluate_keypoints_takes_the_preset(place):
    folder, _ = place
    result = run("evaluate", "keypoints", folder, "--preset", "paper", *options(steps=1), "--json")
    assert result.exit_code == 0, result.output
    methods = json.loads(result.stdout)["methods"]
    assert set(methods) == {"identity", "nearest neighbour", "buddies + MLS", "asic3d"}
    assert methods["asic3d"]["pck@0.1"] not in (methods[name]["pck@0.1"] for name in ("identity", "nearest neighbour"))


def test_settings_of_a_file_give_way_to_options(place):
    folder, _ = place
    (folder / "wrong.toml").write_text("steps = 'many'\n")
    result = run("align", folder / "photos", "-o", folder / "other", "--config", folder / "wrong.toml")
    assert result.exit_code == 1
    told = "The setting 'steps' takes a whole number from 1 to 10000000, not 'many'."
    assert result.stderr == f"Error: In '{folder / 'wrong.toml'}': {told}\n"


# --- where the answers lie


def disc_space(grid=24) -> CanonicalSpace:
    """Two photos with a disc, which the second shows 0.3 further to the right; around it the map is the identity."""
    centres = cell_centres(grid)
    shift = torch.tensor([0.3, 0.0])
    canonical = torch.stack([centres, centres - shift])
    objects = torch.stack([centres.norm(dim=1) < 0.5, (centres - shift).norm(dim=1) < 0.5]).float()
    return canonical_space(canonical, objects, torch.ones(2, grid * grid, dtype=torch.bool))


def test_the_nearest_canonical_coordinate_on_the_object_answers():
    space, sizes = disc_space(), ((240, 240), (240, 240))
    points = torch.tensor([[119.5, 119.5], [100.0, 140.0], [90.0, 110.0], [150.0, 128.5]], dtype=torch.float64)
    found = transfer(space, points, 0, 1, sizes)
    torch.testing.assert_close(found.points, points + torch.tensor([36.0, 0.0]), atol=1.5, rtol=0)
    assert (found.cycle_error < 3).all() and (found.confidence > 0.6).all()


def test_a_point_beside_the_object_is_answered_on_the_object_with_no_confidence():
    space = disc_space()
    found = transfer(space, torch.tensor([[5.0, 119.5]], dtype=torch.float64), 0, 1, ((240, 240), (240, 240)))
    centre = torch.tensor([155.5, 119.5])
    assert (found.points - centre).norm() < 75  # the disc's radius is 60
    assert float(found.confidence) < 0.05


def test_cells_are_judged_without_descriptors():
    space = disc_space()
    cells = pack_cells(space.foreground.reshape(2, 24, 24) > 0.5)
    confidence, by_pair = cell_confidence(space, cells, torch.tensor([[0, 1]]))
    assert float(by_pair) > 0.7
    assert (confidence[space.foreground == 0] == 0).all()


# --- splines, refined


def test_refining_moves_the_splines_and_keeps_them_right(toy):
    config = dataclasses.replace(
        toy.config, refine_steps=5, working_size=32, weight_reconstruction=0.0, weight_smoothness=1000.0
    )
    refined = align(toy.collection, config, cache=toy.cache)
    moved = (refined.canonical - toy.alignment.canonical).norm(dim=-1)
    assert 1e-4 < float(moved.max()) < 0.2
    assert refined.trained.losses.shape == (5, len(COLUMNS))
    assert (refined.trained.losses[:, COLUMNS.index("equivariance")] == 0).all()
    assert np.mean(toy.errors(refined, refined.transfer) < 0.1) > 0.9


def test_refining_lowers_the_objective(toy, three):
    config = dataclasses.replace(
        toy.config, refine_steps=25, restart_period=25, working_size=32, weight_reconstruction=0.0, batch=6
    )
    losses = align(three, config, cache=toy.cache).trained.losses
    assert losses[-5:, -1].mean() < losses[0, -1]
    assert losses[0, COLUMNS.index("smoothness")] == 0  # it is that of what is added
