"""Which photos are matched: against loops that do the obvious, and an index that is allowed to miss a little."""

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from asic3d import retrieval
from asic3d.alignment import align
from asic3d.best_buddies import pack_cells
from asic3d.errors import MissingExtraError
from asic3d.retrieval import choose_pairs
from asic3d_integrations.colmap import coarse

GRID = 5


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def alike(descriptors, cells, count=64):
    """(N, N): how similar two photos are, by loops, as choose_pairs describes it."""
    few = []
    for photo, index, used in zip(descriptors, cells.index, cells.used, strict=True):
        own = index[used]
        few.append(photo[own[(torch.linspace(0, 1, count) * (len(own) - 1)).long()]])
    total = torch.zeros(len(few), len(few))
    for i, one in enumerate(few):
        for j, other in enumerate(few):
            total[i, j] = sum(float((other @ row).max()) for row in one) / count
    return total + total.T


def slow_partners(similar, photo, count, few):
    """The partners of a photo, one after the other."""
    order = sorted(set(range(len(similar))) - {photo}, key=lambda other: -similar[photo, other])
    found = []
    for number in range(count):
        left = [other for other in order if other not in found]
        apart = [other for other in left if all(similar[other, one] < similar[photo, other] for one in found)]
        found.append(left[0] if number < count // 3 or len(similar) <= few else (apart or left)[0])
    return found


@pytest.mark.parametrize("partners", [1, 2, 3])
@pytest.mark.parametrize("few", [0, 40])
def test_each_photo_is_paired_with_the_most_similar_ones_and_all_hang_together(partners, few, monkeypatch):
    monkeypatch.setattr(retrieval, "_FEW", few)
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])  # two kinds of photos that look little like each other
    base = unit(2, 1, 16, seed=5)[groups]
    descriptors = F.normalize(base + 0.4 * unit(8, GRID**2, 16, seed=6), dim=2)
    cells = pack_cells(torch.ones(8, GRID, GRID, dtype=torch.bool))
    pairs = choose_pairs(descriptors, cells, partners)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    edges = set(map(tuple, pairs.tolist()))
    assert len(edges) == len(pairs)
    assert pairs.tolist() == sorted(pairs.tolist())
    similar = alike(descriptors, cells).fill_diagonal_(-torch.inf)
    wanted = {(min(i, j), max(i, j)) for i in range(8) for j in slow_partners(similar, i, partners, few)}
    assert wanted <= edges
    assert len(edges - wanted) <= 7  # a tree of 8
    bridges = [(i, j) for i, j in edges if groups[i] != groups[j]]
    across = similar[:4, 4:]
    assert bridges
    assert max(similar[i, j] for i, j in bridges) == across.max()  # the one that the tree needs is among them
    reached = {0}
    for _ in range(8):
        reached |= {b for a, b in edges if a in reached} | {a for a, b in edges if b in reached}
    assert reached == set(range(8))


@pytest.mark.parametrize("partners", [0, 3, 7, 1000])
def test_few_photos_are_all_paired(partners):
    descriptors, mask = unit(4, GRID**2, 6), torch.ones(4, GRID, GRID, dtype=torch.bool)
    assert choose_pairs(descriptors, pack_cells(mask), partners).tolist() == torch.triu_indices(4, 4, 1).T.tolist()


def test_photos_of_a_burst_are_matched_beyond_it():
    shots = unit(6, GRID**2, 16, seed=7)  # six shots, eight photos of each that hardly differ
    noise = 0.01 * torch.randn(6, 8, GRID**2, 16, generator=torch.manual_seed(8))
    descriptors = F.normalize(shots[:, None] + noise, dim=3).flatten(0, 1)
    pairs = choose_pairs(descriptors, pack_cells(torch.ones(48, GRID, GRID, dtype=torch.bool)), 5)
    across = {(a // 8, b // 8) for a, b in pairs.tolist() if a // 8 != b // 8}
    assert len(across) > 5  # a chain alone would have five


def groups_of_photos(groups, photos, grid=8):
    """Photos of several things, each of which looks like itself."""
    base = unit(groups, grid**2, 32, seed=1).repeat_interleave(photos, 0)
    descriptors = F.normalize(base + 0.15 * torch.randn(base.shape, generator=torch.manual_seed(2)), dim=2)
    return descriptors, pack_cells(torch.ones(groups * photos, grid, grid, dtype=torch.bool))


def test_an_approximate_search_finds_photos_that_are_nearly_as_similar():
    pytest.importorskip("faiss")
    descriptors, cells = groups_of_photos(8, 8)
    few = retrieval.sampled_cells(descriptors, cells)
    exact = retrieval.exact_similarity(few)
    found = [choose_pairs(descriptors, cells, 7, search) for search in ("exact", "approximate", "approximate")]
    likeness = [float((exact + exact.T)[pairs[:, 0], pairs[:, 1]].mean()) for pairs in found]
    assert likeness[1] > 0.9 * likeness[0]
    assert torch.equal(found[1], found[2])


def test_a_search_of_everything_is_the_exact_one(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(retrieval, "_NEIGHBOURS", 10**6)
    monkeypatch.setattr(retrieval, "_PROBES", 10**6)
    few = unit(12, 16, 8, seed=4)
    torch.testing.assert_close(retrieval.approximate_similarity(few), retrieval.exact_similarity(few))


def test_an_approximate_search_without_faiss_says_how_to_get_it(monkeypatch, toy):
    monkeypatch.setitem(sys.modules, "faiss", None)
    config = replace(toy.config, search="approximate", partners=2, turns=False)
    reports = []
    with pytest.raises(MissingExtraError, match=r"^An approximate search needs faiss: pip install faiss-cpu\.$"):
        align(toy.collection, config, cache=toy.cache, progress=reports.append)
    assert reports == []  # before the work


def test_large_collections_are_matched_with_similar_photos_alone(monkeypatch):
    descriptors, cells = groups_of_photos(4, 3)
    own = [index[used] for index, used in zip(cells.index, cells.used, strict=True)]
    own[5] = own[5][:0]  # a photo without an object
    everyone = [(i, j) for i in range(12) for j in range(i + 1, 12)]
    assert coarse._similar_pairs(descriptors, own) == everyone
    monkeypatch.setattr(coarse, "_PARTNERS", 3)
    found = coarse._similar_pairs(descriptors, own)
    assert len(found) < len(everyone) / 2
    alike = {photo for pair in found if pair[0] // 3 == pair[1] // 3 for photo in pair}
    assert alike >= set(range(12)) - {5}
