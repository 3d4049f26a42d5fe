"""Tracks as exact as a detector's, across wide baselines: from photos to a graph of matches and accepted pairs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from asic3d.alignment import Alignment
from asic3d.backbones import EMBEDDED, load_backbone
from asic3d.collection import Collection
from asic3d.config import AlignmentConfig, Progress
from asic3d.orientations import stand_upright
from asic3d.tracks import MatchGraph, Pair, merged, taking_part, tracks_of
from asic3d_integrations.colmap.coarse import coarse_backbones, coarse_matches, promising_pairs
from asic3d_integrations.colmap.edges import Edge, bridges, edges_of, flow_pairs, make_views, star_tracks, strengthened
from asic3d_integrations.colmap.flow import FlowMatches
from asic3d_integrations.colmap.self_check import edges_of_matches
from asic3d_integrations.colmap.sift import GENEROUS, sift_graph
from asic3d_integrations.colmap.working import Working, working_photo

STAGES = {
    "turns": "Standing the photos upright",
    "coarse": "Matching the photos coarsely",
    "flow": "Following pairs of photos by optical flow",
    "bridges": "Looking for pairs that connect groups of photos",
    "sift": "Matching SIFT keypoints",
}
"""Stage -> what it does, in words."""
_MOST_SIFT = 4000


@dataclass(frozen=True)
class RefineOptions:
    """How to find tracks.

    Attributes:
        seed: of every draw.
        partners: photos that each photo is followed into, the best supported ones.
        sift: join SIFT keypoints to those of flow.
        turns: find photos that lie on their side.
        threads: processor cores to use.
        device: where the network runs.
    """

    seed: int = 0
    partners: int = 7
    sift: bool = True
    turns: bool = True
    threads: int = 2
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Refined:
    """Exact tracks, and what they rest on.

    Attributes:
        graph: the keypoints, matches and tracks of all photos, in original pixels; those of flow come first.
        edges: the pairs of photos that flow accepts.
        working: the photos as they were worked on.
        facts: for reports: ``pairs`` that were tried, ``accepted`` ones, ``seconds`` of each stage.
    """

    graph: MatchGraph
    edges: tuple[Edge, ...]
    working: tuple[Working, ...]
    facts: dict = field(default_factory=dict)


def refined_graph(
    source: Alignment | Collection,
    options: RefineOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Refined:
    """Finds exact tracks in photos of one rigid object or place.

    Args:
        source: the photos. Of an alignment, photos of something else and mirrored ones take no part, and how its photos
            are turned is known.
        options: how.
        progress: called with the stages of STAGES.

    Raises:
        BackboneError: the embedded network's weights are missing.
    """
    options, told = options or RefineOptions(), progress or (lambda _: None)
    collection = source if isinstance(source, Collection) else source.collection
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    told(Progress("turns", 0, 1))
    turns = _turns(source, options)
    working = tuple(working_photo(photo, turn) for photo, turn in zip(collection, turns, strict=True))
    clock("turns")
    told(Progress("turns", 1, 1))
    part = tuple(range(len(collection))) if isinstance(source, Collection) else taking_part(source)
    networks = coarse_backbones(options.device)
    seeds = coarse_matches(working, networks, lambda done, total: told(Progress("coarse", done, total)))
    seeds = {(i, j): matches for (i, j), matches in seeds.items() if i in part and j in part}
    clock("coarse")
    views = make_views(working)
    pairs = promising_pairs(seeds, options.partners)
    found = flow_pairs(
        views,
        seeds,
        pairs,
        seed=options.seed,
        threads=options.threads,
        told=lambda done: told(Progress("flow", done, len(pairs))),
    )
    found |= bridges(
        views,
        seeds,
        found,
        seed=options.seed,
        threads=options.threads,
        told=lambda done, total: told(Progress("bridges", done, total)),
    )
    found |= strengthened(views, seeds, found, seed=options.seed, threads=options.threads)
    found = dict(sorted(found.items()))
    clock("flow")
    graph = star_tracks(collection.names, working, views, found)
    if options.sift:
        photos = collection.photos
        sift = sift_graph(
            photos,
            working,
            peak=GENEROUS,
            most=_MOST_SIFT,
            threads=options.threads,
            told=lambda done, total: told(Progress("sift", done, total)),
        )
        graph = merged(graph, _believed(sift, found))
        clock("sift")
    facts = {"pairs": len(pairs), "accepted": len(found), "seconds": seconds}
    return Refined(graph, edges_of(found, working), working, facts)


def _believed(sift: MatchGraph, found: Mapping[Pair, FlowMatches]) -> MatchGraph:
    """SIFT's matches of pairs that flow or SIFT is sure of: a few false ones would tie opposite sides together."""
    pairs = set(found) | {edge.pair for edge in edges_of_matches(sift)}
    matches = {pair: rows for pair, rows in sift.matches.items() if pair in pairs}
    return replace(sift, matches=matches, tracks=tracks_of(matches, [len(points) for points in sift.keypoints]))


class _Clock:
    """Notes how long each stage took."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[stage], self._last = round(now - self._last, 2), now


def _turns(source: Alignment | Collection, options: RefineOptions) -> list[int]:
    if isinstance(source, Alignment):
        return list(source.turns) or [0] * len(source.names)
    if not options.turns or len(source) < 2:
        return [0] * len(source)
    backbone = load_backbone(EMBEDDED, device=torch.device(options.device))
    return stand_upright(source, backbone, AlignmentConfig(backbone=EMBEDDED, seed=options.seed)).tolist()
