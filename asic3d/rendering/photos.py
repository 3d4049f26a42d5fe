"""One rendered photo of the toy, and the whole truth about it."""

from dataclasses import dataclass

import numpy as np

from asic3d.rendering.cameras import Camera, make_camera
from asic3d.rendering.shading import SAMPLES, Layer, background, compose, develop, light_maps, shade
from asic3d.rendering.surroundings import Surroundings, make_surroundings
from asic3d.rendering.toy import POSES, pose_points, toy_mesh

DEPTH_SLACK = 0.02
"""How far from the seen surface a point still counts as visible, object units."""


@dataclass(frozen=True, eq=False)
class RenderedPhoto:
    """One photo and the truth about it. Pixels: x right, y down, (0, 0) = the centre of the top-left pixel.

    Attributes:
        image: (h, w, 3) uint8 sRGB.
        mask: (h, w) bool, the pixels whose centre the object covers.
        surface: (h, w, 3) float32, the point of the REST object, in its frame, that is seen at a pixel's centre; NaN
            off the object. The same physical point has the same value in every photo, whatever the object's pose
            (to 0.2 pixels where it is deformed, exactly where not).
        depth: (h, w) float32, along the camera's axis; NaN off the object.
        K, R, t: (3, 3), (3, 3) and (3,) float64, the camera: ``x_cam = R X + t``.
        pose: (POSES,) float64, how the object is deformed; zeros = at rest.
    """

    image: np.ndarray
    mask: np.ndarray
    surface: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    pose: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def camera(self) -> Camera:
        """The camera with its arithmetic."""
        return Camera(self.size, self.K, self.R, self.t)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points (n, 3) of the rest object appear, (n, 2) float64 pixels, and whether each is seen, (n,) bool.

        A point is seen if the picture's depth at one of the four pixel centres around it is about its own.
        """
        pixels, depth = self.camera.project(pose_points(np.asarray(points, np.float64), self.pose))
        padded = np.pad(self.depth, 1, constant_values=np.nan)
        first = np.clip(np.floor(pixels), -1, np.array(self.size) - 1).astype(int) + 1
        around = np.stack([padded[first[:, 1] + dy, first[:, 0] + dx] for dy in (0, 1) for dx in (0, 1)])
        slack = DEPTH_SLACK + depth / self.K[0, 0]  # the surface's slope across a pixel is no occlusion
        inside = (np.abs(pixels - self.K[:2, 2]) < np.array(self.size) / 2).sum(1) == 2
        return pixels, inside & (np.abs(around - depth) <= slack).any(0)


def render_photo(
    size: tuple[int, int],
    azimuth: float,
    scene: int,
    clutter: float,
    deformation: float,
    generator: np.random.Generator,
) -> RenderedPhoto:
    """One photo of the toy.

    Args:
        size: (width, height), pixels.
        azimuth: of the camera as seen from the toy, radians.
        scene: number of the kind of place.
        clutter: see :func:`asic3d.rendering.render_collection`.
        deformation: likewise.
        generator: source of every random choice.
    """
    mesh = toy_mesh()
    pose = deformation * generator.uniform(-1, 1, POSES) * np.array([0.5, 0.3, 0.6, 0.15])
    vertices = pose_points(mesh.vertices, pose)
    camera = make_camera(vertices, size, azimuth, np.radians(generator.uniform(10, 30)), generator)
    place = make_surroundings(scene, azimuth, clutter, generator)
    layers, image = _expose(camera, vertices, place, generator)
    mask, rest, depth = _truth(layers, camera.size)
    return RenderedPhoto(image, mask, rest, depth, camera.K, camera.R, camera.t, pose)


def _expose(
    camera: Camera, vertices: np.ndarray, place: Surroundings, generator: np.random.Generator
) -> tuple[list[Layer], np.ndarray]:
    """What is seen of the toy and of the other things, and the photo: (h, w, 3) uint8 sRGB."""
    meshes = [(toy_mesh(), vertices)]
    if place.clutter is not None:
        meshes.append((place.clutter, place.clutter.vertices))
    sunlight, above = light_maps(meshes, place)
    layers = [shade(camera, mesh, moved, place, sunlight) for mesh, moved in meshes]
    light = compose(layers, background(camera, place, sunlight, above))
    return layers, develop(light, generator)


def _truth(layers: list[Layer], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask, rest surface and depth at the pixels' centres of the first layer, where no other is in front of it."""
    seen = layers[0].seen
    in_front = np.full(seen.nearness.shape, -np.inf)
    for other in layers[1:]:
        in_front = np.maximum(in_front, other.seen.nearness)
    width, height = size
    numbers = np.full(seen.nearness.shape, -1)
    numbers.ravel()[seen.pixels] = np.arange(len(seen.pixels))
    numbers[seen.nearness <= in_front] = -1
    middle = SAMPLES // 2
    central = numbers[middle::SAMPLES, middle::SAMPLES]
    mask = central >= 0
    surface, depth = np.full((height, width, 3), np.nan, np.float32), np.full((height, width), np.nan, np.float32)
    surface[mask] = seen.interpolate(toy_mesh().faces, toy_mesh().vertices)[central[mask]]
    depth[mask] = 1 / seen.nearness[middle::SAMPLES, middle::SAMPLES][mask]
    return mask, surface, depth
