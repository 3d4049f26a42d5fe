"""Light: from surfaces, a place and a camera to a photo."""

from dataclasses import dataclass

import cv2
import numpy as np

from asic3d.rendering.cameras import Camera
from asic3d.rendering.meshes import Mesh, sample
from asic3d.rendering.rasterising import Fragments, LightMap, nearest_along, rasterise
from asic3d.rendering.surroundings import Surroundings, backdrop_colours, ground_colours

SAMPLES = 3  # samples along each side of a pixel; odd, so that one lies at its centre
_SHININESS, _GLOSS = 45, 0.22  # painted wood and plastic


@dataclass(frozen=True, eq=False)
class Layer:
    """One mesh as a camera sees it, SAMPLES x SAMPLES times finer than the photo.

    Attributes:
        seen: the nearest surfaces.
        colour: (n, 3) float32 linear light from each fragment.
    """

    seen: Fragments
    colour: np.ndarray


def draw(camera: Camera, mesh: Mesh, vertices: np.ndarray) -> Fragments:
    """What a camera sees of a mesh moved to ``vertices`` (V, 3), SAMPLES times finer than its photo."""
    points, depth = camera.project(vertices)
    fine = points * SAMPLES + (SAMPLES - 1) / 2
    width, height = camera.size
    return rasterise(fine, 1 / np.maximum(depth, 1e-3), mesh.faces, (height * SAMPLES, width * SAMPLES))


def light_maps(meshes: list[tuple[Mesh, np.ndarray]], place: Surroundings) -> tuple[LightMap, LightMap]:
    """What the sun reaches first, and what lies nearest above the ground (seen from below)."""
    first = np.cumsum([0, *(len(vertices) for _, vertices in meshes)])
    vertices = np.concatenate([vertices for _, vertices in meshes])
    faces = np.concatenate([mesh.faces + start for (mesh, _), start in zip(meshes, first, strict=False)])
    upwards = np.array([0.0, 0.0, -1.0])
    return nearest_along(vertices, faces, place.towards_sun, 320), nearest_along(vertices, faces, upwards, 192)


def shade(camera: Camera, mesh: Mesh, vertices: np.ndarray, place: Surroundings, sunlight: LightMap) -> Layer:
    """Draws a mesh moved to ``vertices`` (V, 3) with sun, sky, light from the ground, and a shine."""
    seen = draw(camera, mesh, vertices)
    per_vertex = np.concatenate([vertices, mesh.normals(vertices), mesh.texture_points, mesh.openness[:, None]], 1)
    at = seen.interpolate(mesh.faces, per_vertex.astype(np.float32))
    position, normal, texture_points, openness = np.split(at, [3, 6, 8], axis=1)
    normal = _unit(normal)
    towards_sun, sun, sky = (light.astype(np.float32) for light in (place.towards_sun, place.sun, place.sky))
    halfway = _unit(towards_sun + _unit(camera.centre.astype(np.float32) - position))
    lit = sunlight.lit(position + 0.02 * normal)[:, None]
    facing = np.maximum(normal @ towards_sun, 0)[:, None]
    shine = _GLOSS * np.maximum(np.einsum("nk,nk->n", normal, halfway), 0)[:, None] ** _SHININESS
    upward = 0.5 + 0.5 * normal[:, 2:]
    bounce = (place.ground.mean((0, 1)) / 255).astype(np.float32) ** 2.2 * (0.35 * sun + 0.4 * sky)
    light = openness * (upward * sky + (1 - upward) * bounce) + lit * facing * sun
    return Layer(seen, mesh.colours(texture_points) ** 2.2 * light + shine * (lit * sun + 0.3 * sky))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(n, 3) vectors scaled to length 1."""
    return vectors / np.maximum(np.sqrt(np.einsum("nk,nk->n", vectors, vectors)), 1e-9)[:, None]


def compose(layers: list[Layer], background: np.ndarray) -> np.ndarray:
    """Layers over a background (h, w, 3), the nearest in front, edges antialiased: (h, w, 3) float32 linear light."""
    height, width, _ = background.shape
    fine = (height * SAMPLES, width * SAMPLES)
    colour = np.zeros((fine[0] * fine[1], 4), np.float32)
    nearness = np.full(fine[0] * fine[1], -np.inf)
    for layer in layers:
        near = layer.seen.nearness.ravel()[layer.seen.pixels]
        front = near > nearness[layer.seen.pixels]
        pixels = layer.seen.pixels[front]
        nearness[pixels] = near[front]
        colour[pixels, :3], colour[pixels, 3] = layer.colour[front], 1
    mean = cv2.resize(colour.reshape(*fine, 4), (width, height), interpolation=cv2.INTER_AREA)
    return mean[..., :3] + (1 - mean[..., 3:]) * background


def background(camera: Camera, place: Surroundings, sunlight: LightMap, above: LightMap) -> np.ndarray:
    """Ground with shadows, and backdrop, out of focus with distance: (h, w, 3) float32 linear light."""
    width, height = camera.size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = camera.rays(np.stack([x, y], -1).reshape(-1, 2).astype(float))
    eye = camera.centre
    with np.errstate(divide="ignore"):
        to_ground = np.where(rays[:, 2] < 0, -eye[2] / rays[:, 2], np.inf)
        straight = rays[:, :2] @ place.facing
        to_wall = np.where(straight > 0, (place.scene.distance - eye[:2] @ place.facing) / straight, np.inf)
    depth = np.minimum(np.minimum(to_ground, to_wall), 1e3)
    points = eye + depth[:, None] * rays
    right = np.array([place.facing[1], -place.facing[0]])
    on_wall = np.stack([points[:, :2] @ right, points[:, 2]], 1)
    wall = backdrop_colours(place, on_wall) ** 2.2 * (0.45 * place.sun + 0.7 * place.sky)
    ground = ground_colours(place, points[:, :2]) ** 2.2 * _ground_light(points, place, sunlight, above)
    picture = np.where((to_wall < to_ground)[:, None], wall, ground).astype(np.float32)
    focus = np.linalg.norm(eye)
    return _defocused(picture.reshape(height, width, 3), (depth / focus).reshape(height, width))


def _ground_light(points: np.ndarray, place: Surroundings, sunlight: LightMap, above: LightMap) -> np.ndarray:
    """(n, 3) light that reaches points of the ground: sun with soft shadows, sky with dark contacts."""
    shadow = np.isfinite(sunlight.depth).astype(np.float32)
    shadow = cv2.GaussianBlur(shadow, (0, 0), (0.02 if place.scene.outdoors else 0.07) / sunlight.step)
    cells, _ = sunlight.cells(points)
    dark = sample(shadow[..., None], cells, cv2.BORDER_CONSTANT)
    close = np.exp(-np.maximum(above.depth, 0) / 0.4).astype(np.float32)  # 0 where nothing is above
    blurred = [
        gain * cv2.GaussianBlur(close, (0, 0), r / above.step) for r, gain in ((0.03, 1.2), (0.08, 1.5), (0.2, 1.3))
    ]
    contact = np.maximum.reduce(blurred)
    wide, _ = above.cells(points)
    closed = np.minimum(sample(contact[..., None], wide, cv2.BORDER_CONSTANT), 1)
    return place.sun * place.towards_sun[2] * (1 - dark) + place.sky * (1 - 0.9 * closed)


def _defocused(picture: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Blurs what lies far behind the object; ``depth`` (h, w) is in distances from the camera to the object."""
    side = max(depth.shape)
    for low, high, sigma in ((0.9, 1.3, 0.0012), (1.2, 1.7, 0.005), (1.7, 3.0, 0.011)):
        amount = np.clip((depth - low) / (high - low), 0, 1)[..., None].astype(np.float32)
        picture = picture + amount * (cv2.GaussianBlur(picture, (0, 0), sigma * side) - picture)
    return picture


def develop(light: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The camera's part: exposure, white balance, tone curve, vignette, softness and noise: (h, w, 3) uint8 sRGB."""
    height, width, _ = light.shape
    warmth, tint = generator.normal(0, 0.07, 2)
    cast = np.array([1 + warmth, 1 + 0.5 * tint, 1 - warmth])
    # Half of the way to a mid grey: cameras leave dark places somewhat dark, and bright ones bright.
    exposure = generator.uniform(0.18, 0.26) / (np.sqrt(0.22 * float(np.median(light.mean(2)))) + 0.02)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1 - generator.uniform(0.05, 0.2) * (x**2 + y**2) / 2
    exposed = light * (cast * exposure) * vignette[..., None]
    shown = np.clip(exposed * 1.12 / (1 + 0.12 * exposed**2), 0, 1) ** (1 / 2.2)
    contrast = generator.uniform(0.0, 0.5)
    shown = shown + contrast * (shown * shown * (3 - 2 * shown) - shown)
    shown = cv2.GaussianBlur(shown.astype(np.float32), (0, 0), generator.uniform(0.3, 0.6))
    grain = generator.normal(0, 1, (height, width, 1)) + 0.5 * generator.normal(0, 1, (height, width, 3))
    shown = shown + generator.uniform(0.004, 0.012) * grain
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
