"""From a graph of matches to camera poses: COLMAP's incremental mapping, tried in several ways, and judged."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.collection import Collection
from asic3d.config import Progress
from asic3d.tracks import MatchGraph
from asic3d_integrations.colmap.cameras import Cameras
from asic3d_integrations.colmap.database import Verification, quiet_pycolmap, write_database
from asic3d_integrations.colmap.edges import Edge
from asic3d_integrations.colmap.joining import Joints, join_models
from asic3d_integrations.colmap.self_check import NO_JOINTS, Verdict, judge

STAGES = {"mapping": "Finding the cameras' poses"}
"""Stage -> what it does, in words."""
_VERIFIED = 2.0  # how far a match may be off when pairs are verified, expected errors of a keypoint
_STARTS = (2.5, 5.0)
"""Focal lengths over the longer side that are tried where a guess did not register all photos."""
_INIT_ANGLE, _INIT_INLIERS, _INLIERS, _INLIERS_FIXED = 8.0, 50, 15, 10
_PLAUSIBLE = (0.4, 10.0)


@dataclass(frozen=True)
class MapOptions:
    """How to find poses.

    Attributes:
        seed: of COLMAP's random samples.
        thorough: try other focal lengths where the first one does not register all photos.
    """

    seed: int = 0
    thorough: bool = True


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
    began, tried = time.perf_counter(), []
    best: tuple[tuple, list[Any], Verdict] | None = None
    queue = [_Attempt("the cameras as given", cameras, loose=False), *_others(cameras, options)]
    for done, attempt in enumerate(queue, 1):
        models = _run(graph, attempt, options.seed)
        told(Progress("mapping", done, len(queue)))
        if not models:
            tried.append(f"{attempt.name}: no model")
            continue
        fixed = attempt.held(models[0])
        for name, candidate, joints in _candidates(attempt, models, graph, edges):
            verdict = judge(candidate[0], graph, edges, joints)
            tried.append(f"{name}: {verdict.photos} photos, {'trusted' if verdict.trusted else 'not trusted'}")
            rank = (verdict.trusted, verdict.photos, candidate[0].num_points3D())
            if best is None or rank > best[0]:
                best = rank, candidate, verdict
        if best is not None and best[0][:2] == (True, len(graph)):
            break
        if options.thorough and fixed is not None and models[0].num_reg_images() < len(graph):
            queue.append(fixed)
    facts = {"tried": tried, "seconds": round(time.perf_counter() - began, 2)}
    if best is None:
        nothing = Verdict(
            False,
            ("No two photos could be brought together.",),
            0,
            len(graph),
            np.nan,
            np.nan,
            np.nan,
            (np.nan, np.nan),
        )
        return Mapped((), nothing, _missing(graph, (), edges), facts)
    return Mapped(tuple(best[1]), best[2], _missing(graph, best[1][0].reg_image_ids(), edges), facts)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One way to map: cameras to start from, held fixed or not."""

    name: str
    cameras: Cameras
    loose: bool
    fixed: bool = False

    def held(self, model: Any) -> "_Attempt | None":
        """The same with the focal length that a model found, held; None where that is no use."""
        if self.fixed or len(self.cameras.cameras) > 1 or model.num_reg_images() < 3:
            return None
        focal = float(next(iter(model.cameras.values())).mean_focal_length())
        given = next(iter(self.cameras.cameras))
        if not _PLAUSIBLE[0] < focal / max(given.size) < _PLAUSIBLE[1]:
            return None
        camera = replace(given, focal=focal, known=True)
        return _Attempt(
            f"a focal length of {focal:.0f} pixels held", replace(self.cameras, cameras=(camera,)), True, fixed=True
        )


def _candidates(
    attempt: _Attempt, models: list[Any], graph: MatchGraph, edges: Sequence[Edge]
) -> Iterator[tuple[str, list[Any], Joints]]:
    """The models of an attempt, and the same joined, where the focal length is settled and photos are missing."""
    yield attempt.name, models, NO_JOINTS
    if not attempt.fixed or models[0].num_reg_images() == len(graph):
        return
    joined, joints = join_models([copy.deepcopy(model) for model in models], graph, edges)
    if joined.num_reg_images() > models[0].num_reg_images():
        _adjust(joined)
        yield f"{attempt.name}, parts joined", [joined], joints


def _adjust(model: Any) -> None:
    """Refines poses and points together; the cameras stay as they are."""
    pycolmap = quiet_pycolmap()
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_extra_params = options.print_summary = False
    options.ceres.solver_options.num_threads = 1
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    # Not pycolmap.bundle_adjustment, which turns its log to the terminal on.
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def _others(cameras: Cameras, options: MapOptions) -> list[_Attempt]:
    if not options.thorough:
        return []
    found = [_Attempt("fewer inliers asked for", cameras, loose=True)]
    if any(camera.known for camera in cameras.cameras):
        return found
    for factor in _STARTS:
        scaled = tuple(replace(camera, focal=factor * max(camera.size)) for camera in cameras.cameras)
        found.append(_Attempt(f"a lens of {factor} times the photo's side", replace(cameras, cameras=scaled), True))
    return found


def _run(graph: MatchGraph, attempt: _Attempt, seed: int) -> list[Any]:
    """COLMAP's models, the largest first."""
    pycolmap = quiet_pycolmap()
    error = max(graph.deviation, 1.0)
    verification = Verification(_VERIFIED * error, min_inlier_ratio=0.25, seed=seed)
    with tempfile.TemporaryDirectory(prefix="asic3d-mapping-") as folder:
        root = Path(folder)
        write_database(graph, attempt.cameras, root / "database.db", verification=verification)
        (root / "models").mkdir()
        options = _pipeline_options(pycolmap, attempt, error, seed)
        models = list(pycolmap.incremental_mapping(root / "database.db", root, root / "models", options).values())
    return sorted(models, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _pipeline_options(pycolmap: Any, attempt: _Attempt, error: float, seed: int) -> Any:
    """COLMAP's settings, with pixels in proportion to the expected error of a keypoint."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed, options.extract_colors = 1, seed, False
    options.min_model_size = 3
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
            found[name] = f"it shows the same side as {len(partners & inside)} photos of the model, too little of it"
    return found
