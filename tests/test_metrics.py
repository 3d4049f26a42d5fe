"""PCK, k-CyPCK and IoU against hand-worked figures and slow references."""

import itertools
import math

import numpy as np
import pytest

from asic3d.metrics import k_cycle_pck, mask_iou, normalised_errors, pck, return_pck


@pytest.fixture
def keypoints():
    """(5, 7, 2) pixels with some points invisible, and (5,) extents."""
    generator = np.random.default_rng(3)
    points = generator.uniform(0, 200, (5, 7, 2))
    points[generator.random((5, 7)) < 0.25] = np.nan
    return points, generator.uniform(80, 200, 5)


def noisy(source, target, points):
    """A pointwise transfer whose error depends on the point, the source and the target alone."""
    return points + 25 * np.sin(points[:, ::-1] * 0.37 + source * 1.3) + 3 * target


def reference_cycle_pck(transfer, keypoints, extents, k, alpha):
    """k-CyPCK point by point: (hops, returned)."""
    hops, returns = [], []
    for cycle in itertools.permutations(range(len(keypoints)), k):
        for part in range(keypoints.shape[1]):
            point, seen = keypoints[cycle[0], part], [cycle[0]]
            for source, target in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
                seen.append(target)
                if any(math.isnan(keypoints[photo, part, 0]) for photo in seen):
                    break
                point = transfer(source, target, point[None])[0]
                right = math.dist(point, keypoints[target, part]) <= alpha * extents[target]
                hops.append(right)
                if target == cycle[0]:
                    returns.append(right)
    return sum(hops) / len(hops), sum(returns) / len(returns), len(hops)


def test_pck_counts_the_bound_as_correct_and_invisible_points_not_at_all():
    truth = np.zeros((2, 3, 2))
    predicted = np.array([[[3, 4], [3, 4.01], [99, 99]], [[0, 10], [0, 10.1], [0, 0]]], float)
    visible = np.array([[True, True, False], [True, True, True]])
    result = pck(predicted, truth, visible, np.array([50.0, 100.0]), 0.1)
    assert (result.per_point, result.points) == (3 / 5, 5)
    assert result.per_image == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_pck_uses_the_extent_of_its_own_row():
    predicted = np.full((2, 1, 2), [6.0, 0.0])
    shares = [
        pck(predicted, np.zeros((2, 1, 2)), np.ones((2, 1), bool), np.array(extents), 0.1).per_point
        for extents in ([50, 50], [50, 100], [100, 100])
    ]
    assert shares == [0, 0.5, 1]


def test_a_row_without_visible_points_does_not_count_per_image():
    visible = np.array([[True], [False]])
    result = pck(np.zeros((2, 1, 2)), np.zeros((2, 1, 2)), visible, 10, 0.1)
    assert (result.per_image, result.points) == (1, 1)


def test_pck_of_nothing_is_nan():
    result = pck(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), np.zeros((1, 2), bool), 10)
    assert math.isnan(result.per_point) and math.isnan(result.per_image) and result.points == 0


def test_a_prediction_that_is_not_finite_is_wrong():
    predicted = np.array([[[np.nan, 0], [np.inf, 0], [0, 0]]])
    assert normalised_errors(predicted, np.zeros((1, 3, 2)), 10.0).tolist() == [[np.inf, np.inf, 0]]
    assert pck(predicted, np.zeros((1, 3, 2)), np.ones((1, 3), bool), 10).per_point == pytest.approx(1 / 3)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_k_cycle_pck_matches_the_slow_reference(keypoints, k, alpha):
    points, extents = keypoints

    def exact_for_some(source, target, moved):
        # The truth plus a wave, so that neither all nor none of the landings are right.
        known = {tuple(p): q for p, q in zip(points[source].tolist(), points[target].tolist(), strict=True)}
        return np.array([known.get(tuple(p), p) for p in moved.tolist()]) + 20 * np.sin(moved * 0.2)

    for transfer in (noisy, exact_for_some):
        expected = reference_cycle_pck(transfer, points, extents, k, alpha)
        result = k_cycle_pck(transfer, points, extents, k, alpha=alpha)
        assert (result.hops, result.returned, result.points) == pytest.approx(expected)
        assert result.cycles == math.perm(5, k)
    assert 0 < result.hops < 1


def test_the_identity_returns_perfectly_and_lands_wrongly():
    points = np.array([[[0.0, 0.0]], [[90.0, 0.0]], [[0.0, 90.0]]])
    result = k_cycle_pck(lambda source, target, p: p, points, np.full(3, 100.0), 3)
    assert result.returned == 1
    assert result.hops == pytest.approx(1 / 3)  # the two hops on the way are wrong, the return is right


def test_a_hop_starts_from_the_last_prediction():
    points = np.zeros((2, 1, 2))
    result = k_cycle_pck(lambda source, target, p: p + np.array([6.0, 0]), points, np.full(2, 100.0), 2, alpha=0.1)
    assert (result.hops, result.returned) == (0.5, 0)  # 6 px after one hop, 12 px after two


def test_a_keypoint_counts_up_to_the_first_photo_that_hides_it():
    points = np.zeros((3, 1, 2))
    points[2] = np.nan
    result = k_cycle_pck(lambda source, target, p: p, points, np.full(3, 10.0), 3)
    assert result.points == 2  # 0 -> 1 of the cycle (0, 1, 2) and 1 -> 0 of (1, 0, 2)
    assert math.isnan(result.returned)


def test_calls_are_grouped_by_pair_of_photos(keypoints):
    points, extents = keypoints
    calls = []

    def transfer(source, target, moved):
        calls.append((source, target))
        return moved

    k_cycle_pck(transfer, points, extents, 3)
    assert len(calls) <= 3 * 5 * 4


def test_a_sample_of_cycles_is_seeded_distinct_and_close_to_all(keypoints):
    points, extents = keypoints
    everything = k_cycle_pck(noisy, points, extents, 4)
    first, again, other = (k_cycle_pck(noisy, points, extents, 4, cycles=100, seed=s) for s in (1, 1, 2))
    assert everything.cycles == 120 and first.cycles == 100
    assert first == again != other
    # 100 of 120 different cycles: a sample with repetitions would hold about 68 of them.
    assert abs(first.points - everything.points * 100 / 120) < everything.points * 0.1


def test_too_few_photos_for_a_cycle_give_nan(keypoints):
    points, extents = keypoints
    result = k_cycle_pck(noisy, points[:2], extents[:2], 3)
    assert math.isnan(result.hops) and result.cycles == result.points == 0


def test_a_cycle_of_one_photo_is_refused(keypoints):
    with pytest.raises(ValueError, match=r"^A cycle has at least 2 photos, not 1\.$"):
        k_cycle_pck(noisy, *keypoints, 1)


@pytest.mark.parametrize("k", [2, 3])
def test_return_pck_matches_the_slow_reference(keypoints, k):
    points, extents = keypoints
    right = counted = 0
    for cycle in itertools.permutations(range(len(points)), k):
        for start in points[cycle[0]]:
            point = start
            if np.isfinite(start).all():
                for source, target in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
                    point = noisy(source, target, point[None])[0]
                right += math.dist(point, start) <= 0.3 * extents[cycle[0]]
                counted += 1
    found = return_pck(noisy, points, extents, k, alpha=0.3)
    assert (found.returned, found.points) == (right / counted, counted)
    assert 0 < found.returned < 1 and math.isnan(found.hops)


def test_return_pck_needs_k_photos(keypoints):
    points, extents = keypoints
    assert math.isnan(return_pck(noisy, points[:2], extents[:2], 3).returned)


def test_mask_iou():
    predicted = np.array([[255, 255, 0, 0]], np.uint8)
    truth = np.array([[False, True, True, False]])
    assert mask_iou(predicted, truth) == pytest.approx(1 / 3)
    assert mask_iou(truth, truth) == 1
    assert mask_iou(truth, ~truth) == 0
    assert mask_iou(np.zeros((2, 2)), np.zeros((2, 2))) == 1


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"^The masks differ in shape: \(2, 3\) and \(3, 2\)\.$"):
        mask_iou(np.zeros((2, 3)), np.zeros((3, 2)))
