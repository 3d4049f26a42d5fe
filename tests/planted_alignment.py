"""An alignment whose truth is planted: a textured disc in photos of different sizes, places and scales.

It has what the report and the command line use of asic3d.Alignment, and its transfer is exact.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from asic3d.canonical_grid import CanonicalGrid, find_grid
from asic3d.collection import Collection, Photo
from asic3d.config import AlignmentConfig
from asic3d.coordinates import cell_centres, normalised_to_pixels, photo_cells
from asic3d.correspondences import CanonicalSpace, DenseMap
from asic3d.propagation import propagate
from asic3d.storage import sha256_of

GRID = 24
SIZES = ((96, 72), (60, 90), (80, 80))
CENTRES = ((40.0, 30.0), (28.0, 50.0), (44.0, 38.0))
RADII = (20.0, 18.0, 30.0)  # pixels of the disc, whose canonical radius is 1


@dataclass(frozen=True, eq=False)
class Found:
    points: Tensor
    confidence: Tensor
    cycle_error: Tensor


@dataclass(frozen=True, eq=False)
class PlantedAlignment:
    collection: Collection
    canonical: Tensor
    foreground: Tensor
    confidence: Tensor
    config: AlignmentConfig = field(default_factory=AlignmentConfig)
    quality: dict[str, float] = field(default_factory=lambda: {"planted_figure": 0.8125})
    timings: dict[str, float] = field(default_factory=lambda: {"features": 1.5, "canonical": 0.5})
    warnings: tuple[str, ...] = ()
    backbone: str = "planted"
    device: str = "cpu"
    turns: tuple[int, ...] = ()
    mirrored: tuple[bool, ...] = ()
    outliers: tuple[str, ...] = ()

    @property
    def features(self) -> Tensor:
        """(N, G * G, 98): waves over the canonical plane, the same at the same place of all photos."""
        steps = torch.arange(-3, 4) * 1.1
        phase = self.canonical.flatten(1, 2) @ torch.cartesian_prod(steps, steps).T
        return F.normalize(torch.cat([phase.cos(), phase.sin()], 2), dim=2)

    @property
    def space(self) -> CanonicalSpace:
        """The features as descriptors, and the canonical coordinates."""
        valid = torch.stack([photo_cells(size, GRID) for size in self.sizes]).flatten(1)
        return CanonicalSpace(self.features, self.canonical.flatten(1, 2), self.foreground.flatten(1), valid, 0.0)

    @property
    def present(self) -> "PlantedAlignment":
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return self.collection.names

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return self.collection.sizes

    def transfer(self, points, *, source: str, target: str) -> Found:
        i, j = self.collection.index(source), self.collection.index(target)
        canonical = to_canonical(np.asarray(points, np.float64), i)
        confidence = np.where(np.hypot(*canonical.T) <= 1, 0.9, 0.1) if i != j else np.ones(len(canonical))
        found = canonical * RADII[j] + CENTRES[j]
        return Found(torch.from_numpy(found), torch.from_numpy(confidence), torch.zeros(len(found)))

    def transfer_all(self, points):
        for target in self.names:
            found = {source: self.transfer(some, source=source, target=target) for source, some in points.items()}
            yield target, {source: (answers.points, answers.confidence) for source, answers in found.items()}

    def nearest_neighbour(self, points, *, source: str, target: str) -> Found:
        found = self.transfer(points, source=source, target=target)
        return replace(found, points=found.points + 15)

    def mask(self, name: str) -> np.ndarray:
        i = self.collection.index(name)
        return np.where(np.hypot(*canonical_of_pixels(i).transpose(2, 0, 1)) <= 1, 255, 0).astype(np.uint8)

    @cached_property
    def canonical_grid(self) -> CanonicalGrid:
        return find_grid(self, 96)

    def part_map(self, name: str, mask: np.ndarray | None = None) -> np.ndarray:
        """Part 1 is the left half of the disc, part 2 the right one."""
        mask = self.mask(name) if mask is None else mask
        x = to_canonical(np.arange(mask.shape[1])[:, None], self.collection.index(name))[:, 0]
        return np.where(mask > 127, (x > 0).astype(np.int8), -1).astype(np.int8)

    def dense(self, source: str, target: str) -> DenseMap:
        """Every pixel of the source."""
        i, j = self.collection.index(source), self.collection.index(target)
        canonical = canonical_of_pixels(i)
        confidence = np.where(np.hypot(*canonical.transpose(2, 0, 1)) <= 1, 0.9, 0.1)
        points = canonical * RADII[j] + CENTRES[j]
        return DenseMap(torch.from_numpy(points).float(), torch.from_numpy(confidence).float(), SIZES[i])

    def propagate(self, edit, *, source: str):
        return propagate(self, edit, source)

    def save(self, folder, *, overwrite: bool = False, others=None) -> None:
        for name, content in (others or {}).items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        (Path(folder) / "run.json").write_text('{"format_version": 1}')

    def add(self, *photos, progress=None) -> "PlantedAlignment":
        return replace(self, warnings=(*self.warnings, *(f"{Path(photo).name} was added." for photo in photos)))


def to_canonical(points: np.ndarray, photo: int) -> np.ndarray:
    """(..., 2) original pixels of a photo to the canonical plane."""
    return (points - CENTRES[photo]) / RADII[photo]


def canonical_of_pixels(photo: int) -> np.ndarray:
    """(h, w, 2): the canonical coordinate of every pixel."""
    width, height = SIZES[photo]
    return to_canonical(np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float), photo)


def picture(photo: int) -> np.ndarray:
    """(h, w, 3) uint8: a disc with waves that are the same in the canonical plane of all photos, on grey."""
    canonical = canonical_of_pixels(photo)
    x, y = canonical[..., 0], canonical[..., 1]
    waves = np.stack([np.sin(5 * x), np.cos(4 * y), np.sin(3 * x + 4 * y)], -1) * 100 + 128
    inside = np.hypot(x, y)[..., None] <= 1
    return np.where(inside, waves, 60 + 40 * photo).astype(np.uint8)


def plant(folder: Path, names: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg"), **changes) -> PlantedAlignment:
    """The alignment; its photos are written to the folder."""
    photos, canonical = [], []
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index)).save(path, "JPEG")
        photos.append(Photo(name, path, SIZES[index], sha256_of(path), picture(index)))
        pixels = normalised_to_pixels(cell_centres(GRID), SIZES[index]).numpy()
        canonical.append(to_canonical(pixels, index).reshape(GRID, GRID, 2))
    canonical = torch.from_numpy(np.stack(canonical)).float()
    inside = (canonical.norm(dim=-1) <= 1).float()
    planted = PlantedAlignment(Collection(folder, tuple(photos)), canonical, inside, 0.05 + 0.9 * inside)
    return replace(planted, **changes)
