"""The baselines: moving least squares against a slow version and planted maps, and what they answer on known photos."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_alignment import plant

from asic3d.baselines import BUDDIES, IDENTITY, NEAREST_NEIGHBOUR, baselines, moving_least_squares


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def slow(points, start, end, alpha):
    """Point by point: the weighted least squares fit of an affine map with its translation."""
    moved = []
    for point in points.numpy():
        root = np.linalg.norm(start.numpy() - point, axis=1) ** -alpha
        rows = np.column_stack([start.numpy(), np.ones(len(start))])
        fit = np.linalg.lstsq(rows * root[:, None], end.numpy() * root[:, None], rcond=None)[0]
        moved.append([*point, 1] @ fit)
    return np.array(moved)


@given(st.integers(3, 40), st.sampled_from([0.5, 1.0, 1.5, 2.0]), st.integers(0, 1000))
def test_moving_least_squares_is_the_slow_fit_at_each_point(count, alpha, seed):
    points, start, end = random(9, 2, seed=seed), random(count, 2, seed=seed + 1), random(count, 2, seed=seed + 2)
    found = moving_least_squares(points, start, end, alpha)
    expected = slow(points, start, end, alpha)
    # three matches may lie nearly on a line, where both fits lose digits
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, np.abs(expected).max()))


@given(st.integers(3, 60), st.integers(0, 1000))
def test_a_planted_affine_map_is_recovered(count, seed):
    start, points = random(count, 2, seed=seed), random(50, 2, seed=seed + 1) * 1.5
    matrix, shift = random(2, 2, seed=seed + 2), random(2, seed=seed + 3)
    found = moving_least_squares(points, start, start @ matrix + shift)
    np.testing.assert_allclose(found, points @ matrix + shift, atol=1e-6)


def test_it_interpolates_the_matches():
    start, end = random(30, 2), random(30, 2, seed=1)
    np.testing.assert_allclose(moving_least_squares(start, start, end), end, atol=1e-9)


def test_a_point_very_close_to_a_match_goes_where_it_goes():
    start, end = random(30, 2), random(30, 2, seed=1)
    for gap in (1e-3, 1e-5, 1e-8, 1e-12):
        found = moving_least_squares(start + gap, start, end)
        np.testing.assert_allclose(found, end, atol=max(300 * gap, 1e-6))


def test_matches_on_a_line_turn_and_scale():
    start = torch.tensor([[0.0, 0.0], [0.2, 0.0], [1.0, 0.0]], dtype=torch.float64)
    quarter = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)  # a quarter turn, twice as large
    points = torch.tensor([[0.3, 0.7], [0.2, 0.0], [-1.0, -1.0]], dtype=torch.float64)
    found = moving_least_squares(points, start, start @ quarter + 0.5)
    np.testing.assert_allclose(found, points @ quarter + 0.5, atol=1e-9)
    np.testing.assert_allclose(
        moving_least_squares(points, start[:2], start[:2] @ quarter), points @ quarter, atol=1e-9
    )


def test_one_match_is_a_translation_and_none_the_identity():
    points = random(5, 2)
    one, there = torch.tensor([[0.1, 0.2]]), torch.tensor([[0.4, 0.1]])
    np.testing.assert_allclose(moving_least_squares(points, one, there), points + (there - one), atol=1e-6)
    twice = moving_least_squares(points, one.repeat(2, 1), there.repeat(2, 1))
    np.testing.assert_allclose(twice, points + (there - one), atol=1e-6)
    assert torch.equal(moving_least_squares(points, one[:0], one[:0]), points)
    assert moving_least_squares(points[:0], one, there).shape == (0, 2)


def test_points_in_chunks_are_the_same(monkeypatch):
    points, start, end = random(70, 2), random(20, 2, seed=1), random(20, 2, seed=2)
    whole = moving_least_squares(points, start, end)
    monkeypatch.setattr("asic3d.baselines._CHUNK", 100)
    np.testing.assert_allclose(moving_least_squares(points, start, end), whole, atol=1e-12)


def test_the_device_of_the_points_is_kept():
    points, matches = torch.zeros(4, 2, device="meta"), torch.zeros(6, 2, device="meta")
    found = moving_least_squares(points, matches, matches)
    assert (found.device.type, found.shape, found.dtype) == ("meta", (4, 2), torch.float64)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Photos of a disc whose features say where on it a cell lies."""
    return plant(tmp_path_factory.mktemp("planted"))


def test_buddies_follow_a_map_that_the_features_tell(planted):
    points = np.array([[30.0, 25.0], [45.0, 35.0], [40.0, 30.0]])
    found = baselines(planted)[BUDDIES](points, source="a.jpg", target="c.jpg")
    truth = planted.transfer(points, source="a.jpg", target="c.jpg").points
    np.testing.assert_allclose(found.points, truth, atol=3)  # of a disc of 30 pixels' radius; a cell is 3.3
    np.testing.assert_allclose(found.cycle_error, 0, atol=3)
    assert ((found.confidence > 0.3) & (found.confidence <= 1)).all()


def test_the_identity_keeps_the_normalised_place(planted):
    found = baselines(planted)[IDENTITY]([[47.5, 35.5]], source="a.jpg", target="b.jpg")
    np.testing.assert_allclose(found.points, [[29.5, 44.5]], atol=1e-4)  # centre to centre
    assert float(found.cycle_error) == 0


def test_all_baselines_are_asked_like_an_alignment(toy):
    assert list(baselines(toy.alignment)) == [IDENTITY, NEAREST_NEIGHBOUR, BUDDIES]
    for transfer in baselines(toy.alignment).values():
        found = transfer(np.zeros((0, 2)), source=toy.alignment.names[0], target=toy.alignment.names[1])
        assert found.points.shape == (0, 2)


def test_buddies_are_right_on_rendered_photos_where_the_identity_is_not(toy):
    of = baselines(toy.alignment)
    right = {name: float((toy.errors(toy.alignment, of[name]) < 0.1).mean()) for name in of}
    assert right[BUDDIES] > right[IDENTITY] + 0.2


def test_a_photo_without_foreground_takes_part_as_a_whole(planted):
    bare = planted.foreground.clone()
    bare[1] = 0
    found = baselines(replace(planted, foreground=bare))[BUDDIES]([[40.0, 30.0]], source="a.jpg", target="b.jpg")
    truth = planted.transfer([[40.0, 30.0]], source="a.jpg", target="b.jpg").points
    np.testing.assert_allclose(found.points, truth, atol=4)
