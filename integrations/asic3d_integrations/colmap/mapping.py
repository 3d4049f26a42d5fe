"""From a graph of matches to camera poses: COLMAP's incremental mapping, tried in several ways, and judged."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from asic3d.collection import Collection
from asic3d.config import Progress
from asic3d.temporaries import temporary_folder
from asic3d.tracks import MatchGraph
from asic3d_integrations.colmap.cameras import Cameras
from asic3d_integrations.colmap.certainty import caution
from asic3d_integrations.colmap.database import Verification, quiet_pycolmap, write_database
from asic3d_integrations.colmap.edges import Edge
from asic3d_integrations.colmap.joining import join_models
from asic3d_integrations.colmap.self_check import Verdict, counted, doubted, judge

STAGES = {"mapping": "Finding the cameras' poses"}
"""Stage -> what it does, in words."""
_VERIFIED = 2.0  # how far a match may be off when pairs are verified, expected errors of a keypoint
_STARTS = (2.5, 5.0)
"""Focal lengths over the longer side that are tried where a guess did not register all photos."""
_INIT_ANGLE, _INIT_INLIERS, _INLIERS, _INLIERS_FIXED = 8.0, 50, 15, 10
_PLAUSIBLE = (0.4, 10.0)
_SAME_FOCAL, _SETTLED = 0.05, 1.1  # focal lengths not worth two attempts; by how much a settled one may still change
_AS_GOOD, _AS_GOOD_PIXELS, _OTHER = 1.5, 0.05, 10.0
"""Error of the best model, as a factor and more pixels, up to which others count, and degrees by which they differ."""


_FEWEST = 3  # photos of a model
INCREMENTAL, GLOBAL = "incremental", "global"
MAPPERS = (INCREMENTAL, GLOBAL)


@dataclass(frozen=True)
class MapOptions:
    """How to find poses.

    Attributes:
        seed: of COLMAP's random samples.
        thorough: try other focal lengths where the first one does not register all photos; incremental mapping only.
        mapper: one of MAPPERS.
    """

    seed: int = 0
    thorough: bool = True
    mapper: str = INCREMENTAL


@dataclass(frozen=True, eq=False)
class Mapped:
    """Reconstructions and what is thought of them.

    Attributes:
        reconstructions: models of pycolmap, the chosen one first, the others of the same run by size; image i + 1 is
            photo i, and its points are the graph's keypoints in their order.
        verdict: of the first.
        unregistered: photos that are not in the first -> the likely reason, in words.
        facts: for reports: ``tried`` with a line for each attempt, ``seconds``.
    """

    reconstructions: tuple[Any, ...]
    verdict: Verdict
    unregistered: dict[str, str]
    facts: dict = field(default_factory=dict)

    @property
    def poses(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name of each registered photo -> (3, 3) R and (3,) t, ``x_cam = R X + t``."""
        if not self.reconstructions:
            return {}
        model = self.reconstructions[0]
        found = {}
        for number in sorted(model.reg_image_ids()):
            pose = model.image(number).cam_from_world()
            found[model.image(number).name] = (
                np.asarray(pose.rotation.matrix()),
                np.asarray(pose.translation),
            )
        return found


def guess_cameras(collection: Collection, cameras: Cameras) -> Cameras:
    """One camera for all photos where they have one size and nothing says otherwise: fewer unknowns for few photos."""
    if len(set(collection.sizes)) > 1 or len({(one.model, one.focal) for one in cameras.cameras}) > 1:
        return cameras
    return Cameras((cameras.cameras[0],), (0,) * len(collection))


def map_graph(
    graph: MatchGraph,
    cameras: Cameras,
    edges: Sequence[Edge],
    options: MapOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Mapped:
    """Finds poses, tries again in other ways where photos are missing, and judges each model.

    Args:
        graph: keypoints and matches of N photos.
        cameras: where to start.
        edges: accepted pairs, which the models are judged by.
        options: how.
        progress: called with the stage ``mapping``.
    """
    options, told = options or MapOptions(), progress or (lambda _: None)
    began, found = time.perf_counter(), list[_Candidate]()
    tried: list[str] = []
    if len(graph) < _FEWEST:
        told(Progress("mapping", 1, 1))
        return Mapped((), _no_model(_TOO_FEW, graph), {}, {"tried": tried, "seconds": 0.0})
    queue = [_Attempt("the cameras as given", cameras), *_others(cameras, options)]
    for done, attempt in enumerate(queue, 1):
        told(Progress("mapping", done - 1, len(queue)))
        models = _run(graph, attempt, options)
        if not models:
            tried.append(f"{attempt.name}: no model")
            continue
        made = list(_candidates(attempt, models, graph, edges))
        tried += [f"{one.name}: {one.verdict.photos} photos, {_opinion(one.verdict)}" for one in made]
        found += made
        if any(one.verdict.trusted and one.verdict.photos == len(graph) and not one.joined for one in made):
            break
        if options.thorough and options.mapper == INCREMENTAL and models[0].num_reg_images() < len(graph):
            queue += _held(attempt, made[-1].models[0], queue)
    told(Progress("mapping", len(queue), len(queue)))  # also where the first attempt was enough
    facts = {"tried": tried, "seconds": round(time.perf_counter() - began, 2)}
    if not found:
        return Mapped((), _no_model(_NOTHING, graph), _missing(graph, (), edges), facts)
    best = max(found, key=_Candidate.rank)
    verdict = _contested(best, found)
    warned = verdict.trusted and caution(best.models[0], all(camera.known for camera in cameras.cameras))
    verdict = replace(verdict, reasons=(*verdict.reasons, warned)) if warned else verdict
    return Mapped(tuple(best.models), verdict, _missing(graph, best.models[0].reg_image_ids(), edges), facts)


_NOTHING = "No two photos could be brought together."
_TOO_FEW = f"Cameras need {_FEWEST} photos: what two show of each other fits many cameras, and nothing confirms any."


def _no_model(reason: str, graph: MatchGraph) -> Verdict:
    nan = float("nan")
    return Verdict(False, (reason,), 0, len(graph), nan, nan, nan, (nan, nan))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What an attempt came to: models, the chosen one first, its verdict, and whether it was joined from parts."""

    name: str
    models: list[Any]
    verdict: Verdict
    joined: bool = False

    def rank(self) -> tuple[bool, int, float]:
        """The larger the better: what is trusted, has more photos, and keeps closer to the pairs' own geometry."""
        verdict = self.verdict
        return verdict.trusted, verdict.photos, -verdict.error if verdict.error == verdict.error else -np.inf


def _opinion(verdict: Verdict) -> str:
    return "trusted" if verdict.trusted else "not trusted"


def _contested(best: _Candidate, found: Sequence[_Candidate]) -> Verdict:
    """The verdict of the best candidate; in doubt where another is about as good and has other cameras.

    Seen from afar through a long lens a part of a scene can be turned, or its relief be inside out, at little cost.
    """
    if not best.verdict.trusted or not best.joined:
        return best.verdict
    limit = _AS_GOOD * best.verdict.error + _AS_GOOD_PIXELS
    for one in found:
        rival = one.verdict.trusted and one.verdict.photos == best.verdict.photos and one.verdict.error < limit
        if rival and _apart(best.models[0], one.models[0]) > _OTHER:
            return doubted(best.verdict, "Other cameras explain the photos about as well.")
    return best.verdict


def _apart(one: Any, other: Any) -> float:
    """Degrees by which the relative rotations of two models differ, the median over all pairs of common photos."""
    common = sorted(set(one.reg_image_ids()) & set(other.reg_image_ids()))
    turns = [
        np.array([np.asarray(model.image(number).cam_from_world().rotation.matrix()) for number in common])
        for model in (one, other)
    ]
    i, j = np.triu_indices(len(common), 1)
    first, second = (turn[j] @ turn[i].transpose(0, 2, 1) for turn in turns)
    cosine = (np.einsum("nij,nij->n", first, second) - 1) / 2
    return float(np.median(np.degrees(np.arccos(np.clip(cosine, -1, 1))))) if len(cosine) else 0.0


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One way to map.

    Attributes:
        name: in words.
        cameras: to start from.
        loose: ask for fewer inliers.
        fixed: hold the focal length.
        settle: refine the focal length when the parts are joined: it was found, not given.
        two_views: make points of what only two photos show, too: what ties photos together that are far apart.
    """

    name: str
    cameras: Cameras
    loose: bool = False
    fixed: bool = False
    settle: bool = False
    two_views: bool = False


def _held(attempt: _Attempt, model: Any, queue: Sequence[_Attempt]) -> list[_Attempt]:
    """The same with the focal length that a model found, held; nothing where that is no use or was done."""
    if len(attempt.cameras.cameras) > 1 or model.num_reg_images() < 3:
        return []
    focal = float(next(iter(model.cameras.values())).mean_focal_length())
    given = next(iter(attempt.cameras.cameras))
    if not _PLAUSIBLE[0] < focal / max(given.size) < _PLAUSIBLE[1]:
        return []
    tried = [camera.focal for one in queue if one.fixed for camera in one.cameras.cameras[:1]]
    if any(abs(other / focal - 1) < _SAME_FOCAL for other in tried):
        return []
    cameras = replace(attempt.cameras, cameras=(replace(given, focal=focal, known=True),))
    settle = attempt.settle or not given.known
    name = f"a focal length of {focal:.0f} pixels held"
    return [
        _Attempt(name, cameras, True, True, settle),
        _Attempt(f"{name}, points of two photos too", cameras, True, True, settle, two_views=True),
    ]


def _candidates(attempt: _Attempt, models: list[Any], graph: MatchGraph, edges: Sequence[Edge]) -> Iterator[_Candidate]:
    """The models of an attempt, and the same joined, where the focal length is settled and photos are missing."""
    yield _Candidate(attempt.name, models, judge(models[0], graph, edges))
    if not attempt.fixed or models[0].num_reg_images() == len(graph):
        return
    joined, joints = join_models([copy.deepcopy(model) for model in models], graph, edges)
    if joined.num_reg_images() > models[0].num_reg_images():
        _adjust(joined, settle=attempt.settle)
        verdict = judge(joined, graph, edges, joints)
        focal = next(iter(joined.cameras.values())).mean_focal_length() / attempt.cameras.cameras[0].focal
        if not 1 / _SETTLED < focal < _SETTLED:
            verdict = doubted(verdict, "Its focal length is not settled.")
        yield _Candidate(f"{attempt.name}, parts joined", [joined], verdict, joined=True)


def _adjust(model: Any, *, settle: bool) -> None:
    """Refines poses and points together, and the focal length where it is to be settled."""
    pycolmap = quiet_pycolmap()
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = settle
    options.refine_extra_params = options.print_summary = False
    options.ceres.solver_options.num_threads = 1
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # Not pycolmap.bundle_adjustment, which turns its log to the terminal on.
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def _others(cameras: Cameras, options: MapOptions) -> list[_Attempt]:
    if not options.thorough or options.mapper == GLOBAL:
        return []
    found = [_Attempt("fewer inliers asked for", cameras, loose=True)]
    if any(camera.known for camera in cameras.cameras):
        return found
    for factor in _STARTS:
        scaled = tuple(replace(camera, focal=factor * max(camera.size)) for camera in cameras.cameras)
        found.append(_Attempt(f"a lens of {factor} times the photo's side", replace(cameras, cameras=scaled), True))
    return found


def _run(graph: MatchGraph, attempt: _Attempt, how: MapOptions) -> list[Any]:
    """COLMAP's models, the largest first."""
    pycolmap, seed = quiet_pycolmap(), how.seed
    error = max(graph.deviation, 1.0)
    verification = Verification(_VERIFIED * error, min_inlier_ratio=0.25, seed=seed)
    with temporary_folder() as root:
        write_database(graph, attempt.cameras, root / "database.db", verification=verification)
        (root / "models").mkdir()
        if how.mapper == GLOBAL:
            found = pycolmap.global_mapping(
                root / "database.db", root, root / "models", _global_options(pycolmap, seed)
            )
        else:
            options = _pipeline_options(pycolmap, attempt, error, seed)
            found = pycolmap.incremental_mapping(root / "database.db", root, root / "models", options)
    return sorted(found.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _global_options(pycolmap: Any, seed: int) -> Any:
    """COLMAP's settings of global mapping, on one thread, so that it repeats."""
    options = pycolmap.GlobalPipelineOptions()
    options.num_threads, options.random_seed, options.min_model_size = 1, seed, _FEWEST
    mapper = options.mapper
    mapper.num_threads, mapper.random_seed = 1, seed
    mapper.rotation_averaging.random_seed = mapper.global_positioning.random_seed = seed
    mapper.global_positioning.use_gpu = False
    return options


def _pipeline_options(pycolmap: Any, attempt: _Attempt, error: float, seed: int) -> Any:
    """COLMAP's settings, with pixels in proportion to the expected error of a keypoint."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed, options.extract_colors = 1, seed, False
    options.min_model_size = _FEWEST
    mapper, triangulation = options.mapper, options.triangulation
    mapper.num_threads, mapper.random_seed, triangulation.random_seed = 1, seed, seed
    for owner, name in (
        (mapper, "init_max_error"),
        (mapper, "filter_max_reproj_error"),
        (mapper, "abs_pose_max_error"),
        (triangulation, "merge_max_reproj_error"),
        (triangulation, "complete_max_reproj_error"),
    ):
        setattr(owner, name, getattr(owner, name) * error)
    if attempt.loose:
        triangulation.ignore_two_view_tracks = not attempt.two_views
        mapper.init_min_tri_angle, mapper.init_min_num_inliers = _INIT_ANGLE, _INIT_INLIERS
        mapper.abs_pose_min_num_inliers = _INLIERS_FIXED if attempt.fixed else _INLIERS
    if attempt.fixed:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
    return options


def _missing(graph: MatchGraph, registered: Sequence[int], edges: Sequence[Edge]) -> dict[str, str]:
    """Photos that are not in the model, and why that may be."""
    inside = {number - 1 for number in registered}
    found = {}
    for index, name in enumerate(graph.names):
        if index in inside:
            continue
        partners = {photo for edge in edges if index in edge.pair for photo in edge.pair} - {index}
        if not partners:
            found[name] = "no other photo shows its side closely enough; take one from in between"
        elif not partners & inside:
            found[name] = "it shows the same side only as photos that are not in the model either"
        else:
            some = counted(len(partners & inside), "photo")
            found[name] = f"it shows the same side as {some} of the model, too little of it"
    return found
