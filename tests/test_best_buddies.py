"""Matching against loops that do the obvious."""

import pytest
import torch
import torch.nn.functional as F

from asic3d import best_buddies
from asic3d.best_buddies import find_best_buddies, pack_cells, propagate, with_canonical

GRID = 5


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def planted(photos=4, channels=6, seed=0):
    """Random descriptors, canonical coordinates and masks; each photo has another number of cells."""
    generator = torch.Generator().manual_seed(seed)
    descriptors = unit(photos, GRID**2, channels, seed=seed)
    canonical = torch.rand(photos, GRID**2, 2, generator=generator) * 2 - 1
    mask = torch.rand(photos, GRID, GRID, generator=generator) < torch.linspace(0.3, 0.9, photos)[:, None, None]
    mask[:, 0, 0] = True
    return descriptors, canonical, mask


def score(descriptors, canonical, prior, i, p, j, q):
    near = 0 if canonical is None else prior * ((canonical[i, p] - canonical[j, q]) ** 2).sum()
    return float(descriptors[i, p] @ descriptors[j, q] - near)


def slow_best_buddies(descriptors, mask, pairs, canonical, prior):
    found = []
    flat = mask.flatten(1)
    for i, j in pairs.tolist():
        one, other = flat[i].nonzero()[:, 0].tolist(), flat[j].nonzero()[:, 0].tolist()
        for p in one:
            q = max(other, key=lambda q: score(descriptors, canonical, prior, i, p, j, q))
            back = max(one, key=lambda p: score(descriptors, canonical, prior, i, p, j, q))
            if back == p:
                found.append((i, j, p, q))
    return found


def as_rows(buddies):
    columns = (buddies.first, buddies.second, buddies.first_cell, buddies.second_cell)
    return [tuple(row) for row in torch.stack(columns, 1).tolist()]


@pytest.mark.parametrize("prior", [None, 0.0, 0.7, 5.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_best_buddies_are_mutual_nearest_neighbours(prior, seed):
    descriptors, canonical, mask = planted(seed=seed)
    pairs = torch.tensor([[0, 1], [0, 3], [1, 2], [2, 3]])
    known = None if prior is None else canonical
    found = find_best_buddies(descriptors, pack_cells(mask), pairs, known, prior or 0.0)
    slow = slow_best_buddies(descriptors, mask, pairs, known, prior or 0.0)
    assert as_rows(found) == slow
    assert len(found) == len(slow) > 10
    cosine = [float(descriptors[i, p] @ descriptors[j, q]) for i, j, p, q in slow]
    torch.testing.assert_close(found.similarity, torch.tensor(cosine))


def test_pairs_are_matched_in_pieces_without_a_difference(monkeypatch):
    descriptors, canonical, mask = planted()
    cells, pairs = pack_cells(mask), torch.triu_indices(4, 4, 1).T
    whole = find_best_buddies(descriptors, cells, pairs, canonical, 0.7)
    monkeypatch.setattr(best_buddies, "_CHUNK", 1)
    assert as_rows(find_best_buddies(descriptors, cells, pairs, canonical, 0.7)) == as_rows(whole)


def test_only_cells_of_the_mask_are_matched_however_few_one_photo_has():
    descriptors, _, mask = planted(2)
    mask[0] = False
    mask[0, 1, 2] = True
    found = find_best_buddies(descriptors, pack_cells(mask), torch.tensor([[0, 1]]))
    assert found.first_cell.tolist() == [GRID + 2]
    assert mask.flatten(1)[1, found.second_cell].all()


def test_a_permutation_of_the_cells_is_found_exactly():
    cells = torch.ones(2, GRID, GRID, dtype=torch.bool)
    one = unit(GRID**2, 64)
    order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(3))
    found = find_best_buddies(torch.stack([one, one[order]]), pack_cells(cells), torch.tensor([[0, 1]]))
    assert found.first_cell.tolist() == list(range(GRID**2))
    assert order[found.second_cell].tolist() == list(range(GRID**2))
    torch.testing.assert_close(found.similarity, torch.ones(GRID**2))


def test_packed_cells_are_those_of_the_mask_in_order():
    _, _, mask = planted()
    cells = pack_cells(mask)
    for index, used, wanted in zip(cells.index, cells.used, mask.flatten(1), strict=True):
        assert index[used].tolist() == wanted.nonzero()[:, 0].tolist()
        assert not index[~used].any()
    assert cells.index.shape[1] == int(mask.flatten(1).sum(1).max())
    values = torch.arange(4 * GRID**2 * 3).reshape(4, GRID**2, 3)
    for photo in range(4):
        assert torch.equal(cells.take(values)[photo], values[photo, cells.index[photo]])


def test_the_match_score_is_one_dot_product():
    descriptors, canonical, _ = planted(2)
    left, right = with_canonical(descriptors, canonical, 1.3)
    found = left[0] @ right[1].T
    for p in range(0, GRID**2, 3):
        for q in range(0, GRID**2, 4):
            assert found[p, q].item() == pytest.approx(score(descriptors, canonical, 1.3, 0, p, 1, q), abs=1e-5)


def slow_propagate(descriptors, mask, pairs, canonical, prior, temperature, queries):
    result = descriptors.clone()
    for i in range(len(descriptors)):
        partners = [b if a == i else a for a, b in pairs.tolist() if i in (a, b)]
        for p in range(GRID**2):
            if not partners or (queries is not None and not queries.flatten(1)[i, p]):
                continue
            mean = torch.zeros(descriptors.shape[2])
            for j in partners:
                keys = mask.flatten(1)[j].nonzero()[:, 0].tolist()
                scores = torch.tensor([score(descriptors, canonical, prior, i, p, j, q) for q in keys])
                share = torch.softmax(scores / temperature, 0)
                mean += sum(s * descriptors[j, q] for s, q in zip(share, keys, strict=True)) / len(partners)
            result[i, p] = (descriptors[i, p] + mean) / (descriptors[i, p] + mean).norm()
    return result


@pytest.mark.parametrize("some", [False, True])
def test_sharing_descriptors_matches_loops(some):
    descriptors, canonical, mask = planted()
    pairs = torch.tensor([[0, 1], [1, 2]])  # the last photo has no partner
    queries = planted(seed=7)[2] if some else None
    packed = None if queries is None else pack_cells(queries)
    found = propagate(descriptors, pack_cells(mask), pairs, canonical, 1.5, temperature=0.2, queries=packed)
    torch.testing.assert_close(
        found, slow_propagate(descriptors, mask, pairs, canonical, 1.5, 0.2, queries), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(found[3], descriptors[3])
    assert not torch.equal(found[0], descriptors[0])
    if queries is not None:
        assert torch.equal(found[~queries.flatten(1)], descriptors[~queries.flatten(1)])


def test_sharing_amplifies_what_photos_agree_on():
    truth = unit(GRID**2, 48, seed=1)
    noisy = F.normalize(truth + 0.9 * unit(6, GRID**2, 48, seed=2), dim=2)
    cells = pack_cells(torch.ones(6, GRID, GRID, dtype=torch.bool))
    place = torch.linspace(-1, 1, GRID)
    canonical = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1).reshape(1, -1, 2).expand(6, -1, -1)
    shared = propagate(noisy, cells, torch.triu_indices(6, 6, 1).T, canonical, 1.5)
    before, after = (noisy * truth).sum(2).mean(), (shared * truth).sum(2).mean()
    assert before < 0.8
    assert after > before + 0.1
