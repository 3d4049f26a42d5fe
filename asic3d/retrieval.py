"""Which photos are matched with which: each with those that look most like it, and not all alike themselves."""

from typing import Any

import torch
from torch import Tensor

from asic3d.best_buddies import Cells
from asic3d.extras import load_extra

_SAMPLE = 64
"""Cells of each photo that stand for it."""
_FEW = 40
"""Photos up to which a photo's partners are the most similar ones: bursts are no matter there."""
_NEIGHBOURS = 256
"""Nearest cells of each cell that the approximate search looks for, in all photos."""
_LISTS, _PROBES = 4, 8
"""Clusters of cells in the index, for each root of their number, and how many of them are searched."""


def choose_pairs(descriptors: Tensor, cells: Cells, partners: int, search: str = "exact") -> Tensor:
    """The pairs of photos to match: each photo with those whose objects look most like its own.

    Photos are compared by the mean similarity of their cells' nearest neighbours among a sample of cells. Of more than
    40 photos, a third of a photo's partners are the most similar ones. After them a photo that looks more like one of
    them than like the photo itself is passed over as long as there are others, as in a relative neighbourhood graph:
    else the partners of a photo in a burst would all be of that burst. A chain through the most similar photos is
    added, so that no group of photos is cut off from the rest.

    Args:
        descriptors: (N, G * G, D) float32, unit length.
        cells: the cells that count.
        partners: partners of each photo at least; 0 for all.
        search: ``exact``, or ``approximate``: the nearest neighbours are looked for in an index by faiss.

    Returns:
        (E, 2) int64, first < second, in order.

    Raises:
        MissingExtraError: the search is to be approximate, and faiss is not installed.
    """
    count = len(descriptors)
    upper = torch.triu_indices(count, count, 1, device=descriptors.device).T
    if partners == 0 or count - 1 <= partners:
        return upper
    few = sampled_cells(descriptors, cells)
    alike = approximate_similarity(few) if search == "approximate" else exact_similarity(few)
    alike = alike + alike.T
    alike.fill_diagonal_(-torch.inf)
    chosen = partners_of(alike, partners)
    _add_tree(chosen, alike)
    return upper[(chosen | chosen.T)[upper[:, 0], upper[:, 1]]]


def partners_of(alike: Tensor, partners: int) -> Tensor:
    """(N, N) bool: in each row that many partners of the photo, from symmetric similarities, -inf on the diagonal."""
    photos = torch.arange(len(alike), device=alike.device)
    chosen, passed = torch.zeros_like(alike, dtype=torch.bool), torch.zeros_like(alike, dtype=torch.bool)
    for number in range(partners):
        left = alike.masked_fill(chosen, -torch.inf)
        alone = number < partners // 3 or len(alike) <= _FEW
        others = left if alone else left.masked_fill(passed, -torch.inf)
        nobody = others.isneginf().all(1, keepdim=True)
        best = torch.where(nobody, left, others).argmax(1)
        chosen[photos, best] = True
        passed |= alike[best] >= alike
    return chosen


def sampled_cells(descriptors: Tensor, cells: Cells) -> Tensor:
    """(N, S, D) descriptors of the cells that stand for each photo, evenly spread over those that count."""
    sample = torch.linspace(0, 1, _SAMPLE, device=descriptors.device)
    place = (sample * (cells.used.sum(1, keepdim=True) - 1)).long()
    return descriptors.gather(1, cells.index.gather(1, place)[..., None].expand(-1, -1, descriptors.shape[2]))


def exact_similarity(few: Tensor) -> Tensor:
    """(N, N): mean cosine of each of the first photo's (N, S, D) cells with its nearest neighbour in the second."""
    return torch.stack([(one @ few.transpose(1, 2)).amax(2).mean(1) for one in few])


def approximate_similarity(few: Tensor) -> Tensor:
    """:func:`exact_similarity`, by an inverted file: what is not among a cell's nearest counts as the last of them.

    Time grows with the photos to the power of 1.5, that of the exact search with their square.
    """
    faiss = _library()
    count, size, channels = few.shape
    rows = few.reshape(-1, channels).cpu().contiguous().numpy()
    lists = max(1, round(_LISTS * len(rows) ** 0.5) // 4)
    index = faiss.index_factory(channels, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(rows)
    index.add(rows)
    index.nprobe = min(_PROBES, lists)
    similar = torch.empty(count, count)
    for photo in range(count):
        found, where = index.search(rows[photo * size : (photo + 1) * size], min(_NEIGHBOURS, len(rows)))
        cosine, owner = torch.from_numpy(found), torch.from_numpy(where) // size  # -1 where there are fewer
        known = owner >= 0
        last = cosine.masked_fill(~known, torch.inf).amin(1, keepdim=True)
        best = last.expand(-1, count + 1).scatter_reduce(
            1, torch.where(known, owner, count), torch.where(known, cosine, -torch.inf), "amax"
        )
        similar[photo] = best[:, :count].mean(0)
    return similar.to(few.device)


def check_search(search: str) -> None:
    """Finds out at once what would stop :func:`choose_pairs`.

    Raises:
        MissingExtraError: as there.
    """
    if search == "approximate":
        _library()


def _library() -> Any:
    return load_extra("faiss", "An approximate search needs faiss", "faiss-cpu")


def _add_tree(chosen: Tensor, alike: Tensor) -> None:
    """Sets the edges of a maximum spanning tree (Prim)."""
    inside = torch.zeros(len(alike), dtype=torch.bool, device=alike.device)
    inside[0] = True
    while not inside.all():
        score = alike.masked_fill(~inside[:, None] | inside[None, :], -torch.inf)
        row, column = divmod(int(score.argmax()), len(alike))
        chosen[row, column] = True
        inside[column] = True
