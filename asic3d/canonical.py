"""The map of each photo into the one canonical plane: affine, then a spline, solved jointly and robustly.

In the paper's terms, affine map, spline and learned metric together are the alignment network, and the plane is the
canonical grid. Every photo is mapped into ONE plane, so that chains of photos close by construction.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.best_buddies import BestBuddies
from asic3d.coordinates import cell_centres

AFFINE_SCALES = ((0.6, 0.45, 0.3, 0.2, 0.15), (0.3, 0.2, 0.15))
"""Scales sigma of the robust weight in the first and in later rounds, canonical units; the object is about 2 wide."""
SPLINE_SCALES = (0.2, 0.15)
_AFFINE_STEPS = 3  # solves at each scale
_AFFINE_RIDGE = 0.02
_SPLINE_RIDGE = 0.01
_PRECISION = 1e-7  # of the splines' solve, relative
_MOST_STEPS = 1000
_MATCHES = 2**16
"""Matches whose descriptors are held at once."""


def robust_weight(squared: Tensor, scale: float) -> Tensor:
    """Weight of Geman and McClure for reweighted least squares: (...) squared residuals to (...) in [0, 1]."""
    return (scale**2 / (scale**2 + squared)) ** 2


def start_affine(probability: Tensor) -> Tensor:
    """Affine maps that lay every photo's object over the origin, at one size.

    Args:
        probability: (N, G, G) float, weight of each cell.

    Returns:
        (N, 3, 2) float64: canonical = [x, y, 1] A, for normalised x and y; the weighted mean goes to the origin, the
        mean of the two weighted standard deviations to 1/2.
    """
    xy = cell_centres(probability.shape[1], probability.device).double()
    weight = probability.flatten(1).double()
    weight = weight / weight.sum(1, keepdim=True)
    mean = weight @ xy
    deviation = (weight[..., None] * (xy - mean[:, None]) ** 2).sum(1).sqrt().mean(1)
    size = 1 / (2 * deviation.clamp(min=1e-3))
    linear = size[:, None, None] * torch.eye(2, dtype=torch.float64, device=xy.device)
    return torch.cat([linear, (-mean * size[:, None])[:, None]], 1)


def affine_map(affine: Tensor, grid: int) -> Tensor:
    """(N, 3, 2) affine maps to (N, G * G, 2) float64 canonical coordinates of the cells."""
    return _homogeneous(grid, affine.device) @ affine


def _homogeneous(grid: int, device: torch.device) -> Tensor:
    return F.pad(cell_centres(grid, device).double(), (0, 1), value=1.0)


def fit_affine(
    buddies: BestBuddies, weight: Tensor, start: Tensor, affine: Tensor, grid: int, scales: Sequence[float]
) -> Tensor:
    """Joint affine maps of all photos.

    Minimises over all A the sum over best buddies of ``w |h_p A_i - h_q A_j|^2``, h = [x, y, 1], plus
    ``0.02 (sum w / N) sum_i |A_i - A0_i|^2``, where w is the buddy's weight times the robust weight of its residual.
    After each solve all maps are rescaled by one factor to the mean size of the start: else they would shrink to a
    point.

    Args:
        buddies: the M matches.
        weight: (M,) float64, their weights.
        start: (N, 3, 2) float64, A0.
        affine: (N, 3, 2) float64, where to begin.
        grid: cells along a side.
        scales: of the robust weight, from coarse to fine.

    Returns:
        (N, 3, 2) float64.
    """
    count = len(start)
    cells = _homogeneous(grid, start.device)
    hp, hq = cells[buddies.first_cell], cells[buddies.second_cell]
    i, j = buddies.first, buddies.second
    blocks = ((i, i, hp, hp, 1.0), (j, j, hq, hq, 1.0), (i, j, hp, hq, -1.0), (j, i, hq, hp, -1.0))
    products = [(a * count + b, sign * left[:, :, None] * right[:, None, :]) for a, b, left, right, sign in blocks]
    size = start[:, :2].flatten(1).norm(dim=1).mean()
    identity = torch.eye(3 * count, dtype=torch.float64, device=start.device)
    for scale in [scale for scale in scales for _ in range(_AFFINE_STEPS)]:
        residual = (hp[:, None] @ affine[i] - hq[:, None] @ affine[j])[:, 0]
        w = weight * robust_weight((residual**2).sum(1), scale)
        normal = torch.zeros(count * count, 3, 3, dtype=torch.float64, device=start.device)
        for place, product in products:
            normal.index_add_(0, place, w[:, None, None] * product)
        pull = _AFFINE_RIDGE * w.sum() / count + 1e-12
        system = normal.reshape(count, count, 3, 3).permute(0, 2, 1, 3).reshape(3 * count, 3 * count) + pull * identity
        affine = torch.linalg.solve(system, (pull * start).reshape(3 * count, 2)).reshape(count, 3, 2)
        affine = affine * (size / affine[:, :2].flatten(1).norm(dim=1).mean().clamp(min=1e-12))
    return affine


@lru_cache(maxsize=8)
def spline_basis(grid: int, control_points: int) -> Tensor:
    """(G * G, n * n) float64: uniform cubic B-splines at the cell centres, n x n control points over [-1, 1]^2."""
    centres = cell_centres(grid).double()
    x, y = (cubic_basis(line, control_points) for line in centres.T)
    return (y[:, :, None] * x[:, None, :]).reshape(len(centres), -1)


def cubic_basis(x: Tensor, count: int) -> Tensor:
    """(P,) places in [-1, 1] to (P, count) values of the cubic B-splines whose domain is [-1, 1]."""
    distance = (x[:, None] + 1) / 2 * (count - 3) - (torch.arange(count, dtype=x.dtype, device=x.device) - 1)
    far = distance.abs()
    near = 2 / 3 - far**2 + far**3 / 2
    return torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)


@lru_cache(maxsize=8)
def bending_energy(control_points: int) -> Tensor:
    """(n * n, n * n) float64: thin-plate energy of an n x n control grid, by finite differences."""
    identity = torch.eye(control_points, dtype=torch.float64)
    first, second = identity.diff(dim=0), identity.diff(n=2, dim=0)
    slope, curve = first.T @ first, second.T @ second
    return torch.kron(identity, curve) + torch.kron(curve, identity) + 2 * torch.kron(slope, slope)


def _stiffness(control_points: int, bending: float, device: torch.device) -> Tensor:
    """(n * n, n * n) float64: what pulls on the control points, ``bending K + 0.01 I``."""
    identity = torch.eye(control_points**2, dtype=torch.float64, device=device)
    return bending * bending_energy(control_points).to(device) + _SPLINE_RIDGE * identity


def fit_spline(
    buddies: BestBuddies,
    weight: Tensor,
    affine: Tensor,
    start: Tensor,
    *,
    grid: int,
    control_points: int,
    bending: float,
) -> Tensor:
    """Joint splines of all photos on top of their affine maps, which stay as they are.

    Minimises over the control points D the sum over best buddies of ``w |c_i(p) - c_j(q)|^2``, c = affine + B D, plus,
    for each photo and coordinate, ``2 (sum w / N) / n^2 D' (bending K + 0.01 I) D``, K the thin-plate energy.

    Args:
        buddies: the M matches.
        weight: (M,) float64, their weights.
        affine: (N, G * G, 2) float64, the affine part of the canonical coordinates.
        start: (N, G * G, 2) float64 canonical coordinates from which the first robust weights are taken.
        grid: cells along a side.
        control_points: n, along a side.
        bending: stiffness.

    Returns:
        (N, G * G, 2) float64 canonical coordinates.
    """
    count, size = len(affine), control_points**2
    basis = spline_basis(grid, control_points).to(affine.device)
    stiffness = _stiffness(control_points, bending, affine.device)
    i, j, p, q = buddies.first, buddies.second, buddies.first_cell, buddies.second_cell
    offset = affine[i, p] - affine[j, q]
    ends = torch.cat([i * len(basis) + p, j * len(basis) + q])  # each match's cells in the row of all photos' cells
    pairs = [(*divmod(pair, count), rows) for pair, rows in _runs(i * count + j)]
    canonical = start
    for scale in SPLINE_SCALES:
        w = weight * robust_weight(((canonical[i, p] - canonical[j, q]) ** 2).sum(1), scale)
        pulls = torch.cat([w[:, None], -w[:, None] * offset], 1)
        pulls = torch.cat([pulls, pulls * pulls.new_tensor([1.0, -1.0, -1.0])])
        at_cells = pulls.new_zeros(count * len(basis), 3).index_add_(0, ends, pulls).reshape(count, len(basis), 3)
        right = basis.T @ at_cells[..., 1:]
        scaled = stiffness * (2 * w.sum() / (count * size) + 1e-12)
        own = torch.stack([(basis.T * at_cells[photo, :, 0]) @ basis + scaled for photo in range(count)])
        shared = [(a, b, -(basis[p[rows]].T * w[rows]) @ basis[q[rows]]) for a, b, rows in pairs]
        control = _solve(own, shared, right)
        canonical = affine + basis @ control
    return canonical


def _solve(own: Tensor, shared: list[tuple[int, int, Tensor]], right: Tensor) -> Tensor:
    """Solves the spline's normal equations by conjugate gradients, each photo's own block as the preconditioner.

    Time and memory grow with the pairs; those of one dense factor would with the cube and the square of the photos.

    Args:
        own: (N, K, K) float64, blocks on the diagonal.
        shared: photos a < b and their (K, K) block in row a and column b.
        right: (N, K, 2) float64.

    Returns:
        (N, K, 2) float64.
    """
    first, second = torch.tensor([(a, b) for a, b, _ in shared], device=right.device).T
    blocks = torch.stack([block for _, _, block in shared])
    factors = torch.linalg.cholesky(own)
    found = torch.zeros_like(right)
    left, step = right.clone(), torch.cholesky_solve(right, factors)
    size = (left * step).sum((0, 1))
    wanted = _PRECISION**2 * (right * step).sum((0, 1))
    for _ in range(_MOST_STEPS):
        if bool((size <= wanted).all()):
            break
        pushed = own @ step
        pushed.index_add_(0, first, blocks @ step[second])
        pushed.index_add_(0, second, blocks.transpose(1, 2) @ step[first])
        length = size / (step * pushed).sum((0, 1)).clamp(min=1e-300)
        found, left = found + length * step, left - length * pushed
        better = torch.cholesky_solve(left, factors)
        size, before = (left * better).sum((0, 1)), size
        step = better + size / before.clamp(min=1e-300) * step
    return found


def _runs(values: Tensor) -> list[tuple[int, slice]]:
    """Each value of a sorted row, with the slice where it stands."""
    found, counts = torch.unique_consecutive(values, return_counts=True)
    ends = counts.cumsum(0)
    return [(v, slice(e - n, e)) for v, n, e in zip(found.tolist(), counts.tolist(), ends.tolist(), strict=True)]


def place_affine(
    cells: Tensor, targets: Tensor, weight: Tensor, start: Tensor, affine: Tensor, grid: int, scales: Sequence[float]
) -> Tensor:
    """The affine map of one photo among others that stay where they are; otherwise as :func:`fit_affine`.

    Args:
        cells: (M,) int64, matched cells of the photo.
        targets: (M, 2) float64, canonical coordinates of their matches.
        weight: (M,) float64.
        start: (3, 2) float64, towards which the map is drawn.
        affine: (3, 2) float64, where to begin.
        grid: cells along a side.
        scales: of the robust weight, from coarse to fine.

    Returns:
        (3, 2) float64.
    """
    at = _homogeneous(grid, start.device)[cells]
    identity = torch.eye(3, dtype=torch.float64, device=start.device)
    for scale in [scale for scale in scales for _ in range(_AFFINE_STEPS)]:
        w = weight * robust_weight(((at @ affine - targets) ** 2).sum(1), scale)
        pull = _AFFINE_RIDGE * w.sum() + 1e-12
        affine = torch.linalg.solve((at.T * w) @ at + pull * identity, (at.T * w) @ targets + pull * start)
    return affine


def place_spline(
    cells: Tensor,
    targets: Tensor,
    weight: Tensor,
    affine: Tensor,
    start: Tensor,
    *,
    control_points: int,
    bending: float,
) -> Tensor:
    """The spline of one photo among others that stay where they are; otherwise as :func:`fit_spline`.

    Args:
        cells: (M,) int64, matched cells of the photo.
        targets: (M, 2) float64, canonical coordinates of their matches.
        weight: (M,) float64.
        affine: (G * G, 2) float64, the affine part of the canonical coordinates.
        start: (G * G, 2) float64, from which the first robust weights are taken.
        control_points: n, along a side.
        bending: stiffness.

    Returns:
        (G * G, 2) float64 canonical coordinates.
    """
    size = control_points**2
    basis = spline_basis(round(len(affine) ** 0.5), control_points).to(affine.device)
    stiffness = _stiffness(control_points, bending, affine.device)
    canonical, at = start, basis[cells]
    for scale in SPLINE_SCALES:
        w = weight * robust_weight(((canonical[cells] - targets) ** 2).sum(1), scale)
        system = (at.T * w) @ at + stiffness * (2 * w.sum() / size + 1e-12)
        canonical = affine + basis @ torch.linalg.solve(system, (at.T * w) @ (targets - affine[cells]))
    return canonical


def learn_metric(
    descriptors: Tensor, buddies: BestBuddies, canonical: Tensor, shrinkage: float, channels: int
) -> Tensor:
    """A linear map after which descriptors of matched cells differ little, and others much.

    Linear discriminant analysis. Best buddies that agree with the canonical plane are taken for true: the covariance of
    the differences between their descriptors, drawn towards a multiple of the identity, is whitened away. Of what is
    left, the directions in which the matched cells vary most are kept.

    Args:
        descriptors: (N, G * G, D) float32, unit length.
        buddies: the M matches.
        canonical: (N, G * G, 2) canonical coordinates.
        shrinkage: weight of the identity, relative to the covariance's mean eigenvalue.
        channels: directions d to keep; all D where there are fewer.

    Returns:
        (D, d) float32: multiply descriptors by it from the right, then normalise.
    """
    i, j, p, q = buddies.first, buddies.second, buddies.first_cell, buddies.second_cell
    weight = robust_weight(((canonical[i, p] - canonical[j, q]) ** 2).sum(1), 0.2).float()
    weight = weight * buddies.similarity.clamp(min=0)
    total = weight.sum().double().clamp(min=1e-12)
    within = between = torch.zeros((), dtype=torch.float64, device=weight.device)
    for some in torch.arange(len(weight), device=weight.device).split(_MATCHES):
        one, other = descriptors[i[some], p[some]], descriptors[j[some], q[some]]
        within = within + _moments(one - other, weight[some]) / total
        between = between + _moments((one + other) / 2, weight[some]) / total
    level = (within.trace() / len(within)).clamp(min=1e-12)
    identity = torch.eye(len(within), dtype=torch.float64, device=within.device)
    values, vectors = torch.linalg.eigh(within / level + shrinkage * identity)
    whitening = (vectors * values.rsqrt()) @ vectors.T
    between = whitening @ between @ whitening
    return (whitening @ torch.linalg.eigh(between).eigenvectors.flip(1)[:, :channels]).float()


def _moments(values: Tensor, weight: Tensor) -> Tensor:
    """(D, D) float64 sum of weighted second moments of (M, D) values."""
    return ((values * weight[:, None]).T @ values).double()
