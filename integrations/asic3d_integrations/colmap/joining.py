"""Joins models that no three photos tie together, through the relative pose of two photos.

Two photos give the rotation and the direction between two models, never their relative size. What gives it here is
that both sides see one surface: near a place where the pair's own points have a depth, a model's points have about the
same. It is a guess of a few percent, good enough for directions; the self-check says so in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial import KDTree

from asic3d.tracks import MatchGraph, Pair
from asic3d_integrations.colmap.database import HALF, quiet_pycolmap
from asic3d_integrations.colmap.edges import Edge
from asic3d_integrations.colmap.flow import sampson

_FEWEST, _FRONT = 30, 0.8  # matches of a pair in front of both cameras, and their share
_FEWEST_POINTS = 8  # of a model in a photo
_AS_GOOD, _DIFFERENT = 2.0, 5.0  # cost of the best pose that others may have, and degrees between them
_RELIEF = 0.5  # correlation of the depths that a pair and a model see in a photo
_SAMPLE = 250  # matches of a pair with which poses are tried
_TURNS = (-100, -70, -45, -25, -10, 10, 25, 45, 70, 100)  # degrees
_NEIGHBOURS = 0.5  # share of the pair's points, those with the nearest points of the model, that give the size
_REPROJECTION = 4.0  # pixels, of new points, in expected errors of a keypoint


@dataclass(frozen=True, eq=False)
class RelativePose:
    """How the second photo of a pair stands to the first: ``x_second = R x_first + t``, with |t| = 1.

    Attributes:
        R: (3, 3) float64.
        t: (3,) float64.
        first: (M, 2) float64, matches on the first photo's plane of depth 1.
        second: (M, 2) float64, likewise.
        points: (M, 3) float64, in the first camera's frame.
    """

    R: np.ndarray
    t: np.ndarray
    first: np.ndarray
    second: np.ndarray
    points: np.ndarray


def relative_poses(first: np.ndarray, second: np.ndarray, focal: float) -> list[RelativePose]:
    """The relative poses of two photos of a solid thing that explain their matches, the best one first.

    From afar, with a long lens, two photos hardly say how far they are turned about the axis that both see, nor to
    which side, and least squares end near where they begin. So they begin at many turns about it, to both sides, and
    what explains the matches about as well as the best is kept.

    Args:
        first: (M, 2) float64, matches on the first photo's plane of depth 1, nearly all of them true.
        second: (M, 2) float64, likewise in the second.
        focal: focal length, pixels, in which distances are measured.

    Returns:
        Different poses, each with the matches in front of both cameras; none where those are too few.
    """
    if len(first) < _FEWEST:
        return []
    some = np.linspace(0, len(first) - 1, min(len(first), _SAMPLE)).round().astype(int)
    tried = []
    for rotation, translation in _turned_starts(first[some], second[some]):
        cost, found = _refined(rotation, translation, first[some], second[some], focal, 20)
        if _in_front(*found, first, second).mean() > _FRONT:
            tried.append((cost, found))
    tried.sort(key=lambda one: one[0])
    kept: list[RelativePose] = []
    for cost, found in tried:
        if cost > _AS_GOOD * tried[0][0] + 1e-12:
            break
        if all(_degrees_between(found[0], other.R) > _DIFFERENT for other in kept):
            rotation, translation = _refined(found[0], found[1], first, second, focal, 50)[1]
            front = _in_front(rotation, translation, first, second)
            points = _triangulated(rotation, translation, first, second)
            if front.sum() >= _FEWEST:
                kept.append(RelativePose(rotation, translation, first[front], second[front], points[front]))
    return kept


def _in_front(rotation: np.ndarray, translation: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    points = _triangulated(rotation, translation, first, second)
    return (points[:, 2] > 0) & ((points @ rotation.T + translation)[:, 2] > 0)


def _degrees_between(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1))))


def _turned_starts(first: np.ndarray, second: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Poses of two cameras that look at one thing from afar, for several turns about the axis that both see."""
    rows = np.concatenate([first, second], 1)
    middle = np.median(rows, 0)
    normal = np.linalg.svd(rows - middle)[2][-1]
    one, other = np.hypot(*normal[:2]), np.hypot(*normal[2:])
    roll, its_roll = np.arctan2(normal[1], normal[0]), np.arctan2(-normal[3], -normal[2])
    near, far = np.append(middle[:2], 1), np.append(middle[2:], 1) * (other / max(one, 1e-9))
    found = []
    for turn in np.radians(_TURNS):
        for flip in (0, np.pi):  # the axis has no sense of its own
            rotation = _about_z(its_roll) @ cv2.Rodrigues(np.array([turn, 0, 0]))[0] @ _about_z(-roll - flip)
            rotation = _about_z(flip) @ rotation if flip else rotation
            translation = far - rotation @ near
            found.append((rotation, translation / max(np.linalg.norm(translation), 1e-12)))
    return found


def _about_z(angle: float) -> np.ndarray:
    return cv2.Rodrigues(np.array([0, 0, float(angle)]))[0]


def _refined(
    rotation: np.ndarray,
    translation: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    focal: float,
    steps: int,
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Minimises the distances to the epipolar lines over rotation and direction: the cost, and R, t."""
    basis = np.linalg.svd(translation[None])[2][1:]
    scale = np.diag([1 / focal, 1 / focal, 1.0])
    a, b = first * focal, second * focal

    def pose(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = translation + step[3:] @ basis
        return cv2.Rodrigues(step[:3])[0] @ rotation, moved / np.linalg.norm(moved)

    def residuals(step: np.ndarray) -> np.ndarray:
        turn, direction = pose(step)
        return sampson(scale @ _cross(direction) @ turn @ scale, a, b)

    found = least_squares(residuals, np.zeros(5), loss="soft_l1", max_nfev=steps)
    return float(found.cost), pose(found.x)


def _cross(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _triangulated(rotation: np.ndarray, translation: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(M, 3) points in the first camera's frame, from (M, 2) places on both planes of depth 1."""
    one, other = np.eye(3, 4), np.column_stack([rotation, translation])
    rows = np.stack(
        [
            first[:, :1] * one[2] - one[0],
            first[:, 1:] * one[2] - one[1],
            second[:, :1] * other[2] - other[0],
            second[:, 1:] * other[2] - other[1],
        ],
        1,
    )
    found = np.linalg.svd(rows)[2][:, -1]
    return found[:, :3] / np.where(np.abs(found[:, 3:]) < 1e-12, 1e-12, found[:, 3:])


@dataclass(frozen=True)
class Joints:
    """How parts of a model hang together.

    Attributes:
        shared: joints through a photo that both parts have: only their relative size is a guess.
        pairs: joints through the relative pose of two photos alone.
    """

    shared: int = 0
    pairs: int = 0


def join_models(models: Sequence[Any], graph: MatchGraph, edges: Sequence[Edge]) -> tuple[Any, Joints]:
    """Joins models and single photos to the largest model, the best supported pair first.

    Args:
        models: of one run of the mapper, the largest first; image i + 1 is photo i.
        graph: what they were made from.
        edges: accepted pairs.

    Returns:
        The largest model, changed in place as the others are, and how its parts hang together.
    """
    base, others = models[0], list(models[1:])
    joints = Joints()
    refused: set[Pair] = set()
    while True:
        inside = set(base.reg_image_ids())
        shared = next((model for model in others if inside & set(model.reg_image_ids())), None)
        if shared is not None:  # COLMAP lets models overlap: that is surer than any two photos
            joints = Joints(joints.shared + _join_shared(base, shared, graph), joints.pairs)
            others = [model for model in others if model is not shared]
            continue
        open_edges = [
            edge for edge in edges if len(inside & {photo + 1 for photo in edge.pair}) == 1 and edge.pair not in refused
        ]
        if not open_edges:
            return base, joints
        edge = max(open_edges, key=lambda one: len(one.first))
        start = 0 if edge.pair[0] + 1 in inside else 1
        other = next((m for m in others if edge.pair[1 - start] + 1 in m.reg_image_ids()), None)
        if _join(base, other, graph, edge, start):
            joints = Joints(joints.shared, joints.pairs + 1)
            others = [model for model in others if model is not other]
        else:
            refused.add(edge.pair)


def _join_shared(base: Any, other: Any, graph: MatchGraph) -> bool:
    """Brings a model that has a photo in common into the base; says whether it could and brought something."""
    if not set(other.reg_image_ids()) - set(base.reg_image_ids()):
        return False
    common = sorted(set(other.reg_image_ids()) & set(base.reg_image_ids()))
    number = max(common, key=lambda image: other.image(image).num_points3D)
    seen = _seen(other, number - 1)
    relief = None if len(seen) < _FEWEST_POINTS else _relief(base, number - 1, seen[:, :2] / seen[:, 2:], seen[:, 2])
    if relief is None:
        return False
    rotation, translation = _pose(base, number)
    _move(other, number, rotation, translation, relief[0])
    _absorb(base, other, graph)
    return True


def _pose(model: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    pose = model.image(number).cam_from_world()
    return np.asarray(pose.rotation.matrix()), np.asarray(pose.translation)


def _move(model: Any, number: int, rotation: np.ndarray, translation: np.ndarray, scale: float) -> None:
    """Scales a model and moves it so that an image of it gets a pose."""
    pycolmap = quiet_pycolmap()

    its_rotation, its_translation = _pose(model, number)
    turn = pycolmap.Rotation3d(rotation.T @ its_rotation)
    model.transform(pycolmap.Sim3d(scale, turn, rotation.T @ (scale * its_translation - translation)))


def _join(base: Any, other: Any, graph: MatchGraph, edge: Edge, start: int) -> bool:
    """Brings one photo, with its model if it has one, into the base; says whether it could."""
    pycolmap = quiet_pycolmap()

    a, b = edge.pair[start], edge.pair[1 - start]
    points = (edge.first, edge.second) if start == 0 else (edge.second, edge.first)
    cameras = [_camera(base, other, photo) for photo in (a, b)]
    rays = [np.asarray(c.cam_from_img(p + float(HALF))) for c, p in zip(cameras, points, strict=True)]
    best = None
    for pose in relative_poses(rays[0], rays[1], cameras[0].mean_focal_length()):
        # Hills must not be hollows: the wrong one of two turns shows the relief inside out.
        mine = _relief(base, a, pose.first, pose.points[:, 2])
        its = None if other is None else _relief(other, b, pose.second, (pose.points @ pose.R.T + pose.t)[:, 2])
        if mine is None or (other is not None and its is None):
            continue
        likeness = min(mine[1], its[1]) if its is not None else mine[1]
        if likeness > _RELIEF and (best is None or likeness > best[0]):
            best = likeness, pose, mine[0], None if its is None else its[0]
    if best is None:
        return False
    _, pose, size, its_size = best
    r_a, t_a = _pose(base, a + 1)
    r_b, t_b = pose.R @ r_a, pose.R @ t_a + size * pose.t
    if other is None:
        _place(base, None, graph, b, pycolmap.Rigid3d(pycolmap.Rotation3d(r_b), t_b))
    else:
        assert its_size is not None
        _move(other, b + 1, r_b, t_b, size / its_size)
        _absorb(base, other, graph)
    _triangulate_pair(base, graph, a, b)
    return True


def _camera(base: Any, other: Any, photo: int) -> Any:
    """The camera of a photo, from the model that knows it; one camera for all where neither does."""
    for model in (base, other):
        if model is not None and model.exists_image(photo + 1):
            return model.camera(model.image(photo + 1).camera_id)
    return next(iter(base.cameras.values()))


def _relief(model: Any, photo: int, rays: np.ndarray, depth: np.ndarray) -> tuple[float, float] | None:
    """A model's depths against others in the same photo, where it has points near theirs.

    Returns:
        The model's depth for each of the others, and the correlation of both; None where the model has too few points.
    """
    seen = _seen(model, photo)
    if len(seen) < _FEWEST_POINTS:
        return None
    distance, nearest = (np.asarray(part) for part in KDTree(seen[:, :2] / seen[:, 2:]).query(rays))
    close = distance <= np.quantile(distance, _NEIGHBOURS)
    its, mine = seen[nearest[close], 2], depth[close]
    correlation = np.corrcoef(its, mine)[0, 1] if its.std() > 0 and mine.std() > 0 else 0.0
    return float(np.median(its / mine)), float(correlation)


def _seen(model: Any, photo: int) -> np.ndarray:
    """(P, 3) points of the model that a photo shows, in its camera's frame, in front of it."""
    rotation, translation = _pose(model, photo + 1)
    numbers = [point.point3D_id for point in model.image(photo + 1).points2D if point.has_point3D()]
    points = np.array([model.point3D(number).xyz for number in numbers]).reshape(-1, 3) @ rotation.T + translation
    return points[points[:, 2] > 0]


def _place(base: Any, other: Any, graph: MatchGraph, photo: int, pose: Any) -> None:
    """Registers a photo with a pose; the mapper leaves photos out that nothing ties to a model."""
    pycolmap = quiet_pycolmap()

    number = photo + 1
    if base.exists_image(number):
        frame = base.frame(base.image(number).frame_id)
        frame.rig_from_world = pose
        base.register_frame(frame.frame_id)
        return
    camera = _camera(base, other, photo)
    if not base.exists_camera(camera.camera_id):
        base.add_camera_with_trivial_rig(camera)
    places = pycolmap.Point2DList([pycolmap.Point2D(place) for place in graph.keypoints[photo].astype(float) + HALF])
    image = pycolmap.Image(image_id=number, camera_id=camera.camera_id, name=graph.names[photo], points2D=places)
    base.add_image_with_trivial_frame(image, pose)


def _absorb(base: Any, other: Any, graph: MatchGraph) -> None:
    """Takes over another model's photos and points, which are in the base's frame already."""
    pycolmap = quiet_pycolmap()

    for number in sorted(set(other.reg_image_ids()) - set(base.reg_image_ids())):
        _place(base, other, graph, number - 1, other.image(number).cam_from_world())
    for point in other.points3D.values():
        elements = [
            element
            for element in point.track.elements
            if not base.image(element.image_id).points2D[element.point2D_idx].has_point3D()
        ]
        if len(elements) >= 2:
            base.add_point3D(point.xyz, pycolmap.Track(elements), point.color)


def _triangulate_pair(model: Any, graph: MatchGraph, a: int, b: int) -> None:
    """New points from the matches of two photos that are both registered now."""
    pycolmap = quiet_pycolmap()

    i, j = sorted((a, b))
    rows = graph.matches.get((i, j), np.zeros((0, 2), np.int64))
    images = [model.image(photo + 1) for photo in (i, j)]
    free = [
        not images[0].points2D[x].has_point3D() and not images[1].points2D[y].has_point3D() for x, y in rows.tolist()
    ]
    rows = rows[np.array(free, bool)]
    if not len(rows):
        return
    cameras = [model.camera(image.camera_id) for image in images]
    places = [graph.keypoints[photo][rows[:, n]] + HALF for n, photo in enumerate((i, j))]
    rays = [np.asarray(camera.cam_from_img(place.astype(float))) for camera, place in zip(cameras, places, strict=True)]
    poses = [image.cam_from_world() for image in images]
    rotations = [np.asarray(pose.rotation.matrix()) for pose in poses]
    translations = [np.asarray(pose.translation) for pose in poses]
    turn = rotations[1] @ rotations[0].T
    local = _triangulated(turn, translations[1] - turn @ translations[0], *rays)
    second = (local - translations[0]) @ rotations[0] @ rotations[1].T + translations[1]
    limit = _REPROJECTION * max(graph.deviation, 1.0)
    good = (local[:, 2] > 0) & (second[:, 2] > 0)
    for camera, seen, ray in zip(cameras, (local, second), rays, strict=True):
        miss = np.linalg.norm(seen[:, :2] / seen[:, 2:] - ray, axis=1) * camera.mean_focal_length()
        good &= miss < limit
    used: tuple[set[int], set[int]] = (set(), set())
    for (x, y), point in zip(rows[good].tolist(), local[good], strict=True):
        if x in used[0] or y in used[1]:
            continue
        used[0].add(x)
        used[1].add(y)
        elements = [pycolmap.TrackElement(i + 1, x), pycolmap.TrackElement(j + 1, y)]
        model.add_point3D((point - translations[0]) @ rotations[0], pycolmap.Track(elements), np.zeros(3, np.uint8))
