"""Which pairs of photos show the same side of the object: those that flow finds one epipolar geometry for."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np

from asic3d.tracks import MatchGraph, Pair, matches_of
from asic3d_integrations.colmap.coarse import Matches
from asic3d_integrations.colmap.flow import PLENTY, FlowMatches, View, make_view, match_by_flow
from asic3d_integrations.colmap.working import Working

_INLIERS, _RATIO = 50, 0.7
"""What an answer needs at least. Sides that merely look alike reach it now and then, so that two answers must agree."""
_SURE = (120, 0.85)
"""Inliers and ratio with which one answer is believed. Of sides that look alike none was seen above 80 inliers."""
_SUBSET = 0.7  # share of the coarse matches that a further answer begins with
_SAME, _SHARE, _COMMON = 2.0, 0.8, 0.5
"""Two answers agree where this share of the corners in both is carried to within so many pixels of one place, and as
large a part of the smaller answer as the third number says is in both. True pairs: 0.9 to 1.0, and 0.5 to 0.9. Sides
that look alike: up to 1.0, but 0.4 at most of the corners."""
ATTEMPTS, PATIENT = 3, 8
"""Answers that are asked for: where the first is promising, and where a pair would connect two groups of photos."""
_HARDLY_ANY = 3  # pairs of a photo, below which weaker corners are carried through all pairs around it
_AGAIN = 6  # more answers for a pair that alone holds photos together
_BRIDGES = 2  # pairs between groups that are asked in a turn, for each photo


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
    found = {}
    with _one_thread(), ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(believed_matches, views[i], views[j], seeds[i, j], seed) for i, j in pairs]
        for done, (pair, future) in enumerate(zip(pairs, futures, strict=True), 1):
            matches = future.result()
            if matches is not None:
                found[pair] = matches
            told(done)
    return found


def bridges(
    views: Sequence[View],
    seeds: Mapping[Pair, Matches],
    found: Mapping[Pair, FlowMatches],
    *,
    seed: int = 0,
    threads: int = 2,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Pair, FlowMatches]:
    """Pairs between groups of photos that no believed pair connects yet.

    They are at the limit of what flow can follow, and which matches it begins with decides. So each is asked once in a
    turn, and again in the next, from another beginning, until the groups are connected.

    Args:
        views: N photos.
        seeds: coarse matches of all pairs that have some.
        found: believed pairs.
        seed: of the draws.
        threads: as :func:`flow_pairs` has it.
        told: called after each pair of a turn, with how many are done and how many there may be.
    """
    earlier: dict[Pair, list[FlowMatches]] = {}
    added: dict[Pair, FlowMatches] = {}
    with _one_thread(), ThreadPoolExecutor(threads) as pool:
        for turn in range(PATIENT):
            chosen = _between(len(views), seeds, {*found, *added})
            answers = pool.map(
                lambda pair, turn=turn: _answer(views[pair[0]], views[pair[1]], seeds[pair], seed, turn, _SUBSET),
                chosen,
            )
            for done, (pair, answer) in enumerate(zip(chosen, answers, strict=True), 1 + turn * len(chosen)):
                told(done, PATIENT * len(chosen))
                if answer is None:
                    continue
                believed = _confirmed(answer, earlier.setdefault(pair, []))
                if believed is not None:
                    added[pair] = believed
    return added


def _between(photos: int, seeds: Mapping[Pair, Matches], found: set[Pair]) -> list[Pair]:
    """Pairs between groups, two for each photo at most."""
    group = groups(photos, found)
    size = {one: group.count(one) for one in set(group)}
    between = [pair for pair in seeds if group[pair[0]] != group[pair[1]]]
    # A photo that goes with none is more often a stranger than the end of a bridge: groups first.
    between.sort(key=lambda pair: (-min(size[group[pair[0]]], size[group[pair[1]]]), -len(seeds[pair][0])))
    return between[: _BRIDGES * photos]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Two pairs at a time are enough for two cores: OpenCV's own threads would only be in each other's way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def strengthened(
    views: Sequence[View],
    seeds: Mapping[Pair, Matches],
    found: Mapping[Pair, FlowMatches],
    *,
    seed: int = 0,
    threads: int = 2,
) -> dict[Pair, FlowMatches]:
    """The best of several answers for each pair that holds two groups of photos together alone.

    All cameras beyond it depend on it. The best is the largest that another one agrees with: the more corners come
    back, the closer they are.

    Args:
        views: N photos.
        seeds: coarse matches of the pairs.
        found: believed pairs.
        seed: of the draws.
        threads: as :func:`flow_pairs` has it.
    """
    weak = []
    for pair, matches in found.items():
        label = groups(len(views), [other for other in found if other != pair])
        if matches.inliers < PLENTY and label[pair[0]] != label[pair[1]]:
            weak.append(pair)
    better = {}
    with _one_thread(), ThreadPoolExecutor(threads) as pool:
        for pair in weak:
            one, other = views[pair[0]], views[pair[1]]
            more = pool.map(
                lambda turn, one=one, other=other, pair=pair: _answer(one, other, seeds[pair], seed, turn, _SUBSET),
                range(PATIENT, PATIENT + _AGAIN),
            )
            answers = [found[pair], *(answer for answer in more if answer is not None)]
            agreed = [one for one in answers if sum(same_answer(one, other) for other in answers) > 1]
            better[pair] = max(agreed or answers[:1], key=lambda one: one.inliers)
    return better


def believed_matches(one: View, other: View, coarse: Matches, seed: int) -> FlowMatches | None:
    """Flow between two photos, if it deserves trust; None otherwise, which is no failure.

    From other beginnings, true flow comes to the same places; where sides look alike, chance decides where it ends.

    Args:
        one: the first photo.
        other: the second photo.
        coarse: matches to begin with.
        seed: of the draws.
    """
    earlier: list[FlowMatches] = []
    for attempt in range(ATTEMPTS):
        answer = _answer(one, other, coarse, seed, attempt, _SUBSET if attempt else 1.0)
        if answer is None:
            if not attempt:
                return None
            continue
        believed = _confirmed(answer, earlier)
        if believed is not None:
            return believed
    return None


def _answer(one: View, other: View, coarse: Matches, seed: int, attempt: int, share: float) -> FlowMatches | None:
    """What flow says from a share of the coarse matches, if that is worth a second question."""
    generator = np.random.default_rng([seed, attempt])
    chosen = np.sort(generator.permutation(len(coarse[0]))[: round(share * len(coarse[0]))])
    answer = match_by_flow(one, other, coarse[0][chosen], coarse[1][chosen], seed + attempt)
    return None if answer is None or answer.inliers < _INLIERS or answer.ratio < _RATIO else answer


def _confirmed(answer: FlowMatches, earlier: list[FlowMatches]) -> FlowMatches | None:
    """The answer, or a better earlier one that agrees with it, if it can be believed; else it joins the earlier."""
    if answer.inliers >= _SURE[0] and answer.ratio >= _SURE[1]:
        return answer
    agreeing = [one for one in earlier if same_answer(one, answer)]
    if agreeing:
        return max([*agreeing, answer], key=lambda one: one.inliers)
    earlier.append(answer)
    return None


def same_answer(matches: FlowMatches, again: FlowMatches) -> bool:
    """Whether two runs of flow carry the same corners to the same places."""
    near, common = 0, 0
    for ids, landed, its_ids, its_landed in (
        (matches.first_ids, matches.first_landed, again.first_ids, again.first_landed),
        (matches.second_ids, matches.second_landed, again.second_ids, again.second_landed),
    ):
        _, mine, its = np.intersect1d(ids, its_ids, return_indices=True)
        near += int((np.linalg.norm(landed[mine] - its_landed[its], axis=1) < _SAME).sum())
        common += len(mine)
    fewer = min(len(matches.first), len(again.first))
    return fewer > 0 and common >= _COMMON * fewer and near >= _SHARE * common


def groups(photos: int, pairs: Iterable[Pair]) -> list[int]:
    """For each photo the smallest photo that pairs connect it with."""
    label = list(range(photos))
    for i, j in pairs:
        low, high = sorted((label[i], label[j]))
        label = [low if one == high else one for one in label]
    return label


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


def _thinned(views: Sequence[View], found: Mapping[Pair, FlowMatches]) -> dict[Pair, FlowMatches]:
    """Without weaker corners that no pair needs.

    A pair with few anchors needs them. So do the other pairs of its photos where one of the two has hardly any: what
    three photos show ties it to the rest.
    """
    needed = [np.arange(len(view.all)) < len(view.anchors) for view in views]
    for (i, j), matches in found.items():
        partners = min(sum(photo in pair for pair in found) for photo in (i, j))
        if matches.inliers < PLENTY and partners < _HARDLY_ANY:
            needed[i][matches.first_ids] = needed[j][matches.second_ids] = True
    thinned = {}
    for (i, j), matches in found.items():
        few = matches.inliers < PLENTY
        mine, its = (few | needed[k][ids] for k, ids in ((i, matches.first_ids), (j, matches.second_ids)))
        thinned[i, j] = replace(
            matches,
            first_ids=matches.first_ids[mine],
            first_landed=matches.first_landed[mine],
            second_ids=matches.second_ids[its],
            second_landed=matches.second_landed[its],
        )
    return thinned


def star_tracks(
    names: Sequence[str], working: Sequence[Working], views: Sequence[View], found: Mapping[Pair, FlowMatches]
) -> MatchGraph:
    """One track for each anchor: the anchor, and where flow carried it in every partner of its photo.

    The matches are those of all pairs inside a track, also of two photos that have no more in common than the anchor.
    """
    found = _thinned(views, found)
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
