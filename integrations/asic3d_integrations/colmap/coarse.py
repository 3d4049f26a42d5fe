"""Coarse matches between photos from a network's features: where flow starts, and which pairs are worth it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import EMBEDDED, Backbone, load_backbone
from asic3d.best_buddies import pack_cells
from asic3d.coordinates import cell_centres, normalised_to_pixels, photo_cells
from asic3d.features import RawFeatures, describe, principal_axes, square_images, tap_centres
from asic3d.retrieval import choose_pairs
from asic3d.scratch import FORGOTTEN, forget, scratch
from asic3d.tracks import Pair
from asic3d_integrations.colmap.flow import agreeing
from asic3d_integrations.colmap.working import Working

GRID = 64
"""Cells along one side of a photo's square."""
_PARTNERS = 24
"""Photos that each is matched with at least: all of them in collections of up to 25."""
_CHANNELS, _SAMPLE = 160, 20000  # principal components, and about how many cells they are found from
_MARGIN = 0.05  # around the object, of its longer side
_SMOOTH = (0.039, 0.0234)
"""How far a match's displacement may be from its neighbours', of the piece's longer side: 2.5 and 1.5 cells."""
FEWEST = 25
"""Matches that agree with their neighbours, below which a pair is hopeless."""

Matches = tuple[np.ndarray, np.ndarray]
"""(M, 2) float64 each: pixels of the first and of the second photo."""


def coarse_backbones(device: torch.device | str = "cpu") -> tuple[Backbone, ...]:
    """The embedded network, read finer than for an alignment, in two ways.

    Where photos are far apart each finds some true matches and many false ones; the true ones add up.
    """
    return tuple(
        load_backbone(EMBEDDED, device=device, sides=sides, blocks=blocks, tap_weights=(1.0, 1.0, 1.0))
        for sides, blocks in (((512,), (4, 10, 15)), ((320, 480), (6, 10, 14)))
    )


@dataclass(frozen=True, eq=False)
class _Piece:
    """The part of a turned photo that holds the object: ``pixels``, ``mask``, and its top-left ``corner`` (2,)."""

    pixels: np.ndarray
    mask: np.ndarray
    corner: np.ndarray

    @staticmethod
    def of(working: Working) -> "_Piece":
        """The box of the largest piece of the mask: the closer the network sees the object, the better."""
        pixels, mask = working.upright
        _, _, boxes, _ = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
        if len(boxes) < 2:
            return _Piece(pixels, np.full(mask.shape, 255, np.uint8), np.zeros(2))
        x, y, width, height = boxes[1 + boxes[1:, cv2.CC_STAT_AREA].argmax(), :4].tolist()
        margin = round(_MARGIN * max(width, height))
        rows = slice(max(y - margin, 0), y + height + margin)
        columns = slice(max(x - margin, 0), x + width + margin)
        return _Piece(pixels[rows, columns], mask[rows, columns], np.array([columns.start, rows.start], float))

    @property
    def cells(self) -> Tensor:
        """(K,) int64: the cells that lie on the mask."""
        height, width = self.mask.shape
        centres = normalised_to_pixels(cell_centres(GRID), (width, height)).round().long()
        x, y = centres[:, 0].clamp(0, width - 1), centres[:, 1].clamp(0, height - 1)
        on_mask = torch.from_numpy(np.ascontiguousarray(self.mask))[y, x] > 0
        return (photo_cells((width, height), GRID).flatten() & on_mask).nonzero()[:, 0]

    @property
    def places(self) -> np.ndarray:
        """(G * G, 2) float64: pixels of the turned photo, of every cell's centre."""
        height, width = self.mask.shape
        return normalised_to_pixels(cell_centres(GRID).double(), (width, height)).numpy() + self.corner


class _Seen:
    """What a network says of photos, one after the other; beyond scratch.LARGE bytes it lies in a file."""

    def __init__(self, pieces: Sequence[_Piece], backbone: Backbone) -> None:
        self._backbone, self._shapes, self._kept = backbone, list[torch.Size](), torch.empty(0)
        for index, piece in enumerate(pieces):
            images = square_images(piece.pixels, backbone.sides)
            taps = [tap[0].cpu() for image in images for tap in backbone(image).taps]
            if index == 0:
                self._shapes = [tap.shape for tap in taps]
                self._kept = scratch((len(pieces), sum(tap.numel() for tap in taps)))
            torch.cat([tap.flatten() for tap in taps], out=self._kept[index])
            _tidy(index)
        self._centres = tap_centres(self._raw(index) for index in range(len(pieces)))

    def _raw(self, index: int) -> RawFeatures:
        _tidy(index)
        taps = self._kept[index].split([shape.numel() for shape in self._shapes])
        return RawFeatures(
            tuple(tap.reshape(shape).to(self._backbone.device) for tap, shape in zip(taps, self._shapes, strict=True))
        )

    def __iter__(self) -> Iterator[Tensor]:
        """(G, G, C) descriptors of each photo."""
        for index in range(len(self._kept)):
            yield describe(self._raw(index), self._centres, self._backbone.tap_weights, GRID)


def _tidy(done: int) -> None:
    if done % FORGOTTEN == 0:
        forget()


def _described(pieces: Sequence[_Piece], backbone: Backbone) -> Tensor:
    """(N, G * G, C) float32, unit length: what the network sees in each cell of each photo and its neighbours.

    Whole descriptors are made twice, for the axes and to be reduced: of all photos they are three times what is kept.
    """
    seen, cells = _Seen(pieces, backbone), GRID * GRID
    step = max(1, len(pieces) * cells // _SAMPLE)
    sample = [one.flatten(0, 1)[-index * cells % step :: step].clone() for index, one in enumerate(seen)]
    axes, mean = principal_axes(torch.cat(sample))
    del sample
    found = scratch((len(pieces), cells, min(_CHANNELS, axes.shape[1])))
    for place, one in zip(found, seen, strict=True):
        reduced = ((one[None] - mean) @ axes[:, :_CHANNELS]).permute(0, 3, 1, 2)
        smooth = F.avg_pool2d(F.pad(reduced, (1, 1, 1, 1), mode="replicate"), 3, 1)
        place.copy_(F.normalize(smooth, dim=1)[0].permute(1, 2, 0).flatten(0, 1))
    forget()
    return found


def coarse_matches(
    photos: Sequence[Working],
    backbones: Sequence[Backbone],
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Pair, Matches]:
    """Mutual nearest neighbours that move as their neighbours do, for all pairs that have enough of them.

    In large collections each photo is matched with the ``_PARTNERS`` that look most like it.

    Args:
        photos: N photos.
        backbones: the networks; a pair has the matches of all of them.
        told: called after each pair, with how many are done and how many there are, counted for each network.

    Returns:
        (i, j) with i < j -> matches in pixels of the turned working photos.
    """
    pieces = [_Piece.of(photo) for photo in photos]
    cells, places = [piece.cells for piece in pieces], [piece.places for piece in pieces]
    found: dict[Pair, list[Matches]] = {}
    pairs: list[Pair] = []
    for number, backbone in enumerate(backbones):
        described = _described(pieces, backbone)
        pairs = pairs or _similar_pairs(described, cells)
        for done, (i, j) in enumerate(pairs, 1 + number * len(pairs)):
            a, b = _mutual(described[i][cells[i]], described[j][cells[j]])
            first, second = places[i][cells[i][a]], places[j][cells[j][b]]
            side = max(*pieces[i].mask.shape, *pieces[j].mask.shape)
            kept = agreeing(first, second, tuple(share * side for share in _SMOOTH))
            found.setdefault((i, j), []).append((first[kept], second[kept]))
            told(done, len(pairs) * len(backbones))
            _tidy(done)
        del described  # before there are the next network's
    joined = {pair: (np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts]))
              for pair, parts in found.items()}  # fmt: skip
    return {pair: matches for pair, matches in joined.items() if len(matches[0]) >= FEWEST * len(backbones)}


def _similar_pairs(described: Tensor, cells: Sequence[Tensor]) -> list[Pair]:
    """The pairs that are matched, from (N, G * G, C) descriptors and each photo's cells on its object."""
    mask = torch.zeros(described.shape[:2], dtype=torch.bool)
    for own, index in zip(mask, cells, strict=True):
        own[index if len(index) else 0] = True
    side = round(mask.shape[1] ** 0.5)
    chosen = choose_pairs(described, pack_cells(mask.reshape(-1, side, side)), _PARTNERS)
    return [(i, j) for i, j in chosen.tolist()]


def _mutual(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of two tables of descriptors on the CPU that are each other's nearest."""
    if not len(one) or not len(other):
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    similarity = one @ other.T
    forth = torch.from_numpy(similarity.numpy().argmax(1))  # a quarter of torch's time
    best = similarity.gather(1, forth[:, None])[:, 0]
    mutual = (best >= similarity.amax(0)[forth]).nonzero()[:, 0]  # a tenth of the time of looking where it is
    return mutual, forth[mutual]


def promising_pairs(matches: dict[Pair, Matches], partners: int) -> list[Pair]:
    """The pairs that are among the ``partners`` best supported ones of either photo, in order."""
    best: dict[int, list[tuple[int, Pair]]] = {}
    for pair, (first, _) in matches.items():
        for photo in pair:
            best.setdefault(photo, []).append((-len(first), pair))
    return sorted({pair for ranked in best.values() for _, pair in sorted(ranked)[:partners]})
