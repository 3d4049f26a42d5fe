"""Random warps and colours: a spline and each change of colour by definition, and where the draws come from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asic3d import warps
from asic3d.coordinates import cell_centres
from asic3d.warps import colour_jitter, random_warps, warp_photos

ANCHORS = [(-1, -1), (1, -1), (-1, 1), (1, 1), (0, 0)]
SEEDS = st.integers(0, 2**20)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(seed, count=3, side=16):
    coarse = torch.rand(count, 3, 4, 4, generator=generator(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


# --- warps


def spline_by_loops(moves, x, y):
    """The thin-plate spline through five points, from its definition: affine + sum of w r^2 log r^2."""

    def kernel(r2):
        return 0.0 if r2 == 0 else r2 * math.log(r2)

    system, right = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 2, dtype=torch.float64)
    for i, (px, py) in enumerate(ANCHORS):
        for j, (qx, qy) in enumerate(ANCHORS):
            system[i, j] = kernel((px - qx) ** 2 + (py - qy) ** 2)
        for j, value in enumerate((1, px, py)):
            system[i, 5 + j] = system[5 + j, i] = value
        right[i] = torch.tensor([px, py]) + moves[i]
    solved = torch.linalg.solve(system, right)
    found = solved[5] + solved[6] * x + solved[7] * y
    for weight, (px, py) in zip(solved[:5], ANCHORS, strict=True):
        found = found + weight * kernel((x - px) ** 2 + (y - py) ** 2)
    return found


def test_a_warp_is_a_thin_plate_spline():
    found = random_warps(2, 6, scale=0.4, generator=generator(3))
    moves = 0.4 * (2 * torch.rand(2, 5, 2, generator=generator(3)) - 1)
    places = cell_centres(6).tolist()
    for b in range(2):
        wanted = torch.stack([spline_by_loops(moves[b].double(), x, y) for x, y in places])
        torch.testing.assert_close(found[b].reshape(-1, 2).double(), wanted, atol=1e-6, rtol=0)


def test_a_warp_without_strength_is_the_identity():
    found = random_warps(2, 8, scale=0.0, generator=generator())
    torch.testing.assert_close(found, cell_centres(8).reshape(1, 8, 8, 2).expand(2, 8, 8, 2))


@given(SEEDS, st.floats(0.01, 0.5), st.floats(-1, 1))
def test_a_warp_grows_with_its_strength(seed, scale, factor):
    place = cell_centres(6).reshape(6, 6, 2)
    one, other = (random_warps(2, 6, scale=s, generator=generator(seed)) - place for s in (scale, factor * scale))
    torch.testing.assert_close(other, factor * one, atol=1e-5, rtol=0)


def test_five_points_that_move_alike_move_everything(monkeypatch):
    shift, size = torch.tensor([0.2, -0.1]), 6
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: ((shift + 1) / 2).expand(*shape))
    found = random_warps(2, size, scale=1.0, generator=generator())
    wanted = (cell_centres(size) + shift).reshape(1, size, size, 2).expand(2, -1, -1, -1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_warps_are_spread_over_what_the_scale_allows():
    moves = random_warps(400, 2, scale=0.4, generator=generator()) - cell_centres(2).reshape(2, 2, 2)
    assert 0.1 < float(moves.std()) < 0.25  # evenly distributed in [-0.4, 0.4] has 0.23, at the corners
    assert abs(float(moves.mean())) < 0.02


# --- colours


def colours_by_steps(photo, draw):
    """One photo, one change after the other, one pixel after the other."""
    luma = (0.299, 0.587, 0.114)
    change = [2 * value - 1 if draw[4] < 0.8 else 0.0 for value in draw[:4]]
    brightness, contrast, saturation = 1 + 0.4 * change[0], 1 + 0.4 * change[1], 1 + 0.2 * change[2]
    angle = 2 * math.pi * 0.1 * change[3]
    to_yiq = torch.tensor([luma, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
    pixels = []
    for colour in photo.flatten(1).T:
        y, i, q = (to_yiq @ (brightness * colour)).tolist()
        i, q = math.cos(angle) * i - math.sin(angle) * q, math.sin(angle) * i + math.cos(angle) * q
        colour = torch.linalg.solve(to_yiq, torch.tensor([y, i, q]))
        colour = y + (0.0 if draw[5] < 0.2 else saturation) * (colour - y)
        pixels.append(colour)
    changed = torch.stack(pixels, 1)
    mean = float((changed * torch.tensor(luma)[:, None]).sum(0).mean())
    changed = (mean + contrast * (changed - mean)).clamp(0, 1)
    if draw[6] < 0.2:
        threshold = 0.4 + 0.2 * draw[7]
        changed = torch.where(changed >= threshold, 1 - changed, changed)
    return changed.reshape(photo.shape)


def test_colours_as_by_steps():
    photos = pictures(0, count=24, side=6)
    draws = torch.rand(24, 8, generator=generator(5))
    kinds = {(bool(d[4] < 0.8), bool(d[5] < 0.2), bool(d[6] < 0.2)) for d in draws}
    assert len(kinds) >= 5  # with and without each of the three
    found = colour_jitter(photos, generator(5))
    for photo, draw, one in zip(photos, draws.tolist(), found, strict=True):
        torch.testing.assert_close(one, colours_by_steps(photo, draw), atol=2e-5, rtol=0)


@given(SEEDS)
def test_colours_stay_colours_and_grays_stay_gray(seed):
    photos = torch.rand(4, 3, 5, 5, generator=generator(seed))
    found = colour_jitter(photos, generator(seed))
    assert found.shape == photos.shape and float(found.min()) >= 0 and float(found.max()) <= 1
    gray = photos[:, :1].expand(-1, 3, -1, -1)
    once = colour_jitter(gray, generator(seed))
    # where a gray lies at a threshold, rounding may invert one of its colours
    apart = (once - once.mean(1, keepdim=True)).abs().amax((1, 2, 3))
    assert (apart < 1e-4).sum() >= 3


def test_no_draw_changes_nothing(monkeypatch):
    photos = pictures(0)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.9))  # beyond every share
    torch.testing.assert_close(colour_jitter(photos, generator()), photos, atol=1e-6, rtol=0)


def test_about_as_many_photos_change_as_shall():
    photos = pictures(0, count=1).expand(600, 3, 16, 16)
    found = colour_jitter(photos, generator())
    gray = ((found - found.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-4).float().mean()
    same = ((found - photos).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert float(gray) == pytest.approx(0.2, abs=0.05)
    assert float(same) == pytest.approx(0.2 * 0.8 * 0.8, abs=0.04)


# --- both


def test_photos_and_masks_are_taken_from_the_same_places():
    ramp = (cell_centres(16).reshape(1, 16, 16, 2) + 1) / 2
    photos = torch.cat([ramp, ramp[..., :1]], 3).permute(0, 3, 1, 2).expand(2, -1, -1, -1)
    masks = (ramp[..., :1] < 0.5).float().permute(0, 3, 1, 2).expand(2, -1, -1, -1)
    found = warp_photos(photos, masks, scale=0.4, generator=generator(1))
    inside = (found.warp.abs() <= 1).all(-1)
    assert inside.any() and not inside.all()
    assert float(found.masks[:, 0][~inside].max()) == 0
    well = inside & ((found.warp[..., 0]).abs() > 2 / 16)
    torch.testing.assert_close(found.masks[:, 0][well], (found.warp[..., 0][well] < 0).float())
    plain = colour_jitter(
        torch.nn.functional.grid_sample(photos, found.warp, padding_mode="border", align_corners=False),
        _after_the_warp(2, 1),
    )
    torch.testing.assert_close(found.photos, plain)


def _after_the_warp(count, seed):
    source = generator(seed)
    random_warps(count, 2, scale=0.4, generator=source)
    return source


@pytest.mark.parametrize("seed", [0, 7])
def test_the_generator_makes_every_draw(seed):
    photos, masks = pictures(0), torch.ones(3, 1, 16, 16)
    torch.manual_seed(0)
    one = warp_photos(photos, masks, scale=0.4, generator=generator(seed))
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    other = warp_photos(photos, masks, scale=0.4, generator=generator(seed))
    for name in ("warp", "photos", "masks"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    third = warp_photos(photos, masks, scale=0.4, generator=generator(seed + 1))
    assert not torch.allclose(one.warp, third.warp)
    assert not torch.allclose(one.warp[0], one.warp[1])  # every photo has its own


def test_photos_of_one_batch_do_not_see_each_other():
    photos, masks = pictures(0), torch.ones(3, 1, 16, 16)
    one = warp_photos(photos, masks, scale=0.4, generator=generator())
    swapped = torch.stack([photos[0], photos[2], photos[1]])
    other = warp_photos(swapped, masks, scale=0.4, generator=generator())
    assert torch.equal(one.photos[0], other.photos[0])


def test_warped_photos_carry_no_gradient_and_follow_the_photos():
    photos, masks = pictures(0).double().requires_grad_(), torch.ones(3, 1, 16, 16, dtype=torch.float64)
    found = warp_photos(photos, masks, scale=0.4, generator=generator())
    for part in (found.warp, found.photos, found.masks):
        assert part.dtype == torch.float64 and not part.requires_grad
    elsewhere = warp_photos(
        torch.empty(2, 3, 8, 8, device="meta"),
        torch.empty(2, 1, 8, 8, device="meta"),
        scale=0.4,
        generator=generator(),
    )
    assert (elsewhere.photos.shape, elsewhere.photos.device.type) == ((2, 3, 8, 8), "meta")
    assert (elsewhere.warp.shape, elsewhere.masks.shape) == ((2, 8, 8, 2), (2, 1, 8, 8))


def test_the_algebra_of_the_control_points_is_done_once():
    warps._influence.cache_clear()
    for seed in range(3):
        random_warps(2, 8, scale=0.4, generator=generator(seed))
    assert warps._influence.cache_info().misses == 1
