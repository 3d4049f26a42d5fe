"""Which pairs of photos show the same side of the object: those that flow finds one epipolar geometry for."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from asic3d.tracks import MatchGraph, Pair, matches_of
from asic3d_integrations.colmap.coarse import Matches
from asic3d_integrations.colmap.flow import FlowMatches, View, make_view, match_by_flow
from asic3d_integrations.colmap.working import Working

_INLIERS, _RATIO = 60, 0.7
"""What a pair needs. On a figure without texture, true pairs had 77 inliers and more, look-alike sides 46 and fewer."""


@dataclass(frozen=True, eq=False)
class Edge:
    """Two photos that show the same side.

    Attributes:
        pair: the photos, by index, the smaller first.
        first: (M, 2) float64, original pixels of the first photo.
        second: (M, 2) float64, where they are in the second.
        ratio: share of what flow carried there and back that is consistent.
    """

    pair: Pair
    first: np.ndarray
    second: np.ndarray
    ratio: float


def flow_pairs(
    views: Sequence[View],
    seeds: Mapping[Pair, Matches],
    pairs: Sequence[Pair],
    *,
    seed: int = 0,
    threads: int = 2,
    told: Callable[[int], None] = lambda done: None,
) -> dict[Pair, FlowMatches]:
    """Runs flow on pairs, and returns what deserves trust.

    Args:
        views: N photos.
        seeds: coarse matches of the pairs, pixels of the views.
        pairs: which to look at.
        seed: of the draws.
        threads: pairs at a time; OpenCV computes outside Python's lock.
        told: called with the number of pairs that are done.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # two pairs at a time: OpenCV's own threads would only be in each other's way
    try:
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(match_by_flow, views[i], views[j], *seeds[i, j], seed) for i, j in pairs]
            found = {}
            for done, (pair, future) in enumerate(zip(pairs, futures, strict=True), 1):
                matches = future.result()
                if matches is not None and matches.inliers >= _INLIERS and matches.ratio >= _RATIO:
                    found[pair] = matches
                told(done)
    finally:
        cv2.setNumThreads(before)
    return found


def make_views(working: Sequence[Working]) -> list[View]:
    """The photos made ready for flow, turned upright."""
    return [make_view(*one.upright) for one in working]


def edges_of(found: Mapping[Pair, FlowMatches], working: Sequence[Working]) -> tuple[Edge, ...]:
    """The pairs with their matches in original pixels."""
    return tuple(
        Edge(
            (i, j),
            working[i].to_original(matches.first, turned=True),
            working[j].to_original(matches.second, turned=True),
            matches.ratio,
        )
        for (i, j), matches in found.items()
    )


def star_tracks(
    names: Sequence[str], working: Sequence[Working], views: Sequence[View], found: Mapping[Pair, FlowMatches]
) -> MatchGraph:
    """One track for each anchor: the anchor, and where flow carried it in every partner of its photo.

    The matches are those of all pairs inside a track, also of two photos that have no more in common than the anchor.
    """
    points = [[view.all] for view in views]
    counts = [len(view.all) for view in views]
    start = np.concatenate([[0], np.cumsum(counts)])
    rows = []
    for (i, j), matches in found.items():
        for source, ids, target, landed in (
            (i, matches.first_ids, j, matches.first_landed),
            (j, matches.second_ids, i, matches.second_landed),
        ):
            keypoints = counts[target] + np.arange(len(ids))
            rows.append(np.stack([start[source] + ids, np.full(len(ids), target), keypoints], 1))
            points[target].append(landed)
            counts[target] += len(ids)
    used = np.unique(np.concatenate([part[:, 0] for part in rows])) if rows else np.zeros(0, np.int64)
    home = np.searchsorted(start, used, side="right") - 1
    rows.append(np.stack([used, home, used - start[home]], 1))
    tracks = np.concatenate(rows).astype(np.int64)
    tracks = tracks[np.lexsort((tracks[:, 1], tracks[:, 0]))]
    tracks[:, 0] = np.unique(tracks[:, 0], return_inverse=True)[1].reshape(-1)
    keypoints = tuple(
        one.to_original(np.concatenate(parts), turned=True).astype(np.float32)
        for one, parts in zip(working, points, strict=True)
    )
    sizes = tuple(one.size for one in working)
    deviation = max((one.scale for one in working), default=1.0)
    return MatchGraph(tuple(names), sizes, keypoints, matches_of(tracks, len(working)), tracks, deviation)
