"""Whether a reconstruction deserves trust, judged without any truth.

A mapper registers photos and minimises errors whatever the photos show: all registered and one pixel of error can be
garbage. What it can't do is make pairs of photos agree that it did not make agree by force: so each pair's own epipolar
geometry, found before any model was, is held against the model's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from asic3d.tracks import MatchGraph, Pair
from asic3d_integrations.colmap.database import HALF
from asic3d_integrations.colmap.edges import Edge, groups
from asic3d_integrations.colmap.flow import fundamental, sampson
from asic3d_integrations.colmap.joining import Joints

NO_JOINTS = Joints()

_OFF = 2.0  # median distance to the model's epipolar lines of a pair that contradicts it, expected errors
_FITTING, _JUDGED, _USED = 0.9, 0.8, 0.5
_EXCESS, _FLOOR = 1.2, 0.05
"""A model of rigid things keeps to each pair as closely as the pair's own epipolar geometry: 0.9 to 1.05 times as far
off, over all pairs, on real and rendered photos; 1.4 to 2.6 where the object bends. The floor is added to both, in
expected errors of a keypoint, so that perfect matches divide as well."""
_FEWEST = 3
_FOCAL = (0.35, 12.0)  # focal length over the longer side that lenses have: fish-eye to long telephoto
_TIED = (30, 0.9)
"""Where one pair alone holds two parts together: tracks across it in three photos, and the share that the model must
explain. Right models: 54 tracks and more, 0.94 to 1.0. Wrong ones: 8 to 21 tracks, or 0.72 to 0.89."""
_PAIR = (30, 0.5)  # inliers and ratio that make an accepted pair out of plain matches


@dataclass(frozen=True)
class Verdict:
    """What is thought of a reconstruction.

    Attributes:
        trusted: whether poses and points mean something.
        reasons: sentences, the strongest first; why not, or what was found.
        photos: registered photos.
        of: all photos.
        fitting: share of the judged pairs whose matches fit the model; NaN where none could be judged.
        judged: share of the accepted pairs whose photos are both registered; NaN where there are none.
        used: share of the tracks' points in registered photos that the model explains.
        focal: smallest and largest focal length over the photo's longer side.
        error: what the judged pairs' matches are off the model's epipolar lines, pixels: the median of each, and of all
            pairs the mean; NaN where none could be judged.
        excess: how much that is of what they are off the best epipolar geometry of their own, the median of all pairs.
    """

    trusted: bool
    reasons: tuple[str, ...]
    photos: int
    of: int
    fitting: float
    judged: float
    used: float
    focal: tuple[float, float]
    error: float = float("nan")
    excess: float = float("nan")

    @property
    def words(self) -> str:
        """One paragraph for people."""
        opinion = "These poses look right." if self.trusted else "Do not trust these poses."
        return " ".join((opinion, *self.reasons))


def judge(model: Any, graph: MatchGraph, edges: Sequence[Edge], joints: Joints = NO_JOINTS) -> Verdict:
    """Judges a model of pycolmap.

    Args:
        model: a ``pycolmap.Reconstruction`` whose image i + 1 is photo i.
        graph: what it was made from.
        edges: accepted pairs, found without any model.
        joints: how its parts hang together.
    """
    images = {number - 1: model.image(number) for number in model.reg_image_ids()}
    judged = [edge for edge in edges if edge.pair[0] in images and edge.pair[1] in images]
    off = [float(np.median(_distances(model, images, edge))) for edge in judged]
    bad = {edge.pair: value for edge, value in zip(judged, off, strict=True) if value >= _OFF * max(graph.deviation, 1)}
    ratios = [
        model.camera(image.camera_id).mean_focal_length()
        / max(model.camera(image.camera_id).width, model.camera(image.camera_id).height)
        for image in images.values()
    ]
    verdict = Verdict(
        trusted=True,
        reasons=(),
        photos=len(images),
        of=len(graph),
        fitting=1 - len(bad) / len(judged) if judged else float("nan"),
        judged=len(judged) / len(edges) if edges else float("nan"),
        used=_used(model, graph, set(images)),
        focal=(min(ratios, default=float("nan")), max(ratios, default=float("nan"))),
        error=float(np.mean(off)) if off else float("nan"),
        excess=_excess(judged, off, max(graph.deviation, 1)),
    )
    doubts = _doubts(verdict, len(judged), len(edges), len(bad), _alone(images, judged, bad))
    loose = _loose(model, graph, [edge for edge in judged if edge.pair not in bad])
    if loose:
        hang = "One part of it hangs" if loose == 1 else f"{loose} parts of it hang"
        doubts += (f"{hang} on a single pair of photos, and what third photos show does not confirm it enough.",)
    if joints.pairs:
        hang = "hangs" if joints.pairs == 1 else "hang"
        doubts += (f"{counted(joints.pairs, 'part')} of it {hang} on two photos alone, which nothing confirms.",)
    reasons = doubts or (_praise(verdict, len(judged)),)
    if not doubts and verdict.photos < verdict.of:
        others = counted(verdict.of - verdict.photos, "other photo")
        reasons += (f"{others} may show another side, or another thing.",)
    if joints.shared:
        reasons += (
            f"{joints.shared + joints.pairs + 1} parts of it were joined where no three photos show the same place: "
            "their relative size is a guess of a few percent.",
        )
    return replace(verdict, trusted=not doubts, reasons=reasons)


def doubted(verdict: Verdict, reason: str) -> Verdict:
    """The same verdict with one more reason not to trust the model."""
    reasons = (reason, *(() if verdict.trusted else verdict.reasons))
    return replace(verdict, trusted=False, reasons=reasons)


def counted(count: int, noun: str) -> str:
    """A number and what it counts, in the singular or plural."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _doubts(verdict: Verdict, judged: int, accepted: int, bad: int, alone: int) -> tuple[str, ...]:
    """Why not to trust a model, in words."""
    found = []
    if verdict.photos < _FEWEST:
        found.append(f"Only {verdict.photos} photos are registered; fewer than {_FEWEST} can't be checked.")
    if not judged:
        found.append("No pair of photos could be checked.")
        return tuple(found)
    if verdict.judged < _JUDGED:
        found.append(
            f"Only {judged} of {accepted} pairs of photos that show the same side are in the model: it explains a part "
            "of the photos, or photos of several things are among them."
        )
    if verdict.fitting < _FITTING:
        found.append(
            f"{bad} of {counted(judged, 'pair')} of photos contradict{'s' if bad == 1 else ''} it: the object is not "
            "rigid, the photos show different objects, or sides that look alike were taken for one."
        )
    if verdict.excess > _EXCESS:
        found.append(
            f"Matches are {verdict.excess:.1f} times as far off the model as off their pairs' own geometry: the object "
            "bends or moves between the photos, or parts of the model are wrong."
        )
    if alone:
        hang = "hangs" if alone == 1 else "hang"
        found.append(f"{counted(alone, 'photo')} {hang} on no pair that agrees with the model.")
    if verdict.used < _USED:
        found.append(
            f"It explains {verdict.used:.0%} of the tracks' points; of a rigid object nearly all are explained."
        )
    low, high = verdict.focal
    if low < _FOCAL[0] or high > _FOCAL[1]:
        found.append(f"Its focal length is {low:.2g} to {high:.2g} times the photo's longer side, as no lens has it.")
    return tuple(found)


def _praise(verdict: Verdict, judged: int) -> str:
    return (
        f"{verdict.fitting:.0%} of {counted(judged, 'pair')} of photos agree with the model, which explains "
        f"{verdict.used:.0%} of the tracks' points."
    )


def _excess(judged: Sequence[Edge], off: Sequence[float], unit: float) -> float:
    """The median of all pairs' errors in proportion to those of their own fundamental matrices; NaN without pairs."""
    ratios = []
    for edge, value in zip(judged, off, strict=True):
        matrix, _ = fundamental(edge.first, edge.second, unit)
        if matrix is not None:
            own = float(np.median(sampson(matrix, edge.first, edge.second)))
            ratios.append((value + _FLOOR * unit) / (own + _FLOOR * unit))
    return float(np.median(ratios)) if ratios else float("nan")


def _alone(images: dict, judged: Sequence[Edge], bad: dict[Pair, float]) -> int:
    """How many registered photos no agreeing pair ties to the largest group."""
    label = groups(max(images, default=0) + 1, [edge.pair for edge in judged if edge.pair not in bad])
    roots = [label[index] for index in images]
    return len(roots) - max((roots.count(one) for one in set(roots)), default=0)


def _loose(model: Any, graph: MatchGraph, agreeing: Sequence[Edge]) -> int:
    """How many pairs hold two parts of a model together alone, with too few tracks of three photos across that fit."""
    explained = _explained(model, graph)[graph.tracks[:, 1], graph.tracks[:, 2]]
    loose = 0
    for edge in agreeing:
        label = np.array(groups(len(graph), [other.pair for other in agreeing if other is not edge]))
        one, other = (label[photo] for photo in edge.pair)
        if one == other:
            continue
        side = label[graph.tracks[:, 1]]
        rows = (side == one) | (side == other)
        mine = (side == one)[rows]
        there = _across(graph.tracks[rows, 0], mine)
        point = explained[rows]
        fits = _across(point[point > 0], mine[point > 0])
        loose += there < _TIED[0] or fits < _TIED[1] * there
    return loose


def _across(numbers: np.ndarray, mine: np.ndarray) -> int:
    """How many tracks or points have three rows and rows on both sides."""
    total, ours = np.bincount(numbers), np.bincount(numbers, mine)
    return int(((total >= 3) & (ours > 0) & (ours < total)).sum())


def _explained(model: Any, graph: MatchGraph) -> np.ndarray:
    """(N, most keypoints) int64: the number of the model's point that each keypoint belongs to, 0 where none."""
    found = np.zeros((len(graph), max(map(len, graph.keypoints), default=0)), np.int64)
    for number, point in enumerate(model.points3D.values(), 1):
        for element in point.track.elements:
            found[element.image_id - 1, element.point2D_idx] = number
    return found


def _distances(model, images: dict, edge: Edge) -> np.ndarray:
    """(M,) pixels: Sampson distances of a pair's matches to the model, lens distortion taken out."""
    rays, poses, focal = [], [], []
    for photo, points in zip(edge.pair, (edge.first, edge.second), strict=True):
        camera = model.camera(images[photo].camera_id)
        rays.append(np.asarray(camera.cam_from_img(points + float(HALF))))
        pose = images[photo].cam_from_world()
        poses.append((np.asarray(pose.rotation.matrix()), np.asarray(pose.translation)))
        focal.append(camera.mean_focal_length())
    (r1, t1), (r2, t2) = poses
    rotation = r2 @ r1.T
    x, y, z = t2 - rotation @ t1
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    scale = [np.diag([1 / f, 1 / f, 1.0]) for f in focal]
    found = sampson(scale[1] @ essential @ scale[0], rays[0] * focal[0], rays[1] * focal[1])
    return np.where(np.isfinite(found), found, np.inf)


def _used(model, graph: MatchGraph, registered: set[int]) -> float:
    """Share of the points of tracks, in tracks with two registered photos, that belong to a point of the model."""
    rows = graph.tracks[np.isin(graph.tracks[:, 1], list(registered))]
    if not len(rows):
        return 0.0
    _, track, count = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
    rows = rows[count[track.reshape(-1)] >= 3]
    if not len(rows):
        return 1.0
    return float((_explained(model, graph)[rows[:, 1], rows[:, 2]] > 0).mean())


def edges_of_matches(graph: MatchGraph) -> tuple[Edge, ...]:
    """Accepted pairs from matches alone: those whose matches mostly agree on one epipolar geometry."""
    found = []
    for (i, j), rows in graph.matches.items():
        if len(rows) < _PAIR[0]:
            continue
        first, second = (graph.keypoints[k][rows[:, n]].astype(np.float64) for n, k in enumerate((i, j)))
        matrix, kept = fundamental(first, second, 1.5 * max(graph.deviation, 1))
        if matrix is None:
            continue
        if kept.sum() >= _PAIR[0] and kept.mean() >= _PAIR[1]:
            found.append(Edge((i, j), first[kept], second[kept], float(kept.mean())))
    return tuple(found)
