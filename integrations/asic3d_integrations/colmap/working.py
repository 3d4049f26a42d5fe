"""Photos as they are worked on: at most 1024 pixels, turned upright, with a mask where the object stands out."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from asic3d.collection import Photo
from asic3d.coordinates import pixels_to_crop, unturned_pixels

_DARK, _BORDER, _SHARE = 40, 3, 0.8
"""A backdrop is black where this share of a border of this many pixels is darker than this grey level."""


@dataclass(frozen=True, eq=False)
class Working:
    """One photo as it is worked on.

    Attributes:
        pixels: (h, w, 3) uint8 sRGB, as the photo stands.
        mask: (h, w) uint8, 255 = object; 255 everywhere where nothing is known of it.
        turns: quarters by which both are turned counter-clockwise for matching.
        size: (width, height) of the original upright photo, pixels.
    """

    pixels: np.ndarray
    mask: np.ndarray
    turns: int
    size: tuple[int, int]

    @property
    def masked(self) -> bool:
        """Whether something of the photo is not the object."""
        return bool((self.mask == 0).any())

    @property
    def upright(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and mask, turned."""
        turned = (np.rot90(self.pixels, self.turns), np.rot90(self.mask, self.turns))
        return np.ascontiguousarray(turned[0]), np.ascontiguousarray(turned[1])

    @property
    def scale(self) -> float:
        """Original pixels for each working one."""
        return max(self.size) / max(self.pixels.shape[:2])

    def to_original(self, points: np.ndarray, *, turned: bool = False) -> np.ndarray:
        """(M, 2) working pixels, of the turned photo where ``turned``, to (M, 2) float64 original pixels inside it."""
        found = torch.from_numpy(np.array(points, np.float64).reshape(-1, 2))
        height, width = self.pixels.shape[:2]
        if turned:
            found = unturned_pixels(found, self.turns, (width, height))
        across, down = self.size[0] / width, self.size[1] / height
        found = torch.stack([pixels_to_crop(found, (0, 0), across)[:, 0], pixels_to_crop(found, (0, 0), down)[:, 1]], 1)
        return np.clip(found.numpy(), -0.5, np.array(self.size) - 0.5)


def working_photo(photo: Photo, turns: int = 0) -> Working:
    """A photo with its own mask, or one of what stands before a black backdrop."""
    mask = _before_black(photo.pixels) if photo.mask is None else photo.mask
    return Working(photo.pixels, mask, turns, photo.size)


def _before_black(pixels: np.ndarray) -> np.ndarray:
    bright = pixels.max(2)
    rim = np.ones(bright.shape, bool)
    rim[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    if (bright[rim] < _DARK).mean() <= _SHARE or not (bright > _DARK).any():
        return np.full(bright.shape, 255, np.uint8)
    return cv2.morphologyEx((bright > _DARK).astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((7, 7)))
