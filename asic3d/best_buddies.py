"""Pseudo-correspondences: mutual nearest neighbours between the objects of photos."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 2**24
"""Scores held at once: 64 MB of float32."""
_NEVER = -1e4
NOTHING_MATCHES = (
    "Hardly anything in these photos can be matched: no three places look alike in any two of them. "
    "Check that they show the same object, or mark it with --masks."
)
"""What people are told where there are fewer than three best buddies in all."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The grid cells of each photo that take part in matching, packed so that all photos have equally many.

    Attributes:
        index: (N, K) int64, cells ``row * G + column``; 0 where a photo has fewer than K.
        used: (N, K) bool, False for the filling.
    """

    index: Tensor
    used: Tensor

    def take(self, values: Tensor) -> Tensor:
        """(N, G * G, D) values of all cells to (N, K, D) values of these."""
        return values.gather(1, self.index[..., None].expand(-1, -1, values.shape[2]))


@dataclass(frozen=True, eq=False)
class BestBuddies:
    """Cells of two photos that are each other's nearest neighbour, over all pairs of photos, in a row.

    Attributes:
        first: (M,) int64, one photo; smaller than ``second``.
        second: (M,) int64, the other photo.
        first_cell: (M,) int64, the cell in the first photo.
        second_cell: (M,) int64, the cell in the second photo.
        similarity: (M,) float32, cosine of the two cells' descriptors.
    """

    first: Tensor
    second: Tensor
    first_cell: Tensor
    second_cell: Tensor
    similarity: Tensor

    def __len__(self) -> int:
        return len(self.first)


def pack_cells(mask: Tensor) -> Cells:
    """The cells where ``mask``, (N, G, G) bool, is set; every photo needs at least one."""
    flat = mask.flatten(1)
    counts = flat.sum(1)
    order = torch.sort(flat.to(torch.int8), dim=1, descending=True, stable=True).indices[:, : int(counts.max())]
    used = torch.arange(order.shape[1], device=mask.device) < counts[:, None]
    return Cells(torch.where(used, order, 0), used)


def with_canonical(descriptors: Tensor, canonical: Tensor | None, prior: float) -> tuple[Tensor, Tensor]:
    """Writes the match score of two cells as one dot product.

    Args:
        descriptors: (..., D) float32.
        canonical: (..., 2) canonical coordinates of the same cells; None for the plain cosine.
        prior: weight lambda of the canonical distance.

    Returns:
        Two tensors, (..., D + 4) float32: the dot product of a row a of the first and a row b of the second is
        ``<d_a, d_b> - lambda |c_a - c_b|^2``.
    """
    if canonical is None or prior == 0:
        return descriptors, descriptors
    scaled = canonical * (2 * prior) ** 0.5
    square = -prior * (canonical**2).sum(-1, keepdim=True)
    one = torch.ones_like(square)
    return torch.cat([descriptors, scaled, square, one], -1), torch.cat([descriptors, scaled, one, square], -1)


def find_best_buddies(
    descriptors: Tensor, cells: Cells, pairs: Tensor, canonical: Tensor | None = None, prior: float = 1.0
) -> BestBuddies:
    """Mutual nearest neighbours within the used cells (section 3.2 of the paper), by cosine and canonical distance.

    Args:
        descriptors: (N, G * G, D) float32, unit length.
        cells: the cells that may be matched.
        pairs: (E, 2) int64 photos to match, first < second.
        canonical: (N, G * G, 2) float32 canonical coordinates so far, or None.
        prior: weight of the squared canonical distance against the cosine.

    Returns:
        The best buddies of all pairs, pair by pair, ordered by the first photo's cell.

    Example:
        >>> one_hot = torch.eye(4)[None].expand(2, 4, 4)
        >>> cells = pack_cells(torch.ones(2, 2, 2, dtype=torch.bool))
        >>> find_best_buddies(one_hot, cells, torch.tensor([[0, 1]])).second_cell.tolist()
        [0, 1, 2, 3]
    """
    values = cells.take(descriptors)
    left, right = with_canonical(values, None if canonical is None else cells.take(canonical), prior)
    filling = torch.where(cells.used, 0.0, _NEVER)[..., None]  # of the score of a cell that only fills up
    one = torch.ones_like(filling)
    left, right = torch.cat([left, filling, one], -1), torch.cat([right, one, filling], -1)
    size = cells.index.shape[1]
    own = torch.arange(size, device=values.device)
    found = []
    for chunk in pairs.split(max(1, _CHUNK // max(1, size**2))):
        i, j = chunk.T
        score = left[i] @ right[j].transpose(1, 2)
        forward, backward = score.max(2).indices, score.max(1).indices  # several times faster than argmax across rows
        mutual = (backward.gather(1, forward) == own) & cells.used[i] & cells.used[j].gather(1, forward)
        edge, a = torch.where(mutual)
        b = forward[edge, a]
        similarity = (values[i[edge], a] * values[j[edge], b]).sum(1)
        found.append((i[edge], j[edge], a, b, similarity))
    first, second, a, b, similarity = (torch.cat(column) for column in zip(*found, strict=True))
    return BestBuddies(first, second, cells.index[first, a], cells.index[second, b], similarity)


def propagate(
    descriptors: Tensor,
    cells: Cells,
    pairs: Tensor,
    canonical: Tensor,
    prior: float,
    *,
    temperature: float = 0.05,
    queries: Cells | None = None,
) -> Tensor:
    """Adds to each descriptor what the other photos show at the same place: what they agree on is amplified.

    Each cell is softly matched into each partner photo, by cosine and canonical distance; the mean of what is found
    there is added to its own descriptor with equal weight.

    Args:
        descriptors: (N, G * G, D) float32, unit length.
        cells: the cells that may be found.
        pairs: (E, 2) int64, the photos that are partners.
        canonical: (N, G * G, 2) float32.
        prior: weight of the squared canonical distance.
        temperature: of the softmax over a partner's cells.
        queries: the cells that are changed (None: all).

    Returns:
        (N, G * G, D) float32, unit length; cells outside ``queries`` are unchanged.
    """
    values = cells.take(descriptors)
    query, _ = with_canonical(descriptors, canonical, prior)
    _, keys = with_canonical(values, cells.take(canonical), prior)
    keys = keys / temperature
    filling = torch.where(cells.used, 0.0, _NEVER)
    result = descriptors.clone()
    for i in range(len(descriptors)):
        partners = torch.cat([pairs[pairs[:, 0] == i, 1], pairs[pairs[:, 1] == i, 0]])
        if not len(partners):
            continue
        rows = slice(None) if queries is None else queries.index[i][queries.used[i]]
        wanted = query[i, rows]
        total = torch.zeros(len(wanted), descriptors.shape[2], device=descriptors.device)
        for j in partners.tolist():
            score = torch.addmm(filling[j], wanted, keys[j].T)
            total += torch.softmax(score, 1) @ values[j]
        result[i, rows] = F.normalize(descriptors[i, rows] + total / len(partners), dim=1)
    return result
