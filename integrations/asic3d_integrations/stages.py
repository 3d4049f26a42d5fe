"""What there is to see of a run in 3-D, ready to be shown: its cameras, its canonical plane, its descriptors.

A stage has one frame for all viewers: z is up, x to the right and y ahead of who looks on, the middle is the origin,
and the whole is about 4 across, because viewers move by steps of their own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from asic3d.canonical_grid import map_photo
from asic3d.coordinates import cell_centres, normalised_to_pixels
from asic3d.pictures import canonical_colours, canonical_extent

if TYPE_CHECKING:
    from asic3d import Alignment
    from asic3d.collection import Photo
    from asic3d_integrations.colmap.scene import Scene

SPAN = 4.0
"""How far a stage reaches across, its own units."""
PHOTOS, PLACES = "colours of the photos", "colours of the places"
"""The groups that the photos' points are in, once in each."""
_SIDE, _MOST = 80, 80_000  # samples along the longer side of a photo, and of all photos, at most
_DENSITY = 1.6  # of map_photo: pixels for each cell of its grid
_DEEPEST, _APART = 3.6, 0.42  # all layers, and two neighbours, of the object's width
_INSIDE = 0.5  # probability of the object
_DOT, _CELL_DOT = (0.008, 0.035), 0.018  # size of a point, at least and at most; of a cell
_ROOM = 1.08  # around what is in sight


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points that are switched on and off together.

    Attributes:
        group: what it is one of, such as ``PHOTOS``.
        name: its own name there; '' where it is the whole group.
        points: (n, 3) float32, the stage's frame.
        colours: (n, 3) uint8, sRGB.
        size: across a point, the stage's units.
        shown: whether the group is seen at first.
    """

    group: str
    name: str
    points: np.ndarray
    colours: np.ndarray
    size: float
    shown: bool = True


@dataclass(frozen=True, eq=False)
class Shot:
    """A camera with its photo.

    Attributes:
        name: of the photo.
        corners: (5, 3) float64, the stage's frame: where the camera stands, and the corners of the photo, clockwise
            from the top left.
        photo: (h, w, 3) uint8, small; None where there is none.
    """

    name: str
    corners: np.ndarray
    photo: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Stage:
    """One thing to look at.

    Attributes:
        key: a word for it, as addresses have it.
        title: what it is, for people.
        facts: what is seen, and what it means, for people.
        clouds: the points.
        shots: the cameras.
        view: (3, 3) float64, rows: right, down and ahead of who looks on.
        extent: (k, 3) float, what is in sight at first.
    """

    key: str
    title: str
    facts: str
    clouds: tuple[Cloud, ...]
    shots: tuple[Shot, ...]
    view: np.ndarray
    extent: np.ndarray

    def eye(self, angle: float, aspect: float) -> np.ndarray:
        """(3,) where to stand, so that all of it is in sight and the origin in the middle.

        Args:
            angle: radians, from the upper to the lower edge of what is seen.
            aspect: its width by its height.
        """
        if not len(self.extent):
            return -SPAN * self.view[2]
        seen = self.extent @ self.view.T
        needed = np.abs(seen[:, :2]) / (np.tan(angle / 2) * np.array([aspect, 1])) - seen[:, 2:]
        return -_ROOM * float(needed.max()) * self.view[2]


def stage_of_cameras(scene: "Scene") -> Stage:
    """The cameras of a model with their photos, and its points; turned, moved and scaled as a whole."""
    middle = scene.middle
    low, high = (middle.min(0), middle.max(0)) if len(middle) else (np.zeros(3), np.ones(3))
    ahead = scene.view[2] - np.dot(scene.view[2], scene.up) * scene.up
    ahead = ahead / np.linalg.norm(ahead)
    turn = np.stack([np.cross(ahead, scene.up), ahead, scene.up])
    scale = SPAN / max(float(np.linalg.norm(high - low)), 1e-9)

    def place(points: np.ndarray) -> np.ndarray:
        return (points - (low + high) / 2) @ turn.T * scale

    points = place(scene.points).astype(np.float32)
    seen = zip(scene.names, scene.frusta, scene.photos, strict=True)
    shots = tuple(Shot(name, place(corners), photo) for name, corners, photo in seen)
    facts = f"{len(shots)} cameras with their photos, and {len(points)} points that several photos show."
    cloud = Cloud("points", "", points, scene.colours, _dot(points))
    return Stage("cameras", "Cameras", facts, (cloud,), shots, scene.view @ turn.T, place(middle))


def _dot(points: np.ndarray) -> float:
    """Across a point: as far as they lie apart, were they spread over a square as wide as the most of them."""
    if not len(points):
        return _DOT[0]
    width = 2 * np.quantile(np.linalg.norm(points - np.median(points, axis=0), axis=1), 0.8)
    return float(np.clip(width / np.sqrt(len(points)), *_DOT))


def stage_of_plane(alignment: "Alignment") -> Stage:
    """The photos' objects in the canonical plane, each photo a layer of its own, one behind the other.

    The plane is that of the canonical grid. How deep a point lies says which photo shows it, nothing about the object.
    """
    grid, count = alignment.canonical_grid, len(alignment.names)
    share = float((alignment.foreground > _INSIDE).float().mean())
    side = int(np.clip(np.sqrt(_MOST / max(count * share, 1e-9)), 16, _SIDE))
    reach = canonical_extent(alignment)
    planes, colours, hues = [], [], []
    for index, photo in enumerate(alignment.collection):
        mask = alignment.mask(photo.name)
        canonical, confidence = alignment.canonical[index], alignment.confidence[index]
        seen = map_photo(photo, canonical, confidence, mask, round(side / _DENSITY))
        inside = seen.mask > _INSIDE
        planes.append(grid.unfolding(torch.from_numpy(seen.canonical[inside])).numpy())
        colours.append(seen.pixels[inside])
        hues.append(canonical_colours(seen.canonical[inside], reach))
    low, high = _most(np.concatenate(planes))
    width = float((high - low).max())
    apart = width * min(_APART, _DEEPEST / max(count - 1, 1))
    scale = SPAN / float(np.hypot(width, apart * (count - 1)))
    size = 1.1 * scale * width / side
    clouds: list[Cloud] = []
    for index, (name, plane) in enumerate(zip(alignment.names, planes, strict=True)):
        x, down = (plane - (low + high) / 2).T
        depth = np.full(len(plane), apart * (index - (count - 1) / 2))
        points = np.column_stack([x, depth, -down]) * scale
        clouds += _twice(name, points, colours[index], hues[index], size, first=PHOTOS)
    half = np.array([(high - low)[0], apart * (count - 1), (high - low)[1]]) * scale / 2
    facts = (
        "Each photo's object in the one plane that all photos share, a layer for each photo. A place of the object "
        "lies at the same place of every layer. The depth only keeps the photos apart."
    )
    return Stage("plane", "Canonical plane", facts, tuple(clouds), (), _looking(-42, 18), _box(half))


def stage_of_descriptors(alignment: "Alignment") -> Stage:
    """The cells of all photos along the three leading axes of their descriptors.

    The descriptors are those by which points are followed, in the metric that was learned on these photos; the axes are
    the principal ones over the object in all photos.
    """
    space = alignment.space
    inside = (space.valid & (space.foreground > _INSIDE)).cpu()
    if not bool(inside.any()):
        inside = space.valid.cpu()
    values = space.descriptors.cpu()[inside].double()
    centred = values - values.mean(0)
    powers, axes = torch.linalg.eigh(centred.T @ centred)
    told = float(powers[-3:].sum() / powers.sum().clamp(min=1e-12))
    along = (centred @ axes[:, -3:].flip(1)).numpy()[:, [0, 2, 1]]
    low, high = _most(along)
    scale = SPAN / max(float(np.linalg.norm(high - low)), 1e-9)
    points = (along - (low + high) / 2) * scale
    hues = canonical_colours(space.canonical.cpu()[inside].numpy(), canonical_extent(alignment))
    owner = torch.nonzero(inside)[:, 0].numpy()
    clouds: list[Cloud] = []
    for index, photo in enumerate(alignment.collection):
        own = owner == index
        colours = _cell_colours(photo, space.grid)[inside[index].numpy()]
        clouds += _twice(photo.name, points[own], colours, hues[own], _CELL_DOT, first=PLACES)
    facts = (
        "The cells of all photos by what the network sees there: the three leading axes of their descriptors, "
        f"{100 * told:.0f}% of the variance. Where the photos were matched well, cells of one place of the object lie "
        "together, whichever photo they are of."
    )
    extent = _box((high - low) / 2 * scale)
    return Stage("descriptors", "Descriptors", facts, tuple(clouds), (), _looking(-32, 16), extent)


def _most(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and largest coordinates of (n, d) points, but for a tail on either side."""
    if not len(points):
        return -np.ones(points.shape[1]), np.ones(points.shape[1])
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    return low, np.maximum(high, low + 1e-9)


def _cell_colours(photo: "Photo", grid: int) -> np.ndarray:
    """(G * G, 3) float32 in [0, 1]: what a photo shows at its cells; beside the photo, its edge."""
    scale = min(1.0, 2 * grid / max(photo.pixels.shape[:2]))
    small = cv2.resize(photo.pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x, y = normalised_to_pixels(cell_centres(grid), (small.shape[1], small.shape[0])).T.contiguous().numpy()
    colours = cv2.remap(small, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return colours.reshape(-1, 3).astype(np.float32) / 255


def _twice(
    name: str, points: np.ndarray, colours: np.ndarray, hues: np.ndarray, size: float, *, first: str
) -> list[Cloud]:
    """A photo's (n, 3) points in its own colours, and again in those of their places; colours in [0, 1]."""
    where = points.astype(np.float32)
    return [
        Cloud(group, name, where, np.rint(255 * values).clip(0, 255).astype(np.uint8), size, shown=group == first)
        for group, values in ((PHOTOS, colours), (PLACES, hues))
    ]


def _looking(aside: float, above: float) -> np.ndarray:
    """Right, down and ahead of who looks at the origin from the front, turned aside and from above, degrees."""
    a, b = np.radians([aside, above])
    level, down = np.array([-np.sin(a), np.cos(a), 0]), np.array([0, 0, -1])
    return np.stack(
        [[np.cos(a), np.sin(a), 0], np.cos(b) * down - np.sin(b) * level, np.cos(b) * level + np.sin(b) * down]
    )


def _box(half: np.ndarray) -> np.ndarray:
    """(8, 3) corners of a box around the origin."""
    return np.stack(np.meshgrid(*([-1.0, 1.0],) * 3), -1).reshape(8, 3) * half
