"""Grounds and backdrops of rendered photos: each function draws one tile, (SIDE, SIDE, 3) float32 in [0, 1], sRGB.

A tile is repeated by mirroring. A ground's rows run away from the viewer; a backdrop's bottom row stands on the ground.
"""

import cv2
import numpy as np

from asic3d.rendering.paint import edge, flat, grid, lay, mottle, vivid, worn

SIDE = 384


def _varied(colour: np.ndarray | tuple, generator: np.random.Generator, amount: float) -> np.ndarray:
    """A colour (3,) near another one."""
    return np.clip(np.asarray(colour) * generator.uniform(1 - amount, 1 + amount, 3), 0, 1)


def _picked(values: np.ndarray, generator: np.random.Generator, count: int = 997) -> np.ndarray:
    """A random number in [0, 1] for every integer label in ``values``."""
    return generator.random(count)[values.astype(int) % count].astype(np.float32)


def planks(generator: np.random.Generator) -> np.ndarray:
    """Floor boards with grain."""
    u, v = grid(SIDE, SIDE)
    boards = int(generator.integers(4, 8))
    board = np.floor(u * boards)
    light, dark = (
        ((0.75, 0.56, 0.36), (0.5, 0.32, 0.18)) if generator.random() < 0.5 else ((0.45, 0.3, 0.2), (0.25, 0.16, 0.1))
    )
    bend = mottle(SIDE, SIDE, (4, boards * 2), generator) + 6 * _picked(board, generator)
    grain = 0.5 + 0.5 * np.sin(u * 130 + 7 * bend) * np.cos(v * 4 + bend)
    image = lay(flat(_varied(light, generator, 0.1), SIDE, SIDE), dark, 0.45 * grain + 0.4 * _picked(board, generator))
    length = (v * 1.5 + _picked(board + 31, generator)) % 1
    gap = np.maximum(edge(np.abs((u * boards) % 1 - 0.5) - 0.475, -0.03), edge(np.abs(length - 0.5) - 0.495, -0.008))
    return worn(lay(image, (0.08, 0.05, 0.03), 0.85 * gap), generator, 0.06)


def gingham(generator: np.random.Generator) -> np.ndarray:
    """A checked table cloth with creases."""
    u, v = grid(SIDE, SIDE)
    checks = int(generator.integers(7, 12))
    colours = ((0.20, 0.38, 0.70), (0.30, 0.55, 0.30), (0.75, 0.68, 0.25), (0.45, 0.45, 0.5))
    colour = colours[generator.integers(len(colours))]
    stripes = sum(edge(np.abs((w * checks) % 1 - 0.5) - 0.25, 0.06) for w in (u, v))
    image = lay(flat((0.94, 0.93, 0.90), SIDE, SIDE), colour, 0.48 * np.asarray(stripes))
    creases = mottle(SIDE, SIDE, (5, 4), generator) + 0.5 * mottle(SIDE, SIDE, (14, 11), generator)
    return np.clip(worn(image, generator, 0.04) * (1 + 0.07 * creases[..., None]), 0, 1)


def grass(generator: np.random.Generator) -> np.ndarray:
    """A lawn seen from above: thousands of blades, the late ones brighter."""
    image = flat((0.13, 0.19, 0.07), SIDE, SIDE)
    count = 5000
    start = generator.uniform(-10, SIDE + 10, (count, 2))
    lean = generator.normal(0, 9, (count, 2)) + generator.normal(0, 4, 2)
    tone = np.linspace(0.5, 1.0, count) * generator.uniform(0.8, 1.1, count)
    colours = _between((0.26, 0.38, 0.12), (0.50, 0.58, 0.28), generator.random(count)) * tone[:, None]
    ends = np.rint(np.stack([start, start + lean], 1) * 8).astype(int).tolist()
    for (a, b), colour in zip(ends, colours.tolist(), strict=True):
        cv2.line(image, a, b, colour, 2, cv2.LINE_AA, 3)
    return np.clip(image * (1 + 0.15 * mottle(SIDE, SIDE, (5, 5), generator)[..., None]), 0, 1)


def pebbles(generator: np.random.Generator) -> np.ndarray:
    """Gravel: rounded stones of many greys."""
    image = flat((0.30, 0.27, 0.24), SIDE, SIDE)
    count = 2200
    colours = _between((0.40, 0.36, 0.32), (0.72, 0.69, 0.64), generator.random(count))
    for colour in colours * generator.uniform(0.92, 1.08, (count, 3)):
        centre, axes = generator.integers(0, SIDE, 2).tolist(), generator.integers(4, 9, 2).tolist()
        turn = float(generator.uniform(0, 180))
        for shrink, lift, brightness in ((0, 0, 0.62), (1, 0, 1.0), (axes[1] // 2 + 1, 1, 1.1)):
            inner = [max(axis - shrink, 1) for axis in axes]
            tone = np.clip(colour * brightness, 0, 1).tolist()
            cv2.ellipse(image, (centre[0] - lift, centre[1] - lift), inner, turn, 0, 360, tone, -1, cv2.LINE_AA)
    return worn(image, generator, 0.08)


def leaves(generator: np.random.Generator) -> np.ndarray:
    """Fallen leaves on soil."""
    image = worn(flat((0.24, 0.17, 0.11), SIDE, SIDE), generator, 0.3)
    count = 520
    colours = _between((0.34, 0.20, 0.09), (0.74, 0.54, 0.28), generator.random(count))
    along = np.linspace(-1, 1, 9)
    blade = np.stack([np.append(along, along[::-1]), np.append(1 - along**2, along**2 - 1) * 0.42], 1)
    for colour in colours * np.linspace(0.55, 1, count)[:, None]:
        turn, size = generator.uniform(0, 2 * np.pi), generator.uniform(9, 21)
        axes = size * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        outline = blade @ axes + generator.uniform(0, SIDE, 2)
        corners = np.rint(outline * 8).astype(np.int32)
        cv2.fillPoly(image, [corners + 12], (colour * 0.4).tolist(), cv2.LINE_AA, 3)  # its shadow
        cv2.fillPoly(image, [corners], colour.tolist(), cv2.LINE_AA, 3)
        cv2.line(image, corners[0].tolist(), corners[8].tolist(), (colour * 0.7).tolist(), 1, cv2.LINE_AA, 3)
    return worn(image, generator, 0.12)


def _between(low: tuple, high: tuple, place: np.ndarray) -> np.ndarray:
    """(n, 3): the colours at (n,) places from ``low`` (0) to ``high`` (1)."""
    return np.asarray(low) + place[:, None] * np.subtract(high, low)


def rug(generator: np.random.Generator) -> np.ndarray:
    """A woven rug with zigzag bands."""
    u, v = grid(SIDE, SIDE)
    palette = np.array([(0.8, 0.74, 0.64), (0.34, 0.36, 0.42), (0.62, 0.6, 0.56), (0.55, 0.42, 0.34), (0.25, 0.3, 0.4)])
    zigzag = v * 9 + 0.5 * np.abs((u * 8) % 1 - 0.5)
    bands = palette[generator.permutation(len(palette))][np.floor(zigzag).astype(int) % len(palette)]
    image = lay(bands.astype(np.float32), (0.9, 0.88, 0.82), edge(np.abs(zigzag % 1 - 0.5) - 0.08, 0.04))
    image = cv2.GaussianBlur(image, (0, 0), 0.8)
    pile = generator.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    return np.clip(image * (1 + 0.10 * cv2.GaussianBlur(pile, (0, 0), 1.0)[..., None] * 2), 0, 1)


def concrete(generator: np.random.Generator) -> np.ndarray:
    """Pavement with joints, stains and grit."""
    u, v = grid(SIDE, SIDE)
    image = flat(_varied((0.58, 0.56, 0.53), generator, 0.06), SIDE, SIDE)
    stains = mottle(SIDE, SIDE, (4, 5), generator) + 0.6 * mottle(SIDE, SIDE, (13, 12), generator)
    image = image * (1 + 0.12 * stains[..., None])
    grit = generator.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    image = image * (1 + 0.10 * cv2.GaussianBlur(grit, (0, 0), 0.8)[..., None] * 1.5)
    joint = np.minimum(np.abs((u * 2 + 0.3) % 1 - 0.5), np.abs((v * 2 + 0.3) % 1 - 0.5))
    return np.clip(lay(image, (0.2, 0.19, 0.18), 0.8 * edge(joint - 0.012, 0.012)), 0, 1)


def tiles(generator: np.random.Generator) -> np.ndarray:
    """Glazed kitchen tiles with a printed ornament on some."""
    u, v = grid(SIDE, SIDE)
    x, y = (u * 5) % 1 - 0.5, (v * 5) % 1 - 0.5
    kind = _picked(np.floor(u * 5) + 7 * np.floor(v * 5), generator)
    image = lay(flat((0.86, 0.84, 0.78), SIDE, SIDE), (0.70, 0.72, 0.70), kind)
    radius = np.hypot(x, y)
    petals = edge(np.abs(radius - 0.26 - 0.08 * np.cos(4 * np.arctan2(y, x))) - 0.035, 0.03)
    inks = ((0.35, 0.42, 0.55), (0.45, 0.38, 0.30))
    image = lay(image, inks[generator.integers(2)], petals * (kind > 0.45))
    grout = np.maximum(np.abs(x), np.abs(y))
    return worn(lay(image, (0.42, 0.40, 0.37), edge(grout - 0.475, -0.02)), generator, 0.05)


def bricks(generator: np.random.Generator) -> np.ndarray:
    """A brick wall."""
    u, v = grid(SIDE, SIDE)
    row = np.floor(v * 14)
    along = u * 6 + 0.5 * (row % 2)
    tone = _picked(np.floor(along) + 17 * row, generator)
    base = ((0.56, 0.27, 0.20), (0.72, 0.68, 0.62))[generator.integers(2)]
    image = lay(flat(_varied(base, generator, 0.1), SIDE, SIDE), np.multiply(base, 0.7), 0.6 * tone)
    mortar = np.maximum(edge(np.abs(along % 1 - 0.5) - 0.47, -0.02), edge(np.abs((v * 14) % 1 - 0.5) - 0.43, -0.05))
    return worn(lay(image, (0.62, 0.59, 0.54), 0.85 * mortar), generator, 0.15)


def plaster(generator: np.random.Generator) -> np.ndarray:
    """A painted wall with a skirting board and framed pictures."""
    u, v = grid(SIDE, SIDE)
    walls = ((0.82, 0.78, 0.70), (0.62, 0.70, 0.72), (0.80, 0.70, 0.66), (0.66, 0.70, 0.60))
    image = flat(_varied(walls[generator.integers(len(walls))], generator, 0.06), SIDE, SIDE)
    image = worn(image * (1 + 0.08 * mottle(SIDE, SIDE, (3, 3), generator)[..., None]), generator, 0.02)
    for x in (generator.uniform(0.1, 0.3), generator.uniform(0.62, 0.85)):
        y, size = generator.uniform(0.3, 0.55), generator.uniform(0.09, 0.15)
        inside = np.maximum(np.abs(u - x), np.abs(v - y) * generator.uniform(0.8, 1.2)) - size
        blobs = mottle(SIDE, SIDE, (9, 9), generator)[..., None] * generator.uniform(-0.4, 0.4, 3)
        image = lay(image, (0.22, 0.15, 0.10), edge(inside - 0.02, 0.01))
        image = lay(image, np.clip(generator.uniform(0.3, 0.8, 3) + blobs, 0, 1), edge(inside, 0.01))
    return lay(image, (0.90, 0.89, 0.86), edge(0.93 - v, 0.01))


def books(generator: np.random.Generator) -> np.ndarray:
    """Shelves full of books."""
    image = flat((0.10, 0.07, 0.05), SIDE, SIDE)
    shelves = 4
    tall = SIDE // shelves
    for shelf in range(shelves):
        x, floor = 0, (shelf + 1) * tall - 9
        while x < SIDE:
            width, height = int(generator.integers(8, 24)), int(generator.integers(tall // 2, tall - 14))
            colour = vivid(generator, 0.6)
            image[floor - height : floor, x : x + width - 1] = colour
            image[floor - height + 10 : floor - height + 16, x : x + width - 1] = np.clip(colour * 1.5, 0, 1)
            x += width + int(generator.integers(0, 12) == 0) * 20
        image[floor : floor + 9] = (0.50, 0.36, 0.22)
    return worn(image, generator, 0.08)


def foliage(generator: np.random.Generator) -> np.ndarray:
    """A hedge or wood out of focus: overlapping discs of light."""
    autumn = generator.random() < 0.35
    low, high = ((0.30, 0.20, 0.08), (0.80, 0.60, 0.30)) if autumn else ((0.14, 0.22, 0.09), (0.58, 0.66, 0.36))
    image = flat(np.asarray(low) * 0.7, SIDE, SIDE)
    count = 420
    colours = _between(low, high, generator.random(count)) * np.linspace(0.4, 1, count)[:, None]
    for colour in (colours * generator.uniform(0.9, 1.1, (count, 3))).tolist():
        cv2.circle(
            image, generator.integers(0, SIDE, 2).tolist(), int(generator.integers(5, 20)), colour, -1, cv2.LINE_AA
        )
    for _ in range(4):
        x = int(generator.integers(0, SIDE))
        cv2.line(image, (x, 0), (x + int(generator.integers(-40, 40)), SIDE), (0.20, 0.15, 0.11), 9, cv2.LINE_AA)
    return lay(
        image, (0.85, 0.90, 0.88), edge(grid(SIDE, SIDE)[1] - 0.1 - 0.08 * mottle(SIDE, SIDE, (6, 9), generator), 0.2)
    )


def sky(generator: np.random.Generator) -> np.ndarray:
    """Clouds over hills and a field's edge."""
    u, v = grid(SIDE, SIDE)
    image = lay(flat((0.42, 0.62, 0.88), SIDE, SIDE), (0.80, 0.87, 0.93), v)
    clouds = mottle(SIDE, SIDE, (6, 5), generator) + 0.5 * mottle(SIDE, SIDE, (15, 9), generator)
    image = lay(image, (0.97, 0.97, 0.96), np.clip(clouds, 0, 1) * 0.9)
    for depth, level in enumerate((0.62, 0.75, 0.86)):
        hills = level + 0.04 * np.sin(u * (5 + 4 * depth) + generator.uniform(0, 6)) + 0.02 * np.sin(u * 23 + depth)
        tone = np.array([(0.50, 0.58, 0.62), (0.34, 0.46, 0.36), (0.27, 0.36, 0.18)][depth])
        image = lay(image, tone, edge(hills - v, 0.01))
    return worn(image, generator, 0.04)
