"""How photos are turned and mirrored towards each other, and which of them show something else.

Photos of one collection may lie on their side or face the other way. Each pair of photos says how well its best buddies
agree on one upright map under each of the eight ways to turn and mirror a square; one orientation per photo is chosen
for all pairs together. Nothing is turned in the files: a turned photo is described turned, its descriptors are laid
back onto its own cells, and its map into the canonical plane starts turned.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import Backbone
from asic3d.best_buddies import BestBuddies, Cells, find_best_buddies, pack_cells
from asic3d.canonical import affine_map, robust_weight, start_affine
from asic3d.collection import Collection
from asic3d.config import AlignmentConfig
from asic3d.coordinates import cell_centres, photo_cells
from asic3d.features import extract_oriented, principal_axes, project
from asic3d.judgement import UNRELATED
from asic3d.retrieval import choose_pairs

MIRRORED = 4
"""Orientation ``k + MIRRORED`` is: turned by k quarters (counter-clockwise), then mirrored left to right."""
_SCALES = (0.6, 0.4, 0.25)
"""Scales of the robust weight while a pair is fitted, in sizes of the object or half sides of the photo."""
_SUPPORT_SCALE = 0.15
_STEPS = 3  # solves at each scale
_RIDGE = 0.05  # pull towards the same place, size and direction
UPRIGHT = 1.5
"""By what factor a turn must be better than none: most photos stand upright."""
_UNLIKE = 0.15
"""A photo whose support is below this share of the usual one shows something else."""
_CHANNELS = 64
_GLANCE = (160, 20)
"""Side of the backbone's input, pixels, and cells along it, when all photos are looked at in all turns."""
_CLOSER_GRID = 30  # where one may be turned; at the backbone's largest side
_MIRROR_SIDE = 320
_CLEARLY = 1.3
"""By what factor the support of a photo's direction must be more than that of its mirror image."""
_SURE = 0.6
"""Share of the pairs that must be for the chosen orientations; with fewer the photos are looked at more closely."""


def _group() -> tuple[Tensor, Tensor, Tensor]:
    """(8, 2, 2) float64 matrices on (x, y) as a column, (8, 8) int64 products and (8,) int64 inverses."""
    quarter, mirror = np.array([[0, 1], [-1, 0]]), np.diag([-1, 1])
    turns = [np.linalg.matrix_power(quarter, k) for k in range(4)]
    matrices = np.stack([*turns, *(mirror @ turn for turn in turns)])

    def number(matrix: np.ndarray) -> int:
        return int((matrices == matrix).all((1, 2)).argmax())

    products = [[number(a @ b) for b in matrices] for a in matrices]
    inverses = [number(matrix.T) for matrix in matrices]
    return torch.from_numpy(matrices).double(), torch.tensor(products), torch.tensor(inverses)


MATRICES, PRODUCTS, INVERSES = _group()


def oriented(affine: Tensor, orientation: Tensor) -> Tensor:
    """Affine maps (N, 3, 2), canonical = [x, y, 1] A, followed by each photo's orientation (N,): (N, 3, 2)."""
    return affine @ MATRICES.to(affine)[orientation.to(affine.device)].transpose(1, 2)


def pair_support(
    buddies: BestBuddies, weight: Tensor, place: Tensor, pairs: Tensor, orientations: Sequence[int]
) -> Tensor:
    """How much of each pair's matches agrees on one map, under each of some relative orientations.

    For each pair an affine map near the identity is fitted robustly from the first photo's places to the second's,
    which are oriented first.

    Args:
        buddies: the M matches.
        weight: (M,) float64.
        place: (N, G * G, 2) float64, where the cells lie; the object or the photo is about 2 wide, around (0, 0).
        pairs: (E, 2) int64, in the order of the buddies.
        orientations: the relative orientations that are tried.

    Returns:
        (E, len(orientations)) float64: total weight of the matches that agree.
    """
    edge = _edges(buddies, pairs, len(place))
    source = F.pad(place[buddies.first, buddies.first_cell], (0, 1), value=1.0)
    target = place[buddies.second, buddies.second_cell]
    normal = source[:, :, None] * source[:, None, :]
    identity = torch.eye(3, dtype=place.dtype, device=place.device)
    support = []
    for orientation in orientations:
        turned = target @ MATRICES[orientation].to(place).T
        product = source[:, :, None] * turned[:, None, :]
        affine = identity[:, :2].expand(len(pairs), 3, 2)
        for scale in [scale for scale in _SCALES for _ in range(_STEPS)]:
            w = weight * robust_weight(_squared(source, affine[edge], turned), scale)
            pull = (_RIDGE * _sum(edge, w, len(pairs)) + 1e-9)[:, None, None]
            left = _sum(edge, w[:, None, None] * normal, len(pairs)) + pull * identity
            right = _sum(edge, w[:, None, None] * product, len(pairs)) + pull * identity[:, :2]
            affine = torch.linalg.solve(left, right)
        w = weight * robust_weight(_squared(source, affine[edge], turned), _SUPPORT_SCALE)
        support.append(_sum(edge, w, len(pairs)))
    return torch.stack(support, 1)


def _edges(buddies: BestBuddies, pairs: Tensor, count: int) -> Tensor:
    """(M,) int64: the pair that each match belongs to."""
    table = torch.zeros(count * count, dtype=torch.long, device=pairs.device)
    table[pairs[:, 0] * count + pairs[:, 1]] = torch.arange(len(pairs), device=pairs.device)
    return table[buddies.first * count + buddies.second]


def _squared(source: Tensor, affine: Tensor, target: Tensor) -> Tensor:
    return (((source[:, None] @ affine)[:, 0] - target) ** 2).sum(1)


def _sum(edge: Tensor, values: Tensor, edges: int) -> Tensor:
    total = torch.zeros(edges, *values.shape[1:], dtype=values.dtype, device=values.device)
    return total.index_add_(0, edge, values)


def synchronise(scores: Tensor, allowed: Sequence[int]) -> Tensor:
    """One orientation for each photo, such that all pairs together are best supported.

    With orientations u, pair (i, j) is worth ``scores[i, j, u_i^-1 u_j]``. Photos are taken up one by one, the surest
    first, from several beginnings; then each in turn takes its best orientation until nothing changes.

    Args:
        scores: (N, N, 8) float64, at least 0; ``scores[j, i, g^-1] = scores[i, j, g]``.
        allowed: the orientations that may be chosen, 0 first: a subgroup.

    Returns:
        (N,) int64; as many photos as possible stand, mirrored or not, and of these as many as possible are 0.
    """
    scores, count = scores.cpu(), len(scores)
    products, inverses = PRODUCTS[list(allowed)][:, list(allowed)], INVERSES[list(allowed)]
    table = scores[:, :, PRODUCTS[inverses][:, list(allowed)]]  # (N, N, a, b): photo i in orientation a, j in b
    best, worth = torch.zeros(count, dtype=torch.long), -1.0
    everyone = torch.arange(count)
    for root in [None, *range(min(count, 8))]:
        chosen = torch.zeros(count, dtype=torch.long) if root is None else _grown(table, root)
        chosen = _settled(table, chosen)
        total = float(table[everyone[:, None], everyone, chosen[:, None], chosen].sum())
        if total > worth * (1 + 1e-9):
            best, worth = chosen, total

    def standing(common: int) -> tuple[int, int, int]:
        found = products[common, best]
        return int((found % MIRRORED == 0).sum()), int((found == 0).sum()), -common

    return products[max(range(len(allowed)), key=standing), best]


def _grown(table: Tensor, root: int) -> Tensor:
    chosen = torch.zeros(len(table), dtype=torch.long)
    votes, outside = table[root, :, 0].clone(), torch.ones(len(table), dtype=torch.bool)
    outside[root] = False
    while outside.any():
        two = votes.topk(min(2, votes.shape[1]), 1).values
        margin = ((two[:, 0] - two[:, -1]) / (two[:, 0] + 1e-12)).masked_fill(~outside, -1.0)
        photo = int(margin.argmax())
        chosen[photo] = int(votes[photo].argmax())
        votes += table[photo, :, chosen[photo]]
        outside[photo] = False
    return chosen


def _settled(table: Tensor, chosen: Tensor) -> Tensor:
    everyone = torch.arange(len(table))
    for _ in range(10):
        before = chosen.clone()
        for photo in range(len(table)):
            votes = table[everyone, photo, chosen]
            votes[photo] = 0
            if votes.sum(0).max() > votes.sum(0)[chosen[photo]]:
                chosen[photo] = int(votes.sum(0).argmax())
        if torch.equal(before, chosen):
            break
    return chosen


def stand_upright(
    collection: Collection, backbone: Backbone, config: AlignmentConfig, cache: Path | None = None
) -> Tensor:
    """Looks at every photo in its four turns, small, and once more and larger where one seems to be turned.

    Args:
        collection: N photos.
        backbone: the network.
        config: of it, ``partners`` and ``search``.
        cache: folder of a run's cache.

    Returns:
        (N,) int64, quarters by which each photo is turned counter-clockwise so that it stands as most others do.
    """
    photos, turns = collection.photos, torch.zeros(len(collection), dtype=torch.long)
    ways = [[(turn, False) for turn in range(4)]] * len(photos)
    for side, grid in (_GLANCE, (backbone.sides[-1], _CLOSER_GRID)):
        valid = torch.stack([photo_cells(photo.size, grid) for photo in photos]).to(backbone.device)
        turned = extract_oriented(photos, backbone, side, grid, ways, cache)
        turns, sure = find_turns(turned, valid, config.partners, config.search)
        del turned  # before the next ones are made
        if sure and not turns.any():
            break
    return turns


def look_mirrored(
    collection: Collection,
    backbone: Backbone,
    recurring: Tensor,
    turns: Tensor,
    config: AlignmentConfig,
    cache: Path | None = None,
) -> Tensor:
    """Looks at every photo and its mirror image, to be sure which photos face the other way.

    Args:
        collection: N photos.
        backbone: the network.
        recurring: (N, G, G) float32, probability of the object.
        turns: (N,) int64, quarters by which each photo is turned first.
        config: of it, ``partners``, ``search`` and ``similarity_power``.
        cache: folder of a run's cache.

    Returns:
        (N,) bool, the photos that are mirrored.
    """
    grid = _GLANCE[1]
    ways = [[(turn, False), (turn, True)] for turn in turns.tolist()]
    described = extract_oriented(collection.photos, backbone, _MIRROR_SIDE, grid, ways, cache)
    objects = F.interpolate(recurring[:, None], (grid, grid), mode="area")[:, 0]
    valid = torch.stack([photo_cells(photo.size, grid) for photo in collection.photos]).to(objects.device)
    objects = objects * valid + 1e-3 * valid
    axes, mean = principal_axes(described[:, 0], valid)
    plain, mirrored = project(described, axes[:, :_CHANNELS], mean, unit=True).flatten(2, 3).unbind(1)
    cells = pack_cells(objects > torch.clamp(objects.amax((1, 2), keepdim=True) / 2, max=0.15))
    pairs = choose_pairs(plain, cells, config.partners, config.search)
    place = affine_map(oriented(start_affine(objects), turns), grid)
    likely = objects.flatten(1)
    support = [
        _support(plain, second, cells, pairs, place, likely, (way,))
        for second, way in ((plain, 0), (mirrored, MIRRORED))
    ]
    return find_flips(torch.cat(support, 1), pairs, len(place))


def _support(
    first: Tensor,
    second: Tensor,
    cells: Cells,
    pairs: Tensor,
    place: Tensor,
    likely: Tensor,
    orientations: Sequence[int],
) -> Tensor:
    """:func:`pair_support` of the first photo of each pair by one set of descriptors with the second by another."""
    count = len(first)
    order = pairs + torch.tensor([0, count], device=pairs.device)
    both = Cells(cells.index.repeat(2, 1), cells.used.repeat(2, 1))
    buddies = find_best_buddies(torch.cat([first, second]), both, order)
    objects = likely[buddies.first, buddies.first_cell] * likely[buddies.second - count, buddies.second_cell]
    weight = buddies.similarity.double().clamp(min=0) ** 3 * objects
    return pair_support(buddies, weight, place.repeat(2, 1, 1), order, orientations)


def _table(scores: Tensor, pairs: Tensor, orientations: Sequence[int], count: int) -> Tensor:
    """(E, len(orientations)) scores of pairs as (N, N, 8), those without a turn raised."""
    table = torch.zeros(count, count, len(MATRICES), dtype=torch.float64)
    i, j = pairs.cpu().T
    for column, orientation in enumerate(orientations):
        raised = scores[:, column].double().cpu() * (UPRIGHT if orientation % MIRRORED == 0 else 1.0)
        table[i, j, orientation] = raised
        table[j, i, INVERSES[orientation]] = raised
    return table


def find_turns(turned: Tensor, valid: Tensor, partners: int, search: str = "exact") -> tuple[Tensor, bool]:
    """Which photos lie on their side or upside down.

    Args:
        turned: (N, 4, G, G, C) float32, unit length: descriptors of each photo turned counter-clockwise by no to three
            quarters, laid onto the photo as it is.
        valid: (N, G, G) bool, cells on the photo, as it is.
        partners: photos that each is compared with.
        search: as :func:`choose_pairs` has it.

    Returns:
        (N,) int64: quarters by which each photo is turned counter-clockwise so that it stands as most others do; and
        whether the pairs of photos are of one mind.
    """
    count, grid = len(turned), turned.shape[2]
    axes, mean = principal_axes(turned[:, 0], valid)
    described = project(turned, axes[:, :_CHANNELS], mean, unit=True).flatten(2, 3).unbind(1)
    cells = pack_cells(valid)
    pairs = choose_pairs(described[0], cells, partners, search)
    square = cell_centres(grid, valid.device).double().expand(count, -1, -1)
    likely = torch.ones(count, grid**2, device=valid.device)
    support = [
        _support(described[0], second, cells, pairs, square, likely, (quarters, quarters + MIRRORED))
        for quarters, second in enumerate(described)
    ]
    ways = [way for quarters in range(4) for way in (quarters, quarters + MIRRORED)]
    table = _table(torch.cat(support, 1), pairs, ways, count)
    chosen = synchronise(table, range(len(MATRICES)))
    i, j = pairs.cpu().T
    agreeing = table[i, j].argmax(1) == PRODUCTS[INVERSES[chosen[i]], chosen[j]]
    return chosen % MIRRORED, bool(agreeing.double().mean() >= _SURE)


def find_flips(support: Tensor, pairs: Tensor, count: int) -> Tensor:
    """The photos that face the other way, (N,) bool, from (E, 2) support of pairs: as they are, and one mirrored."""
    return synchronise(_table(support, pairs, (0, MIRRORED), count), (0, MIRRORED)) == MIRRORED


def unsure_of_flips(support: Tensor, pairs: Tensor, flips: Tensor) -> Tensor:
    """The photos that may as well face the other way, from the same support and the (N,) bool of :func:`find_flips`.

    Returns:
        (N,) bool: for which the others' support of what was chosen is not clearly more than that of the contrary.
    """
    table = _table(support, pairs, (0, MIRRORED), len(flips))
    chosen, everyone = flips.cpu().long() * MIRRORED, torch.arange(len(flips))
    relative = PRODUCTS[INVERSES[chosen][:, None], chosen]  # (N, N), of photo j as photo i sees it
    contrary = PRODUCTS[relative, MIRRORED]
    found, other = (table[everyone[:, None], everyone, way].sum(0) for way in (relative, contrary))
    return found < _CLEARLY * other


def photo_support(support: Tensor, pairs: Tensor, objects: Tensor, first: Tensor | None = None) -> Tensor:
    """How well each photo goes with others: the second best of its pairs, for the size of the two objects.

    The second best, because a second photo of the same stranger must not help a stranger. Copies of one picture count
    as one photo: they would go together better than any two photos do.

    Args:
        support: (E,) float64, of the better orientation.
        pairs: (E, 2) int64.
        objects: (N,) float, cells of each photo's object.
        first: (N,) int64, for each photo the first one that shows the same picture; None where there are no copies.
            Where all show one picture, they count as photos nevertheless.

    Returns:
        (N,) float64, weight of agreeing matches for each cell of the object.
    """
    count = len(objects)
    size = (objects[pairs[:, 0]] * objects[pairs[:, 1]]).sqrt().clamp(min=1)
    pictures, place = (torch.arange(count) if first is None else first.cpu()).unique(return_inverse=True)
    if len(pictures) == 1:
        pictures = place = torch.arange(count)
    i, j = place[pairs.cpu().T]
    share = torch.zeros(len(pictures) ** 2, dtype=torch.float64)
    share.scatter_reduce_(0, i * len(pictures) + j, (support / size).double().cpu(), "amax")  # the copies' best
    share = share.reshape(len(pictures), -1)
    share = torch.maximum(share, share.T).fill_diagonal_(0)
    return share.topk(min(2, len(share) - 1), 1).values[place, -1]


def find_outliers(supported: Tensor, first: Tensor) -> tuple[int, ...]:
    """Photos that show something else than the others do.

    Args:
        supported: (N,) float64, from :func:`photo_support`.
        first: (N,) int64, as there: what is found of a picture holds for all its copies.

    Returns:
        Their indices; at most a third of the pictures, the least supported ones; none of fewer than four, and none
        where no two photos seem to show one thing.
    """
    pictures = first.cpu().unique()
    each = supported[pictures]
    usual = float(each.median())
    if len(pictures) < 4 or usual < UNRELATED:
        return ()
    least = each.argsort(stable=True)[: len(pictures) // 3]
    strangers = pictures[least[each[least] < _UNLIKE * usual]]
    return tuple(torch.isin(first.cpu(), strangers).nonzero().flatten().tolist())
