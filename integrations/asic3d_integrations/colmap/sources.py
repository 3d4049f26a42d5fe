"""Which tracks an export holds: canonical ones, of anything, or refined ones, of one rigid object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asic3d.config import Progress
from asic3d.errors import ExportError
from asic3d.tracks import MatchGraph, canonical_tracks, taking_part
from asic3d_integrations.colmap.cameras import Cameras
from asic3d_integrations.colmap.edges import Edge
from asic3d_integrations.colmap.mapping import INCREMENTAL, Mapped
from asic3d_integrations.colmap.poses import PoseOptions, find_poses
from asic3d_integrations.colmap.refined import RefineOptions, refined_graph

if TYPE_CHECKING:
    from asic3d import Alignment

AUTO, CANONICAL, REFINED = KINDS = ("auto", "canonical", "refined")
SIFT = "SIFT"
"""What :attr:`Source.kind` is where ordinary SIFT was enough for the cameras."""
RIGID = 0.5
"""Share of the photos that exact pairs must hold together, in loops: then it is one rigid object. Measured: photos of
different cows, dogs and motorbikes have some exact pairs by chance, 0 to 6 in 10 to 20 photos, and none of them closes
a loop; rendered and real photos of one object have 2 and more for each photo."""
_FEW = 3
"""So many photos need no loop."""


@dataclass(frozen=True, eq=False)
class Source:
    """Tracks, and what is known about them.

    Attributes:
        kind: CANONICAL, REFINED or SIFT.
        graph: the tracks.
        edges: pairs of photos that follow one exact epipolar geometry; none of canonical tracks.
        doubt: why cameras should not be looked for, a sentence; '' where nothing speaks against it.
        facts: for the report.
        mapped: the cameras' poses, where they were looked for.
    """

    kind: str
    graph: MatchGraph
    edges: tuple[Edge, ...]
    doubt: str
    facts: dict[str, Any]
    mapped: Mapped | None = None


def find_tracks(
    alignment: "Alignment",
    kind: str,
    *,
    max_tracks: int,
    min_views: int,
    sift: bool,
    seed: int,
    progress: Callable[[Progress], None],
    cameras: Cameras | None = None,
    mapper: str = INCREMENTAL,
) -> Source:
    """Finds tracks, and the cameras' poses where that is wished.

    ``auto`` takes refined ones where they hold at least half of the photos together, or where the cameras found from
    them pass the self-check; canonical ones elsewhere.

    Args:
        alignment: the photos.
        kind: one of KINDS.
        max_tracks: most canonical tracks.
        min_views: photos that a canonical track is seen in at least.
        sift: join SIFT keypoints to refined ones.
        seed: of every draw.
        progress: called after each step.
        cameras: look for poses too, and start from these cameras.
        mapper: by which; one of mapping.MAPPERS. With the global one SIFT alone is no answer.

    Raises:
        ExportError: no tracks.
    """
    if kind == CANONICAL:
        return _canonical(alignment, max_tracks, min_views, progress, _NOT_EXACT, {})
    found = _exact(alignment, RefineOptions(seed=seed, sift=sift), progress, cameras, mapper)
    part = len(taking_part(alignment))
    together = _held_together(found.edges, part)
    facts = {**found.facts, "together": together}
    doubt = ""
    sure = found.mapped is not None and found.mapped.verdict.trusted
    if not sure and (together < RIGID * part or together < 2):
        doubt = (
            f"{'None' if not together else f'Only {together}'} of {part} photos are held together by exact matches. "
            "That is so where the photos show different objects of one kind, one that moves, or sides that have "
            "nothing in common: cameras found for them would mean nothing."
        )
    if kind == REFINED and not found.graph.matches:
        raise ExportError("No exact matches were found at all. Take --tracks canonical for a database of coarse ones.")
    if kind == AUTO and doubt:
        return _canonical(alignment, max_tracks, min_views, progress, doubt, facts)
    return replace(found, doubt=doubt, facts=facts)


def _exact(
    alignment: "Alignment",
    options: RefineOptions,
    progress: Callable[[Progress], None],
    cameras: Cameras | None,
    mapper: str,
) -> Source:
    """Exact tracks, with poses where cameras are given."""
    if cameras is None:
        refined = refined_graph(alignment, options, progress)
        return Source(REFINED, refined.graph, refined.edges, "", refined.facts)
    poses = find_poses(alignment, _pose_options(options, mapper), progress, cameras)
    kind = SIFT if poses.source == "sift" else REFINED
    return Source(kind, poses.graph, poses.edges, "", poses.facts, poses.mapped)


def _pose_options(options: RefineOptions, mapper: str) -> PoseOptions:
    return PoseOptions(refine=options, gate=options.sift and mapper == INCREMENTAL, mapper=mapper)


_NOT_EXACT = (
    "Canonical tracks are too coarse for cameras: on rendered photos the cameras found from them were turned wrongly "
    "by 8 to 17 degrees. Take --tracks refined, or auto."
)


def _canonical(
    alignment: "Alignment",
    max_tracks: int,
    min_views: int,
    progress: Callable[[Progress], None],
    doubt: str,
    facts: dict[str, Any],
) -> Source:
    graph = canonical_tracks(alignment, max_tracks, min_views)
    progress(Progress("tracks", 1, 1))
    return Source(CANONICAL, graph, (), doubt, facts)


def _held_together(edges: tuple[Edge, ...], photos: int) -> int:
    """How many photos the largest group holds whose pairs confirm each other: each lies on a loop of pairs."""
    if photos <= _FEW:
        return _largest_group(edges)
    confirmed = [
        edge
        for edge in edges
        if any(set(edge.pair) <= group for group in _groups([other for other in edges if other is not edge]))
    ]
    return _largest_group(confirmed)


def _largest_group(edges: Sequence[Edge]) -> int:
    return max(map(len, _groups(edges)), default=0)


def _groups(edges: Sequence[Edge]) -> list[set[int]]:
    """The photos that pairs connect."""
    groups: list[set[int]] = []
    for edge in edges:
        touched = [group for group in groups if group & set(edge.pair)]
        groups = [group for group in groups if group not in touched] + [set(edge.pair).union(*touched)]
    return groups
