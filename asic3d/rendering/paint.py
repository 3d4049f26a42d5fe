"""What textures are painted with: images are (h, w, 3) float32 in [0, 1], sRGB; opacities (h, w)."""

import cv2
import numpy as np

Colour = tuple[float, float, float]


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates u (to the right) and v (down) in [0, 1] of every texel, each (height, width) float32."""
    u, v = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return u.astype(np.float32), v.astype(np.float32)


def flat(colour: Colour | np.ndarray, height: int, width: int) -> np.ndarray:
    """One colour everywhere."""
    return np.full((height, width, 3), colour, np.float32)


def lay(image: np.ndarray, colour: Colour | np.ndarray, amount: np.ndarray) -> np.ndarray:
    """One colour (or an image) laid over the image with an opacity (h, w)."""
    return image + (np.asarray(colour, np.float32) - image) * amount[..., None].astype(np.float32)


def edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """Opacity 1 where a signed distance is negative (inside) and 0 outside, with a soft edge."""
    return np.clip(0.5 - distance / softness, 0, 1)


def vivid(generator: np.random.Generator, saturation: float = 0.6) -> np.ndarray:
    """A colour (3,) float32 of everyday things, of any hue, at most that saturated."""
    hsv = np.array([[[generator.uniform(0, 360), generator.uniform(0.1, saturation), generator.uniform(0.3, 0.85)]]])
    return cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB)[0, 0]


def mottle(height: int, width: int, cells: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """(height, width) float32 smooth noise around 0, about -1 to 1, with (rows, columns) blobs."""
    noise = generator.uniform(-1, 1, cells).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def worn(image: np.ndarray, generator: np.random.Generator, strength: float = 0.08) -> np.ndarray:
    """The image with uneven paint: coarse and fine brightness noise."""
    height, width, _ = image.shape
    noise = mottle(height, width, (6, 8), generator)
    noise = noise + 0.7 * mottle(height, width, (height // 5, width // 5), generator)
    return np.clip(image * (1 + strength * noise[..., None]), 0, 1)
