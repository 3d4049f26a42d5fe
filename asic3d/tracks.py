"""N-view tracks: which point of each photo shows one and the same place of the object.

A track is a place of the canonical plane. Each photo that shows the place has ONE keypoint for it, which every pair of
photos shares, so that whoever joins the matches of all pairs again gets back exactly these tracks.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from asic3d.brief import Brief
from asic3d.coordinates import cell_centres, normalised_to_pixels, pixels_to_normalised
from asic3d.errors import ExportError
from asic3d.photo_folder import listed, shown

if TYPE_CHECKING:
    from asic3d.alignment import Alignment

Pair = tuple[int, int]

_FINER = 3  # samples along a side of a grid cell, where the canonical plane is cut up
_OBJECT = 0.5
_COARSEST, _NARROWER = 0.5, 0.9  # first step of the lattice over the plane, canonical units; each next one is narrower
_FOLDED = 3.0  # a cell this many times as wide in a photo as is usual there lies in two places of it
_USUAL = 100  # tracks; who asks for fewer may get none
_SURE = 0.2  # least confidence of an answer that a track takes up; the others of the track must agree with it
_CYCLE = 1.0  # cells by which a point may be off after the way there and back
_APART = 0.15  # canonical units between a track's place and that of a point of it
_DEVIATION = 1.8
"""Expected error of a match per pixel of the usual cycle error. Measured on three rendered collections: 1.7 to 1.9."""


@dataclass(frozen=True, eq=False, repr=False)
class MatchGraph(Brief):
    """Keypoints of N photos, which of them match, and the tracks they make.

    Attributes:
        names: the photos.
        sizes: (width, height) of every original upright photo, pixels.
        keypoints: (K_i, 2) float32 for each photo, original upright pixels, (0, 0) = centre of the top-left pixel.
        matches: pair of photos i < j -> (M, 2) int64, a keypoint of i and one of j.
        tracks: (L, 3) int64, a row for each point of each track: track, photo, keypoint; the rows of a track stand
            together, and no keypoint is in two tracks.
        deviation: expected error of a keypoint, original pixels; 1 for points as exact as those of a detector.

    Raises:
        ExportError: something of this does not hold. COLMAP itself takes such values and answers nonsense.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    keypoints: tuple[np.ndarray, ...]
    matches: Mapping[Pair, np.ndarray]
    tracks: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    deviation: float = 1.0

    def __post_init__(self) -> None:
        self._check_photos()
        for pair, rows in self.matches.items():
            self._check_matches(pair, rows)
        self._check_tracks()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray:
        """(T,) int64: how many photos each track is seen in."""
        return np.unique(self.tracks[:, 0], return_counts=True)[1]

    def _check_photos(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ExportError("Two photos have one name; each photo needs a name of its own.")
        if not len(self.names) == len(self.sizes) == len(self.keypoints):
            raise ExportError(
                f"There are {len(self.names)} names, {len(self.sizes)} sizes and {len(self.keypoints)} sets of "
                "keypoints; each photo needs one of each."
            )
        if not (np.isfinite(self.deviation) and self.deviation > 0):
            raise ExportError(f"The expected error of the keypoints is {self.deviation} pixels; it must be above 0.")
        for name, size, points in zip(self.names, self.sizes, self.keypoints, strict=True):
            if points.ndim != 2 or points.shape[1] != 2 or points.dtype != np.float32:
                raise ExportError(
                    f"The keypoints of {shown(name)} are {points.dtype} {points.shape}; float32 (n, 2) is needed."
                )
            if not np.isfinite(points).all():
                raise ExportError(f"Some keypoints of {shown(name)} are no finite numbers.")
            if len(points) and ((points < -0.5) | (points > np.array(size) - 0.5)).any():
                raise ExportError(f"Some keypoints of {shown(name)} lie beside the photo, {size[0]} x {size[1]}.")

    def _check_matches(self, pair: Pair, rows: np.ndarray) -> None:
        i, j = pair
        if not 0 <= i < j < len(self):
            raise ExportError(f"There are matches of the photos {i} and {j}; a pair is i < j < {len(self)}.")
        what = f"The matches of {shown(self.names[i])} and {shown(self.names[j])}"
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 2:
            raise ExportError(f"{what} are {rows.dtype} {rows.shape}; int64 (n, 2) is needed.")
        counts = np.array([len(self.keypoints[i]), len(self.keypoints[j])])
        if len(rows) and ((rows < 0) | (rows >= counts)).any():
            raise ExportError(f"{what} name keypoints that are not there.")
        if len(np.unique(rows, axis=0)) < len(rows):
            raise ExportError(f"{what} name the same two keypoints twice.")

    def _check_tracks(self) -> None:
        rows = self.tracks
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 3:
            raise ExportError(f"The tracks are {rows.dtype} {rows.shape}; int64 (n, 3) is needed.")
        if not len(rows):
            return
        counts = np.array([len(points) for points in self.keypoints])
        if (rows < 0).any() or (rows[:, 1] >= len(self)).any() or (rows[:, 2] >= counts[rows[:, 1]]).any():
            raise ExportError("Some tracks name photos or keypoints that are not there.")
        if (np.diff(rows[:, 0]) < 0).any():
            raise ExportError("The rows of the tracks are not in the order of the tracks.")
        if len(np.unique(rows[:, 1:], axis=0)) < len(rows) or len(np.unique(rows[:, :2], axis=0)) < len(rows):
            raise ExportError("A track has two points in one photo, or a keypoint is in two tracks.")


def taking_part(alignment: "Alignment") -> tuple[int, ...]:
    """The photos whose points may become matches, by index.

    Not those that show something else or nothing, nor those that were mirrored to fit: a mirrored photo of a solid
    thing shows another side of it, or another thing, and no camera explains both.
    """
    mirrored = alignment.mirrored or (False,) * len(alignment.names)
    return tuple(
        index
        for index, (photo, flipped) in enumerate(zip(alignment.collection, mirrored, strict=True))
        if not flipped and photo.name not in alignment.outliers and photo.holds_shapes
    )


def canonical_tracks(alignment: "Alignment", max_tracks: int = 4000, min_views: int = 3) -> MatchGraph:
    """Tracks read out of the canonical space, spread evenly over it.

    The plane is cut into square cells, as small as ``max_tracks`` allows. A cell is believed where it lies in one place
    of each photo. The photo that shows it best gives the point, which is followed into the others; an answer stays
    where it is sure, leads back, and has nearly the same canonical coordinate.

    Args:
        alignment: N photos. Those of something else or of nothing and mirrored ones get no keypoints.
        max_tracks: most tracks.
        min_views: photos that a track is seen in at least; all photos where there are fewer.

    Raises:
        ExportError: fewer than two photos can take part, or they share no place.
    """
    photos = taking_part(alignment)
    if len(photos) < 2:
        raise ExportError(
            f"Only {len(photos)} of {len(alignment.names)} photos can take part: the others show something else, or "
            "nothing, or face the other way. Align with --set outliers=false or flips=false if that is wrong."
        )
    views = max(2, min(min_views, len(photos)))
    samples = _Samples.of(alignment, photos)
    seeds = samples.seeds(max_tracks, views)
    found = [_followed(alignment, source, photos, *seeds.of(source)) for source in photos]
    rows = np.concatenate([rows for rows, _ in found]) if found else np.zeros((0, 4))
    # Tracks are numbered along the lattice, whichever photo they were followed from.
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    _, place, counts = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
    rows = rows[counts[place] >= views]
    if not len(rows):
        few = f" with --max-tracks {max_tracks}" if max_tracks < _USUAL else ""
        raise ExportError(
            f"No place of the object was found in {views} photos or more{few}. Allow fewer with --min-views, or look "
            "at report.html: do these photos show the same side of one object?"
        )
    errors = np.concatenate([errors for _, errors in found])
    return graph_of_tracks(alignment.names, alignment.sizes, rows, max(1.0, _DEVIATION * float(np.median(errors))))


def graph_of_tracks(
    names: tuple[str, ...], sizes: tuple[tuple[int, int], ...], rows: np.ndarray, deviation: float
) -> MatchGraph:
    """A graph with a keypoint for each point of each track, and matches between all photos of a track.

    Args:
        names: N photos.
        sizes: their (width, height), pixels.
        rows: (L, 4) float, a row for each point: track, photo, x and y in original pixels. No two rows have the same
            track and photo.
        deviation: expected error of a point, pixels.
    """
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    track = np.unique(rows[:, 0], return_inverse=True)[1].reshape(-1)
    photo = rows[:, 1].astype(np.int64)
    keypoint = np.zeros(len(rows), np.int64)
    keypoints = []
    for index in range(len(names)):
        own = np.flatnonzero(photo == index)
        keypoint[own] = np.arange(len(own))
        keypoints.append(np.ascontiguousarray(rows[own, 2:], np.float32))
    tracks = np.stack([track, photo, keypoint], 1).astype(np.int64)
    return MatchGraph(names, sizes, tuple(keypoints), matches_of(tracks, len(names)), tracks, deviation)


def matches_of(tracks: np.ndarray, photos: int) -> dict[Pair, np.ndarray]:
    """All matches inside tracks, (L, 3) int64: pair i < j -> (M, 2) int64, in the order of the tracks."""
    if not len(tracks):
        return {}
    table = np.full((int(tracks[:, 0].max()) + 1, photos), -1, np.int64)
    table[tracks[:, 0], tracks[:, 1]] = tracks[:, 2]
    found = {}
    for i, j in itertools.combinations(range(photos), 2):
        both = (table[:, i] >= 0) & (table[:, j] >= 0)
        if both.any():
            found[i, j] = np.stack([table[both, i], table[both, j]], 1)
    return found


def tracks_of(matches: Mapping[Pair, np.ndarray], counts: "list[int] | tuple[int, ...]") -> np.ndarray:
    """The tracks that matches join up to, as COLMAP joins them; those with two points in one photo are left out.

    Args:
        matches: pair i < j -> (M, 2) int64.
        counts: keypoints of each photo.

    Returns:
        (L, 3) int64 as :attr:`MatchGraph.tracks`.
    """
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ends = [start[[i, j]] + rows for (i, j), rows in matches.items() if len(rows)]
    if not ends:
        return np.zeros((0, 3), np.int64)
    edges = np.concatenate(ends)
    label = _components(edges, int(start[-1]))
    nodes = np.unique(edges)
    photo = np.searchsorted(start, nodes, side="right") - 1
    track = np.unique(label[nodes], return_inverse=True)[1].reshape(-1)
    seen, first, times = np.unique(track * len(counts) + photo, return_index=True, return_counts=True)
    double = np.unique(track[first[times > 1]])
    del seen
    keep = ~np.isin(track, double)
    track = np.unique(track[keep], return_inverse=True)[1].reshape(-1)
    rows = np.stack([track, photo[keep], nodes[keep] - start[photo[keep]]], 1).astype(np.int64)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def _components(edges: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: the smallest node that each node is joined with, by way of (E, 2) edges."""
    label = np.arange(count)
    while True:
        low = label[edges].min(1)
        before = label.copy()
        np.minimum.at(label, before[edges[:, 0]], low)
        np.minimum.at(label, before[edges[:, 1]], low)
        label = label[label[label]]
        if (label == before).all():
            return label


def merged(first: MatchGraph, second: MatchGraph) -> MatchGraph:
    """Both graphs of the same photos in one: the keypoints of the second follow those of the first.

    Raises:
        ExportError: the graphs are of different photos.
    """
    if first.names != second.names or first.sizes != second.sizes:
        raise ExportError(
            f"Matches of different photos can't be put together: {listed(first.names)} and {listed(second.names)}."
        )
    shift = np.array([len(points) for points in first.keypoints], np.int64)
    keypoints = tuple(np.concatenate(both) for both in zip(first.keypoints, second.keypoints, strict=True))
    matches = dict(first.matches)
    for (i, j), rows in second.matches.items():
        moved = rows + shift[[i, j]]
        matches[i, j] = np.concatenate([matches[i, j], moved]) if (i, j) in matches else moved
    tracks = second.tracks.copy()
    tracks[:, 2] += shift[tracks[:, 1]]
    tracks[:, 0] += 1 + (first.tracks[:, 0].max() if len(first.tracks) else -1)
    return MatchGraph(
        first.names,
        first.sizes,
        keypoints,
        dict(sorted(matches.items())),
        np.concatenate([first.tracks, tracks]),
        max(first.deviation, second.deviation),
    )


@dataclass(frozen=True, eq=False)
class _Seeds:
    """Points from which tracks are followed: ``cell`` and ``photo`` (S,) int, ``pixels`` and ``canonical`` (S, 2)."""

    cell: np.ndarray
    photo: np.ndarray
    pixels: np.ndarray
    canonical: np.ndarray

    def of(self, photo: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells, pixels and canonical coordinates of one photo's seeds."""
        own = self.photo == photo
        return self.cell[own], self.pixels[own], self.canonical[own]


@dataclass(frozen=True, eq=False)
class _Samples:
    """The objects of the photos, sampled more finely than their grid.

    Attributes:
        photo: (S,) int64.
        pixels: (S, 2) float64, original pixels.
        canonical: (S, 2) float64.
        sure: (S,) float64, confidence.
    """

    photo: np.ndarray
    pixels: np.ndarray
    canonical: np.ndarray
    sure: np.ndarray

    @staticmethod
    def of(alignment: "Alignment", photos: tuple[int, ...]) -> "_Samples":
        """The samples of some photos' objects."""
        side = alignment.canonical.shape[1] * _FINER
        centres = cell_centres(side).double()
        maps = torch.cat(
            [alignment.canonical.cpu(), alignment.foreground.cpu()[..., None], alignment.confidence.cpu()[..., None]],
            -1,
        )
        fine = F.interpolate(maps.permute(0, 3, 1, 2), size=(side, side), mode="bilinear", align_corners=False)
        parts = []
        for index in photos:
            pixels = normalised_to_pixels(centres, alignment.sizes[index])
            values = fine[index].flatten(1).T.double()
            limits = torch.tensor(alignment.sizes[index]) - 0.5
            use = (values[:, 2] > _OBJECT) & (pixels >= -0.5).all(1) & (pixels <= limits).all(1)
            photo = torch.full((int(use.sum()), 1), float(index), dtype=torch.float64)
            parts.append(torch.cat([photo, pixels[use], values[use]], 1))
        rows = torch.cat(parts).numpy()
        return _Samples(rows[:, 0].astype(np.int64), rows[:, 1:3], rows[:, 3:5], rows[:, 6])

    def seeds(self, most: int, views: int) -> _Seeds:
        """One seed for each cell of the finest lattice that has at most ``most`` cells which ``views`` photos show."""
        step, best = _COARSEST, None
        spacing = self._spacing()
        while step > spacing:
            found = self._cells(step, views)
            if best is not None and len(found.cell) > most:
                break
            best, step = found, step * _NARROWER
        if best is None:
            best = self._cells(step, views)
        keep = (np.arange(min(most, len(best.cell))) + 0.5) * len(best.cell) / min(most, max(len(best.cell), 1))
        keep = keep.astype(int)
        return _Seeds(best.cell[keep], best.photo[keep], best.pixels[keep], best.canonical[keep])

    def _spacing(self) -> float:
        """The usual distance of two neighbouring samples in the plane: finer cells would be empty by chance."""
        near = [
            np.linalg.norm(np.diff(self.canonical[self.photo == index], axis=0), axis=1)
            for index in np.unique(self.photo)
        ]
        return 1.5 * float(np.median(np.concatenate(near))) if near else _COARSEST

    def _cells(self, step: float, views: int) -> _Seeds:
        """The cells of a lattice that ``views`` photos show, row by row, each with the surest photo's sample."""
        column, row = np.floor(self.canonical / step).astype(np.int64).T
        column, row = column - column.min(initial=0), row - row.min(initial=0)
        cell = row * (column.max(initial=0) + 1) + column
        middle = (np.floor(self.canonical / step) + 0.5) * step
        off = np.linalg.norm(self.canonical - middle, axis=1)
        order = np.lexsort((off, self.photo, cell))
        key = np.stack([cell[order], self.photo[order]], 1)
        _, first, group, count = np.unique(key, axis=0, return_index=True, return_inverse=True, return_counts=True)
        nearest, group = order[first], group.reshape(-1)
        wide = np.zeros(len(nearest))
        np.maximum.at(wide, group, np.linalg.norm(self.pixels[order] - self.pixels[nearest][group], axis=1))
        one = nearest[~self._folded(wide, self.photo[nearest], count)]
        shown_in = np.unique(cell[one], return_inverse=True, return_counts=True)
        one = one[shown_in[2][shown_in[1].reshape(-1)] >= views]
        best = one[np.lexsort((-self.sure[one], cell[one]))]
        best = best[np.unique(cell[best], return_index=True)[1]]
        return _Seeds(cell[best], self.photo[best], self.pixels[best], self.canonical[best])

    @staticmethod
    def _folded(wide: np.ndarray, photo: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Which cells are far wider in their photo than cells usually are there."""
        folded = np.zeros(len(wide), bool)
        for index in np.unique(photo):
            own = photo == index
            several = wide[own & (count > 1)]
            if len(several):
                folded |= own & (wide > _FOLDED * np.median(several))
        return folded


def _followed(
    alignment: "Alignment",
    source: int,
    photos: tuple[int, ...],
    cell: np.ndarray,
    pixels: np.ndarray,
    canonical: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Seeds of one photo in all photos.

    Returns:
        (L, 4) float64, track, photo, x, y; and the cycle errors of those in other photos, original pixels.
    """
    rows = [np.column_stack([cell, np.full(len(cell), source), pixels])]
    errors = [np.zeros(0)]
    limit = _CYCLE * max(alignment.sizes[source]) / alignment.canonical.shape[1]
    for target in (index for index in photos if index != source and len(cell)):
        found = alignment.transfer(pixels, source=alignment.names[source], target=alignment.names[target])
        points, error = found.points.numpy(), found.cycle_error.numpy()
        inside = ((points >= -0.5) & (points <= np.array(alignment.sizes[target]) - 0.5)).all(1)
        apart = np.linalg.norm(_canonical_at(alignment, target, points) - canonical, axis=1)
        keep = inside & (found.confidence.numpy() >= _SURE) & (error <= limit) & (apart <= _APART)
        rows.append(np.column_stack([cell[keep], np.full(keep.sum(), target), points[keep]]))
        errors.append(error[keep])
    return np.concatenate(rows), np.concatenate(errors)


def _canonical_at(alignment: "Alignment", photo: int, points: np.ndarray) -> np.ndarray:
    """(n, 2) canonical coordinates of (n, 2) original pixels of a photo."""
    where = pixels_to_normalised(torch.from_numpy(points).float(), alignment.sizes[photo])
    plane = alignment.canonical[photo].cpu().permute(2, 0, 1)[None].float()
    return F.grid_sample(plane, where[None, None], align_corners=False, padding_mode="border")[0, :, 0].T.numpy()
