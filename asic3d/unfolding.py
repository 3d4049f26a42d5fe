"""How much the maps into the canonical plane bend the photos, and a plane that bends them less."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.brief import Brief
from asic3d.canonical import bending_energy, cubic_basis

CONTROL_POINTS = 8
"""Along one side of the unfolding's spline."""
_STIFFNESS = 0.02
"""Of that spline, relative to the share of the data that each control point has."""
_ROUNDS = 4
_LATTICE = 513
"""Places along a side at which the spline is looked up; between them it is linear, which is off by some 1e-5."""
_TAIL = 0.01
"""Share of the object that may lie beyond each edge where the plane's extent is chosen."""


@dataclass(frozen=True, eq=False, repr=False)
class Distortion(Brief):
    """What the map from a photo to the plane does to the photo's shapes.

    Attributes:
        area: (N, G, G) float32, area in the plane per area of the photo, relative to the photo's own usual one: 1 =
            as elsewhere in the photo, 2 = twice as large. Negative where the map turns over against the rest of the
            photo; a photo that faces the other way is mirrored as a whole, which is no fold.
        angle: (N, G, G) float32, degrees: by how much an angle changes at most; 0 = shapes are kept.
        weight: (N, G, G) float32, what each cell counts in the means.
    """

    area: Tensor
    angle: Tensor
    weight: Tensor

    @property
    def folded(self) -> float:
        """Share of the object where the map turns over."""
        return self._mean((self.area < 0).float())

    @property
    def mean_angle(self) -> float:
        """Degrees."""
        return self._mean(self.angle)

    @property
    def mean_stretch(self) -> float:
        """By what factor areas are usually too large or too small: exp of the mean absolute logarithm."""
        return float(torch.exp(torch.tensor(self._mean(self.area.abs().clamp(1e-3, 1e3).log().abs()))))

    def _mean(self, values: Tensor) -> float:
        return float((values * self.weight).sum() / self.weight.sum().clamp(min=1e-9))


@dataclass(frozen=True, eq=False, repr=False)
class Unfolding(Brief):
    """A smooth map of the canonical plane onto itself.

    Attributes:
        control: (n * n, 2) float64, displacement of the cubic B-spline's control points.
        reach: the spline covers [-reach, reach]^2 of the canonical plane; beyond, it goes on as at its edge.
        shift: (2,) float64, added at the end, so that the object's middle is at (0, 0).
    """

    control: Tensor
    reach: float
    shift: Tensor

    @cached_property
    def _lattice(self) -> Tensor:
        """(1, 2, L, L) float32: the spline's displacement at evenly spaced places of [-reach, reach]^2."""
        basis = cubic_basis(torch.linspace(-1, 1, _LATTICE).to(self.control), CONTROL_POINTS)
        rows = (basis @ self.control.reshape(CONTROL_POINTS, -1)).reshape(_LATTICE, CONTROL_POINTS, 2)
        return torch.einsum("yjd,xj->dyx", rows, basis).float()[None]

    def __call__(self, canonical: Tensor) -> Tensor:
        """(..., 2) canonical coordinates to (..., 2) coordinates in the unfolded plane, of the same dtype."""
        flat = canonical.reshape(-1, 2)
        where = (flat / self.reach)[None, None]
        moved = F.grid_sample(self._lattice.to(canonical), where, align_corners=True, padding_mode="border")
        return (flat + moved[0, :, 0].T + self.shift.to(canonical)).reshape(canonical.shape)


def measure_distortion(plane: Tensor, weight: Tensor) -> Distortion:
    """From the Jacobian of the maps, by differences between neighbouring cells.

    Args:
        plane: (N, G, G, 2) float, coordinates of every cell in a plane.
        weight: (N, G, G) float, what a cell counts: its probability of being the object.
    """
    values = plane.double()
    across, down = (_slope(values, dim) for dim in (2, 1))
    determinant = _determinant(values)
    total = (across**2).sum(-1) + (down**2).sum(-1)
    # With singular values a >= b: a^2 + b^2 = total and a b = |determinant|.
    larger_plus = (total + 2 * determinant.abs()).clamp(min=1e-18).sqrt()
    larger_minus = (total - 2 * determinant.abs()).clamp(min=0).sqrt()
    angle = torch.rad2deg(2 * torch.asin((larger_minus / larger_plus).clamp(max=1)))
    share = weight.double() / weight.double().sum((1, 2), keepdim=True).clamp(min=1e-9)
    determinant = determinant * _facing(determinant, weight)
    usual = (share * determinant.abs().clamp(min=1e-12).log()).sum((1, 2), keepdim=True).exp()
    return Distortion((determinant / usual).float(), angle.float(), weight.float())


def _facing(determinant: Tensor, weight: Tensor) -> Tensor:
    """(N, 1, 1) float64: 1, or -1 for a photo that is mirrored as a whole."""
    return torch.where((determinant.sign() * weight).sum((1, 2), keepdim=True) < 0, -1.0, 1.0).to(determinant)


def _determinant(values: Tensor) -> Tensor:
    """(N, G, G) of (N, G, G, 2) coordinates: area in the plane per cell, negative where the map is mirrored."""
    across, down = (_slope(values, dim) for dim in (2, 1))
    return across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]


def _slope(values: Tensor, dim: int) -> Tensor:
    """Derivative by the cell's number along a dimension, central where there are two neighbours."""
    return torch.gradient(values, dim=dim)[0]


def unfold(canonical: Tensor, weight: Tensor) -> tuple[Unfolding, float]:
    """The plane in which the photos keep their shapes best, all together.

    Alternates between the similarity (turn and size) that each photo's map is nearest to, and the spline that brings
    the maps' differences between neighbouring cells nearest to those of the similarities: least squares both times.

    Args:
        canonical: (N, G, G, 2) float canonical coordinates of every cell.
        weight: (N, G, G) float, what a cell counts.

    Returns:
        The unfolding, and the extent: the object lies in [-extent, extent]^2 of the unfolded plane.
    """
    points = canonical.double()
    object_points = points[weight > 0] if bool((weight > 0).any()) else points
    reach = max(1.05 * float(object_points.abs().max()), 1e-3)
    directions = tuple(_directions(points, weight, reach))
    control = points.new_zeros(CONTROL_POINTS**2, 2)
    size: float | None = None
    for _ in range(_ROUNDS):
        control, size = _better(control, size, directions)
    unfolding = Unfolding(control, reach, points.new_zeros(2))
    low, high = _box(unfolding(points).reshape(-1, 2), weight.double().flatten())
    return Unfolding(control, reach, -(low + high) / 2), max(float((high - low).max() / 2), 1e-3)


@dataclass(frozen=True, eq=False)
class _Direction:
    """What :func:`unfold` needs of the N maps' differences d between cells that are neighbours in one direction.

    Sums over a photo's neighbours; c is what a pair of them counts, b the difference of their (K,) splines.

    Attributes:
        step: (N,) complex128, between the cells in the photo, or in its mirror image where it is mirrored.
        count: (N,) float64, sum of c.
        moved: (N, 2) float64, sum of c d.
        basis: (N, K) float64, sum of c b.
        normal: (N, K, K) float64, sum of c b b'.
        right: (N, K, 2) float64, sum of c b d'.
    """

    step: Tensor
    count: Tensor
    moved: Tensor
    basis: Tensor
    normal: Tensor
    right: Tensor


def _directions(points: Tensor, weight: Tensor, reach: float) -> Iterator[_Direction]:
    """Both directions, across and down, from (N, G, G, 2) float64 points and (N, G, G) weights; photo by photo."""
    grid = points.shape[1]
    facing = _facing(_determinant(points), weight)[:, 0, 0]  # a mirrored photo's similarity is one of its mirror image
    for dim, step in ((1, (1.0, 0.0)), (0, (0.0, 1.0))):
        sums: list[tuple[Tensor, ...]] = []
        for place, weights in zip(points, weight.double(), strict=True):
            one, other = weights.narrow(dim, 0, grid - 1), weights.narrow(dim, 1, grid - 1)
            count = (one * other).sqrt()
            used = count > 0
            count = count[used][:, None]
            start, end = (place.narrow(dim, first, grid - 1)[used] for first in (0, 1))
            basis = _basis(end / reach, place) - _basis(start / reach, place)
            counted = count * basis
            moved = end - start
            sums.append((count.sum(), (count * moved).sum(0), counted.sum(0), counted.T @ basis, counted.T @ moved))
        count, moved, basis, normal, right = (torch.stack(some) for some in zip(*sums, strict=True))
        steps = torch.complex(torch.full_like(facing, step[0]), step[1] * facing)
        yield _Direction(steps, count, moved, basis, normal, right)


def _better(control: Tensor, usual: float | None, directions: tuple[_Direction, ...]) -> tuple[Tensor, float]:
    """One round of :func:`unfold`: each photo's similarity as a complex number, then the spline.

    The mean size of the similarities is kept at ``usual``, that of the first round: else all would shrink to a point.
    """
    total = torch.stack([one.count for one in directions]).sum(0).clamp(min=1e-9)
    turned = [torch.view_as_complex(one.moved + one.basis @ control) / one.step for one in directions]
    similarity = torch.stack(turned).sum(0) / total
    if usual is None:
        usual = float(similarity.abs().mean())
    similarity = similarity * (usual / similarity.abs().mean().clamp(min=1e-9))
    share = similarity.abs().clamp(min=1e-6) ** -2
    normal, right = control.new_zeros(len(control), len(control)), torch.zeros_like(control)
    for one in directions:
        wanted = torch.view_as_real(similarity * one.step)
        normal = normal + torch.einsum("n,nkl->kl", share, one.normal)
        right = right + torch.einsum("n,nkd->kd", share, one.basis[..., None] * wanted[:, None] - one.right)
    level = normal.diagonal().mean() + 1e-12
    identity = torch.eye(len(control)).to(control)
    pull = level * (_STIFFNESS * bending_energy(CONTROL_POINTS).to(control) + 1e-4 * identity)
    return torch.linalg.solve(normal + pull, right), usual


def _basis(points: Tensor, like: Tensor) -> Tensor:
    """(P, n * n) values of the splines at (P, 2) places of [-1, 1]^2; outside, those of the nearest place in it."""
    x, y = (cubic_basis(line.clamp(-1, 1), CONTROL_POINTS).to(like) for line in points.double().T)
    return (y[:, :, None] * x[:, None, :]).flatten(1)


def _box(points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(2,) each: the least and the largest coordinates of (n, 2) points but for a tail on either side."""
    low, high = [], []
    for line in points.T:
        order = line.argsort()
        place = weight[order].cumsum(0) / weight.sum().clamp(min=1e-12)
        low.append(line[order[int((place < _TAIL).sum().clamp(max=len(line) - 1))]])
        high.append(line[order[int((place < 1 - _TAIL).sum().clamp(max=len(line) - 1))]])
    return torch.stack(low), torch.stack(high)
