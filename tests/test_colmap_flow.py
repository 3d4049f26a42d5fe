"""Flow between two photos, which pairs are believed, and the relative pose of two photos, against planted truth."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from asic3d.coordinates import unturned_pixels
from asic3d_integrations.colmap.edges import (
    believed_matches,
    bridges,
    groups,
    same_answer,
    star_tracks,
    strengthened,
)
from asic3d_integrations.colmap.flow import affine_field, agreeing, make_view, match_by_flow, one_plane, sampson
from asic3d_integrations.colmap.joining import relative_poses
from asic3d_integrations.colmap.working import Working, working_photo

SIZE = (320, 240)


def texture(seed: int) -> np.ndarray:
    """A picture with detail of several sizes everywhere."""
    generator = np.random.default_rng(seed)
    total = np.zeros((SIZE[1], SIZE[0], 3))
    for sigma in (1.5, 4, 12):
        layer = cv2.GaussianBlur(generator.normal(size=total.shape), (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(128 + 30 * total, 0, 255).astype(np.uint8)


HOMOGRAPHY = np.array([[0.93, 0.08, 14.0], [-0.06, 1.02, 9.0], [2e-4, 1e-4, 1.0]])


def moved(points: np.ndarray) -> np.ndarray:
    found = np.column_stack([points, np.ones(len(points))]) @ HOMOGRAPHY.T
    return found[:, :2] / found[:, 2:]


@pytest.fixture(scope="module")
def pair():
    """Two views of one picture, and coarse matches: 60 that are off by some pixels, and 20 false ones."""
    picture = texture(1)
    other = cv2.warpPerspective(picture, HOMOGRAPHY, SIZE, borderMode=cv2.BORDER_REFLECT)
    mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    generator = np.random.default_rng(0)
    first = generator.uniform([20, 20], [SIZE[0] - 60, SIZE[1] - 40], (80, 2))
    second = moved(first) + generator.normal(scale=1.5, size=first.shape)
    second[60:] = generator.uniform(0, 200, (20, 2))
    return make_view(picture, mask), make_view(other, mask), first, second


def test_flow_carries_corners_to_where_they_are(pair):
    one, other, first, second = pair
    found = match_by_flow(one, other, first, second)
    assert found is not None and found.inliers > 200
    errors = np.linalg.norm(found.second - moved(found.first), axis=1)
    assert np.median(errors) < 0.2 and np.quantile(errors, 0.95) < 1.0
    assert (found.first[: len(found.first_ids)] == one.all[found.first_ids]).all()
    assert (found.second[len(found.first_ids) :] == other.all[found.second_ids]).all()


def test_flow_repeats_to_the_last_bit_and_is_believed(pair):
    one, again = believed_matches(*pair[:2], pair[2:], 3), believed_matches(*pair[:2], pair[2:], 3)
    assert one is not None and again is not None
    assert (one.second == again.second).all() and (one.first_ids == again.first_ids).all()


def test_flow_between_strangers_is_not_believed(pair):
    stranger = make_view(texture(2), np.full((SIZE[1], SIZE[0]), 255, np.uint8))
    for seed in range(3):
        assert believed_matches(pair[0], stranger, pair[2:], seed) is None


def test_photos_that_nothing_connects_are_asked_until_they_are_and_strangers_stay_alone(pair):
    one, other, first, second = pair
    stranger = make_view(texture(2), np.full((SIZE[1], SIZE[0]), 255, np.uint8))
    seeds = {(0, 1): (first, second), (0, 2): (first, second), (1, 2): (second, first)}
    assert set(bridges([one, other, stranger], seeds, {})) == {(0, 1)}


def test_a_pair_that_alone_holds_photos_together_gets_the_best_of_several_answers(pair):
    one, other, first, second = pair
    found = match_by_flow(one, other, first, second)
    assert found is not None
    poor = replace(found, inliers=100)
    better = strengthened([one, other], {(0, 1): (first, second)}, {(0, 1): poor})
    assert better[0, 1].inliers > 200
    assert np.median(np.linalg.norm(better[0, 1].second - moved(better[0, 1].first), axis=1)) < 0.2
    held = {(0, 1): poor, (0, 2): found, (1, 2): found}  # a third photo confirms it
    assert strengthened([one, other, other], {}, held) == {}


def test_two_runs_that_end_elsewhere_are_not_one_answer(pair):
    one, other, first, second = pair
    found, again = match_by_flow(one, other, first, second), match_by_flow(one, other, first[::2], second[::2], 1)
    assert found is not None and again is not None and same_answer(found, again)
    away = replace(again, first_landed=again.first_landed + 3, second_landed=again.second_landed + 3)
    assert not same_answer(found, away)


def test_the_affine_field_is_exact_for_an_affine_map_far_from_the_origin():
    generator = np.random.default_rng(0)
    first = generator.uniform(0, 300, (50, 2)) + 1e5
    matrix, shift = np.array([[1.02, 0.01], [-0.01, 0.98]]), np.array([-40.0, 7.0])
    second = (first - 1e5) @ matrix.T + shift
    # The ridge, 0.17 reaches, draws the maps to a translation: here they are close to one.
    field, near = affine_field(first, second, first, 60.0)
    assert np.abs(first + field - second).max() < 0.6
    there, _ = affine_field(first - 1e5, second, first - 1e5, 60.0)
    assert np.abs(field + 1e5 - there).max() < 1e-6
    assert (near > 1).all()


def test_matches_that_move_unlike_their_neighbours_are_dropped():
    generator = np.random.default_rng(0)
    first = generator.uniform(0, 200, (100, 2))
    second = first + np.array([30.0, -5.0]) + generator.normal(scale=1, size=first.shape)
    second[:10] += 80
    kept = agreeing(first, second, (25.0, 15.0))
    assert not set(kept.tolist()) & set(range(10)) and len(kept) >= 85
    assert len(agreeing(first[:11], second[:11], (25.0,))) == 0


def test_matches_off_the_affine_epipolar_geometry_are_dropped():
    generator = np.random.default_rng(0)
    points = generator.uniform(-100, 100, (80, 3))
    turn = cv2.Rodrigues(np.array([0.2, 0.7, 0.1]))[0]
    first, second = points[:, :2], (points @ turn.T)[:, :2]
    second = second.copy()
    second[:20] = generator.uniform(-100, 100, (20, 2))
    kept = one_plane(first, second, np.random.default_rng(1))
    assert set(range(20, 80)) <= set(kept.tolist()) and len(kept) < 68


def test_groups_are_what_pairs_connect():
    assert groups(6, [(4, 5), (0, 2), (2, 4)]) == [0, 1, 0, 3, 0, 0]


@pytest.mark.parametrize("turns", range(4))
def test_points_of_a_turned_photo_are_turned_back(turns):
    photo = np.zeros((7, 11), np.uint8)
    photo[2, 8] = 1
    row, column = np.argwhere(np.rot90(photo, turns))[0]
    found = unturned_pixels(torch.tensor([[float(column), float(row)]]), turns, (11, 7))
    assert found.tolist() == [[8.0, 2.0]]


def test_working_pixels_become_original_ones():
    pixels = np.zeros((60, 80, 3), np.uint8)
    one = Working(pixels, np.full((60, 80), 255, np.uint8), 0, (320, 240))
    assert one.to_original(np.array([[0.0, 0.0], [79.5, 59.5]])).tolist() == [[1.5, 1.5], [319.5, 239.5]]
    assert one.scale == 4 and not one.masked


def test_what_stands_before_black_is_the_object():
    from types import SimpleNamespace

    pixels = np.full((60, 80, 3), 5, np.uint8)
    pixels[20:40, 30:50] = 180
    photo = SimpleNamespace(pixels=pixels, mask=None, size=(80, 60))
    assert (working_photo(photo).mask > 0)[20:40, 30:50].all()
    assert 350 < (working_photo(photo).mask > 0).sum() < 500
    photo.pixels = np.full((60, 80, 3), 90, np.uint8)
    assert not working_photo(photo).masked


def test_star_tracks_join_an_anchor_with_all_places_it_was_carried_to(pair):
    one, other, first, second = pair
    found = match_by_flow(one, other, first, second)
    assert found is not None
    working = [Working(np.zeros((240, 320, 3), np.uint8), np.zeros((240, 320), np.uint8), 0, SIZE)] * 3
    views = [one, other, other]
    graph = star_tracks(("a", "b", "c"), working, views, {(0, 1): found, (0, 2): found})
    anchors = (found.first_ids < len(one.anchors)).sum()
    assert found.inliers > 500 and len(found.first_ids) > anchors  # anchors are enough here
    assert (graph.lengths == 3).sum() == anchors
    shared = graph.matches[1, 2]  # never compared, but both show the first photo's anchors
    assert len(shared) == anchors
    a, b = graph.keypoints[1][shared[:, 0]], graph.keypoints[2][shared[:, 1]]
    assert np.abs(a - b).max() < 1e-3
    few = replace(found, inliers=100)  # a pair with few anchors needs the weaker corners, in the other pair too
    graph = star_tracks(("a", "b", "c"), working, views, {(0, 1): few, (0, 2): found})
    assert (graph.lengths == 3).sum() == len(found.first_ids)


@pytest.mark.parametrize("degrees", (-60, 35, 50))
def test_the_relative_pose_through_a_long_lens_is_found(degrees):
    generator = np.random.default_rng(abs(degrees))
    focal, distance = 3300.0, 8.0
    points = generator.uniform(-0.5, 0.5, (200, 3))
    turn = cv2.Rodrigues(np.radians(degrees) * np.array([0.1, 0.99, 0.05]))[0]
    first = points + np.array([0, 0, distance])
    second = points @ turn.T + np.array([0.1, -0.05, distance])
    truth = np.array([0.1, -0.05, distance]) - turn @ np.array([0, 0, distance])
    places = [p[:, :2] / p[:, 2:] + generator.normal(scale=0.2 / focal, size=(200, 2)) for p in (first, second)]
    poses = relative_poses(*places, focal)
    assert poses
    found = min(poses, key=lambda one: np.linalg.norm(one.R - turn))  # from afar two may explain the matches
    angle = np.degrees(np.arccos(np.clip((np.trace(found.R.T @ turn) - 1) / 2, -1, 1)))
    direction = np.degrees(np.arccos(np.clip(found.t @ truth / np.linalg.norm(truth), -1, 1)))
    assert angle < 3 and direction < 3
    assert relative_poses(places[0][:20], places[1][:20], focal) == []


def test_sampson_distances_are_pixels():
    # A camera that moves sideways: epipolar lines are rows.
    fundamental = np.array([[0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    first, second = np.array([[10.0, 20.0]]), np.array([[35.0, 23.0]])
    assert sampson(fundamental, first, second) == pytest.approx(3 / np.sqrt(2))
