"""The fit of all photos: planted warps, and what an interruption leaves behind."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asic3d.canonical import robust_weight
from asic3d.config import AlignmentConfig, Progress
from asic3d.coordinates import cell_centres
from asic3d.errors import AlignmentError, CheckpointWarning
from asic3d.features import FeatureMaps
from asic3d.fitting import Checkpoint, Problem, fit_canonical
from asic3d.storage import read_safetensors, write_safetensors

GRID, PHOTOS = 16, 4
CONFIG = AlignmentConfig(grid=GRID, channels=32, coarse_channels=16, metric_channels=24, control_points=6)
ROUNDS = CONFIG.affine_rounds + CONFIG.spline_rounds + CONFIG.metric_rounds


@dataclasses.dataclass(frozen=True)
class Planted:
    maps: FeatureMaps
    recurring: torch.Tensor
    truth: torch.Tensor  # (N, G * G, 2): where each cell is on the object, a disc of radius 1


@pytest.fixture(scope="module")
def planted() -> Planted:
    """Photos of one textured disc, moved, turned, scaled and bulged; the surroundings are noise of each photo."""
    generator = np.random.default_rng(0)
    waves, phase = generator.normal(0, 2.5, (2, 64)), generator.uniform(0, 2 * math.pi, 64)
    cells = cell_centres(GRID).double().numpy()
    features, truth = [], []
    for _ in range(PHOTOS):
        angle, scale = generator.uniform(-0.25, 0.25), generator.uniform(1.3, 1.7)
        turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        at = (cells - generator.uniform(-0.2, 0.2, 2)) @ turn
        at = at + 0.3 * np.exp(-((at - generator.uniform(-0.4, 0.4, 2)) ** 2).sum(1, keepdims=True) / 0.3)
        texture = np.cos(at @ waves + phase) + generator.normal(0, 0.2, (GRID**2, 64))
        inside = (np.hypot(*at.T) <= 1)[:, None]
        features.append(np.where(inside, texture, generator.normal(0, 0.7, (GRID**2, 64))))
        truth.append(at)
    unit = F.normalize(torch.from_numpy(np.stack(features)).float(), dim=2).reshape(PHOTOS, GRID, GRID, 64)
    at = torch.from_numpy(np.stack(truth)).float()
    recurring = (at.norm(dim=2) <= 1).float().reshape(PHOTOS, GRID, GRID)
    return Planted(FeatureMaps(unit, torch.ones(PHOTOS, GRID, GRID, dtype=torch.bool)), recurring, at)


def fit(planted, config=CONFIG, **options):
    return fit_canonical(Problem.of(planted.maps, planted.recurring, config), **options)


@pytest.fixture(scope="module")
def whole(planted):
    """The result of a fit that nothing interrupted."""
    return fit(planted)


def tensors_of(value, prefix=""):
    """All tensors of a dataclass of tensors and dataclasses, by name."""
    found = {}
    for item in dataclasses.fields(value):
        part = getattr(value, item.name)
        if isinstance(part, torch.Tensor):
            found[prefix + item.name] = part
        else:
            found |= tensors_of(part, f"{prefix}{item.name}.")
    return found


def assert_identical(one, other):
    left, right = tensors_of(one), tensors_of(other)
    assert left.keys() == right.keys()
    assert len(left) > 8
    for name in left:
        assert torch.equal(left[name], right[name]), name


# --- truth


def inconsistency(canonical, planted) -> float:
    """Root mean square, canonical units: how far the photos are from ONE smooth map of the object into the plane."""
    inside = planted.truth.norm(dim=2) <= 0.9
    x, y = planted.truth[inside].double().T
    terms = torch.stack([x**i * y**k for i in range(7) for k in range(7 - i)], 1)
    wanted = canonical[inside].double()
    smooth = terms @ torch.linalg.lstsq(terms, wanted).solution
    return float((wanted - smooth).square().sum(1).mean().sqrt())


def test_planted_warps_are_recovered(planted, whole):
    affine_only = fit(planted, dataclasses.replace(CONFIG, spline_rounds=0, metric_rounds=0))
    in_place = cell_centres(GRID).expand(PHOTOS, -1, -1)
    assert inconsistency(in_place, planted) > 0.15
    assert inconsistency(affine_only.canonical, planted) < 0.07
    assert inconsistency(whole.canonical, planted) < 0.05
    assert inconsistency(whole.canonical, planted) < 0.8 * inconsistency(affine_only.canonical, planted)


def test_the_object_is_about_two_wide_and_its_middle_is_the_origin(planted, whole):
    for photo in range(PHOTOS):
        own = whole.canonical[photo, planted.recurring[photo].flatten() > 0]
        assert own.mean(0).norm() < 0.2
        assert 1.2 < float(own.amax(0).sub(own.amin(0)).mean()) < 2.8


def test_the_parts_of_a_fit_belong_together(planted, whole):
    features = planted.maps.features.flatten(1, 2)
    plain = F.normalize((features - whole.mean) @ whole.projection, dim=2)
    torch.testing.assert_close(whole.plain, plain, atol=1e-5, rtol=0)
    assert whole.plain.shape[2] == CONFIG.metric_channels
    torch.testing.assert_close(whole.descriptors.norm(dim=2), torch.ones(PHOTOS, GRID**2))
    assert whole.pairs.tolist() == torch.triu_indices(PHOTOS, PHOTOS, 1).T.tolist()
    for photo in range(PHOTOS):
        used = whole.cells.index[photo, whole.cells.used[photo]]
        assert used.tolist() == planted.recurring[photo].flatten().nonzero()[:, 0].tolist()


def test_a_match_weighs_its_similarity_to_a_power_and_whether_it_agrees(planted, whole):
    b = whole.buddies
    for k in range(0, len(b), 17):
        i, j, p, q = (int(column[k]) for column in (b.first, b.second, b.first_cell, b.second_cell))
        objects = float(planted.recurring.flatten(1)[i, p] * planted.recurring.flatten(1)[j, q])
        squared = ((whole.canonical[i, p] - whole.canonical[j, q]) ** 2).sum()
        wanted = max(float(b.similarity[k]), 1e-3) ** CONFIG.similarity_power * objects
        wanted *= float(robust_weight(squared, 0.15))
        assert float(whole.weights[k]) == pytest.approx(wanted, rel=1e-4)


def test_unlikely_cells_take_no_part(planted, whole):
    faint = torch.where(planted.recurring > 0, 1.0, 0.1)
    found = fit_canonical(Problem.of(planted.maps, faint, CONFIG)).cells
    assert torch.equal(found.index, whole.cells.index)
    assert torch.equal(found.used, whole.cells.used)


def test_photos_in_which_nothing_stands_out_use_their_likeliest_cells(planted):
    faint = planted.recurring * 0.1 + 0.001
    cells = fit_canonical(Problem.of(planted.maps, faint, CONFIG)).cells
    assert cells.used.sum(1).tolist() == planted.recurring.flatten(1).sum(1).int().tolist()


@pytest.mark.parametrize(("splines", "metrics"), [(0, 0), (0, 1), (1, 0)])
def test_rounds_can_be_left_out(planted, splines, metrics):
    config = dataclasses.replace(CONFIG, affine_rounds=1, spline_rounds=splines, metric_rounds=metrics)
    seen = []
    found = fit(planted, config, progress=seen.append)
    assert len(seen) == 1 + splines + metrics
    assert bool(found.canonical.isfinite().all())


def test_nothing_to_match_is_said_in_a_sentence(planted):
    few = torch.zeros(PHOTOS, GRID, GRID)
    few[:2, 3, 3] = 1
    maps = FeatureMaps(planted.maps.features[:2], planted.maps.valid[:2])
    with pytest.raises(AlignmentError) as caught:
        fit_canonical(Problem.of(maps, few[:2], CONFIG))
    assert str(caught.value) == (
        "Hardly anything in these photos can be matched: no three places look alike in any two of them. "
        "Check that they show the same object, or mark it with --masks."
    )


# --- the same every time, and after an interruption


def test_two_fits_are_the_same_to_the_last_bit(planted, whole):
    assert_identical(fit(planted), whole)


def test_progress_counts_every_round(planted):
    seen = []
    fit(planted, progress=seen.append)
    matching = [Progress("matching", i, CONFIG.affine_rounds) for i in range(1, CONFIG.affine_rounds + 1)]
    rest = ROUNDS - CONFIG.affine_rounds
    assert seen == matching + [Progress("canonical", i, rest) for i in range(1, rest + 1)]


class Stop(Exception):
    pass


def stop_after(rounds):
    seen = []

    def report(progress):
        seen.append(progress)
        if len(seen) == rounds:
            raise Stop

    return report


def interrupted(planted, path, rounds, config=CONFIG, fingerprint="these photos") -> Checkpoint:
    checkpoint = Checkpoint(path, fingerprint)
    with pytest.raises(Stop):
        fit(planted, config, checkpoint=checkpoint, progress=stop_after(rounds))
    return checkpoint


@pytest.mark.parametrize("rounds", range(1, ROUNDS + 1))
def test_an_interrupted_fit_goes_on_to_the_same_result(planted, whole, tmp_path, rounds):
    checkpoint = interrupted(planted, tmp_path / "fit.safetensors", rounds)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    seen = []
    assert_identical(fit(planted, checkpoint=checkpoint, progress=seen.append), whole)
    assert len(seen) == ROUNDS - min(rounds, ROUNDS - 1)  # the last round leaves no file of its own


def test_a_fit_that_is_interrupted_again_and_again_arrives(planted, whole, tmp_path):
    checkpoint = Checkpoint(tmp_path / "fit.safetensors", "x")
    for _ in range(ROUNDS - 1):
        with pytest.raises(Stop):
            fit(planted, checkpoint=checkpoint, progress=stop_after(1))
    assert_identical(fit(planted, checkpoint=checkpoint), whole)


def rounds_and_result(planted, checkpoint):
    seen = []
    return fit(planted, checkpoint=checkpoint, progress=seen.append), len(seen)


def test_the_checkpoint_of_another_fit_is_not_used(planted, whole, tmp_path):
    checkpoint = interrupted(planted, tmp_path / "fit.safetensors", 4, fingerprint="other photos")
    with pytest.warns(CheckpointWarning, match="begins anew, .* is of other photos or settings"):
        found, rounds = rounds_and_result(planted, Checkpoint(checkpoint.path, "these photos"))
    assert rounds == ROUNDS
    assert_identical(found, whole)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def no_tensors(path):
    path.write_bytes(b"not a checkpoint at all" * 50)


def nan_inside(path):
    change(path, canonical=lambda value: value.clone().fill_(math.nan))


def other_grid(path):
    change(path, canonical=lambda value: value[:, : GRID**2 // 2].contiguous())


def other_precision(path):
    change(path, affine=lambda value: value.float())


def fewer_photos(path):
    change(path, affine=lambda value: value[:-1], canonical=lambda value: value[:-1])


def far_away(path):
    change(path, canonical=lambda value: value * 1e200)


def before_the_beginning(path):
    change(path, done=lambda value: value * 0 - 2**62)


def change(path, **changes):
    expected = {
        "affine": (torch.float64, (None, 3, 2)),
        "canonical": (torch.float64, (None, None, 2)),
        "metric": (torch.float32, (None, None)),
        "done": (torch.int64, (1,)),
        "fingerprint": (torch.uint8, (None,)),
    }
    tensors = read_safetensors(path, expected)
    write_safetensors(path, {name: changes.get(name, lambda value: value)(tensors[name]) for name in tensors})


DAMAGES = [
    truncate,
    empty,
    no_tensors,
    nan_inside,
    other_grid,
    other_precision,
    fewer_photos,
    far_away,
    before_the_beginning,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_not_used(planted, whole, tmp_path, damage):
    checkpoint = interrupted(planted, tmp_path / "fit.safetensors", 4)
    damage(checkpoint.path)
    with pytest.warns(CheckpointWarning, match="begins anew, because its checkpoint can't be used: "):
        found, rounds = rounds_and_result(planted, checkpoint)
    assert rounds == ROUNDS
    assert_identical(found, whole)


def test_a_checkpoint_from_beyond_the_end_still_ends(planted, tmp_path):
    checkpoint = interrupted(planted, tmp_path / "fit.safetensors", 7)
    change(checkpoint.path, done=lambda value: value * 0 + 2**62)
    _, rounds = rounds_and_result(planted, checkpoint)
    assert rounds == 1


def test_the_fingerprint_may_hold_any_letters(planted, whole, tmp_path):
    checkpoint = interrupted(planted, tmp_path / "fit.safetensors", 2, fingerprint="Fotos von Übersee 鳥")
    found, rounds = rounds_and_result(planted, checkpoint)
    assert rounds == ROUNDS - 2
    assert_identical(found, whole)


def test_copies_of_a_picture_count_once_where_support_is_compared(planted):
    """Three files of one picture go together better than any two photos do, and would make strangers of the others."""
    order = [0, 1, 2, 3, 0, 0]
    maps = FeatureMaps(planted.maps.features[order], planted.maps.valid[order])
    objects = planted.recurring[order]
    plain = Problem.of(maps, objects, CONFIG)
    known = Problem.of(maps, objects, CONFIG, [0, 1, 2, 3, 0, 0])
    alone = Problem.of(FeatureMaps(maps.features[:4], maps.valid[:4]), objects[:4], CONFIG)
    assert torch.allclose(known.supported[:4], alone.supported, rtol=0.15)  # the principal axes hear the copies
    assert torch.equal(known.supported[4:], known.supported[:1].expand(2))
    assert plain.supported[0] > 1.05 * known.supported[0]
    assert torch.equal(Problem.of(maps, objects, CONFIG, [0] * 6).supported, plain.supported)
