"""Tracks: planted ones are found exactly, the graph refuses what COLMAP would swallow, joining gives them back."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_alignment import plant, to_canonical

from asic3d.errors import ExportError
from asic3d.tracks import MatchGraph, canonical_tracks, graph_of_tracks, matches_of, merged, taking_part, tracks_of

NAMES, SIZES = ("a.jpg", "b.jpg", "c.jpg"), ((100, 80), (60, 90), (80, 80))


def graph(**changes) -> MatchGraph:
    """Two tracks: one through all photos, one through the first two."""
    points = {
        0: [[1, 2], [3, 4], [50, 60]],
        1: [[5, 6], [7, 8]],
        2: [[9, 10]],
    }
    values = {
        "names": NAMES,
        "sizes": SIZES,
        "keypoints": tuple(np.array(points[index], np.float32) for index in range(3)),
        "matches": {(0, 1): rows([0, 0], [1, 1]), (0, 2): rows([0, 0]), (1, 2): rows([0, 0])},
        "tracks": rows([0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 0, 1], [1, 1, 1]),
        "deviation": 1.0,
    }
    return MatchGraph(**{**values, **changes})


def rows(*values) -> np.ndarray:
    return np.array(values, np.int64)


def as_sets(tracks: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """Tracks without their numbers."""
    return {frozenset(map(tuple, tracks[tracks[:, 0] == number, 1:].tolist())) for number in np.unique(tracks[:, 0])}


@pytest.fixture
def planted(tmp_path):
    return plant(tmp_path)


def test_points_of_a_track_lie_on_one_place(planted):
    found = canonical_tracks(planted, 200)
    assert 100 < len(found.lengths) <= 200
    assert (found.lengths == 3).all()
    place = [to_canonical(points, index) for index, points in enumerate(found.keypoints)]
    table = np.stack([place[index][found.tracks[index::3, 2]] for index in range(3)])
    assert np.abs(table - table[:1]).max() < 1e-4


def test_tracks_are_spread_over_the_object(planted):
    found = canonical_tracks(planted, 60)
    place = to_canonical(found.keypoints[0], 0)
    angle = np.arctan2(*place.T) // (np.pi / 2)
    assert sorted(np.unique(angle)) == [-2, -1, 0, 1]
    apart = np.linalg.norm(place[:, None] - place, axis=2) + 9 * np.eye(len(place))
    assert apart.min() > 0.05
    assert 0.5 < np.linalg.norm(place, axis=1).max() <= 1.1


def test_more_tracks_where_more_are_asked_for(planted):
    counts = [len(canonical_tracks(planted, most).lengths) for most in (1, 50, 200, 4000)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] > 2 * counts[1]


def test_the_same_tracks_again(planted):
    one, again = canonical_tracks(planted, 100), canonical_tracks(planted, 100)
    assert np.array_equal(one.tracks, again.tracks)
    assert all(np.array_equal(a, b) for a, b in zip(one.keypoints, again.keypoints, strict=True))


def test_a_photo_that_shows_nothing_takes_no_part(planted):
    photos = list(planted.collection)
    photos[1] = dataclasses.replace(photos[1], pixels=np.full_like(photos[1].pixels, 90))
    bare = dataclasses.replace(planted, collection=dataclasses.replace(planted.collection, photos=tuple(photos)))
    assert taking_part(bare) == (0, 2)
    assert not len(canonical_tracks(bare).keypoints[1])


def test_outliers_and_mirrored_photos_take_no_part(planted):
    without = dataclasses.replace(planted, outliers=("b.jpg",))
    assert taking_part(without) == (0, 2)
    found = canonical_tracks(without, 100)
    assert len(found.keypoints[1]) == 0
    assert list(found.matches) == [(0, 2)]
    assert taking_part(dataclasses.replace(planted, mirrored=(False, False, True))) == (0, 1)


def test_one_photo_alone_has_no_tracks(planted):
    with pytest.raises(ExportError, match=r"^Only 1 of 3 photos can take part: the others show something else"):
        canonical_tracks(dataclasses.replace(planted, outliers=("b.jpg",), mirrored=(False, False, True)))


def test_photos_that_share_no_place(planted):
    apart = planted.canonical.clone()
    apart[1] += 5
    apart[2] -= 5
    with pytest.raises(ExportError, match=r"^No place of the object was found in 2 photos or more\."):
        canonical_tracks(dataclasses.replace(planted, canonical=apart), min_views=2)


def test_a_real_alignment_gives_points_near_the_truth(toy):
    found = canonical_tracks(toy.alignment)
    errors, still = [], []
    for (i, j), pairs in found.matches.items():
        truth = toy.truth.correspondences(i, j)
        start, end = found.keypoints[i][pairs[:, 0]], found.keypoints[j][pairs[:, 1]]
        at = np.clip(start.round().astype(int), 0, np.array(truth.shape[1::-1]) - 1)
        wanted = truth[at[:, 1], at[:, 0]] + (start - at)
        errors.append(np.linalg.norm(wanted - end, axis=1))
        still.append(np.linalg.norm(wanted - start, axis=1))
    errors, still = np.concatenate(errors), np.concatenate(still)
    seen = np.isfinite(errors)
    assert seen.mean() > 0.7
    assert np.median(errors[seen]) < min(6, np.median(still[seen]) / 4)
    # What is said about the error is right to a factor of two.
    assert 0.5 < np.median(errors[seen]) / found.deviation < 2


def test_joining_the_matches_gives_the_tracks_back(planted):
    found = canonical_tracks(planted, 150)
    again = tracks_of(found.matches, [len(points) for points in found.keypoints])
    assert as_sets(again) == as_sets(found.tracks)


@given(st.lists(st.sets(st.integers(0, 4), min_size=2), min_size=1, max_size=30), st.randoms())
def test_joining_gives_any_tracks_back(photos, random):
    points = np.array([(t, p, 1 + t, 2 + p) for t, own in enumerate(photos) for p in own], float)
    random.shuffle(order := list(range(len(points))))
    made = graph_of_tracks(tuple("abcde"), ((50, 50),) * 5, points[order], 1.0)
    again = tracks_of(made.matches, [len(own) for own in made.keypoints])
    assert as_sets(again) == as_sets(made.tracks)
    assert {len(own) for own in as_sets(again)} == {len(own) for own in photos}


def test_joining_a_chain():
    chain = {(0, 1): rows([0, 3]), (1, 2): rows([3, 1]), (2, 3): rows([1, 0])}
    assert tracks_of(chain, [1, 4, 2, 1]).tolist() == [[0, 0, 0], [0, 1, 3], [0, 2, 1], [0, 3, 0]]


def test_a_track_with_two_points_in_a_photo_is_left_out():
    clash = {(0, 1): rows([0, 0], [1, 1]), (0, 2): rows([0, 0]), (1, 2): rows([1, 0])}
    assert tracks_of(clash, [2, 2, 1]).tolist() == []
    apart = {(0, 1): rows([0, 0], [1, 1]), (0, 2): rows([0, 0])}
    assert as_sets(tracks_of(apart, [2, 2, 1])) == {
        frozenset({(0, 0), (1, 0), (2, 0)}),
        frozenset({(0, 1), (1, 1)}),
    }


def test_no_matches_are_no_tracks():
    assert tracks_of({}, [3, 3]).shape == (0, 3)
    assert matches_of(np.zeros((0, 3), np.int64), 3) == {}


def test_merged_graphs_keep_their_own_points():
    both = merged(graph(), graph(deviation=3.0))
    assert both.deviation == 3
    assert [len(points) for points in both.keypoints] == [6, 4, 2]
    assert both.matches[0, 1].tolist() == [[0, 0], [1, 1], [3, 2], [4, 3]]
    assert len(both.lengths) == 4
    assert as_sets(tracks_of(both.matches, [6, 4, 2])) == as_sets(both.tracks)


def test_graphs_of_other_photos_do_not_merge():
    with pytest.raises(ExportError, match=r"^Matches of different photos can't be put together: 'a\.jpg', 'b\.jpg'"):
        merged(graph(), graph(names=("a.jpg", "b.jpg", "d.jpg")))


BAD = {
    "two photos of one name": ({"names": ("a.jpg", "a.jpg", "c.jpg")}, "^Two photos have one name"),
    "too few sizes": ({"sizes": SIZES[:2]}, "^There are 3 names, 2 sizes and 3 sets of keypoints"),
    "no deviation": ({"deviation": 0.0}, "^The expected error of the keypoints is 0.0 pixels"),
    "no number": ({"keypoints": (np.full((3, 2), np.nan, np.float32), *graph().keypoints[1:])}, "no finite numbers"),
    "beside": ({"keypoints": (np.full((3, 2), 99.6, np.float32), *graph().keypoints[1:])}, "^Some keypoints of 'a"),
    "doubles": ({"keypoints": (np.zeros((3, 2)), *graph().keypoints[1:])}, r"are float64 \(3, 2\); float32"),
    "pair turned round": ({"matches": {(1, 0): rows([0, 0])}}, "^There are matches of the photos 1 and 0"),
    "photo of no number": ({"matches": {(0, 3): rows([0, 0])}}, "^There are matches of the photos 0 and 3"),
    "negative": ({"matches": {(0, 1): rows([-1, 0])}}, "name keypoints that are not there"),
    "beyond": ({"matches": {(0, 1): rows([0, 2])}}, "name keypoints that are not there"),
    "twice": ({"matches": {(0, 1): rows([0, 0], [0, 0])}}, "name the same two keypoints twice"),
    "unsigned": ({"matches": {(0, 1): np.zeros((1, 2), np.uint32)}}, r"are uint32 \(1, 2\); int64"),
    "track beyond": ({"tracks": rows([0, 0, 3])}, "^Some tracks name photos or keypoints that are not there"),
    "track twice in a photo": ({"tracks": rows([0, 0, 0], [0, 0, 1])}, "^A track has two points in one photo"),
    "keypoint in two tracks": ({"tracks": rows([0, 0, 0], [1, 0, 0])}, "or a keypoint is in two tracks"),
    "tracks mixed": ({"tracks": rows([1, 0, 0], [0, 0, 1])}, "not in the order of the tracks"),
    "tracks of two columns": ({"tracks": rows([1, 0])}, r"^The tracks are int64 \(1, 2\); int64 \(n, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_graph_refuses(changes, message):
    with pytest.raises(ExportError, match=message):
        graph(**changes)
