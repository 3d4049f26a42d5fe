"""The toy's paint: each function gives one part's texture, (h, w, 3) float32 in [0, 1], sRGB.

u runs along the part (columns), v around it (rows) from its underside over its sides back to its underside.
"""

import numpy as np

from asic3d.rendering.paint import Colour, edge, flat, grid, lay, mottle, worn

TEAL: Colour = (0.10, 0.52, 0.54)
DEEP: Colour = (0.05, 0.33, 0.42)
CREAM: Colour = (0.96, 0.86, 0.64)
ORANGE: Colour = (0.95, 0.52, 0.13)
YELLOW: Colour = (0.98, 0.80, 0.22)
RED: Colour = (0.80, 0.12, 0.14)
PLUM: Colour = (0.43, 0.13, 0.36)
WHITE: Colour = (0.95, 0.94, 0.90)
BLACK: Colour = (0.05, 0.05, 0.06)
PINE: Colour = (0.82, 0.62, 0.38)
LEATHER: Colour = (0.48, 0.25, 0.11)


def _dice(seed: int) -> np.random.Generator:
    """A part's own random numbers: the paint is the same in every collection."""
    return np.random.default_rng(seed)


def skin() -> np.ndarray:
    """Trunk, tail and neck: scales, a cream belly with bands, spots, and a saddle cloth over the back."""
    height, width = 640, 960
    u, v = grid(height, width)
    image = flat(TEAL, height, width)
    image = lay(image, DEEP, 0.75 * _scales(u, v, 46, 26))
    image = lay(image, (0.16, 0.66, 0.60), 0.5 * np.clip(mottle(height, width, (9, 13), _dice(3)), 0, 1))
    for x, y, size in _spots():
        image = lay(image, ORANGE, edge(np.hypot((u - x) * 1.5, v - y) - size, 0.008))
        image = lay(image, YELLOW, edge(np.hypot((u - x) * 1.5, v - y) - size * 0.45, 0.008))
    side = np.abs(v - 0.5)  # 0 along the back, 0.5 along the belly
    belly = edge(0.37 - side, 0.015)
    image = lay(image, CREAM, belly)
    image = lay(image, (0.80, 0.62, 0.38), belly * edge(np.abs((u * 26) % 1 - 0.5) - 0.1, 0.12))
    return worn(_saddle_cloth(image, u, v), _dice(11))


def _spots() -> list[tuple[float, float, float]]:
    """u, v and size of the spots: different on the left and on the right."""
    return [
        *((0.10, 0.62, 0.018), (0.17, 0.38, 0.024), (0.22, 0.66, 0.030), (0.28, 0.72, 0.022), (0.30, 0.30, 0.034)),
        *((0.34, 0.24, 0.022), (0.72, 0.68, 0.034), (0.77, 0.28, 0.030), (0.80, 0.62, 0.022), (0.70, 0.36, 0.022)),
        *((0.68, 0.75, 0.024), (0.25, 0.42, 0.020), (0.86, 0.40, 0.022), (0.88, 0.60, 0.026)),
    ]


def _saddle_cloth(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A woven cloth with diamonds, a border and a fringe over the middle of the back."""
    along, across = (u - 0.52) / 0.14, (v - 0.5) / 0.24
    reach = np.maximum(np.abs(along), np.abs(across))
    fringe = (np.abs(across) < 1.14) & (np.abs(along) < 1) & (np.sin(along * 75) > -0.2)
    image = lay(image, YELLOW, fringe.astype(np.float32))
    image = lay(image, PLUM, edge(reach - 1, 0.03))
    image = lay(image, YELLOW, edge(np.abs(reach - 0.88) - 0.035, 0.03))
    diamond = np.abs((along * 2.5) % 1 - 0.5) + np.abs((across * 3.5) % 1 - 0.5)
    inner = edge(reach - 0.78, 0.02)
    image = lay(image, (0.90, 0.33, 0.30), inner * edge(diamond - 0.36, 0.06))
    image = lay(image, CREAM, inner * edge(diamond - 0.17, 0.06))
    weave = 0.5 + 0.5 * np.sin(u * 1300) * np.sin(v * 900)
    return lay(image, (0, 0, 0), 0.13 * weave * edge(reach - 1, 0.03))


def _scales(u: np.ndarray, v: np.ndarray, along: int, around: int) -> np.ndarray:
    """Rows of overlapping scales: 1 at their rims, 0 within."""
    row = np.floor(u * along)
    x, y = (u * along) % 1, (v * around + 0.5 * (row % 2)) % 1 - 0.5
    return np.clip((np.hypot(x * 0.9, y * 1.5) - 0.55) * 4, 0, 1)


def leg() -> np.ndarray:
    """Skin above, a striped sock, and toes in front."""
    u, v = grid(160, 160)
    image = lay(flat(TEAL, 160, 160), DEEP, 0.7 * _scales(u, v, 11, 12))
    image = lay(image, WHITE, edge(0.52 - u, 0.02))
    image = lay(image, RED, edge(0.52 - u, 0.02) * edge(np.abs((u * 12) % 1 - 0.5) - 0.24, 0.1))
    return worn(lay(image, LEATHER, edge(0.82 - u, 0.02)), _dice(21))


def plate(number: int) -> np.ndarray:
    """A back plate: orange and yellow in turn, with ribs."""
    u, _ = grid(64, 96)
    first, second = (ORANGE, RED) if number % 2 else (YELLOW, ORANGE)
    image = lay(flat(first, 64, 96), second, edge(np.abs((u * 4.5) % 1 - 0.5) - 0.2, 0.2) * 0.8)
    return worn(lay(image, second, edge(0.8 - u, 0.1)), _dice(31 + number))


def face() -> np.ndarray:
    """The head: scaled crown, cream jaw, smile, cheeks, brows and freckles."""
    height, width = 512, 512
    u, v = grid(height, width)
    image = lay(flat(TEAL, height, width), DEEP, 0.6 * _scales(u, v, 18, 22) * edge(u - 0.6, 0.1))
    side = np.abs(v - 0.5)
    image = lay(image, (0.20, 0.66, 0.62), edge(0.66 - u + 0.4 * side, 0.1) * 0.8)
    image = lay(image, CREAM, edge(0.315 - side - 0.03 * np.sin(u * 7), 0.012))
    smile = np.abs(side - 0.29 - 0.05 * np.sin(u * 9 + 2.5))
    image = lay(image, (0.35, 0.05, 0.08), edge(smile - 0.009, 0.006) * edge(0.50 - u, 0.02))
    cheek = np.hypot((u - 0.50), (side - 0.23) * 1.2)
    image = lay(image, (0.95, 0.42, 0.42), 0.85 * edge(cheek - 0.045, 0.03))
    for x, y in ((0.70, 0.12), (0.75, 0.15), (0.72, 0.18), (0.80, 0.12), (0.78, 0.20)):
        image = lay(image, DEEP, edge(np.hypot(u - x, side - y) - 0.009, 0.008))
    star = _star((u - 0.36) * 1.1, v - 0.5, 0.07)
    return worn(lay(image, YELLOW, edge(star, 0.01)), _dice(41))


def _star(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """About the signed distance to a star with five points."""
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    return radius - size * (0.68 + 0.32 * np.cos(5 * angle))


def eye() -> np.ndarray:
    """White with a blue ring and a black pupil at its far pole."""
    u, _ = grid(64, 192)
    image = lay(flat(WHITE, 64, 192), DEEP, edge(0.66 - u, 0.02))
    image = lay(image, (0.20, 0.55, 0.85), edge(0.69 - u, 0.02))
    return lay(image, BLACK, edge(0.79 - u, 0.015))


def ear(left: bool) -> np.ndarray:
    """A striped horn; the left one is orange, the right one plum."""
    u, v = grid(64, 96)
    image = flat(CREAM, 64, 96)
    stripes = edge(np.abs((u * 4 + v) % 1 - 0.5) - 0.22, 0.12)
    return worn(lay(image, ORANGE if left else PLUM, stripes), _dice(51))


def nostril() -> np.ndarray:
    """Dark."""
    return flat((0.04, 0.20, 0.24), 16, 16)


def scarf(stripes: int) -> np.ndarray:
    """Knitted red and white stripes across."""
    u, v = grid(128, 384)
    image = lay(flat(RED, 128, 384), WHITE, edge(np.abs((u * stripes) % 1 - 0.5) - 0.24, 0.06))
    knit = np.abs(np.sin(u * stripes * 26 + np.abs((v * 12) % 1 - 0.5) * 4))
    return worn(lay(image, (0.25, 0.05, 0.08), 0.30 * knit), _dice(61))


def bag() -> np.ndarray:
    """Leather with stitches, a flap and a brass button."""
    height, width = 320, 320
    u, v = grid(height, width)
    image = worn(flat(LEATHER, height, width), _dice(71), 0.2)
    image = lay(image, (0.62, 0.35, 0.15), edge(0.25 - v + 0.06 * np.sin(u * np.pi), 0.008) * edge(v - 0.6, 0.01))
    seam = np.abs(v - (0.25 + 0.06 * np.sin(u * np.pi)) - 0.02)
    image = lay(image, CREAM, edge(seam - 0.006, 0.006) * (np.sin(u * 120) > -0.3))
    button = np.hypot((u - 0.5) * 0.9, v - 0.285)
    image = lay(image, (0.25, 0.13, 0.05), edge(button - 0.045, 0.006))
    return lay(image, (0.93, 0.76, 0.32), edge(button - 0.034, 0.006))


def wood() -> np.ndarray:
    """Pine with grain along the platform and a painted line around."""
    u, v = grid(256, 640)
    bend = 0.6 * mottle(256, 640, (5, 6), _dice(81))
    grain = 0.5 + 0.5 * np.sin(v * 110 + 9 * bend) * np.cos(u * 3 + bend)
    image = lay(flat(PINE, 256, 640), (0.60, 0.38, 0.18), 0.55 * grain)
    for x, y in ((0.3, 0.42), (0.66, 0.57), (0.5, 0.23)):
        knot = np.hypot((u - x) * 2.6, v - y)
        image = lay(image, (0.42, 0.24, 0.10), edge(knot - 0.02, 0.02) * 0.8)
    line = np.abs(np.abs(v - 0.5) - 0.25)
    return worn(lay(image, RED, edge(line - 0.03, 0.006)), _dice(83), 0.06)


def wheel() -> np.ndarray:
    """Red with yellow spokes, a blue hub and a dark tyre; both faces alike."""
    u, v = grid(256, 256)
    out = np.abs(u - 0.5) * 2  # 1 at the hubs of both faces, 0 in the middle of the tread
    image = flat(RED, 256, 256)
    spokes = edge(np.abs((v * 6) % 1 - 0.5) - 0.16 - 0.12 * out, 0.04)
    image = lay(image, YELLOW, spokes * edge(0.66 - out, 0.02))
    image = lay(image, (0.15, 0.28, 0.66), edge(0.92 - out, 0.02))
    return worn(lay(image, (0.16, 0.15, 0.16), edge(out - 0.60, 0.02)), _dice(91))


def knob() -> np.ndarray:
    """A yellow ball with a red band."""
    u, _ = grid(32, 64)
    return lay(flat(YELLOW, 32, 64), RED, edge(np.abs(u - 0.5) - 0.14, 0.04))
