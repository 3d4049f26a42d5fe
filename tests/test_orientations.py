"""Which photos are turned and mirrored, and which show something else."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from changed_photos import Change, changed_collection
from hypothesis import given, settings
from hypothesis import strategies as st

from asic3d.backbones import load_backbone
from asic3d.best_buddies import BestBuddies
from asic3d.coordinates import cell_centres
from asic3d.features import extract_features
from asic3d.foreground import find_foreground
from asic3d.judgement import UNRELATED
from asic3d.orientations import (
    _UNLIKE,
    INVERSES,
    MATRICES,
    MIRRORED,
    PRODUCTS,
    UPRIGHT,
    _table,
    find_flips,
    find_outliers,
    look_mirrored,
    oriented,
    pair_support,
    photo_support,
    stand_upright,
    synchronise,
    unsure_of_flips,
)

EIGHT = list(range(8))
GRID = 12


# --- the group


def test_an_orientation_does_to_places_what_turning_and_mirroring_does_to_pictures():
    """The cell that shows something lies, after the picture was turned and mirrored, where the matrix sends it."""
    centres = cell_centres(5).double()
    for orientation in EIGHT:
        picture = np.rot90(np.arange(25).reshape(5, 5), orientation % MIRRORED)
        picture = (picture[:, ::-1] if orientation >= MIRRORED else picture).ravel()
        where = np.argsort(picture)  # cell of the new picture that shows what cell 0, 1, ... showed
        torch.testing.assert_close(centres @ MATRICES[orientation].T, centres[where])


def test_products_and_inverses_are_those_of_the_matrices():
    assert len({tuple(matrix.flatten().tolist()) for matrix in MATRICES}) == 8
    for a, b in itertools.product(EIGHT, EIGHT):
        assert torch.equal(MATRICES[PRODUCTS[a, b]], MATRICES[a] @ MATRICES[b])
    for a in EIGHT:
        assert torch.equal(MATRICES[INVERSES[a]] @ MATRICES[a], torch.eye(2, dtype=torch.float64))
        assert PRODUCTS[a, INVERSES[a]] == PRODUCTS[INVERSES[a], a] == 0


def test_an_oriented_map_is_the_map_and_then_the_orientation():
    affine = torch.randn(8, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    point = torch.tensor([0.3, -0.8, 1.0], dtype=torch.float64)
    found = oriented(affine, torch.arange(8))
    for orientation in EIGHT:
        torch.testing.assert_close(point @ found[orientation], MATRICES[orientation] @ (point @ affine[orientation]))
    torch.testing.assert_close(oriented(found, INVERSES), affine)


# --- what the matches of a pair support


def planted_matches(orientation: int, share: float = 0.6):
    """Two photos; a share of the matches follows one map near the identity once the second is oriented."""
    generator = torch.Generator().manual_seed(orientation)
    place = cell_centres(GRID).double().expand(2, -1, -1).clone()
    near = torch.tensor([[1.1, 0.08], [-0.06, 0.95], [0.07, -0.05]], dtype=torch.float64)
    first = torch.randperm(GRID**2, generator=generator)[:70]
    moved = F.pad(place[0, first], (0, 1), value=1.0) @ near  # = orientation applied to the second photo's place
    target = moved @ MATRICES[INVERSES[orientation]].T
    second = torch.cdist(target, place[1]).argmin(1)
    wrong = torch.rand(70, generator=generator) > share
    second = torch.where(wrong, torch.randint(GRID**2, (70,), generator=generator), second)
    zero = torch.zeros(70, dtype=torch.long)
    buddies = BestBuddies(zero, zero + 1, first, second, torch.ones(70))
    return buddies, place, torch.tensor([[0, 1]]), int((~wrong).sum())


@pytest.mark.parametrize("orientation", EIGHT)
def test_the_true_orientation_has_by_far_the_most_support(orientation):
    buddies, place, pairs, right = planted_matches(orientation)
    support = pair_support(buddies, torch.ones(70, dtype=torch.float64), place, pairs, EIGHT)
    assert support.shape == (1, 8)
    assert support.argmax() == orientation
    others = support[0, [other for other in EIGHT if other != orientation]]
    assert support[0, orientation] > 2 * others.max()
    assert 0.6 * right < support[0, orientation] <= 70


def test_support_is_in_units_of_the_weight_and_never_of_another_pair():
    buddies, place, _, _ = planted_matches(0)
    both = BestBuddies(
        *(torch.cat([a, b]) for a, b in zip(vars(buddies).values(), vars(buddies).values(), strict=True))
    )
    both = BestBuddies(both.first, torch.cat([buddies.second, buddies.second + 1]), *list(vars(both).values())[2:])
    place = torch.cat([place, place[:1]])
    weight = torch.cat([torch.full((70,), 2.0), torch.zeros(70)]).double()
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    support = pair_support(both, weight, place, pairs, (0, 3))
    alone = pair_support(buddies, torch.full((70,), 2.0).double(), place, pairs[:1], (0, 3))
    torch.testing.assert_close(support[:1], alone)
    assert not support[1:].any()  # matches that weigh nothing, and none at all


# --- one orientation for each photo


def worth(scores, chosen):
    """What all pairs together are worth, the slow way."""
    total = 0.0
    for i, j in itertools.permutations(range(len(chosen)), 2):
        total += float(scores[i, j, PRODUCTS[INVERSES[chosen[i]], chosen[j]]])
    return total


def random_scores(count: int, generator: torch.Generator) -> torch.Tensor:
    scores = torch.rand(count, count, 8, dtype=torch.float64, generator=generator)
    return scores + scores.transpose(0, 1)[:, :, INVERSES]


def planted_scores(chosen, noise: float, generator: torch.Generator) -> torch.Tensor:
    scores = noise * random_scores(len(chosen), generator)
    for i, j in itertools.permutations(range(len(chosen)), 2):
        scores[i, j, PRODUCTS[INVERSES[chosen[i]], chosen[j]]] += 1
    return scores


@pytest.mark.parametrize("allowed", [range(8), range(4), (0, MIRRORED)])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_planted_orientations_are_found_and_the_majority_stays(allowed, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.tensor(list(allowed))[torch.randint(len(allowed), (9,), generator=generator)]
    chosen[:5] = allowed[int(torch.randint(len(allowed), (1,), generator=generator))]  # most stand in one way
    found = synchronise(planted_scores(chosen, 0.35, generator), allowed)
    assert torch.equal(found, PRODUCTS[INVERSES[chosen[0]], chosen])


def test_planted_orientations_are_found_where_few_pairs_are_known():
    generator = torch.Generator().manual_seed(1)
    chosen = torch.tensor([0, 0, 0, 0, 0, 0, 3, 5, 2, 4, 7, 0])
    scores = planted_scores(chosen, 0.2, generator)
    near = (torch.arange(12)[:, None] - torch.arange(12)).abs() % 11 <= 2
    assert torch.equal(synchronise(scores * near[..., None], EIGHT), chosen)


@pytest.mark.parametrize("allowed", [range(8), (0, MIRRORED)])
@pytest.mark.parametrize("seed", range(6))
def test_no_choice_for_four_photos_is_better(allowed, seed):
    scores = planted_scores([0, 0, allowed[-1], 0], 0.5, torch.Generator().manual_seed(seed))
    best = max(worth(scores, choice) for choice in itertools.product(allowed, repeat=4))
    found = synchronise(scores, allowed)
    assert set(found.tolist()) <= set(allowed)
    assert worth(scores, found) == pytest.approx(best)


def test_where_nothing_says_otherwise_all_photos_stay():
    for scores in (torch.zeros(5, 5, 8), torch.ones(5, 5, 8), torch.zeros(1, 1, 8)):
        assert not synchronise(scores.double(), EIGHT).any()


def test_as_many_as_possible_stand_even_where_more_agree_on_lying():
    """Three upright, three upright and mirrored, four on one side: six stand, four are turned."""
    chosen = torch.tensor([0, 0, 0, 4, 4, 4, 1, 1, 1, 1])
    found = synchronise(planted_scores(chosen, 0.0, torch.Generator()), EIGHT)
    assert (found % MIRRORED).tolist() == [0] * 6 + [found[6] % MIRRORED] * 4
    assert found[6] % MIRRORED in (1, 3)


def test_a_turn_must_be_clearly_better_than_none():
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    table = _table(torch.ones(3, 8), pairs, EIGHT, 3)
    assert table[0, 1].tolist() == [UPRIGHT, 1, 1, 1, UPRIGHT, 1, 1, 1]
    for i, j in pairs.tolist():
        assert torch.equal(table[j, i, INVERSES], table[i, j])


# --- photos


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("efficientnet-lite0")


CHANGES = {1: Change(quarters=1), 3: Change(mirrored=True, quarters=2), 4: Change(mirrored=True)}


@pytest.fixture(scope="module")
def collection(toy, tmp_path_factory):
    return changed_collection(toy, tmp_path_factory.mktemp("changed") / "photos", CHANGES)


class Blind:
    """The network, were it not that it sees nothing: everything has to come from the cache."""

    def __init__(self, backbone) -> None:
        self.fingerprint, self.sides, self.tap_weights = backbone.fingerprint, backbone.sides, backbone.tap_weights
        self.device = backbone.device

    def __call__(self, images):
        raise AssertionError("it was in the cache")


def test_photos_that_lie_are_found_and_looked_at_once(toy, collection, backbone, tmp_path):
    turns = stand_upright(collection, backbone, toy.config, tmp_path)
    assert turns.tolist() == [CHANGES.get(index, Change()).turns for index in range(6)]
    files = sorted(path.name for path in (tmp_path / "features").iterdir())
    sides = (160, backbone.sides[-1])
    assert files == sorted(
        f"{photo.sha256}-{backbone.fingerprint}-0-1-2-3-{side}.safetensors"
        for photo in collection.photos
        for side in sides
    )
    assert torch.equal(stand_upright(collection, Blind(backbone), toy.config, tmp_path), turns)


def test_photos_that_stand_are_left_as_they_are(toy, backbone):
    assert not stand_upright(toy.collection, backbone, toy.config, toy.cache).any()


def test_photos_that_face_the_other_way_are_found(toy, collection, backbone):
    turns = torch.tensor([CHANGES.get(index, Change()).turns for index in range(6)])
    maps = extract_features(collection, backbone, toy.config, turns=turns)
    recurring = find_foreground(collection, maps, toy.config).recurring
    flips = look_mirrored(collection, backbone, recurring, turns, toy.config)
    assert flips.tolist() == [CHANGES.get(index, Change()).mirrored for index in range(6)]


def test_flips_need_no_more_than_the_support_of_pairs():
    pairs = torch.triu_indices(6, 6, 1).T
    mirrored = torch.tensor([False, True, False, False, True, False])
    apart = mirrored[pairs[:, 0]] != mirrored[pairs[:, 1]]
    support = torch.stack([torch.where(apart, 1.0, 4.0), torch.where(apart, 4.0, 1.0)], 1).double()
    assert torch.equal(find_flips(support, pairs, 6), mirrored)
    assert not find_flips(support[:, :1].expand(-1, 2), pairs, 6).any()


def test_a_photo_that_may_as_well_face_the_other_way_is_named():
    pairs = torch.triu_indices(6, 6, 1).T
    mirrored = torch.tensor([False, True, False, False, True, False])
    apart = mirrored[pairs[:, 0]] != mirrored[pairs[:, 1]]
    support = torch.stack([torch.where(apart, 1.0, 4.0), torch.where(apart, 4.0, 1.0)], 1).double()
    assert not unsure_of_flips(support, pairs, mirrored).any()
    alike = (pairs == 2).any(1)
    support[alike] = torch.where(apart[alike, None], torch.tensor([4.0, 4.5]), torch.tensor([4.5, 4.0])).double()
    assert unsure_of_flips(support, pairs, mirrored).tolist() == [False, False, True, False, False, False]


# --- what shows something else


def test_a_photo_is_supported_by_its_second_best_partner():
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 3]])
    support = torch.tensor([8.0, 3.0, 6.0, 1.0], dtype=torch.float64)
    found = photo_support(support, pairs, torch.tensor([4.0, 16.0, 1.0, 0.0]), torch.arange(4))
    # shares: 8 / 8, 3 / 2, 6 / 4, 1 / 1 (an object is at least one cell)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 1.5, 0.0], dtype=torch.float64))
    two = photo_support(support[:1], pairs[:1], torch.tensor([4.0, 16.0]), torch.arange(2))
    torch.testing.assert_close(two, torch.tensor([1.0, 1.0], dtype=torch.float64))


def supported(values):
    return torch.tensor(values, dtype=torch.float64)


def outliers_of(values, first=None):
    return find_outliers(supported(values), torch.tensor(range(len(values)) if first is None else first))


def test_copies_of_a_picture_count_as_one_photo():
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    first = torch.tensor([0, 0, 2, 3])
    # with its own copy photo 0 goes together best; with 2 its copy goes better than itself
    support = torch.tensor([9.0, 0.2, 0.1, 0.3, 0.1, 0.4], dtype=torch.float64)
    found = photo_support(support, pairs, torch.ones(4), first)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.1, 0.3, 0.1], dtype=torch.float64))
    # matched with its copies alone, but the copies with others: no stranger
    pairs, support = torch.tensor([[0, 1], [1, 2], [1, 3]]), torch.tensor([9.0, 0.4, 0.3], dtype=torch.float64)
    torch.testing.assert_close(photo_support(support, pairs, torch.ones(4), first)[:2], supported((0.3, 0.3)))
    alone = photo_support(support, pairs, torch.ones(4), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(alone, supported((0.0, 0.4, 0.0, 0.0)))  # all show one picture


def test_copies_of_a_picture_are_judged_together():
    first = [0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert outliers_of([0.1, 0.1, 0.1, 0.1, *[0.0] * 5], first) == (4, 5, 6, 7, 8)  # one picture of five
    assert outliers_of([0.1, 0.1, 0.1, *[0.0] * 5], [0, 1, 2, 3, 3, 3, 3, 3]) == (3, 4, 5, 6, 7)
    assert outliers_of([0.1, 0.1, *[0.0] * 6], [0, 1, *[2] * 6]) == ()  # of three pictures none is left out
    # the usual support is that of a picture, not of a photo: many copies do not make it
    assert outliers_of([*[1.0] * 6, 0.05, 0.05, 0.04], [*[0] * 6, 6, 7, 8]) == ()


def test_photos_with_hardly_any_support_show_something_else():
    usual = 0.1
    below, above = 0.99 * _UNLIKE * usual, 1.01 * _UNLIKE * usual
    assert outliers_of((usual, below, usual, usual, 0.11, 0.0)) == (1, 5)
    assert outliers_of((usual, above, usual, usual)) == ()
    assert outliers_of((usual, below, usual, usual)) == (1,)


def test_never_are_too_few_photos_left():
    assert outliers_of((0.1, 0.1, 0.0)) == ()
    assert outliers_of((0.1, 0.0, 0.1, 0.1, 0.0)) == (1,)  # a third of five is one
    assert outliers_of((0.001, 0.0, 0.1, 0.1, 0.1, 0.002, 0.1)) == (0, 1)  # the least supported


def test_photos_of_nothing_in_common_have_no_outliers():
    values = [1.0, 0.9, 1.1, 1.0, 0.0]
    assert outliers_of([0.99 * UNRELATED * value for value in values]) == ()
    assert outliers_of([1.01 * UNRELATED * value for value in values]) == (4,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_at_most_a_third_are_left_out_and_none_without_reason(values):
    found = outliers_of(values)
    assert list(found) == sorted(set(found)) and len(found) <= len(values) // 3
    usual = float(supported(values).median())
    assert all(values[index] < _UNLIKE * usual for index in found)
    kept = [value for index, value in enumerate(values) if index not in found]
    assert all(values[index] <= min(kept) for index in found)
