"""The objective of one batch: what it is made of, what it skips, and that the benchmark's other side agrees."""

import dataclasses
import importlib
from pathlib import Path

import pytest
import torch

from asic3d import losses
from asic3d import objective as module
from asic3d.alignment_network import AlignmentNetwork
from asic3d.config import make_config
from asic3d.coordinates import cell_centres
from asic3d.objective import TERMS, Batch, map_both, objective
from asic3d.warps import warp_photos

PHOTOS, SIDE, PAIRS, BUDDIES = 4, 16, 3, 6
NOTHING = {f"weight_{name}": 0.0 for name in TERMS}
WEIGHTS = dict(zip(TERMS, (30.0, 15000.0, 10.0, 1.0, 1.0, 0.1), strict=True))


def squared(one, other):
    """Stands in for the perceptual distance where the network is not the point."""
    return (one - other).square().mean()


def config(**settings):
    return make_config("paper", **settings)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def make_batch(side=SIDE, dtype=torch.float64, warped=True):
    draw = generator(0)
    photos = torch.rand(PHOTOS, 3, side, side, generator=draw, dtype=dtype)
    masks = (cell_centres(side).norm(dim=1) < 0.8).to(dtype).reshape(1, 1, side, side).expand(PHOTOS, -1, -1, -1)
    parts = torch.randint(0, 4, (PHOTOS, side, side), generator=draw).where(masks[:, 0] > 0, -1)
    first, second = (1.6 * torch.rand(PAIRS, BUDDIES, 2, generator=draw, dtype=dtype) - 0.8 for _ in range(2))
    used = torch.rand(PAIRS, BUDDIES, generator=draw) < 0.7
    pairs = torch.tensor([[0, 1], [0, 2], [3, 1]])
    others = warp_photos(photos, masks, scale=0.4, generator=generator(1)) if warped else None
    return Batch(photos, masks, parts, pairs, first, second, used, others)


def make_maps(batch, seed):
    count, _, side, _ = batch.photos.shape
    place = cell_centres(side).to(batch.photos.dtype).reshape(1, side, side, 2)
    noise = torch.randn(count, side, side, 2, generator=generator(seed), dtype=place.dtype)
    return (place + 0.1 * noise).requires_grad_()


@pytest.fixture(scope="module")
def batch():
    return make_batch()


@pytest.fixture
def inputs(batch):
    grid = torch.rand(4, 12, 12, generator=generator(4), dtype=torch.float64).requires_grad_()
    return make_maps(batch, 2), make_maps(batch, 3), grid


def test_the_settings_have_the_papers_weights():
    assert {name: getattr(config(), f"weight_{name}") for name in TERMS} == WEIGHTS


def test_the_total_is_the_weighted_sum(batch, inputs):
    found = objective(batch, *inputs, config(), squared)
    assert set(found) == {*TERMS, "total"}
    assert all(float(found[name].detach()) > 0 for name in TERMS)
    torch.testing.assert_close(found["total"], sum(WEIGHTS[name] * found[name] for name in TERMS))


def test_each_term_is_its_function_of_the_batch(batch, inputs):
    canonical, of_warped, grid = inputs
    found = objective(batch, *inputs, config(temperature=0.3), squared)
    sides = []
    for column, points in enumerate((batch.first, batch.second)):
        rows = [
            losses.sample_map(canonical[i : i + 1], places[None])[0]
            for i, places in zip(batch.pairs[:, column].tolist(), points, strict=True)
        ]
        sides.append(torch.stack(rows))
    flow = canonical - cell_centres(SIDE).reshape(SIDE, SIDE, 2)
    warped = batch.warped
    views = [(batch.photos, batch.masks, canonical), (warped.photos, warped.masks, of_warped)]
    rendered = [losses.sample_grid(grid, maps) for _, _, maps in views]
    wanted = {
        "contrastive": losses.contrastive_loss(*sides, batch.used, temperature=0.3),
        "smoothness": losses.total_variation_loss(flow),
        "parts": losses.parts_loss(canonical, batch.parts, 4),
        "equivariance": losses.equivariance_loss(canonical, of_warped, warped.warp, warped.masks[:, 0] > 0.5),
        "reconstruction": sum(
            0.5 * losses.reconstruction_loss(photos, image[:, :3], masks, squared)
            for (photos, masks, _), image in zip(views, rendered, strict=True)
        ),
        "mask": sum(
            0.5 * losses.mask_loss(image[:, 3], masks[:, 0])
            for (_, masks, _), image in zip(views, rendered, strict=True)
        ),
    }
    for name in TERMS:
        torch.testing.assert_close(found[name], wanted[name])


FUNCTIONS = {
    "contrastive": "contrastive_loss",
    "smoothness": "total_variation_loss",
    "parts": "parts_loss",
    "equivariance": "equivariance_loss",
    "reconstruction": "reconstruction_loss",
    "mask": "mask_loss",
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_of_weight_zero_is_not_computed(name, batch, inputs, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed")

    monkeypatch.setattr(module, FUNCTIONS[name], refuse)
    with pytest.raises(AssertionError, match=r"^computed$"):
        objective(batch, *inputs, config(), squared)
    found = objective(batch, *inputs, config(**{f"weight_{name}": 0.0}), squared)
    assert float(found[name]) == 0
    assert float(found["total"].detach()) == pytest.approx(
        sum(WEIGHTS[other] * float(found[other].detach()) for other in TERMS)
    )


def test_a_term_alone_moves_what_it_depends_on(batch, inputs):
    moved = {}
    for name in TERMS:
        found = objective(batch, *inputs, config(**{**NOTHING, f"weight_{name}": 1.0}), squared)
        torch.testing.assert_close(found["total"], found[name])
        parts = torch.autograd.grad(found["total"], inputs, allow_unused=True)
        moved[name] = [part is not None and bool(part.abs().max() > 0) for part in parts]
    map_alone, both_maps, everything = [True, False, False], [True, True, False], [True, True, True]
    assert moved == {
        "contrastive": map_alone,
        "smoothness": map_alone,
        "parts": map_alone,
        "equivariance": both_maps,
        "reconstruction": everything,
        "mask": everything,
    }


def test_what_has_no_weight_need_not_be_there(inputs):
    batch = make_batch(warped=False)
    settings = {"weight_equivariance": 0.0, "weight_reconstruction": 0.0, "weight_mask": 0.0}
    found = objective(batch, inputs[0], None, None, config(**settings))
    assert float(found["total"].detach()) > 0
    nothing = objective(batch, inputs[0], None, None, config(**NOTHING))
    assert all(float(value) == 0 for value in nothing.values())


def test_without_warped_photos_one_pass_is_rendered(inputs):
    batch, (canonical, _, grid) = make_batch(warped=False), inputs
    found = objective(batch, canonical, None, grid, config(weight_equivariance=0.0), squared)
    image = losses.sample_grid(grid, canonical)
    torch.testing.assert_close(found["mask"], losses.mask_loss(image[:, 3], batch.masks[:, 0]))
    wanted = losses.reconstruction_loss(batch.photos, image[:, :3], batch.masks, squared)
    torch.testing.assert_close(found["reconstruction"], wanted)


def test_photos_are_compared_at_128_pixels_at_most():
    seen = []

    def look(one, other):
        seen.append((one.shape, other.shape))
        return (one - other).square().mean()

    batch = make_batch(side=256, dtype=torch.float32)
    maps, grid = make_maps(batch, 2), torch.rand(4, 12, 12)
    settings = config(**{**NOTHING, "weight_reconstruction": 1.0})
    objective(batch, maps, maps, grid, settings, look)
    assert seen == [((2 * PHOTOS, 3, 128, 128),) * 2]
    # A grid that holds the photo is seen as the photo, at the lower resolution too.
    place = cell_centres(256).reshape(1, 256, 256, 2)
    ramp = torch.cat([place, place.mean(3, keepdim=True), place[..., :1]], 3).permute(0, 3, 1, 2) / 2 + 0.5
    still = Batch(
        ramp[:, :3], batch.masks[:1], *(getattr(batch, name) for name in ("parts", "pairs", "first")), None, None
    )  # type: ignore[arg-type]
    found = objective(still, place, None, ramp[0], settings, squared)
    assert float(found["reconstruction"]) < 1e-8


def test_padding_is_not_seen(batch, inputs):
    settings = config(**{**NOTHING, "weight_contrastive": 1.0})
    elsewhere = torch.where(batch.used[..., None], batch.first, 0.3)
    changed = dataclasses.replace(batch, first=elsewhere)
    assert not torch.equal(elsewhere, batch.first)
    one, other = (objective(b, *inputs, settings, squared)["total"] for b in (batch, changed))
    torch.testing.assert_close(one, other)
    grads = [torch.autograd.grad(loss, inputs[0])[0] for loss in (one, other)]
    torch.testing.assert_close(*grads)


def test_the_gradient_of_what_is_differentiable_throughout(batch, inputs):
    # Contrastive, equivariance and parts hold something fixed: their gradients are compared term by term, with loops.
    settings = config(**{**NOTHING, "weight_smoothness": 1.0, "weight_reconstruction": 1.0, "weight_mask": 1.0})
    small = make_batch(side=4)
    maps, others = make_maps(small, 2), make_maps(small, 3)
    grid = torch.rand(4, 5, 5, generator=generator(4), dtype=torch.float64).requires_grad_()
    total = lambda c, w, g: objective(small, c, w, g, settings, squared)["total"]  # noqa: E731
    assert torch.autograd.gradcheck(total, (maps, others, grid))


def test_both_maps_come_from_one_pass_and_are_those_of_two(batch):
    network = AlignmentNetwork(0.0625, seed=0).double()
    torch.nn.init.normal_(network.flow.weight, generator=generator(0))
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    one, other = map_both(network, batch)
    assert len(calls) == 1
    torch.testing.assert_close(one, network(batch.photos))
    torch.testing.assert_close(other, network(batch.warped.photos))
    alone, none = map_both(network, make_batch(warped=False))
    assert none is None
    torch.testing.assert_close(alone, one)


def test_the_objective_on_another_device():
    def away(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    pictures = away(2, 3, 160, 160), away(2, 1, 160, 160)
    warped = warp_photos(*pictures, scale=0.4, generator=generator(0))
    batch = Batch(
        *pictures,
        away(2, 160, 160, dtype=torch.int64),
        away(1, 2, dtype=torch.int64),
        away(1, 5, 2),
        away(1, 5, 2),
        away(1, 5, dtype=torch.bool),
        warped,
    )
    network, grid = AlignmentNetwork(0.0625, seed=0).to("meta"), away(4, 32, 32).requires_grad_()
    found = objective(batch, *map_both(network, batch), grid, config(), losses.PerceptualDistance("meta"))
    assert all((value.shape, value.device.type) == ((), "meta") for value in found.values())
    found["total"].backward()
    assert grid.grad is not None and grid.grad.shape == grid.shape
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in network.parameters())


def test_a_step_against_the_gradient_lowers_the_objective(batch):
    network = AlignmentNetwork(0.0625, seed=0)
    single = make_batch(dtype=torch.float32)
    grid = torch.full((4, 12, 12), 0.5).requires_grad_()
    optimiser = torch.optim.Adam([*network.parameters(), grid], lr=1e-3)
    values = []
    for _ in range(8):
        found = objective(single, *map_both(network, single), grid, config(), squared)
        values.append(float(found["total"].detach()))
        optimiser.zero_grad()
        found["total"].backward()
        optimiser.step()
    assert values[-1] < values[0]


# --- the benchmark's other side


@pytest.fixture(scope="module")
def plain():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield importlib.import_module("straightforward")


def test_the_straightforward_implementation_comes_to_the_same(plain):
    # In double precision: in single precision, rounding decides on which side of a kink of the network an input lies.
    batch = dataclasses.replace(make_batch(side=32), pairs=torch.tensor([[0, 1], [2, 3], [3, 1]]))
    network = AlignmentNetwork(0.0625, seed=0).double()
    torch.nn.init.normal_(network.flow.weight, std=0.05, generator=generator(0))
    grid = torch.rand(4, 32, 32, generator=generator(4), dtype=torch.float64).requires_grad_()
    one = objective(batch, *map_both(network, batch), grid, config(), squared)
    maps = plain.map_photos(network, batch.photos), plain.map_photos(network, batch.warped.photos)
    other = plain.objective(batch, *maps, grid, config(), squared)
    leaves = dict(network.named_parameters(), grid=grid)
    gradients = [torch.autograd.grad(found["total"], list(leaves.values())) for found in (one, other)]
    for name in (*TERMS, "total"):
        torch.testing.assert_close(one[name], other[name].double(), rtol=1e-6, atol=1e-9)
    for name, mine, wanted in zip(leaves, *gradients, strict=True):
        assert float((mine - wanted).norm()) < 1e-6 * float(wanted.norm()), name


def test_the_straightforward_perceptual_distance_comes_to_the_same(plain):
    rendered, photos = torch.rand(2, 2, 3, 32, 32, generator=generator(0))
    rendered.requires_grad_()
    found = [side(rendered, photos) for side in (losses.PerceptualDistance(), plain.Perceptual())]
    torch.testing.assert_close(*found)
    one, other = (torch.autograd.grad(value, rendered)[0] for value in found)
    assert float((one - other).norm()) < 0.01 * float(other.norm())  # inputs within rounding of a kink: see above


def test_the_straightforward_warps_come_to_the_same(plain):
    photos, masks = torch.rand(3, 3, 16, 16, generator=generator(0)), torch.ones(3, 1, 16, 16)
    one = warp_photos(photos, masks, scale=0.4, generator=generator(1))
    other = plain.warp_photos(photos, masks, scale=0.4, generator=generator(1))
    for name in ("warp", "photos", "masks"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-4, rtol=0)
