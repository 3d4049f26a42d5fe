"""Photos that are really mirrored and turned, as files, and where their points went."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from asic3d.collection import Collection, load_collection


@dataclass(frozen=True)
class Change:
    """What was done to a photo: mirrored left to right, then turned counter-clockwise by some quarters."""

    mirrored: bool = False
    quarters: int = 0

    @property
    def turns(self) -> int:
        """Quarters counter-clockwise by which it stands upright again; it may still be mirrored then."""
        return -self.quarters % 4

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, ...) of the photo as it was to those of the changed one."""
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarters))

    def points(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(n, 2) pixels of the photo as it was, of this (width, height), to those of the changed one."""
        (width, height), points = size, np.array(points, float)
        if self.mirrored:
            points[:, 0] = width - 1 - points[:, 0]
        for _ in range(self.quarters):
            points = np.stack([points[:, 1], width - 1 - points[:, 0]], 1)
            width, height = height, width
        return points


AS_IT_WAS = Change()


def changed_collection(toy, folder: Path, changes: dict[int, Change], photos=None) -> Collection:
    """The toy's photos in a folder, lossless, some of them changed."""
    folder.mkdir()
    for index in range(len(toy.truth)) if photos is None else photos:
        pixels = changes.get(index, AS_IT_WAS).pixels(toy.collection.photos[index].pixels)
        Image.fromarray(pixels).save(folder / f"{toy.truth.names[index]}.png")
    return load_collection(folder)


def changed_errors(toy, transfer, changes: dict[int, Change], photos=None, into=None) -> np.ndarray:
    """(n,) errors of the toy's keypoints between the changed photos, relative to the target object's longer side."""
    indices = list(range(len(toy.truth)) if photos is None else photos)
    found = []
    for i in indices:
        for j in indices if into is None else into:
            if i != j:
                source, target = toy.truth.names[i], toy.truth.names[j]
                points, wanted = (
                    changes.get(k, AS_IT_WAS).points(p, toy.truth.photos[k].size)
                    for k, p in zip((i, j), toy.pair(source, target), strict=True)
                )
                moved = transfer(points, source=f"{source}.png", target=f"{target}.png").points.numpy()
                rows, columns = np.nonzero(toy.truth.photos[j].mask)
                found.append(np.linalg.norm(moved - wanted, axis=1) / max(np.ptp(rows), np.ptp(columns)))
    return np.concatenate(found)
