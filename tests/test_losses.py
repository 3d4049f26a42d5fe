"""The terms of the paper's objective: loops as reference, gradients, invariances, padding, devices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asic3d import losses
from asic3d.coordinates import cell_centres
from asic3d.losses import (
    PerceptualDistance,
    contrastive_loss,
    equivariance_loss,
    mask_loss,
    parts_loss,
    reconstruction_loss,
    sample_grid,
    sample_map,
    total_variation_loss,
)

SEEDS = st.integers(0, 2**20)


def random(seed, *shape, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


def identity(side):
    return cell_centres(side).double().reshape(1, side, side, 2)


def gradient(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


def bilinear(image, x, y):
    """image: (h, w, ...) values; the value at normalised x, y, each pixel's weight by hand."""
    height, width = len(image), len(image[0])
    u = min(max((x + 1) * width / 2 - 0.5, 0), width - 1)
    v = min(max((y + 1) * height / 2 - 0.5, 0), height - 1)
    total = torch.zeros_like(image[0][0])
    for row in range(height):
        for column in range(width):
            total = total + max(0, 1 - abs(u - column)) * max(0, 1 - abs(v - row)) * image[row][column]
    return total


# --- sampling


def test_a_map_is_read_as_by_hand():
    canonical, points = random(0, 2, 5, 5, 2), random(1, 2, 7, 2)  # some points beyond the photo
    assert (points.abs() > 1).any()
    found = sample_map(canonical, points)
    for b in range(2):
        for k in range(7):
            wanted = bilinear(canonical[b], *points[b, k].tolist())
            torch.testing.assert_close(found[b, k], wanted)
    torch.testing.assert_close(sample_map(canonical, points[:, None])[:, 0], found)


def test_the_grid_is_read_as_by_hand():
    grid, canonical = random(0, 4, 6, 6), random(1, 2, 3, 3, 2)
    found = sample_grid(grid, canonical)
    assert found.shape == (2, 4, 3, 3)
    for b in range(2):
        for row in range(3):
            for column in range(3):
                wanted = bilinear(grid.permute(1, 2, 0), *canonical[b, row, column].tolist())
                torch.testing.assert_close(found[b, :, row, column], wanted)


def test_the_identity_reads_the_grid_itself():
    grid = random(0, 4, 8, 8)
    torch.testing.assert_close(sample_grid(grid, identity(8))[0], grid)


def test_gradients_of_sampling():
    canonical, points = 0.4 * random(0, 2, 4, 4, 2), 0.4 * random(1, 2, 3, 2)
    grid = random(2, 4, 5, 5)
    assert torch.autograd.gradcheck(sample_map, (canonical.requires_grad_(), points.requires_grad_()))
    assert torch.autograd.gradcheck(sample_grid, (grid.requires_grad_(), canonical))


# --- contrastive


def contrastive_by_loops(first, second, used, temperature):
    """One logit after the other; the other side detached."""
    pairs = []
    for a, b, which in zip(first, second, used.tolist(), strict=True):
        members = [k for k, yes in enumerate(which) if yes]
        terms = []
        for k in members:
            for one, others in ((a, b.detach()), (b, a.detach())):
                logits = [-((one[k] - others[m]) ** 2).sum().sqrt() / temperature for m in members]
                terms.append(torch.stack(logits).logsumexp(0) - logits[members.index(k)])
        if terms:
            pairs.append(torch.stack(terms).sum() / len(members))
    return torch.stack(pairs).mean()


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_contrastive_as_by_loops_with_its_gradient(temperature):
    first, second = random(0, 4, 6, 2, requires_grad=True), random(1, 4, 6, 2, requires_grad=True)
    used = torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) < 0.6
    used[3] = False
    used[2] = torch.arange(6) == 4
    assert used[:2].sum() > 4
    found = contrastive_loss(first, second, used, temperature=temperature)
    wanted = contrastive_by_loops(first, second, used, temperature)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(gradient(3 * found, first, second), gradient(3 * wanted, first, second), strict=True):
        torch.testing.assert_close(one, other)
        assert one[~used].abs().max() == 0 and one[0].abs().max() > 0


def test_the_gradient_of_contrastive_is_that_of_the_side_which_moves():
    # The loss moves twice as much as its gradient says where both sides see a change; one side alone is seen by itself.
    first, second = random(0, 1, 5, 2, requires_grad=True), random(1, 1, 5, 2)
    used = torch.ones(1, 5, dtype=torch.bool)

    def rows(a):
        logits = -torch.cdist(a, second, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.nn.functional.cross_entropy(logits[0], torch.arange(5))

    assert torch.autograd.gradcheck(rows, (first,))
    wanted = gradient(rows(first), first)[0]
    found = gradient(contrastive_loss(first, second, used), first)[0]
    torch.testing.assert_close(found, wanted)


def test_contrastive_of_two_buddies_by_hand():
    # a_0 = (0, 0), a_1 = (3, 0), b_0 = (1, 0), b_1 = (3, 4)
    first = torch.tensor([[[0.0, 0], [3, 0]]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[[1.0, 0], [3, 4]]], dtype=torch.float64)
    found = contrastive_loss(first, second, torch.ones(1, 2, dtype=torch.bool), temperature=2.0)
    distances = {(0, 0): 1.0, (0, 1): 5.0, (1, 0): 2.0, (1, 1): 4.0}
    e = {key: math.exp(-value / 2) for key, value in distances.items()}
    rows = [math.log(1 + e[0, 1] / e[0, 0]), math.log(1 + e[1, 0] / e[1, 1])]
    columns = [math.log(1 + e[1, 0] / e[0, 0]), math.log(1 + e[0, 1] / e[1, 1])]
    assert float(found.detach()) == pytest.approx((sum(rows) + sum(columns)) / 2)
    # a_0 is drawn to b_0, which lies at +x, and pushed from b_1, which lies towards (0.6, 0.8)
    wrong = e[0, 1] / (e[0, 0] + e[0, 1])
    wanted = [wrong * (-1 + 0.6) / 4, wrong * 0.8 / 4]
    assert gradient(found, first)[0][0, 0].tolist() == pytest.approx(wanted)


@given(SEEDS, st.floats(0.0, 2 * math.pi), st.floats(-2, 2))
def test_contrastive_does_not_see_where_the_plane_lies(seed, angle, shift):
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    first, second = random(seed, 2, 5, 2), random(seed + 1, 2, 5, 2)
    used = torch.tensor([[True] * 5, [True, False, True, True, False]])
    plain = contrastive_loss(first, second, used)
    torch.testing.assert_close(contrastive_loss(first @ turn + shift, second @ turn + shift, used), plain)
    torch.testing.assert_close(contrastive_loss(second, first, used), plain)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(contrastive_loss(first[:, order], second[:, order], used[:, order]), plain)


@given(SEEDS, st.sampled_from([0.0, 1e9, math.nan, math.inf]))
def test_contrastive_does_not_see_its_padding(seed, filling):
    first, second = random(seed, 2, 4, 2), random(seed + 1, 2, 4, 2)
    padding = torch.full((2, 3, 2), filling, dtype=torch.float64)
    used = torch.tensor([[True] * 4 + [False] * 3] * 2)
    longer = [torch.cat([side, padding], 1).requires_grad_() for side in (first, second)]
    found = contrastive_loss(*longer, used)
    torch.testing.assert_close(found, contrastive_loss(first, second, used[:, :4]))
    for part in gradient(found, *longer):
        assert part[:, 4:].abs().max() == 0 and part.isfinite().all()


@pytest.mark.parametrize("pairs, buddies", [(2, 3), (0, 3), (2, 0)])
def test_contrastive_of_nothing_is_zero(pairs, buddies):
    first, second = random(0, pairs, buddies, 2, requires_grad=True), random(1, pairs, buddies, 2)
    found = contrastive_loss(first, second, torch.zeros(pairs, buddies, dtype=torch.bool))
    assert found == 0
    assert gradient(found, first)[0].abs().sum() == 0


def test_contrastive_of_points_in_one_place_is_finite():
    first = torch.zeros(1, 4, 2, requires_grad=True)
    found = contrastive_loss(first, torch.zeros(1, 4, 2), torch.ones(1, 4, dtype=torch.bool))
    assert float(found.detach()) == pytest.approx(2 * math.log(4))
    assert gradient(found, first)[0].abs().max() == 0


def test_contrastive_in_single_precision_near_its_goal():
    # Partners a hair apart: distances by dot products, or differences of products, would be noise here.
    first = random(0, 1, 50, 2)
    second = first + 1e-4 * random(1, 1, 50, 2)
    used = torch.ones(1, 50, dtype=torch.bool)
    wanted, found = (
        gradient(contrastive_loss(one, two, used, temperature=0.05), one)[0]
        for one, two in (
            (first.clone().requires_grad_(), second),
            (first.float().requires_grad_(), second.float()),
        )
    )
    torch.testing.assert_close(found.double(), wanted, rtol=2e-3, atol=1e-4)


def test_contrastive_of_many_pairs_is_that_of_each(monkeypatch):
    first, second = random(0, 5, 4, 2, requires_grad=True), random(1, 5, 4, 2, requires_grad=True)
    used = torch.ones(5, 4, dtype=torch.bool)
    whole = contrastive_loss(first, second, used)
    monkeypatch.setitem(losses._BLOCK, "cpu", 40)  # two pairs at a time
    blocks = contrastive_loss(first, second, used)
    torch.testing.assert_close(blocks, whole)
    for one, other in zip(gradient(blocks, first, second), gradient(whole, first, second), strict=True):
        torch.testing.assert_close(one, other)


# --- smoothness


def smooth_l1(value):
    return 0.5 * value**2 if abs(value) < 1 else abs(value) - 0.5


def test_total_variation_as_by_loops():
    flow = random(0, 2, 3, 4, 2)
    x = [smooth_l1(float(d)) for d in (flow[:, :, 1:] - flow[:, :, :-1]).flatten()]
    y = [smooth_l1(float(d)) for d in (flow[:, 1:] - flow[:, :-1]).flatten()]
    assert max(x) > 0.5 and min(x) < 0.5
    assert float(total_variation_loss(flow)) == pytest.approx(sum(x) / len(x) + sum(y) / len(y))


def test_the_gradient_of_total_variation():
    assert torch.autograd.gradcheck(total_variation_loss, (random(0, 1, 3, 4, 2, requires_grad=True),))
    # One photo of 2 x 2, one pixel moved by 0.5 in x: its two neighbours each differ by 0.5, in 4 numbers each.
    flow = torch.zeros(1, 2, 2, 2)
    flow[0, 0, 0, 0] = 0.5
    flow.requires_grad_()
    found = total_variation_loss(flow)
    assert float(found.detach()) == pytest.approx(2 * 0.125 / 4)
    wanted = torch.tensor([[0.25, -0.125], [-0.125, 0.0]])
    torch.testing.assert_close(gradient(found, flow)[0][0, :, :, 0], wanted)


@given(SEEDS, st.floats(-3, 3))
def test_total_variation_does_not_see_a_shift_or_a_mirror(seed, shift):
    flow = random(seed, 2, 4, 4, 2)
    plain = total_variation_loss(flow)
    torch.testing.assert_close(total_variation_loss(flow + shift), plain)
    torch.testing.assert_close(total_variation_loss(flow.flip(2)), plain)
    torch.testing.assert_close(total_variation_loss(flow.transpose(1, 2)), plain)
    assert total_variation_loss(torch.full_like(flow, shift)) == 0


# --- parts


def parts_by_loops(canonical, parts, count):
    total = torch.zeros((), dtype=canonical.dtype)
    for part in range(count):
        members = [canonical[tuple(place)] for place in (parts == part).nonzero().tolist()]
        if members:
            centroid = torch.stack(members).mean(0).detach()
            total = total + sum((member - centroid).abs().sum() for member in members)
    return total / canonical.numel()


def test_parts_as_by_loops_with_its_gradient():
    canonical = random(0, 2, 3, 4, 2, requires_grad=True)
    parts = torch.randint(-1, 3, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    found, wanted = parts_loss(canonical, parts, 5), parts_by_loops(canonical, parts, 5)  # two parts are nowhere
    torch.testing.assert_close(found, wanted)
    one, other = gradient(found, canonical)[0], gradient(wanted, canonical)[0]
    torch.testing.assert_close(one, other)
    assert one[parts < 0].abs().max() == 0


def test_parts_by_hand():
    canonical = torch.tensor([[[[0.0, 0], [1, 0]], [[2, 3], [9, 9]]]], requires_grad=True)
    parts = torch.tensor([[[0, 0], [0, -1]]])  # centroid (1, 1); distances 2, 1 and 3
    found = parts_loss(canonical, parts, 1)
    assert float(found.detach()) == pytest.approx((2 + 1 + 3) / 8)
    wanted = torch.tensor([[[-1.0, -1], [0, -1]], [[1, 1], [0, 0]]]) / 8
    torch.testing.assert_close(gradient(found, canonical)[0][0], wanted)


@given(SEEDS)
def test_parts_does_not_see_names_order_shift_or_background(seed):
    generator = torch.Generator().manual_seed(seed)
    canonical = random(seed, 2, 3, 3, 2)
    parts = torch.randint(-1, 4, (2, 3, 3), generator=generator)
    plain = parts_loss(canonical, parts, 4)
    renamed = torch.cat([torch.randperm(4, generator=generator), torch.tensor([-1])])[parts]
    torch.testing.assert_close(parts_loss(canonical, renamed, 4), plain)
    torch.testing.assert_close(parts_loss(canonical.flip(0), parts.flip(0), 4), plain)
    torch.testing.assert_close(parts_loss(canonical + 3, parts, 4), plain)
    elsewhere = torch.where((parts < 0)[..., None], 1e6, canonical)
    torch.testing.assert_close(parts_loss(elsewhere, parts, 4), plain)


def test_the_gradient_of_parts_with_centroids_that_stay():
    # Equal numbers of pixels on both sides of the centroid: it does not move when one of them does, not in the loss.
    canonical = torch.tensor([[[[-1.0, 2], [1, -2], [3, 1], [-3, -1]]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: parts_loss(c, torch.zeros(1, 1, 4, dtype=torch.int64), 1), (canonical,))


# --- equivariance


def test_equivariance_as_by_loops_with_its_gradient():
    canonical, of_warped = random(0, 2, 4, 4, 2, requires_grad=True), random(1, 2, 4, 4, 2, requires_grad=True)
    warp, inside = 0.5 * random(2, 2, 4, 4, 2), random(3, 2, 4, 4) > 0
    wanted = torch.zeros((), dtype=torch.float64)
    for b, row, column in inside.nonzero().tolist():
        moved = bilinear(canonical[b], *warp[b, row, column].tolist())
        own = of_warped[b, row, column]
        wanted = wanted + (own - moved.detach()).abs().sum() + (own.detach() - moved).abs().sum()
    wanted = wanted / canonical.numel()
    found = equivariance_loss(canonical, of_warped, warp, inside)
    torch.testing.assert_close(found, wanted)
    grads = gradient(found, canonical, of_warped)
    for one, other in zip(grads, gradient(wanted, canonical, of_warped), strict=True):
        torch.testing.assert_close(one, other)
    assert grads[1][~inside].abs().max() == 0
    # Each direction has the whole value and one side's gradient: together, of half the value.
    inputs = (canonical, of_warped)
    assert torch.autograd.gradcheck(lambda c, w: _half(equivariance_loss(c, w, warp, inside)), inputs)


def _half(loss):
    """A value whose change is what the gradient of the two directions says."""
    return loss - 0.5 * loss.detach()


def test_a_map_that_follows_the_warp_costs_nothing():
    canonical, warp = identity(5).expand(2, 5, 5, 2), identity(5).roll(1, 2).expand(2, 5, 5, 2)
    everywhere = torch.ones(2, 5, 5, dtype=torch.bool)
    assert float(equivariance_loss(canonical, warp, warp, everywhere)) == pytest.approx(0, abs=1e-6)
    # A map that did not follow a shift by a pixel, 0.4, in all but one column: both directions of one coordinate of two
    shifted = (identity(5) + torch.tensor([0.4, 0.0])).expand(2, 5, 5, 2)
    inside = everywhere.clone()
    inside[:, :, -1] = False
    found = equivariance_loss(canonical, canonical, shifted, inside)
    assert float(found) == pytest.approx(2 * 0.4 / 2 * 4 / 5)


# --- reconstruction and mask


def test_reconstruction_looks_at_the_object_alone():
    photos, rendered = random(0, 2, 3, 4, 4), random(1, 2, 3, 4, 4)
    masks = (random(2, 2, 1, 4, 4) > 0).double()
    seen = []

    def distance(one, other):
        seen.append((one, other))
        return (one - other).square().sum()

    found = reconstruction_loss(photos, rendered, masks, distance)
    wanted = ((photos - rendered).square() * masks).sum()
    torch.testing.assert_close(found, wanted)
    elsewhere = torch.where(masks > 0, rendered, 1e3)
    torch.testing.assert_close(reconstruction_loss(photos, elsewhere, masks, distance), wanted)
    torch.testing.assert_close(seen[0][0], rendered * masks)


def test_mask_as_by_loops_with_its_gradient():
    logits = random(0, 2, 3, 3, requires_grad=True)
    masks = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = 0.0
    for logit, mask in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        wanted -= (mask * math.log(p) + (1 - mask) * math.log(1 - p)) / 18
    assert float(mask_loss(logits, masks).detach()) == pytest.approx(wanted)
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, masks), (logits,))
    expected = (logits.sigmoid() - masks).detach() / 18
    torch.testing.assert_close(gradient(mask_loss(logits, masks), logits)[0], expected)


# --- perceptual distance


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance()


def picture(seed, side=32):
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def test_the_perceptual_distance_is_a_distance(distance):
    one, other = picture(0), picture(1)
    assert float(distance(one, one)) < 1e-9
    assert float(distance(one, other)) > 0.1
    torch.testing.assert_close(distance(one, other), distance(other, one))


def test_the_perceptual_distance_grows_with_noise_and_blur(distance):
    one = picture(0)
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(2))
    found = [float(distance(one + strength * noise, one)) for strength in (0.02, 0.05, 0.1, 0.2)]
    assert found == sorted(found) and found[-1] > 2 * found[0]


def test_the_perceptual_distance_as_by_loops(distance):
    one, other = picture(0), picture(1)
    wanted = 0.0
    for first, second in zip(distance._network(one).taps, distance._network(other).taps, strict=True):
        cells = first.shape[0] * first.shape[2] * first.shape[3]
        for b in range(first.shape[0]):
            for row in range(first.shape[2]):
                for column in range(first.shape[3]):
                    f, g = first[b, :, row, column], second[b, :, row, column]
                    wanted += float((f / f.norm() - g / g.norm()).square().sum()) / cells
    assert float(distance(one, other)) == pytest.approx(wanted, rel=1e-5)


def test_the_gradient_of_the_perceptual_distance_is_of_the_rendered_image(distance):
    photos = picture(0).requires_grad_()
    rendered = picture(1).requires_grad_()
    found = distance(rendered, photos)
    one, other = torch.autograd.grad(found, (rendered, photos), allow_unused=True)
    assert other is None and all(not p.requires_grad for s in distance._network._stages for p in s.parameters())
    exact, photos, rendered = double(PerceptualDistance()), photos.detach().double(), rendered.detach().double()
    for seed in range(3):
        along = random(seed, *rendered.shape)
        ahead, behind = (exact(rendered + step * along, photos) for step in (1e-7, -1e-7))
        assert float((one * along).sum()) == pytest.approx(float(ahead - behind) / 2e-7, rel=1e-2, abs=1e-3)


def double(distance):
    for stage in distance._network._stages:
        stage.double()
    return distance


def test_the_perceptual_distance_has_taps_at_a_half_a_quarter_and_an_eighth(distance):
    assert [tap.shape[2:] for tap in distance._network(picture(0)).taps] == [(16, 16), (8, 8), (4, 4)]


# --- devices


def on_meta(*shape, dtype=torch.float32, requires_grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta").requires_grad_(requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_term_follows_its_inputs(dtype):
    maps, other = (on_meta(2, 8, 8, 2, dtype=dtype, requires_grad=True) for _ in range(2))
    points, grid = on_meta(2, 5, 2, dtype=dtype, requires_grad=True), on_meta(4, 6, 6, dtype=dtype, requires_grad=True)
    flags, masks = on_meta(2, 8, 8, dtype=torch.bool), on_meta(2, 8, 8, dtype=dtype)
    rendered = sample_grid(grid, maps)
    assert rendered.shape == (2, 4, 8, 8)
    assert sample_map(maps, points).shape == (2, 5, 2)
    found = [
        contrastive_loss(points, points, on_meta(2, 5, dtype=torch.bool)),
        total_variation_loss(maps),
        parts_loss(maps, on_meta(2, 8, 8, dtype=torch.int64), 4),
        equivariance_loss(maps, other, other.detach(), flags),
        mask_loss(rendered[:, 3], masks),
        reconstruction_loss(masks[:, None], rendered[:, :3], masks[:, None], lambda a, b: (a - b).square().mean()),
    ]
    for loss in found:
        assert (loss.shape, loss.dtype, loss.device.type) == ((), dtype, "meta")
    torch.stack(found).sum().backward()
    for leaf in (maps, other, points, grid):
        assert leaf.grad is not None and leaf.grad.shape == leaf.shape and leaf.grad.device.type == "meta"


def test_the_perceptual_distance_on_another_device():
    distance = PerceptualDistance("meta")
    rendered = on_meta(2, 3, 32, 32, requires_grad=True)
    found = distance(rendered, on_meta(2, 3, 32, 32))
    assert (found.shape, found.device.type) == ((), "meta")
    assert gradient(found, rendered)[0].shape == rendered.shape


def test_the_callers_random_numbers_stay_as_they_are():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    PerceptualDistance()
    assert torch.equal(torch.rand(3), wanted)
