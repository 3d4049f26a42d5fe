"""From points to points: against loops, planted maps and the rendered collection's truth."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from asic3d import correspondences
from asic3d.best_buddies import pack_cells
from asic3d.coordinates import cell_centres, photo_cells, pixels_to_normalised
from asic3d.correspondences import (
    CanonicalSpace,
    cell_confidence,
    cycle_confidence,
    dense,
    likeness,
    nearest_neighbour_space,
    photo_limits,
    transfer,
    transfer_all,
)

GRID = 16
SIZES = ((160, 120), (90, 120), (100, 100))
EVERYWHERE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9)


def scattered_descriptors() -> torch.Tensor:
    return F.normalize(torch.randn(3, GRID**2, 4, generator=torch.Generator().manual_seed(5)), dim=2)


def planted_space(prior=2.0, seed=0) -> CanonicalSpace:
    """Three photos of one plane, each shifted; descriptors say nothing, so that the canonical plane decides."""
    shift = torch.tensor([[0.0, 0.0], [0.2, -0.1], [-0.15, 0.1]])
    canonical = cell_centres(GRID) + shift[:, None]
    descriptors = F.normalize(torch.ones(3, GRID**2, 4), dim=2)
    valid = torch.stack([photo_cells(size, GRID).flatten() for size in SIZES])
    return CanonicalSpace(descriptors, canonical, valid.float(), valid, prior)


def random_space(seed=0) -> CanonicalSpace:
    generator = torch.Generator().manual_seed(seed)
    descriptors = F.normalize(torch.randn(3, GRID**2, 6, generator=generator), dim=2)
    canonical = cell_centres(GRID) + 0.2 * torch.randn(3, GRID**2, 2, generator=generator)
    valid = torch.stack([photo_cells(size, GRID).flatten() for size in SIZES])
    foreground = torch.rand(3, GRID**2, generator=generator)
    return CanonicalSpace(descriptors, canonical, foreground, valid, 2.0)


# --- against loops


def bilinear(values, x, y):
    """The value of a (G, G, D) map at grid coordinates, clamped to the outermost centres."""
    x, y = min(max(x, 0.0), GRID - 1.0), min(max(y, 0.0), GRID - 1.0)
    left, top = min(int(x), GRID - 2), min(int(y), GRID - 2)
    a, b = x - left, y - top
    return (
        values[top, left] * (1 - a) * (1 - b)
        + values[top, left + 1] * a * (1 - b)
        + values[top + 1, left] * (1 - a) * b
        + values[top + 1, left + 1] * a * b
    )


def to_grid(value):
    return (value + 1) * GRID / 2 - 0.5


def slow_find(space, source, target, point):
    """The best cell, then the centroid of a softmax over 5 x 5 cells; cell by cell."""
    x, y = (to_grid(value) for value in point)
    descriptor = bilinear(space.descriptors[source].reshape(GRID, GRID, -1).double(), x, y)
    descriptor = descriptor / descriptor.norm()
    at = bilinear(space.canonical[source].reshape(GRID, GRID, 2).double(), x, y)
    scores = {}
    for cell in range(GRID**2):
        if space.valid[target, cell]:
            near = ((at - space.canonical[target, cell]) ** 2).sum()
            score = descriptor @ space.descriptors[target, cell].double() - space.prior * near
            scores[divmod(cell, GRID)] = float(score)
    row, column = max(scores, key=lambda place: scores[place])
    near = {(r, c): s for (r, c), s in scores.items() if abs(r - row) <= 2 and abs(c - column) <= 2}
    share = {place: math.exp((score - max(near.values())) / 0.05) for place, score in near.items()}
    total = sum(share.values())
    x = sum(s * c for (_, c), s in share.items()) / total
    y = sum(s * r for (r, _), s in share.items()) / total
    return [(v + 0.5) * 2 / GRID - 1 for v in (x, y)]


@pytest.mark.parametrize("seed", [0, 1])
def test_where_a_point_goes_matches_loops(seed):
    space = random_space(seed)
    points = torch.rand(12, 2, generator=torch.Generator().manual_seed(9)) * 2 - 1
    found = space.find(0, 1, points)
    wanted = [slow_find(space, 0, 1, point) for point in points.tolist()]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


def test_many_points_are_answered_in_pieces_without_a_difference(monkeypatch):
    space, points = random_space(), torch.rand(50, 2) * 2 - 1
    whole = space.find(0, 2, points)
    monkeypatch.setattr(correspondences, "_CHUNK", 7)
    torch.testing.assert_close(space.find(0, 2, points), whole)


def slow_cell_confidence(space, mask, pairs):
    centres, flat = cell_centres(GRID), mask.flatten(1)

    def best(i, p, j):
        cells = flat[j].nonzero()[:, 0].tolist()
        near = [space.prior * float(((space.canonical[i, p] - space.canonical[j, q]) ** 2).sum()) for q in cells]
        score = [float(space.descriptors[i, p] @ space.descriptors[j, q]) - d for q, d in zip(cells, near, strict=True)]
        return cells[int(np.argmax(score))]

    total, partners, by_pair = torch.zeros(3, GRID**2), torch.zeros(3), []
    for i, j in pairs:
        sure = []
        for one, other in ((i, j), (j, i)):
            partners[one] += 1
            for p in flat[one].nonzero()[:, 0].tolist():
                back = best(other, best(one, p, other), one)
                sure.append(math.exp(-float((centres[back] - centres[p]).norm()) / 0.06))
                total[one, p] += sure[-1]
        by_pair.append(np.mean(sure))
    return total / partners.clamp(min=1)[:, None] * space.foreground, by_pair


def test_the_confidence_of_cells_matches_loops():
    space = random_space()
    mask = torch.rand(3, GRID, GRID, generator=torch.Generator().manual_seed(4)) < 0.12
    found, by_pair = cell_confidence(space, pack_cells(mask), torch.tensor([[0, 1], [0, 2]]))
    wanted, pairs = slow_cell_confidence(space, mask, [(0, 1), (0, 2)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert by_pair.tolist() == pytest.approx(pairs, abs=1e-5)
    assert not found[~mask.flatten(1)].any()


def test_a_photo_without_a_partner_has_no_confidence():
    space = random_space()
    cells = pack_cells(torch.ones(3, GRID, GRID, dtype=torch.bool))
    found, _ = cell_confidence(space, cells, torch.tensor([[0, 1]]))
    assert not found[2].any()
    assert found[0].any()


# --- planted maps


def test_points_follow_the_canonical_plane():
    # In normalised units the second photo shows what the first does, moved by (-0.2, 0.1).
    points = torch.tensor([[79.5, 59.5], [60.0, 50.0], [100.0, 70.0]], dtype=torch.float64)
    found = transfer(planted_space(), points, 0, 1, SIZES)
    centre = torch.tensor([79.5, 59.5]).double()
    wanted = ((points - centre) / 80 - torch.tensor([0.2, -0.1]).double()) * 60 + torch.tensor([44.5, 59.5]).double()
    torch.testing.assert_close(found.points, wanted, atol=0.6, rtol=0)  # a cell is 7.5 pixels
    assert (found.cycle_error < 0.8).all()
    assert (found.confidence > 0.7).all()


def test_a_target_is_on_the_photo_and_not_on_its_padding():
    points = torch.rand(200, 2, dtype=torch.float64) * 400 - 100
    for target in (1, 2):
        found = transfer(planted_space(), points, 0, target, SIZES).points
        width, height = SIZES[target]
        cell = max(width, height) / GRID
        assert (found >= -0.5 - cell / 2).all()
        assert (found <= torch.tensor([width, height]) - 0.5 + cell / 2).all()


def test_cycle_error_is_the_way_there_and_back_in_source_pixels():
    space = random_space(3)
    points = torch.tensor([[40.0, 50.0], [110.0, 80.0]], dtype=torch.float64)
    found = transfer(space, points, 0, 1, SIZES)
    back = transfer(space, found.points, 1, 0, SIZES)
    wanted = (back.points - points).norm(dim=1)
    torch.testing.assert_close(found.cycle_error, wanted, atol=1e-2, rtol=1e-3)
    assert wanted.max() > 5


def test_confidence_is_the_cycles_times_the_foreground():
    space = random_space(5)
    points = torch.tensor([[40.0, 50.0], [110.0, 80.0], [79.5, 59.5]], dtype=torch.float64)
    found = transfer(space, points, 0, 1, SIZES)
    for k in range(3):
        own, other = points[k].tolist(), found.points[k].tolist()
        ours = [to_grid((v - (s - 1) / 2) / 80) for v, s in zip(own, SIZES[0], strict=True)]
        theirs = [to_grid((v - (s - 1) / 2) / 60) for v, s in zip(other, SIZES[1], strict=True)]
        objects = bilinear(space.foreground[0].reshape(GRID, GRID), *ours)
        objects = float(objects * bilinear(space.foreground[1].reshape(GRID, GRID), *theirs))
        wanted = math.exp(-float(found.cycle_error[k]) / 80 / 0.06) * math.sqrt(objects)
        assert float(found.confidence[k]) == pytest.approx(wanted, abs=1e-4)


def test_in_a_learned_metric_confidence_is_the_looks_and_what_else_looks_so():
    space = dataclasses.replace(random_space(5), learned=True)
    points = torch.tensor([[40.0, 50.0], [110.0, 80.0], [79.5, 59.5]], dtype=torch.float64)
    found = transfer(space, points, 0, 1, SIZES)
    here = pixels_to_normalised(points, SIZES[0]).float()
    there = pixels_to_normalised(found.points, SIZES[1]).float()
    for k in range(3):
        wanted = F.normalize(space.sample(space.descriptors, 0, here[k : k + 1])[0], dim=0)
        answer = F.normalize(space.sample(space.descriptors, 1, there[k : k + 1])[0], dim=0)
        place = space.sample(space.canonical, 1, there[k : k + 1])[0]
        rivals = [
            float(wanted @ space.descriptors[1, cell])
            for cell in range(GRID**2)
            if space.valid[1, cell] and space.foreground[1, cell] > 0.3
            if float((space.canonical[1, cell] - place).norm()) > 0.35
        ]
        looks = float(wanted @ answer)
        objects = float(space.sample(space.foreground, 0, here[k : k + 1]))
        objects *= float(space.sample(space.foreground, 1, there[k : k + 1]))
        right = 1 / (1 + math.exp(-11.8 * (looks - 0.82))) / (1 + math.exp(-(looks - max(rivals)) / 0.02))
        assert float(found.confidence[k]) == pytest.approx(right * min(1, objects / 0.1), abs=1e-4)


def test_a_place_that_is_there_twice_is_half_as_sure():
    # Every cell looks like itself alone; then the target's cells look the same in its left and in its right half.
    descriptors = torch.eye(GRID**2)[None].repeat(3, 1, 1)
    centres = cell_centres(GRID).expand(3, -1, -1)
    everywhere = torch.ones(3, GRID**2)
    once = CanonicalSpace(descriptors, centres, everywhere, everywhere > 0, 1.0, learned=True)
    squares = torch.arange(GRID**2).reshape(GRID, GRID)
    twice = descriptors.clone()
    twice[1] = descriptors[1][torch.cat([squares[:, : GRID // 2]] * 2, 1).flatten()]
    point = centres[0, [GRID * (GRID // 2) + 2]]
    sure = once.there_and_back(0, 1, point)[1]
    unsure = dataclasses.replace(once, descriptors=twice).there_and_back(0, 1, point)[1]
    assert float(unsure / sure) == pytest.approx(0.5, abs=0.02)


def test_likeness_rises_from_none_to_all():
    cosines = torch.linspace(-1, 1, 21)
    found = likeness(cosines)
    assert bool((found.diff() > 0).all())
    assert float(likeness(torch.tensor(0.82))) == pytest.approx(0.5)
    assert 0 <= float(found[0]) < 1e-6 < 0.85 < float(found[-1]) <= 1


def test_cycle_confidence_falls_from_one():
    found = cycle_confidence(torch.tensor([0.0, 0.06, 100.0]))
    assert found.tolist() == pytest.approx([1, math.exp(-1), 0])


def test_off_the_object_and_off_the_photo_the_confidence_is_low():
    space = planted_space()
    objects = torch.zeros(3, GRID, GRID)
    objects[:, 5:11, 5:11] = 1
    space = dataclasses.replace(space, foreground=objects.flatten(1))
    inside, beside = torch.tensor([[79.5, 59.5]]).double(), torch.tensor([[10.0, 10.0]]).double()
    outside = torch.tensor([[-1.0, 59.5], [161.0, 59.5], [79.5, -2.0], [79.5, 121.0], [1e7, -1e7]]).double()
    assert transfer(space, inside, 0, 2, SIZES).confidence.min() > 0.7
    assert transfer(space, beside, 0, 2, SIZES).confidence.max() < 0.05
    far = transfer(space, outside, 0, 2, SIZES)
    assert not far.confidence.any()
    assert bool(far.points.isfinite().all())


@given(EVERYWHERE, EVERYWHERE, st.integers(0, 2), st.integers(0, 2))
def test_any_point_is_answered(x, y, source, target):
    points = torch.tensor([[x, y]], dtype=torch.float64)
    found = transfer(random_space(), points, source, target, SIZES)
    assert bool(found.points.isfinite().all() & found.cycle_error.isfinite().all())
    assert 0 <= float(found.confidence) <= 1
    width, height = SIZES[source]
    if not (-1 <= x <= width and -1 <= y <= height) and source != target:
        assert float(found.confidence) == 0


def test_the_source_itself_gives_the_points_back():
    points = torch.tensor([[3.25, 4.5], [-900.0, 2.0]], dtype=torch.float64)
    found = transfer(random_space(), points, 1, 1, SIZES)
    assert torch.equal(found.points, points)
    assert found.points is not points
    assert not found.cycle_error.any()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


@pytest.mark.parametrize("learned", [False, True])
def test_points_of_many_photos_at_once_are_answered_as_pair_by_pair(learned):
    space = dataclasses.replace(planted_space(), learned=learned, descriptors=scattered_descriptors())
    generator = np.random.default_rng(3)
    points = {source: torch.from_numpy(generator.uniform(-5, 130, (count, 2))) for source, count in ((2, 7), (0, 3))}
    for target, answers in enumerate(transfer_all(space, points, SIZES)):
        assert list(answers) == [2, 0]
        for source, (places, sure) in answers.items():
            one = transfer(space, points[source], source, target, SIZES)
            assert torch.allclose(places, one.points, atol=1e-3) and torch.allclose(sure, one.confidence, atol=1e-5)
    assert target == 2
    empty = list(transfer_all(space, {1: torch.zeros(0, 2, dtype=torch.float64)}, SIZES))
    assert [len(answers[1][0]) for answers in empty] == [0, 0, 0]


@pytest.mark.parametrize("target", [0, 1])
def test_no_points_are_answered_with_none(target):
    found = transfer(random_space(), torch.zeros(0, 2, dtype=torch.float64), 0, target, SIZES)
    assert len(found) == 0
    shapes = tuple(found.points.shape), tuple(found.confidence.shape), tuple(found.cycle_error.shape)
    assert shapes == ((0, 2), (0,), (0,))
    assert {found.points.dtype, found.confidence.dtype, found.cycle_error.dtype} == {torch.float64}


@pytest.mark.parametrize("size", [(160, 120), (120, 160), (100, 100), (320, 16)])
def test_the_photos_limits_are_read_from_its_cells(size):
    limit = photo_limits(photo_cells(size, GRID))
    wanted = torch.tensor(size) / max(size)
    torch.testing.assert_close(limit, wanted.clamp(min=2 / GRID), atol=1.01 / GRID, rtol=0)


# --- dense maps


def test_a_dense_map_is_the_transfer_of_its_pixels():
    space = random_space()
    found = dense(space, 0, 1, SIZES, longest=40)
    assert found.points.shape == (30, 40, 2)
    for row, column in ((0, 0), (7, 31), (29, 39)):
        point = torch.tensor([[(column + 0.5) * 4 - 0.5, (row + 0.5) * 4 - 0.5]], dtype=torch.float64)
        wanted = transfer(space, point, 0, 1, SIZES)
        torch.testing.assert_close(found.points[row, column], wanted.points[0].float(), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.confidence[row, column], wanted.confidence[0].float(), atol=1e-5, rtol=0)
        at, confidence = found.at(point)
        torch.testing.assert_close(at[0], found.points[row, column], atol=1e-3, rtol=0)
        torch.testing.assert_close(confidence[0], found.confidence[row, column], atol=1e-5, rtol=0)


def test_a_dense_map_is_never_larger_than_the_photo():
    assert dense(random_space(), 1, 0, SIZES, longest=1000).points.shape == (120, 90, 2)
    assert dense(random_space(), 0, 1, ((300, 1), (90, 120), (9, 9)), longest=50).points.shape == (1, 50, 2)


def test_a_dense_map_is_read_between_its_pixels_and_beyond_its_edge():
    found = dense(planted_space(), 0, 1, SIZES, longest=40)
    left, right = found.points[10, 20], found.points[10, 21]
    at, _ = found.at(torch.tensor([[83.5, 41.5], [-1e6, 41.5]]))
    torch.testing.assert_close(at[0], (left + right) / 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(at[1], found.points[10, 0], atol=1e-3, rtol=0)
    assert [tuple(part.shape) for part in found.at(torch.zeros(0, 2))] == [(0, 2), (0,)]


# --- the baseline, and the rendered collection


def test_the_baseline_hears_nothing_of_the_canonical_plane():
    space = random_space()
    features = F.normalize(torch.randn(3, GRID**2, 9), dim=2)
    moved = dataclasses.replace(space, canonical=space.canonical + 5)
    points = torch.rand(10, 2) * 2 - 1
    one, other = (nearest_neighbour_space(features, s).find(0, 1, points) for s in (space, moved))
    assert torch.equal(one, other)
    by_cosine = nearest_neighbour_space(features, space).find(0, 1, cell_centres(GRID)[[40, 77]])
    valid = space.valid[1]
    for k, cell in enumerate((40, 77)):
        best = int((features[1] @ features[0, cell]).masked_fill(~valid, -9).argmax())
        assert (by_cosine[k] - cell_centres(GRID)[best]).abs().max() <= 2 * 2 / GRID


def test_the_alignment_beats_nearest_neighbour_on_rendered_photos(toy):
    ours = toy.errors(toy.alignment, toy.alignment.transfer)
    nearest = toy.errors(toy.alignment, toy.alignment.nearest_neighbour)
    assert len(ours) > 300
    assert np.mean(ours < 0.1) > 0.9
    assert np.mean(ours < 0.1) > np.mean(nearest < 0.1) + 0.08
    assert np.mean(ours < 0.05) > np.mean(nearest < 0.05) + 0.1
    assert np.median(ours) < 0.8 * np.median(nearest)


def test_wrong_answers_of_the_baseline_give_themselves_away(toy):
    errors, confidence = [], []
    for source in toy.alignment.names:
        for target in toy.alignment.names:
            if source != target:
                points, _ = toy.pair(source, target)
                errors.append(toy.pair_errors(toy.alignment.nearest_neighbour, source, target))
                found = toy.alignment.nearest_neighbour(points, source=source, target=target)
                confidence.append(found.confidence.numpy())
    errors, confidence = np.concatenate(errors), np.concatenate(confidence)
    assert confidence[errors > 0.1].mean() < 0.6 * confidence[errors < 0.05].mean()


def test_what_the_target_does_not_show_is_answered_with_less_confidence(toy):
    visible = {name: points[:, 2] > 0 for name, points in zip(toy.truth.names, toy.truth.keypoints, strict=True)}
    shown, hidden = [], []
    for index, source in enumerate(toy.truth.names):
        for target in toy.truth.names:
            if source != target:
                here, there = visible[source], visible[target]
                points = toy.truth.keypoints[index, here, :2]
                confidence = toy.alignment.transfer(points, source=source, target=target).confidence.numpy()
                shown.append(confidence[there[here]])
                hidden.append(confidence[~there[here]])
    assert len(np.concatenate(hidden)) > 50
    assert np.concatenate(hidden).mean() < 0.9 * np.concatenate(shown).mean()


def test_the_background_is_answered_with_less_confidence_than_the_object(toy):
    names = toy.alignment.names
    for index, photo in enumerate(toy.truth.photos):
        rows, columns = np.nonzero(photo.mask)
        on = np.stack([columns, rows], 1)[::37]
        rows, columns = np.nonzero(~photo.mask)
        off = np.stack([columns, rows], 1)[::137]
        target = names[(index + 1) % len(names)]
        sure, unsure = (toy.alignment.transfer(p, source=names[index], target=target).confidence for p in (on, off))
        assert sure.mean() > 0.3
        assert unsure.mean() < 0.5 * sure.mean()
