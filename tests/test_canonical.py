"""The maps into the canonical plane: against dense least squares, scipy's splines, and planted warps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import BSpline

from asic3d import canonical
from asic3d.best_buddies import BestBuddies
from asic3d.canonical import (
    AFFINE_SCALES,
    SPLINE_SCALES,
    affine_map,
    bending_energy,
    fit_affine,
    fit_spline,
    learn_metric,
    place_affine,
    place_spline,
    robust_weight,
    spline_basis,
    start_affine,
)
from asic3d.coordinates import cell_centres

GRID, POINTS = 12, 5
CELLS = GRID**2


def random_matches(photos=3, count=60, seed=0):
    """Matches between all pairs of photos, pair by pair, at random cells."""
    generator = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(photos) for j in range(i + 1, photos)]
    rows = [(i, j, *generator.integers(0, CELLS, 2)) for i, j in pairs for _ in range(count)]
    first, second, p, q = torch.tensor(np.array(rows)).T
    return BestBuddies(first, second, p, q, torch.from_numpy(generator.uniform(0.2, 1, len(rows))).float())


def random_weights(buddies, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 1, len(buddies)))


def random_affine(photos=3, seed=0):
    generator = np.random.default_rng(seed)
    linear = np.eye(2) + generator.normal(0, 0.15, (photos, 2, 2))
    return torch.from_numpy(np.concatenate([linear, generator.normal(0, 0.2, (photos, 1, 2))], 1))


# --- building blocks


@pytest.mark.parametrize(("grid", "count"), [(7, 4), (12, 5), (40, 8)])
def test_the_basis_is_scipys_cubic_b_spline(grid, count):
    step = 2 / (count - 3)  # count - 3 intervals over [-1, 1], and three knots beyond each end
    knots = -1 + step * (np.arange(count + 4) - 3)
    line = (2 * np.arange(grid) + 1) / grid - 1
    one = BSpline.design_matrix(line, knots, 3).toarray()
    wanted = np.einsum("yi,xj->yxij", one, one).reshape(grid**2, count**2)
    np.testing.assert_allclose(spline_basis(grid, count).numpy(), wanted, atol=1e-6)


def test_a_plane_costs_no_bending_and_a_parabola_what_thin_plates_say():
    n = 6
    energy = bending_energy(n)
    y, x = np.meshgrid(np.arange(n, dtype=float), np.arange(n, dtype=float), indexing="ij")

    def cost(values):
        values = torch.from_numpy(values).reshape(-1)
        return float(values @ energy @ values)

    assert cost(3 * x - 2 * y + 1) == pytest.approx(0, abs=1e-9)
    assert cost(x**2) == pytest.approx(n * (n - 2) * 4)  # second difference 2, at n - 2 places of n rows
    assert cost(y**2) == pytest.approx(n * (n - 2) * 4)
    assert cost(x * y) == pytest.approx(2 * (n - 1) ** 2)  # mixed difference 1
    assert float(torch.linalg.eigvalsh(energy).min()) > -1e-9


def test_the_robust_weight_falls_from_one_and_is_a_quarter_at_its_scale():
    residual = torch.tensor([0.0, 0.3, 3.0], dtype=torch.float64)
    assert robust_weight(residual**2, 0.3).tolist() == pytest.approx([1, 0.25, (0.09 / 9.09) ** 2])


def test_the_start_lays_every_object_over_the_origin_at_one_size():
    weight = torch.rand(3, GRID, GRID, generator=torch.Generator().manual_seed(0))
    weight[1, :, :7] = 0
    weight[2, 3:, :] = 0
    at = affine_map(start_affine(weight), GRID)
    share = (weight / weight.sum((1, 2), keepdim=True)).flatten(1).double()[..., None]
    mean = (share * at).sum(1)
    deviation = (share * (at - mean[:, None]) ** 2).sum(1).sqrt()
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-6, rtol=0)
    torch.testing.assert_close(deviation.mean(1), torch.full((3,), 0.5, dtype=torch.float64), atol=1e-6, rtol=0)


def test_an_object_of_one_cell_starts_finite():
    weight = torch.zeros(2, GRID, GRID)
    weight[:, 3, 4] = 1
    assert bool(start_affine(weight).isfinite().all())


def test_affine_maps_are_applied_to_the_cell_centres():
    affine = random_affine()
    found = affine_map(affine, GRID)
    for photo in range(3):
        for cell in (0, 5, CELLS - 1):
            x, y = cell_centres(GRID)[cell].tolist()
            a = affine[photo].numpy()
            np.testing.assert_allclose(found[photo, cell], x * a[0] + y * a[1] + a[2], atol=1e-7)


# --- joint solutions against a dense least squares that stacks one row for each match


def slow_affine(buddies, weight, start, affine, scales):
    """Rows of sqrt(weight) (h_p A_i - h_q A_j) = 0 and of the pull to the start, solved with lstsq."""
    photos = len(start)
    h = np.concatenate([cell_centres(GRID).numpy().astype(float), np.ones((CELLS, 1))], 1)
    rows = list(zip(*(c.tolist() for c in as_columns(buddies)), strict=True))
    size = np.mean([np.linalg.norm(a[:2]) for a in start.numpy()])
    affine = affine.numpy()
    for scale in [s for s in scales for _ in range(canonical._AFFINE_STEPS)]:
        robust = []
        for i, j, p, q in rows:
            squared = ((h[p] @ affine[i] - h[q] @ affine[j]) ** 2).sum()
            robust.append((scale**2 / (scale**2 + squared)) ** 2)
        w = weight.numpy() * robust
        left, right = np.zeros((len(rows), 3 * photos)), np.zeros((len(rows), 2))
        for row, (i, j, p, q) in enumerate(rows):
            left[row, 3 * i : 3 * i + 3] = np.sqrt(w[row]) * h[p]
            left[row, 3 * j : 3 * j + 3] = -np.sqrt(w[row]) * h[q]
        pull = np.sqrt(0.02 * w.sum() / photos)
        left = np.concatenate([left, pull * np.eye(3 * photos)])
        right = np.concatenate([right, pull * start.numpy().reshape(-1, 2)])
        affine = np.linalg.lstsq(left, right, rcond=None)[0].reshape(photos, 3, 2)
        affine = affine * (size / np.mean([np.linalg.norm(a[:2]) for a in affine]))
    return affine


def as_columns(buddies):
    return buddies.first, buddies.second, buddies.first_cell, buddies.second_cell


@pytest.mark.parametrize("turn", [0, 1])
def test_joint_affine_maps_are_the_dense_least_squares_solution(turn):
    buddies = random_matches()
    weight, start, begin = random_weights(buddies), random_affine(seed=1), random_affine(seed=2)
    found = fit_affine(buddies, weight, start, begin, GRID, AFFINE_SCALES[turn])
    wanted = slow_affine(buddies, weight, start, begin, AFFINE_SCALES[turn])
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-8)


def slow_spline(buddies, weight, affine, start, bending):
    photos, size = len(affine), POINTS**2
    basis, affine, at = spline_basis(GRID, POINTS).numpy(), affine.numpy(), start.numpy()
    values, vectors = np.linalg.eigh(bending * bending_energy(POINTS).numpy() + 0.01 * np.eye(size))
    root = np.sqrt(values)[:, None] * vectors.T  # root' root = the stiffness
    rows = list(zip(*(c.tolist() for c in as_columns(buddies)), strict=True))
    for scale in SPLINE_SCALES:
        squared = np.array([((at[i, p] - at[j, q]) ** 2).sum() for i, j, p, q in rows])
        w = weight.numpy() * (scale**2 / (scale**2 + squared)) ** 2
        left, right = np.zeros((len(rows), photos, size)), np.zeros((len(rows), 2))
        for row, (i, j, p, q) in enumerate(rows):
            left[row, i] += np.sqrt(w[row]) * basis[p]
            left[row, j] -= np.sqrt(w[row]) * basis[q]
            right[row] = -np.sqrt(w[row]) * (affine[i, p] - affine[j, q])
        stiff = np.sqrt(2 * w.sum() / (photos * size)) * np.kron(np.eye(photos), root)
        left = np.concatenate([left.reshape(len(rows), -1), stiff])
        right = np.concatenate([right, np.zeros((photos * size, 2))])
        control = np.linalg.lstsq(left, right, rcond=None)[0].reshape(photos, size, 2)
        at = affine + basis @ control
    return at


@pytest.mark.parametrize("bending", [0.3, 0.002])
def test_joint_splines_are_the_dense_least_squares_solution(bending):
    buddies = random_matches()
    weight, affine = random_weights(buddies), affine_map(random_affine(seed=1), GRID)
    start = affine + 0.05 * torch.from_numpy(np.random.default_rng(4).normal(size=affine.shape))
    found = fit_spline(buddies, weight, affine, start, grid=GRID, control_points=POINTS, bending=bending)
    np.testing.assert_allclose(found.numpy(), slow_spline(buddies, weight, affine, start, bending), atol=1e-7)


def test_a_photo_without_a_match_keeps_its_affine_map():
    buddies = random_matches(2)
    affine = affine_map(random_affine(3), GRID)
    found = fit_spline(buddies, random_weights(buddies), affine, affine, grid=GRID, control_points=POINTS, bending=0.01)
    torch.testing.assert_close(found[2], affine[2], atol=1e-12, rtol=0)
    assert float((found[0] - affine[0]).abs().max()) > 1e-3


def slow_place_affine(cells, targets, weight, start, affine, scales):
    h = np.concatenate([cell_centres(GRID).numpy().astype(float), np.ones((CELLS, 1))], 1)[cells.numpy()]
    affine = affine.numpy()
    for scale in [s for s in scales for _ in range(canonical._AFFINE_STEPS)]:
        squared = ((h @ affine - targets.numpy()) ** 2).sum(1)
        w = weight.numpy() * (scale**2 / (scale**2 + squared)) ** 2
        pull = np.sqrt(0.02 * w.sum())
        left = np.concatenate([np.sqrt(w)[:, None] * h, pull * np.eye(3)])
        right = np.concatenate([np.sqrt(w)[:, None] * targets.numpy(), pull * start.numpy()])
        affine = np.linalg.lstsq(left, right, rcond=None)[0]
    return affine


def test_one_photo_is_placed_by_the_dense_least_squares_solution():
    generator = np.random.default_rng(0)
    cells = torch.from_numpy(generator.integers(0, CELLS, 50))
    targets, weight = torch.from_numpy(generator.normal(0, 0.5, (50, 2))), torch.from_numpy(generator.uniform(0, 1, 50))
    start, begin = random_affine(2)
    found = place_affine(cells, targets, weight, start, begin, GRID, AFFINE_SCALES[0])
    np.testing.assert_allclose(
        found.numpy(), slow_place_affine(cells, targets, weight, start, begin, AFFINE_SCALES[0]), atol=1e-9
    )


def test_one_spline_among_photos_that_stay_is_the_dense_least_squares_solution():
    generator = np.random.default_rng(1)
    cells = torch.from_numpy(generator.integers(0, CELLS, 80))
    weight = torch.from_numpy(generator.uniform(0.1, 1, 80))
    affine = affine_map(random_affine(1), GRID)[0]
    targets = affine[cells] + torch.from_numpy(generator.normal(0, 0.1, (80, 2)))
    found = place_spline(cells, targets, weight, affine, affine, control_points=POINTS, bending=0.05)
    basis = spline_basis(GRID, POINTS).numpy()
    stiffness = 0.05 * bending_energy(POINTS).numpy() + 0.01 * np.eye(POINTS**2)
    values, vectors = np.linalg.eigh(stiffness)
    at = affine.numpy()
    for scale in SPLINE_SCALES:
        squared = ((at[cells] - targets.numpy()) ** 2).sum(1)
        w = weight.numpy() * (scale**2 / (scale**2 + squared)) ** 2
        stiff = np.sqrt(2 * w.sum() / POINTS**2) * np.sqrt(values)[:, None] * vectors.T
        left = np.concatenate([np.sqrt(w)[:, None] * basis[cells], stiff])
        right = np.concatenate([np.sqrt(w)[:, None] * (targets - affine[cells]).numpy(), np.zeros((POINTS**2, 2))])
        at = affine.numpy() + basis @ np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(found.numpy(), at, atol=1e-8)


# --- planted warps


def planted_maps(photos=4, seed=0):
    """Affine maps, and one smooth bump in each photo, from the photos' cells into a common plane."""
    affine = random_affine(photos, seed)
    generator = np.random.default_rng(seed + 1)
    at = affine_map(affine, GRID)
    middle = torch.from_numpy(generator.uniform(-0.4, 0.4, (photos, 1, 2)))
    push = torch.from_numpy(generator.choice([-0.15, 0.15], (photos, 1, 2)))
    bump = torch.exp(-((at - middle) ** 2).sum(2, keepdim=True) / 0.3) * push
    return affine, at, at + bump


def nearest_matches(at, false=0.0, seed=0):
    """Mutual nearest cells in the plane, of all pairs; a share of them is replaced by nonsense."""
    generator = np.random.default_rng(seed)
    columns = []
    for i in range(len(at)):
        for j in range(i + 1, len(at)):
            distance = torch.cdist(at[i], at[j])
            forward, backward = distance.argmin(1), distance.argmin(0)
            p = (backward[forward] == torch.arange(CELLS)).nonzero()[:, 0]
            wrong = torch.from_numpy(generator.random(len(p)) < false)
            q = torch.where(wrong, torch.from_numpy(generator.integers(0, CELLS, len(p))), forward[p])
            columns.append(torch.stack([torch.full_like(p, i), torch.full_like(p, j), p, q]))
    first, second, p, q = torch.cat(columns, 1)
    return BestBuddies(first, second, p, q, torch.ones(len(p)))


def disagreement(found, truth):
    """Root mean square distance between where photos put the places that are one in truth, in canonical units."""
    matches = nearest_matches(truth)
    i, j, p, q = as_columns(matches)
    near = (truth[i, p] - truth[j, q]).norm(dim=1) < 0.05
    return float((found[i, p] - found[j, q])[near].norm(dim=1).square().mean().sqrt())


def test_planted_affine_maps_are_recovered_among_false_matches():
    _, at, _ = planted_maps()
    matches = nearest_matches(at, false=0.3)
    weight = torch.ones(len(matches), dtype=torch.float64)
    start = start_affine(torch.ones(4, GRID, GRID))
    affine = start
    for scales in (AFFINE_SCALES[0], AFFINE_SCALES[1]):
        affine = fit_affine(matches, weight, start, affine, GRID, scales)
    found = affine_map(affine, GRID)
    assert disagreement(affine_map(start, GRID), at) > 0.25
    assert disagreement(found, at) < 0.06
    size = [float(a[:, :2].flatten(1).norm(dim=1).mean()) for a in (affine, start)]
    assert size[0] == pytest.approx(size[1]), "the maps must not shrink"


def test_planted_bumps_are_recovered_by_the_spline_and_not_by_the_affine_map():
    _, flat, truth = planted_maps()
    matches = nearest_matches(truth, false=0.2)
    weight = torch.ones(len(matches), dtype=torch.float64)
    at = flat
    for bending in (0.05, 0.002):
        at = fit_spline(matches, weight, flat, at, grid=GRID, control_points=8, bending=bending)
    assert disagreement(flat, truth) > 0.1
    assert disagreement(at, truth) < 0.04


# --- the learned metric


def test_the_metric_whitens_planted_differences():
    generator = torch.Generator().manual_seed(0)
    channels, count = 8, 4000
    spread = torch.linspace(0.05, 0.6, channels)
    one = torch.randn(1, count, channels, generator=generator)
    other = one + torch.randn(1, count, channels, generator=generator) * spread
    row = torch.arange(count)
    buddies = BestBuddies(row * 0, row * 0 + 1, row, row, torch.ones(count))
    at = torch.zeros(2, count, 2)
    metric = learn_metric(torch.cat([one, other]), buddies, at, 1e-4, channels)
    assert metric.dtype == torch.float32
    differences = (one - other)[0] @ metric
    covariance = differences.T @ differences / count
    level = float((spread**2).mean())  # to which the covariance was scaled
    torch.testing.assert_close(covariance / level, torch.eye(channels), atol=0.03, rtol=0)


def test_the_metric_keeps_the_directions_in_which_matched_cells_vary_most():
    generator = torch.Generator().manual_seed(1)
    channels, count = 6, 3000
    telling = torch.tensor([3.0, 0.1, 0.1, 2.0, 0.1, 0.1])
    place = torch.randn(count, channels, generator=generator) * telling
    both = place + 0.3 * torch.randn(2, count, channels, generator=generator)
    row = torch.arange(count)
    buddies = BestBuddies(row * 0, row * 0 + 1, row, row, torch.ones(count))
    metric = learn_metric(both, buddies, torch.zeros(2, count, 2), 0.1, 2)
    assert metric.shape == (channels, 2)
    kept = F.normalize(metric, dim=0)[[0, 3]].norm(dim=0)
    torch.testing.assert_close(kept, torch.ones(2), atol=0.02, rtol=0)


def test_matches_that_contradict_the_plane_do_not_count_for_the_metric():
    generator = torch.Generator().manual_seed(2)
    descriptors = torch.randn(2, 400, 5, generator=generator)
    row = torch.arange(400)
    at = torch.zeros(2, 400, 2)
    at[1, 200:] = 100.0
    metrics = []
    for rows in (row, row[:200]):
        buddies = BestBuddies(rows * 0, rows * 0 + 1, rows, rows, torch.ones(len(rows)))
        metrics.append(learn_metric(descriptors, buddies, at, 0.5, 5))
    torch.testing.assert_close(metrics[0], metrics[1], atol=1e-3, rtol=1e-3)


def test_identical_descriptors_give_a_finite_metric():
    row = torch.arange(10)
    buddies = BestBuddies(row * 0, row * 0 + 1, row, row, torch.ones(10))
    metric = learn_metric(torch.ones(2, 10, 5), buddies, torch.zeros(2, 10, 2), 0.6, 3)
    assert bool(metric.isfinite().all())
