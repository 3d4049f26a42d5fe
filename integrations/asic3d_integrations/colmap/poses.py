"""Camera poses from photos alone: ordinary SIFT where it is enough, else tracks by flow; and which to believe."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from asic3d.alignment import Alignment
from asic3d.collection import Collection
from asic3d.config import Progress
from asic3d.tracks import MatchGraph
from asic3d_integrations.colmap.cameras import Cameras, choose_cameras
from asic3d_integrations.colmap.edges import Edge
from asic3d_integrations.colmap.mapping import INCREMENTAL, MapOptions, Mapped, guess_cameras, map_graph
from asic3d_integrations.colmap.mapping import STAGES as MAPPING
from asic3d_integrations.colmap.refined import STAGES as REFINING
from asic3d_integrations.colmap.refined import RefineOptions, refined_graph
from asic3d_integrations.colmap.self_check import edges_of_matches
from asic3d_integrations.colmap.sift import ORDINARY, sift_graph
from asic3d_integrations.colmap.working import working_photo

STAGES = {"gate": "Trying ordinary SIFT", **REFINING, **MAPPING}
"""Stage -> what it does, in words."""


@dataclass(frozen=True)
class PoseOptions:
    """How to find poses.

    Attributes:
        refine: how to find tracks.
        gate: try ordinary SIFT first and take its model where it registers all photos and passes the self-check.
        thorough: as :class:`MapOptions` has it.
        mapper: as :class:`MapOptions` has it; the gate's model is an incremental one.
    """

    refine: RefineOptions = field(default_factory=RefineOptions)
    gate: bool = True
    thorough: bool = True
    mapper: str = INCREMENTAL


@dataclass(frozen=True, eq=False)
class Poses:
    """Poses and what they rest on.

    Attributes:
        mapped: the reconstructions, the verdict, and the photos that are missing.
        graph: keypoints and matches of the reconstructions.
        edges: pairs of photos that the verdict rests on.
        cameras: where the mapping began.
        source: ``sift`` or ``flow``.
        facts: for reports.
    """

    mapped: Mapped
    graph: MatchGraph
    edges: tuple[Edge, ...]
    cameras: Cameras
    source: str
    facts: dict = field(default_factory=dict)


def find_poses(
    source: Alignment | Collection,
    options: PoseOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
    cameras: Cameras | None = None,
) -> Poses:
    """Finds the cameras' poses for photos of one rigid object or place.

    Args:
        source: the photos.
        options: how.
        progress: called with the stages of STAGES.
        cameras: where to start; from EXIF, else a guess, one camera for photos of one size, where not given.

    Raises:
        BackboneError: the embedded network's weights are missing.
    """
    options, told = options or PoseOptions(), progress or (lambda _: None)
    collection = source if isinstance(source, Collection) else source.collection
    if cameras is None:
        own = choose_cameras(collection.names, [photo.path for photo in collection], collection.sizes)
        cameras = guess_cameras(collection, own)
    ordinary = None
    if options.gate:
        ordinary = _by_sift(collection, cameras, options, lambda done: told(Progress("gate", done, 3)))
        if ordinary.mapped.verdict.trusted and ordinary.mapped.verdict.photos == len(collection):
            return ordinary
    refined = refined_graph(source, options.refine, progress)
    mapped = map_graph(
        refined.graph,
        cameras,
        refined.edges,
        MapOptions(options.refine.seed, options.thorough, options.mapper),
        progress,
    )
    found = Poses(mapped, refined.graph, refined.edges, cameras, "flow", refined.facts)
    if ordinary is None or _rank(found) >= _rank(ordinary):
        return found
    return replace(ordinary, facts={**ordinary.facts, "flow": mapped.verdict.words})


def _rank(poses: Poses) -> tuple[bool, int]:
    verdict = poses.mapped.verdict
    return verdict.trusted, verdict.photos


def _by_sift(collection: Collection, cameras: Cameras, options: PoseOptions, told: Callable[[int], None]) -> Poses:
    """What ordinary SIFT and one run of the mapper make of the photos."""
    working = [working_photo(photo) for photo in collection]
    graph = sift_graph(
        collection.photos, working, peak=ORDINARY, threads=options.refine.threads, told=lambda done, _: told(done)
    )
    edges = edges_of_matches(graph)
    mapped = map_graph(graph, cameras, edges, MapOptions(options.refine.seed, thorough=False))
    told(3)
    return Poses(mapped, graph, edges, cameras, "sift", {"pairs": len(graph.matches), "accepted": len(edges)})
