"""The training loop: it lowers the objective, brings planted photos together, and goes on as if never interrupted."""

import dataclasses
import math
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from asic3d.alignment_network import AlignmentNetwork
from asic3d.config import AlignmentConfig, Progress
from asic3d.coordinates import cell_centres
from asic3d.errors import AlignmentError, CheckpointWarning, ConfigError
from asic3d.fitting import Checkpoint
from asic3d.judgement import astray_warnings
from asic3d.losses import sample_map
from asic3d.optimisation import COLUMNS, NetworkMap, map_photos, step_size, train
from asic3d.storage import read_safetensors, write_safetensors
from asic3d.training_set import TrainingSet

SIZE, STEPS = 32, 6
PLACES = ((-0.35, -0.2), (0.3, 0.1), (0.0, 0.35))  # of the disc in each photo, normalised
RADIUS = 0.5
CONFIG = AlignmentConfig(
    steps=STEPS,
    working_size=SIZE,
    grid_resolution=32,
    network_width=0.0625,
    restart_period=STEPS,
    checkpoint_every=2,
    weight_smoothness=200.0,
    parts=2,
    weight_reconstruction=0.0,  # its network takes longer to load than everything else; FULL has it
)
FULL = dataclasses.replace(CONFIG, weight_reconstruction=1.0)


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def planted() -> TrainingSet:
    """Three photos of a disc with two halves, each in another place; every matched pair of points is true."""
    pixels = cell_centres(SIZE).reshape(SIZE, SIZE, 2)
    photos, masks, parts = [], [], []
    for place in PLACES:
        local = (pixels - torch.tensor(place)) / RADIUS
        inside = local.norm(dim=-1) < 1
        colours = torch.stack([local[..., 0].sin(), local[..., 1].cos(), (3 * local[..., 1]).sin()]) / 2 + 0.5
        photos.append(torch.where(inside, colours, 0.2))
        masks.append(inside.float())
        parts.append(torch.where(inside, (local[..., 0] > 0).long(), -1))
    points = (torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1) * 0.6 * RADIUS
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    first, second = (torch.stack([points + torch.tensor(PLACES[i]) for i in side]) for side in pairs.T.tolist())
    used = torch.ones(3, 40, dtype=torch.bool)
    return TrainingSet(torch.stack(photos), torch.stack(masks)[:, None], torch.stack(parts), pairs, first, second, used)


def trained(data, config=CONFIG, steps=None, **options):
    """The maps, the canonical image and the losses."""
    network = AlignmentNetwork(config.network_width, seed=config.seed)
    found = train(data, NetworkMap(network, config), config, steps=steps or config.steps, **options)
    return map_photos(network, data.photos), found.image, found.losses


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left, right)


@pytest.fixture(scope="module")
def whole(planted):
    return trained(planted)


# --- the schedule


def test_the_step_size_is_a_cosine_that_restarts_lower():
    config = AlignmentConfig(learning_rate=0.01, restart_period=100, restart_decay=0.5)
    for step in range(350):
        place = step % 100
        wanted = 0.01 * 0.5 ** (step // 100) * 0.5 * (1 + math.cos(math.pi * place / 100))
        assert step_size(step, config) == pytest.approx(wanted)
    assert step_size(100, config) == 0.005


# --- it learns


def apart(data, canonical) -> float:
    """Mean canonical distance of true matches, against the mean distance of points that are no matches."""
    first, second = (sample_map(canonical[side], points) for side, points in zip(
        data.pairs.T, (data.first, data.second), strict=True))  # fmt: skip
    others = (first - second.roll(1, 1)).norm(dim=2).mean()
    return float((first - second).norm(dim=2).mean() / others)


def test_it_lowers_the_objective_and_brings_the_photos_together(planted):
    config = dataclasses.replace(FULL, restart_period=40, weight_smoothness=50.0, learning_rate=0.005)
    before = map_photos(AlignmentNetwork(config.network_width, seed=0), planted.photos)
    canonical, image, losses = trained(planted, config, steps=40)
    assert losses.shape == (40, len(COLUMNS))
    total, contrastive = losses[:, -1], losses[:, 0]
    assert total[-10:].mean() < 0.9 * total[:3].mean()
    assert contrastive[-10:].mean() < contrastive[0] - 0.5
    assert apart(planted, canonical) < 0.5 * apart(planted, before)
    assert (image[:3] - 0.5).abs().max() > 0.05


def test_the_losses_are_the_terms_and_their_weighted_sum(planted):
    terms = dict(zip(COLUMNS, trained(planted, FULL, steps=3)[2].T, strict=True))
    total = sum(getattr(FULL, f"weight_{name}") * terms[name] for name in COLUMNS[:-1])
    torch.testing.assert_close(terms["total"], total)
    assert all((terms[name] > 0).any() for name in COLUMNS)


def test_it_is_the_same_every_time_and_another_with_another_seed(planted, whole):
    assert_same(trained(planted), whole)
    other = trained(planted, dataclasses.replace(CONFIG, seed=1))
    assert not torch.equal(other[2], whole[2])


def test_progress_is_reported_after_each_iteration(planted):
    seen = []
    trained(planted, steps=3, progress=seen.append)
    assert seen == [Progress("training", done, 3) for done in (1, 2, 3)]


def test_a_term_without_a_weight_stays_out(planted):
    config = dataclasses.replace(CONFIG, weight_mask=0.0, weight_equivariance=0.0, weight_parts=0.0)
    _, image, losses = trained(planted, config, steps=2)
    assert set(losses[1, 2:6].tolist()) == {0.0}
    assert image.unique().tolist() == [0.0, 0.5]  # as it began


def test_without_any_weight_there_is_nothing_to_train(planted):
    names = [f"weight_{name}" for name in COLUMNS[:-1]]
    with pytest.raises(ConfigError, match=r"^Every weight of the objective is 0: there is nothing to train\."):
        trained(planted, dataclasses.replace(CONFIG, **dict.fromkeys(names, 0.0)))


def test_a_training_that_goes_astray_says_so(planted):
    broken = dataclasses.replace(planted, photos=planted.photos * math.inf)
    with pytest.raises(AlignmentError, match=r"^The training went astray: in iteration 1 the objective is no finite"):
        trained(broken)


class Steep(torch.nn.Module):
    """A map with one number that must not move by more than ``width``: beyond it nothing is finite."""

    def __init__(self, width, slope=1.0):
        super().__init__()
        self.number, self.width, self.slope = torch.nn.Parameter(torch.zeros(())), width, slope

    def forward(self, batch, index):
        beyond = torch.where(self.number.abs() > self.width, math.inf, 0.0)
        pixels = cell_centres(SIZE).reshape(1, SIZE, SIZE, 2).expand(len(index), -1, -1, -1)
        return pixels * (1 + self.slope * self.number) + beyond, None


STEEP = dataclasses.replace(CONFIG, weight_equivariance=0.0, learning_rate=0.1)


@pytest.mark.parametrize(("width", "again"), [(1.0, 0), (0.05, 1), (0.003, 2)])
def test_a_training_that_goes_astray_begins_again_with_smaller_steps(planted, width, again):
    mapping = Steep(width)
    told = []
    found = train(planted, mapping, STEEP, steps=3, progress=lambda progress: told.append(progress.done))
    assert found.again == again
    assert bool(found.losses.isfinite().all()) and 0 < abs(float(mapping.number.detach())) <= width
    assert told[-3:] == [1, 2, 3]
    smaller = Steep(width)
    directly = train(planted, smaller, dataclasses.replace(STEEP, learning_rate=0.1 * 0.1**again), steps=3)
    assert directly.again == 0
    assert float(smaller.number.detach()) == pytest.approx(float(mapping.number.detach()), rel=1e-4)
    assert astray_warnings(found.again)[:1] == (
        (
            f"The training went astray {'once' if again == 1 else '2 times'} and was begun again, with "
            f"{0.1**again:g} times the learning_rate. Set that learning_rate to save the time.",
        )
        if again
        else ()
    )


def test_a_training_that_goes_astray_whatever_the_step_is_an_error(planted):
    with pytest.raises(
        AlignmentError, match=r"in iteration 2 .* also with 0\.001 times the learning_rate\. Set a small"
    ):
        train(planted, Steep(1e-6), STEEP, steps=4)


def test_an_objective_that_explodes_has_gone_astray(planted):
    found = train(planted, Steep(1e9, slope=1e5), dataclasses.replace(STEEP, learning_rate=1.0), steps=3)
    assert found.again > 0 and float(found.losses[-1, -1]) < 1000 * float(found.losses[0, -1])


def test_the_smaller_step_outlives_an_interruption(planted, tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint", "f" * 64)
    whole, parts = Steep(0.05), Steep(0.05)
    train(planted, whole, STEEP, steps=6)
    with pytest.raises(Stop):
        train(planted, parts, STEEP, steps=6, checkpoint=checkpoint, progress=stop_after(4))
    parts = Steep(0.05)
    assert train(planted, parts, STEEP, steps=6, checkpoint=checkpoint).again == 1
    assert torch.equal(parts.number, whole.number)


# --- interrupted


def stop_after(count):
    def report(progress):
        if progress.done == count:
            raise Stop

    return report


def interrupted(data, path: Path, count: int, fingerprint="these photos", config=CONFIG) -> Checkpoint:
    checkpoint = Checkpoint(path, fingerprint)
    with pytest.raises(Stop):
        trained(data, config, checkpoint=checkpoint, progress=stop_after(count))
    return checkpoint


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_an_interrupted_training_goes_on_to_the_same_bits(planted, whole, tmp_path, count):
    checkpoint = interrupted(planted, tmp_path / "c.safetensors", count)
    seen = []
    torch.rand(3)  # other random numbers are drawn in the meantime
    assert_same(trained(planted, checkpoint=checkpoint, progress=seen.append), whole)
    assert len(seen) == STEPS - count // 2 * 2  # a checkpoint every second iteration


def test_an_interrupted_training_with_every_term_goes_on_to_the_same_bits(planted, tmp_path):
    checkpoint = interrupted(planted, tmp_path / "c.safetensors", 3, config=FULL)
    assert_same(trained(planted, FULL, steps=4, checkpoint=checkpoint), trained(planted, FULL, steps=4))


def test_a_training_that_is_interrupted_again_and_again_arrives(planted, whole, tmp_path):
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "x")
    for done in (2, 4):
        with pytest.raises(Stop):
            trained(planted, checkpoint=checkpoint, progress=stop_after(done))
    assert_same(trained(planted, checkpoint=checkpoint), whole)


def begins_anew(data, checkpoint, whole) -> str:
    """The warning, after it was checked that the training began anew."""
    seen = []
    with pytest.warns(CheckpointWarning) as caught:
        assert_same(trained(data, checkpoint=checkpoint, progress=seen.append), whole)
    assert len(seen) == STEPS
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("The training begins anew, because its checkpoint can't be used: ")
    return message.partition(": ")[2]


def test_the_checkpoint_of_another_training_is_not_used(planted, whole, tmp_path):
    path = tmp_path / "c.safetensors"
    interrupted(planted, path, 4, fingerprint="other photos")
    wanted = f"'{path}' is of other photos or settings."
    assert begins_anew(planted, Checkpoint(path, "these photos"), whole) == wanted


def test_without_a_file_nothing_is_warned_of(planted, whole, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(trained(planted, checkpoint=Checkpoint(tmp_path / "c.safetensors", "x")), whole)


HOSTILE = {
    "cut off": lambda path, found: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path, found: path.write_bytes(b""),
    "a pickle": lambda path, found: torch.save(found, path),
    "no parameter": lambda path, found: write_safetensors(path, {n: v for n, v in found.items() if n != "parameter3"}),
    "another shape": lambda path, found: write_safetensors(path, {**found, "mean0": torch.zeros(2, 2)}),
    "another type": lambda path, found: write_safetensors(path, {**found, "done": torch.tensor([4.0])}),
    "NaN": lambda path, found: write_safetensors(path, {**found, "mean0": found["mean0"] * math.nan}),
    "a negative square": lambda path, found: write_safetensors(path, {**found, "square0": -found["square0"] - 1}),
    "done too much": lambda path, found: write_safetensors(path, {**found, "done": torch.tensor([STEPS])}),
    "done nothing": lambda path, found: write_safetensors(path, {**found, "done": torch.tensor([-1])}),
    "other losses": lambda path, found: write_safetensors(path, {**found, "losses": found["losses"][:1]}),
    "no such generator": lambda path, found: write_safetensors(
        path, {**found, "generator": torch.full_like(found["generator"], 255)}
    ),
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_damaged_or_hostile_checkpoint_is_not_used(planted, whole, tmp_path, damage):
    checkpoint = interrupted(planted, tmp_path / "c.safetensors", 4)
    HOSTILE[damage](checkpoint.path, load(checkpoint.path.read_bytes()))
    assert begins_anew(planted, checkpoint, whole).startswith(f"'{checkpoint.path}' is damaged")


def test_a_checkpoint_holds_tensors_and_nothing_else(planted, tmp_path):
    checkpoint = interrupted(planted, tmp_path / "c.safetensors", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
    found = read_safetensors(checkpoint.path, {"done": (torch.int64, (1,)), "losses": (torch.float32, (2, 7))})
    assert int(found["done"]) == 2


# --- other arithmetic


def test_bfloat16_trains_much_alike(planted, whole):
    _, _, losses = trained(planted, dataclasses.replace(CONFIG, precision="bfloat16"))
    assert not torch.equal(losses, whole[2])
    torch.testing.assert_close(losses[:, -1], whole[2][:, -1], rtol=0.1, atol=0)
