"""What an alignment is compared with: transfers that are asked in the same way and know less.

=====================  =============================================================================================
identity               a point stays at its normalised place
nearest neighbour      the best cell by the same features, refined between cells; the photo pair alone
buddies + MLS          mutual nearest neighbours by the same features, and moving least squares between them; the
                       photo pair alone
=====================  =============================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from asic3d.alignment import Alignment
from asic3d.best_buddies import find_best_buddies, pack_cells
from asic3d.coordinates import cell_centres, photo_cells
from asic3d.correspondences import CanonicalSpace, Correspondences, transfer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NamedTransfer = Callable[..., Correspondences]
"""``transfer(points, source=NAME, target=NAME)``, as :meth:`asic3d.alignment.Alignment.transfer`."""

IDENTITY, NEAREST_NEIGHBOUR, BUDDIES = "identity", "nearest neighbour", "buddies + MLS"

_OBJECT = 0.5  # probability from which a cell is foreground
_CLOSEST = 1e-12  # squared distance below which a point is taken to lie on a match, normalised units
_FLAT = 1e-9  # determinant of a spread over its squared trace below which the matches lie on a line
_CHUNK = 2**20  # (points x matches) weights at once: 8 MB of float64


def baselines(alignment: Alignment) -> dict[str, NamedTransfer]:
    """The baselines of an alignment's photos: name -> transfer, the weakest first.

    Example:
        >>> baselines(alignment)["identity"]([[3, 4]], source="a.jpg", target="b.jpg").points  # doctest: +SKIP
        tensor([[3., 4.]], dtype=torch.float64)
    """
    space = _plain_space(alignment)
    return {
        IDENTITY: _named(alignment, _Identity(**_parts(space))),
        NEAREST_NEIGHBOUR: alignment.nearest_neighbour,
        BUDDIES: _named(alignment, BuddyWarps(**_parts(space), matches=_buddies_of_pairs(space))),
    }


def moving_least_squares(points: Tensor, start: Tensor, end: Tensor, alpha: float = 1.0) -> Tensor:
    """Moves points by the affine map that fits the matches best around each of them.

    Affine moving least squares (Schaefer, McPhail, Warren 2006, section 2.1) with weights ``1 / |p - v|^(2 alpha)``. It
    interpolates: a point that lies on a match goes where the match goes. Where the matches lie on a line the affine map
    is not defined and the similarity of their section 2.2 takes its place; a single match is a translation; without
    any, points stay.

    Args:
        points: (n, 2) float, v.
        start: (M, 2) float, p, in the frame of ``points``.
        end: (M, 2) float, where the matches lead.
        alpha: how fast the weights fall with the distance.

    Returns:
        (n, 2) float64, in the frame of ``end``.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> moving_least_squares(torch.tensor([[0.5, 0.5]]), corners, corners * 2 + 1).tolist()
        [[2.0, 2.0]]
    """
    points, start, end = points.double(), start.double(), end.double()
    if not len(start) or not len(points):
        return points
    return torch.cat([_moved(part, start, end, alpha) for part in points.split(max(1, _CHUNK // len(start)))])


def _moved(points: Tensor, start: Tensor, end: Tensor, alpha: float) -> Tensor:
    square = ((start - points[:, None]) ** 2).sum(-1).clamp(min=_CLOSEST)
    # Relative to the nearest match, so that no weight overflows; the map does not depend on a common factor.
    weight = (square.amin(1, keepdim=True) / square) ** alpha
    weight = weight / weight.sum(1, keepdim=True)
    centre, goal = weight @ start, weight @ end
    p, q = start - centre[:, None], end - goal[:, None]  # (n, M, 2), not from moments: they cancel close to a match
    spread = torch.einsum("nm,nma,nmb->nab", weight, p, p)
    across = torch.einsum("nm,nma,nmb->nab", weight, p, q)
    size = spread[:, 0, 0] + spread[:, 1, 1]
    determinant = spread[:, 0, 0] * spread[:, 1, 1] - spread[:, 0, 1] ** 2
    flat = determinant <= _FLAT * size**2
    matrix = torch.where(flat[:, None, None], _similarity(across, size), _affine(spread, determinant, across, flat))
    return ((points - centre)[:, None] @ matrix)[:, 0] + goal


def _affine(spread: Tensor, determinant: Tensor, across: Tensor, flat: Tensor) -> Tensor:
    """(n, 2, 2): the inverse of the spread times the cross-covariance; anything where it has no inverse."""
    a, b, d = spread[:, 0, 0], spread[:, 0, 1], spread[:, 1, 1]
    adjugate = torch.stack([d, -b, -b, a], 1).reshape(-1, 2, 2)
    return adjugate @ across / torch.where(flat, 1.0, determinant)[:, None, None]


def _similarity(across: Tensor, size: Tensor) -> Tensor:
    """(n, 2, 2): turn and scale in one; the unit matrix where all matches lie in one point."""
    one_point = size <= _CLOSEST**2
    size = torch.where(one_point, 1.0, size)
    cosine = torch.where(one_point, 1.0, (across[:, 0, 0] + across[:, 1, 1]) / size)
    sine = torch.where(one_point, 0.0, (across[:, 0, 1] - across[:, 1, 0]) / size)
    return torch.stack([cosine, sine, -sine, cosine], 1).reshape(-1, 2, 2)


@dataclass(frozen=True, eq=False, repr=False)
class BuddyWarps(CanonicalSpace):
    """Photos whose points are moved between two of them by the best buddies of these two.

    Attributes:
        matches: (source, target) -> two (M, 2) float32, the buddies' centres in both photos, normalised; for both
            orders of each pair.
    """

    matches: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def find(self, source: int, target: int, points: Tensor) -> Tensor:
        """(n, 2) normalised points of one photo to (n, 2) float32 normalised points of another."""
        return moving_least_squares(points, *self.matches[source, target]).float()


class _Identity(CanonicalSpace):
    """Photos whose points stay at their normalised place."""

    def find(self, source: int, target: int, points: Tensor) -> Tensor:
        return points.float()


def _plain_space(alignment: Alignment) -> CanonicalSpace:
    """The photos of an alignment by their features alone."""
    features, foreground = alignment.features, alignment.foreground
    grid = foreground.shape[1]
    valid = torch.stack([photo_cells(size, grid) for size in alignment.sizes]).to(foreground.device)
    canonical = torch.zeros(*features.shape[:2], 2, device=features.device)
    return CanonicalSpace(features, canonical, foreground.flatten(1), valid.flatten(1), 0.0)


def _parts(space: CanonicalSpace) -> dict:
    return {item.name: getattr(space, item.name) for item in fields(CanonicalSpace)}


def _buddies_of_pairs(space: CanonicalSpace) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """The best buddies of all ordered pairs, within the foregrounds; a photo without one takes part as a whole."""
    count, grid = len(space.foreground), space.grid
    inside = (space.foreground > _OBJECT) & space.valid
    inside = torch.where(inside.any(1, keepdim=True), inside, space.valid)
    pairs = torch.triu_indices(count, count, 1, device=inside.device).T
    buddies = find_best_buddies(space.descriptors, pack_cells(inside.reshape(-1, grid, grid)), pairs)
    centres = cell_centres(grid, inside.device)
    edge, sizes = torch.unique_consecutive(buddies.first * count + buddies.second, return_counts=True)
    parts = zip(
        edge.tolist(),
        centres[buddies.first_cell].split(sizes.tolist()),
        centres[buddies.second_cell].split(sizes.tolist()),
        strict=True,
    )
    none = centres[:0]
    matches = {(i, j): (none, none) for i in range(count) for j in range(count)}
    for number, first, second in parts:
        i, j = divmod(number, count)
        matches[i, j], matches[j, i] = (first, second), (second, first)
    return matches


def _named(alignment: Alignment, space: CanonicalSpace) -> NamedTransfer:
    """A space's transfer between photos by name."""

    def by_name(points: "ArrayLike", *, source: str, target: str) -> Correspondences:
        collection = alignment.collection
        where = torch.as_tensor(points, dtype=torch.float64, device=space.foreground.device).reshape(-1, 2)
        found = transfer(space, where, collection.index(source), collection.index(target), collection.sizes)
        return Correspondences(found.points.cpu(), found.confidence.cpu(), found.cycle_error.cpu())

    return by_name
