"""Where the photographed object stands: ground, backdrop, light and other things lying about."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from asic3d.rendering import materials
from asic3d.rendering.meshes import Mesh, Part, ball, join, sample, sweep, turned
from asic3d.rendering.paint import edge, flat, grid, lay, vivid, worn

Material = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Scene:
    """A kind of place.

    Attributes:
        ground: the material that the object stands on.
        ground_size: side of one of its tiles, object units.
        backdrop: the material behind.
        backdrop_size: side of one of its tiles, object units.
        distance: from the object to the backdrop, object units.
        outdoors: a hard, bright sun and a blue sky; otherwise soft lamp or window light.
    """

    ground: Material
    ground_size: float
    backdrop: Material
    backdrop_size: float
    distance: float
    outdoors: bool


SCENES = (
    Scene(materials.planks, 3.2, materials.books, 6.0, 3.6, outdoors=False),
    Scene(materials.grass, 2.2, materials.foliage, 9.0, 8.0, outdoors=True),
    Scene(materials.gingham, 3.4, materials.plaster, 7.0, 4.0, outdoors=False),
    Scene(materials.pebbles, 3.0, materials.bricks, 4.5, 3.0, outdoors=True),
    Scene(materials.rug, 4.0, materials.plaster, 8.0, 5.0, outdoors=False),
    Scene(materials.concrete, 4.0, materials.sky, 15.0, 16.0, outdoors=True),
    Scene(materials.tiles, 3.6, materials.bricks, 5.0, 3.4, outdoors=False),
    Scene(materials.leaves, 3.0, materials.foliage, 8.0, 7.0, outdoors=True),
)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """One place, drawn.

    Attributes:
        scene: which kind of place it is.
        ground, backdrop: (s, s, 3) uint8, sRGB, one tile of each.
        turn: direction of the ground's rows, radians about the upright axis.
        facing: (2,) float64, unit vector along the ground from the viewer to the backdrop.
        towards_sun: (3,) float64, unit vector.
        sun, sky: (3,) float64, linear light of either.
        clutter: the other things; None where there are none.
    """

    scene: Scene
    ground: np.ndarray
    backdrop: np.ndarray
    turn: float
    facing: np.ndarray
    towards_sun: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    clutter: Mesh | None


def make_surroundings(number: int, azimuth: float, clutter: float, generator: np.random.Generator) -> Surroundings:
    """Draws a place.

    Args:
        number: picks the kind of place.
        azimuth: from where the object is seen, radians.
        clutter: 1 = things beside and behind the object and full contrast of ground and backdrop, 0 = neither.
        generator: source of every random choice.
    """
    scene = SCENES[number % len(SCENES)]
    contrast = 0.25 + 0.75 * min(clutter, 1.0)
    away = azimuth + np.pi + generator.uniform(-0.5, 0.5)
    sun_azimuth = azimuth + generator.choice([-1, 1]) * generator.uniform(0.7, 2.0)
    height = generator.uniform(0.6, 1.0)
    towards_sun = np.array([np.cos(height) * np.cos(sun_azimuth), np.cos(height) * np.sin(sun_azimuth), np.sin(height)])
    warmth = generator.uniform(-0.12, 0.18)
    strength = generator.uniform(1.0, 1.35) if scene.outdoors else generator.uniform(0.6, 0.95)
    things = _things(round(clutter * generator.integers(3, 6)), azimuth, scene.distance, generator)
    return Surroundings(
        scene=scene,
        ground=_softened(scene.ground(generator), contrast),
        backdrop=_softened(scene.backdrop(generator), contrast),
        turn=generator.uniform(0, np.pi),
        facing=np.array([np.cos(away), np.sin(away)]),
        towards_sun=towards_sun,
        sun=strength * np.array([1 + warmth, 1, 1 - warmth]),
        sky=(1.15 - 0.5 * strength) * np.array([0.95, 1.0, 1.08] if scene.outdoors else [1.0, 1.0, 1.0]),
        clutter=join(things) if things else None,
    )


def _softened(tile: np.ndarray, contrast: float) -> np.ndarray:
    """A tile with less contrast, (s, s, 3) uint8."""
    mean = tile.mean((0, 1))
    return np.rint(np.clip(mean + contrast * (tile - mean), 0, 1) * 255).astype(np.uint8)


def ground_colours(place: Surroundings, points: np.ndarray) -> np.ndarray:
    """(n, 3) float32 in [0, 1], sRGB, of the ground at (n, 2) points, object units."""
    c, s = np.cos(place.turn), np.sin(place.turn)
    along = points @ np.array([[c, -s], [s, c]]) / place.scene.ground_size + 0.37
    return sample(place.ground, along * (len(place.ground) - 1), cv2.BORDER_REFLECT_101) / 255


def backdrop_colours(place: Surroundings, points: np.ndarray) -> np.ndarray:
    """(n, 3) float32 in [0, 1], sRGB, of the backdrop at (n, 2) points: to the right and up, object units."""
    side = len(place.backdrop) - 1
    u = points[:, 0] / place.scene.backdrop_size + place.turn
    v = 1 - points[:, 1] / place.scene.backdrop_size
    return sample(place.backdrop, np.stack([u, v], 1) * side, cv2.BORDER_REFLECT_101) / 255


def _things(count: int, azimuth: float, room: float, generator: np.random.Generator) -> list[Part]:
    """Things on the ground behind and beside the object, never between it and the viewer."""
    parts = []
    for _ in range(count):
        side = generator.choice([-1, 1])
        bearing = azimuth + np.pi + side * generator.uniform(0.1, 1.75)
        distance = generator.uniform(1.9, max(2.0, min(room - 0.6, 3.6)))
        to = (distance * np.cos(bearing), distance * np.sin(bearing))
        turn = generator.uniform(0, 2 * np.pi)
        make = (_mug, _block, _book, _marble, _pot)[generator.integers(5)]
        parts += [part.moved(turn, to) for part in make(generator.uniform(0.8, 1.3), generator)]
    return parts


def _mug(size: float, generator: np.random.Generator) -> list[Part]:
    u, _ = grid(96, 96)
    paint = lay(flat(vivid(generator), 96, 96), vivid(generator), edge(np.abs(u - 0.5) - 0.06, 0.02))
    coffee = lay(paint, (0.20, 0.10, 0.05), edge(0.87 - u, 0.01))
    shape = [(0, 0.001), (0.001, 0.25), (0.05, 0.29), (0.5, 0.3), (0.97, 0.3), (0.99, 0.28), (0.991, 0.25), (1, 0.001)]
    cup = turned((0, 0, 0), (0, 0, 0.75 * size), [(p, r * size) for p, r in shape], worn(coffee, generator), sides=28)
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 13)
    loop = np.stack([0.28 + 0.17 * np.cos(angle), 0 * angle, 0.38 + 0.2 * np.sin(angle)], 1) * size
    return [cup, sweep(loop, np.full((13, 2), 0.04 * size), paint[:, :8], sides=10)]


def _block(size: float, generator: np.random.Generator) -> list[Part]:
    u, v = grid(128, 128)
    paint = flat((0.86, 0.72, 0.50), 128, 128)
    ring = np.hypot(u - 0.5, (v * 4) % 1 - 0.5)
    paint = lay(paint, vivid(generator), edge(np.abs(ring - 0.25) - 0.07, 0.02))
    half = 0.24 * size
    return [ball((0, 0, half), (half, 0, 0), (half, half), worn(paint, generator), sides=32, power=9)]


def _book(size: float, generator: np.random.Generator) -> list[Part]:
    _, v = grid(96, 96)
    paint = lay(flat(vivid(generator), 96, 96), (0.92, 0.90, 0.84), edge(np.abs(v - 0.25) - 0.08, 0.01))
    half = 0.09 * size
    return [ball((0, 0, half), (0.5 * size, 0, 0), (0.36 * size, half), worn(paint, generator), sides=32, power=12)]


def _marble(size: float, generator: np.random.Generator) -> list[Part]:
    u, v = grid(96, 96)
    swirl = edge(np.abs((3 * v + u) % 1 - 0.5) - 0.2, 0.1)
    paint = lay(flat(vivid(generator), 96, 96), vivid(generator), swirl)
    radius = 0.25 * size
    return [ball((0, 0, radius), (0.6 * radius, 0, 0.8 * radius), (radius, radius), worn(paint, generator), sides=26)]


def _pot(size: float, generator: np.random.Generator) -> list[Part]:
    clay = worn(flat((0.68, 0.36, 0.22), 64, 64), generator, 0.15)
    shape = [(0, 0.001), (0.001, 0.2), (0.75, 0.29), (0.76, 0.33), (0.99, 0.34), (1, 0.001)]
    parts = [turned((0, 0, 0), (0, 0, 0.55 * size), [(p, r * size) for p, r in shape], clay, sides=26)]
    green = worn(flat((0.20, 0.38, 0.14), 48, 48), generator, 0.3)
    for _ in range(9):
        lean = generator.uniform(-0.32, 0.32, 2) * size
        tip = (float(lean[0]), float(lean[1]), float(generator.uniform(0.75, 1.15) * size))
        blade = [(0, 0.02), (0.3, 0.06), (0.7, 0.05), (1, 0.002)]
        parts.append(turned((0, 0, 0.5 * size), tip, [(p, r * size) for p, r in blade], green, sides=10))
    return parts
