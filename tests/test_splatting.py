import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from asic3d.splatting import fill_holes, splat, weighted_median


def slow_splat(cells, values, resolution):
    sums = np.zeros((resolution, resolution, values.shape[1]))
    for (x, y), value in zip(cells, values, strict=True):
        for row in range(resolution):
            for column in range(resolution):
                sums[row, column] += value * max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
    return sums


def test_splatting_equals_loops():
    generator = np.random.default_rng(0)
    cells = generator.uniform(-3, 9, (60, 2))
    values = generator.normal(size=(60, 2))
    assert np.abs(splat(cells, values, 6) - slow_splat(cells, values, 6)).max() < 1e-5


def test_nothing_inside_is_lost():
    cells = np.random.default_rng(1).uniform(0, 7, (500, 2))
    assert abs(splat(cells, np.ones((500, 1)), 8).sum() - 500) < 1e-2


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 5)), min_size=1, max_size=9))
def test_weighted_median_is_that_of_repeated_values(pairs):
    values, weights = (np.array(column, float) for column in zip(*pairs, strict=True))
    repeated = np.sort(np.repeat(values, weights.astype(int)))
    assert weighted_median(values, weights) == repeated[(len(repeated) - 1) // 2]


def test_weightless_values_are_not_heard():
    values = np.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0]])
    assert weighted_median(values, np.array([[0.0], [1.0], [0.0]])).tolist() == [1.0, 2.0]


def test_holes_take_what_is_around_them_and_the_rest_stays():
    y, x = np.mgrid[:40, :40].astype(np.float32)
    values = np.dstack([x / 40, y / 40])
    known = np.ones((40, 40), np.float32)
    known[15:22, 12:26] = 0
    broken = np.where(known[..., None] > 0, values, 77).astype(np.float32)
    filled = fill_holes(broken, known)
    assert (filled[known > 0] == values[known > 0]).all()
    assert np.abs(filled - values).max() < 0.12


def test_a_hole_of_any_shape_is_filled():
    for shape in ((1, 1), (1, 7), (5, 3), (33, 17)):
        known = np.zeros(shape, np.float32)
        known[0, 0] = 1
        filled = fill_holes(np.full((*shape, 1), 0.25, np.float32) * known[..., None], known)
        assert filled.shape == (*shape, 1) and np.isfinite(filled).all()
