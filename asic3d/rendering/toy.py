"""The object of rendered collections: a pull-along toy dragon on wheels, as one textured triangle mesh.

Object frame: x to its snout, y to its left, z up, the ground at z = 0; it is about 2.5 long and 2.1 high. It looks
nearly the same from left and right, as animals do, but for its bag, its ears and the end of its scarf.
"""

from functools import lru_cache

import numpy as np

from asic3d.rendering import toy_textures
from asic3d.rendering.meshes import Mesh, Part, ball, curve, join, sweep, turned

POSES = 4
"""Numbers that pose the toy: turn of the head, nod of the head, turn of the tail (radians), stretch of its height."""


@lru_cache(maxsize=1)
def toy_mesh() -> Mesh:
    """The toy in its rest pose."""
    return join([*_body(), *_head(), *_clothes(), *_carriage()]).occluded()


def pose_points(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Moves rest points (n, 3) float64 of the toy into a pose (POSES,); a pose of zeros moves nothing."""
    turn, nod, wag, stretch = pose
    upper = _ramp(points[:, 2], 0.45, 0.9)  # wheels, platform and feet stay where they are
    front = _ramp(points[:, 0], 0.3, 0.8) * upper
    back = _ramp(-points[:, 0], 0.4, 1.1) * upper
    moved = _turned(points, front * nod, (0, 2), (0.5, 1.1))
    moved = _turned(moved, front * turn, (0, 1), (0.5, 0.0))
    moved = _turned(moved, back * wag, (0, 1), (-0.5, 0.0))
    return moved + np.stack([0 * upper, 0 * upper, np.maximum(points[:, 2] - 0.4, 0) * stretch], 1)


def _body() -> list[Part]:
    """Tail, trunk and neck in one piece, four legs and the plates along the back."""
    spine = curve(
        [  # x, z, half width, half height
            (-1.16, 1.42, 0.01, 0.01),
            (-1.19, 1.25, 0.07, 0.06),
            (-1.10, 1.02, 0.09, 0.08),
            (-0.88, 0.88, 0.15, 0.14),
            (-0.56, 0.86, 0.29, 0.27),
            (-0.20, 0.88, 0.39, 0.35),
            (0.20, 0.91, 0.39, 0.35),
            (0.47, 1.03, 0.29, 0.29),
            (0.62, 1.25, 0.20, 0.20),
            (0.70, 1.48, 0.18, 0.18),
            (0.74, 1.62, 0.12, 0.12),
            (0.76, 1.68, 0.01, 0.01),
        ],
        64,
    )
    path = np.stack([spine[:, 0], 0 * spine[:, 0], spine[:, 1]], 1)
    parts = [sweep(path, np.maximum(spine[:, 2:], 1e-3), toy_textures.skin(), sides=36)]
    texture = toy_textures.leg()
    for x, y in ((0.36, 0.24), (0.36, -0.24), (-0.42, 0.25), (-0.42, -0.25)):
        knots = [(0, 0.95, 0.05), (0, 0.8, 0.17), (0.01, 0.6, 0.12), (0.03, 0.45, 0.125), (0.05, 0.38, 0.15)]
        leg = curve([*knots, (0.05, 0.335, 0.13), (0.05, 0.33, 0.001)], 20)
        centre = np.stack([x + leg[:, 0], np.full(20, y), leg[:, 1]], 1)
        parts.append(sweep(centre, leg[:, 2:].repeat(2, 1), texture))
    for number, ring in enumerate((11, 16, 22, 28, 34, 40, 45, 50, 55)):
        lean = path[ring + 1] - path[ring - 1]
        out = np.cross(lean, [0, 1, 0]) / np.linalg.norm(lean)
        size = 0.09 + 0.5 * spine[ring, 3]
        foot = path[ring] + out * (spine[ring, 3] - 0.03)
        tip = foot + out * size - lean / np.linalg.norm(lean) * size * 0.35
        parts.append(_plate(foot, tip, size * 0.45, toy_textures.plate(number)))
    return parts


def _plate(foot: np.ndarray, tip: np.ndarray, width: float, texture: np.ndarray) -> Part:
    """A flat pointed plate of the back."""
    t = np.linspace(0, 1, 9)
    reach = np.stack([0.3 * (1 - t) + 0.02, (1 - t) ** 0.7 + 0.02], 1) * width
    reach[0] = 1e-3
    path = foot + np.outer(np.concatenate([[0, 0.01], t[2:]]), tip - foot)
    return sweep(path, reach, texture, sides=14)


def _head() -> list[Part]:
    """Head with snout, eyes, ears and nostrils."""
    skull = curve(
        [  # place, half width, half height
            (0.00, 0.01, 0.01),
            (0.06, 0.17, 0.18),
            (0.22, 0.27, 0.29),
            (0.42, 0.28, 0.30),
            (0.58, 0.23, 0.23),
            (0.74, 0.21, 0.18),
            (0.90, 0.19, 0.17),
            (0.98, 0.11, 0.10),
            (1.00, 0.01, 0.01),
        ],
        40,
    )
    path = np.array([0.50, 0, 1.66]) + np.outer(skull[:, 0], [0.74, 0, -0.10])
    parts = [sweep(path, np.maximum(skull[:, 1:], 1e-3), toy_textures.face(), sides=36)]
    for side in (1, -1):
        parts.append(ball((0.86, side * 0.19, 1.80), (0.075, side * 0.075, 0.02), (0.105, 0.115), toy_textures.eye()))
        ear = [(0, 0.001), (0.02, 0.07), (0.4, 0.085), (0.75, 0.05), (0.97, 0.02), (1, 0.001)]
        end = (0.44, side * 0.36, 2.14)
        parts.append(turned((0.64, side * 0.15, 1.86), end, ear, toy_textures.ear(side > 0), sides=14))
        parts.append(ball((1.19, side * 0.085, 1.66), (0.03, 0, 0.01), (0.032, 0.026), toy_textures.nostril()))
    return parts


def _clothes() -> list[Part]:
    """A striped scarf with one hanging end, and a bag on the left side only."""
    angle = np.linspace(0, 2 * np.pi, 33)
    loop = np.stack([0.61 + 0.20 * np.cos(angle), 0.245 * np.sin(angle), 1.26 - 0.09 * np.cos(angle)], 1)
    scarf = sweep(loop, np.full((33, 2), 0.075), toy_textures.scarf(14), sides=14, across=(0.4, 0, 0.9))
    hang = curve([(0.74, 0.17, 1.20), (0.80, 0.22, 1.05), (0.77, 0.26, 0.88), (0.80, 0.27, 0.72)], 16)
    reach = np.stack([np.full(16, 0.04), np.full(16, 0.1)], 1)
    reach[[0, -1]] = 1e-3
    end = sweep(hang, reach, toy_textures.scarf(5), sides=14, power=4, across=(0.6, 0.8, 0))
    bag = ball((-0.08, 0.40, 0.83), (0.2, 0, 0), (0.115, 0.17), toy_textures.bag(), sides=32, power=4.5)
    return [scarf, end, bag]


def _carriage() -> list[Part]:
    """The platform, its four wheels, and the knob to pull it by."""
    x = np.array([-0.86, -0.859, -0.84, -0.8, *np.linspace(-0.7, 0.7, 9), 0.8, 0.84, 0.859, 0.86])
    ends = np.array([0.001, 0.9, 0.97, 1.0])
    shape = np.concatenate([ends, np.ones(9), ends[::-1]])[:, None] * np.array([0.36, 0.05])
    parts = [sweep(np.stack([x, 0 * x, 0 * x + 0.29], 1), shape, toy_textures.wood(), sides=32, power=6)]
    rim = [(0, 0.001), (0.01, 0.08), (0.02, 0.16), (0.1, 0.185), (0.2, 0.2), (0.8, 0.2), (0.9, 0.185), (0.98, 0.16)]
    texture = toy_textures.wheel()
    for x0 in (-0.56, 0.56):
        for side in (1, -1):
            start, end = (x0, side * 0.37, 0.2), (x0, side * 0.47, 0.2)
            parts.append(turned(start, end, [*rim, (0.99, 0.08), (1, 0.001)], texture, sides=32, across=(1.0, 0, 0)))
    parts.append(ball((0.98, 0, 0.29), (0.09, 0, 0), (0.09, 0.09), toy_textures.knob()))
    return parts


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _turned(points: np.ndarray, angle: np.ndarray, axes: tuple[int, int], centre: tuple[float, float]) -> np.ndarray:
    """Turns each point by its own angle in the plane of two axes about a centre in that plane."""
    moved = points.copy()
    a, b = (points[:, axis] - at for axis, at in zip(axes, centre, strict=True))
    moved[:, axes[0]] = a * np.cos(angle) - b * np.sin(angle) + centre[0]
    moved[:, axes[1]] = a * np.sin(angle) + b * np.cos(angle) + centre[1]
    return moved
