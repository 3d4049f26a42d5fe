"""What the network is trained on: photos, masks, parts and matches in one frame, drawn in batches."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from asic3d.best_buddies import BestBuddies, pack_cells
from asic3d.coordinates import cell_centres
from asic3d.errors import AlignmentError
from asic3d.features import FeatureMaps
from asic3d.foreground import Foreground
from asic3d.training_set import TrainingSet, make_training_set, object_of, pack_buddies, raw_buddies

GRID = 6


def foreground(probability) -> Foreground:
    return Foreground(probability, probability, (), torch.zeros(1, dtype=torch.float64))


def one_hot_maps(count=3) -> FeatureMaps:
    """Photos whose cells all look different, and the same in every photo."""
    features = torch.eye(GRID**2).reshape(GRID, GRID, -1).expand(count, -1, -1, -1)
    return FeatureMaps(features, torch.ones(count, GRID, GRID, dtype=torch.bool))


def some_buddies() -> tuple[BestBuddies, torch.Tensor]:
    """Two matches of the photos 0 and 2, none of 0 and 1, one of 1 and 2."""
    first, second = torch.tensor([0, 0, 1]), torch.tensor([2, 2, 2])
    cells = torch.tensor([0, 7, 35]), torch.tensor([1, 8, 3])
    return BestBuddies(first, second, *cells, torch.ones(3)), torch.tensor([[0, 1], [0, 2], [1, 2]])


def test_buddies_are_packed_pair_by_pair():
    pairs, first, second, used = pack_buddies(*some_buddies(), GRID)
    centres = cell_centres(GRID)
    assert pairs.tolist() == [[0, 2], [1, 2]]  # a pair without a match is left out
    assert used.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(first[used], centres[[0, 7, 35]])
    torch.testing.assert_close(second[used], centres[[1, 8, 3]])


def test_cells_of_the_object_find_themselves():
    probability = torch.zeros(3, GRID, GRID)
    probability[:, 1:4, 2:5] = 0.9
    cells = object_of(one_hot_maps(), foreground(probability))
    assert cells.used.sum(1).tolist() == [9, 9, 9]
    buddies, pairs = raw_buddies(one_hot_maps(), cells, partners=0)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]] and len(buddies) == 27
    assert torch.equal(buddies.first_cell, buddies.second_cell)
    torch.testing.assert_close(buddies.similarity, torch.ones(27))


def test_a_photo_without_an_object_gives_the_cells_that_come_nearest_to_it():
    probability = torch.full((2, GRID, GRID), 0.6)
    probability[1] = 0.1
    probability[1, 2, 3] = 0.3
    cells = object_of(one_hot_maps(2), foreground(probability))
    assert cells.used.sum(1).tolist() == [36, 1]
    assert cells.index[1, 0] == 2 * GRID + 3


def test_nothing_to_match_is_an_error():
    few = torch.zeros(2, GRID, GRID, dtype=torch.bool)
    few[:, 0, :2] = True
    with pytest.raises(AlignmentError, match=r"^Hardly anything in these photos can be matched"):
        raw_buddies(one_hot_maps(2), pack_cells(few), partners=0)


def test_photos_masks_and_parts_lie_in_one_frame(toy):
    from asic3d.backbones import load_backbone
    from asic3d.features import extract_features
    from asic3d.foreground import find_foreground

    config = dataclasses.replace(toy.config, working_size=48, parts=3)
    maps = extract_features(toy.collection, load_backbone(config.backbone), config, cache=toy.cache)
    found = find_foreground(toy.collection, maps, config)
    cells = object_of(maps, found)
    data = make_training_set(toy.collection, maps, found, config, raw_buddies(maps, cells, 0))
    assert data.photos.shape == (6, 3, 48, 48) and len(data) == 6 and data.size == 48
    assert data.masks.shape == (6, 1, 48, 48) and data.parts.shape == (6, 48, 48)
    assert torch.equal(data.parts >= 0, (data.masks[:, 0] > 0.5) & (data.parts >= 0))
    assert set(data.parts.unique().tolist()) == {-1, 0, 1, 2}
    # the first photo is 240 x 180: its square's upper and lower eighth repeat the edge and are no object
    assert toy.collection.sizes[0] == (240, 180)
    torch.testing.assert_close(data.photos[0, :, 0], data.photos[0, :, 3], atol=0.02, rtol=0)
    assert float(data.masks[0, :, :6].max()) == float(data.masks[0, :, 42:].max()) == 0
    inside = F.grid_sample(data.masks[data.pairs[:, 0]], data.first[:, None], align_corners=False)[:, 0, 0]
    assert inside[data.used].mean() > 0.8  # matches lie on the object


# --- batches


def numbered(count=5, pairs=6) -> TrainingSet:
    """Photos that hold their own number; pair p matches p + 1 points."""
    upper = torch.triu_indices(count, count, 1).T[:pairs]
    used = torch.arange(pairs) <= torch.arange(pairs)[:, None]
    values = torch.arange(count, dtype=torch.float32)
    points = torch.arange(pairs, dtype=torch.float32)[:, None, None].expand(-1, pairs, 2)
    return TrainingSet(
        values[:, None, None, None].expand(-1, 3, 4, 4),
        values[:, None, None, None].expand(-1, 1, 4, 4),
        values.long()[:, None, None].expand(-1, 4, 4),
        upper,
        points,
        points + 0.5,
        used,
        rest=values[:, None, None, None].expand(-1, 4, 4, 2),
    )


@pytest.mark.parametrize("batch", [2, 3, 6, 100])
def test_a_batch_is_some_pairs_and_their_photos(batch):
    data, generator = numbered(), torch.Generator().manual_seed(batch)
    for _ in range(10):
        found, index = data.draw(batch, generator)
        assert len(found.pairs) == min(max(1, batch // 2), 6)
        assert len(index) <= batch and sorted(set(index[found.pairs].flatten().tolist())) == index.tolist()
        for values in (found.photos[:, 0, 0, 0], found.masks[:, 0, 0, 0], found.parts[:, 0, 0], found.rest[:, 0, 0, 0]):
            assert values.tolist() == index.tolist()
        for row, pair in enumerate(index[found.pairs].tolist()):
            number = data.pairs.tolist().index(pair)
            assert int(found.used[row].sum()) == number + 1
            assert set(found.first[row].unique().tolist()) == {float(number)}
        assert found.used.any(0).all()  # no longer than the longest pair
        assert torch.equal(found.second, found.first + 0.5)


def test_every_pair_gets_its_turn_and_the_generator_decides():
    data = numbered()

    def pairs(seed):
        generator = torch.Generator().manual_seed(seed)
        drawn = [data.draw(2, generator) for _ in range(60)]
        return [tuple(index[found.pairs][0].tolist()) for found, index in drawn]

    assert set(pairs(0)) == set(map(tuple, data.pairs.tolist()))
    assert pairs(0) == pairs(0) != pairs(1)
