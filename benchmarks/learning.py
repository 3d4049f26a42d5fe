"""What the paper's preset learns at a reduced size: PCK before and after, and its loss curves as a picture.

python benchmarks/learning.py SET [SET ...] [--config benchmarks/laptop.toml] [--picture docs/learning.svg]

"start" is the network before training: the identity, answered by the nearest pixel of the target's object. Every
setting is in the file.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import torch

import asic3d
from asic3d.alignment import Alignment
from asic3d.coordinates import cell_centres
from asic3d.correspondences import canonical_space
from asic3d.optimisation import COLUMNS
from asic3d_integrations.keypoint_sets import (
    KeypointSet,
    evaluate_keypoints,
    identity_transfer,
    load_keypoint_set,
    named_transfer,
)

SHOWN = ("total", "contrastive", "parts", "equivariance", "reconstruction", "mask")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
WIDTH, HEIGHT, GAP = 220, 120, 44


def untrained(alignment: Alignment) -> Alignment:
    """The same with the map that the network starts from."""
    space = alignment.space
    identity = cell_centres(space.grid).expand(len(alignment.names), -1, -1)
    return dataclasses.replace(alignment, space=canonical_space(identity, space.foreground, space.valid))


def pck(transfer, truth: KeypointSet) -> str:
    """PCK@0.1 / PCK@0.05 in percent."""
    found = evaluate_keypoints(transfer, truth, cycles=1)
    return " / ".join(f"{100 * found[name]:.1f}" for name in ("pck@0.1", "pck@0.05"))


def measure(folder: Path, config: asic3d.AlignmentConfig) -> tuple[list[str], torch.Tensor]:
    """The cells of a set's row, and its losses."""
    truth = load_keypoint_set(folder)
    start = time.process_time()
    alignment = asic3d.align(asic3d.load_collection(truth.photo_folder), config)
    seconds = time.process_time() - start
    assert alignment.trained is not None
    transfers = (
        identity_transfer(truth),
        named_transfer(untrained(alignment).transfer, truth),
        named_transfer(alignment.nearest_neighbour, truth),
        named_transfer(alignment.transfer, truth),
    )
    losses = alignment.trained.losses
    tenth = max(1, len(losses) // 10)
    change = (f"{values.mean():.0f}" for values in (losses[:tenth, -1], losses[-tenth:, -1]))
    row = [folder.name, str(len(truth)), *(pck(transfer, truth) for transfer in transfers)]
    agreeing = f"{100 * alignment.quality['agreeing_matches']:.0f}"
    return [*row, agreeing, " to ".join(change), f"{seconds:.0f}"], losses


def smooth(values: torch.Tensor, window: int) -> torch.Tensor:
    """Mean over a window that ends at each value."""
    sums = torch.cat([values.new_zeros(1), values.double().cumsum(0)])
    end = torch.arange(1, len(values) + 1)
    start = (end - window).clamp(min=0)
    return (sums[end] - sums[start]) / (end - start)


def picture(losses: dict[str, torch.Tensor]) -> str:
    """An SVG picture: a panel for each term, a line for each set, means over a twentieth of the iterations."""
    columns, rows = 3, -(-len(SHOWN) // 3)
    width, height = columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + 1.5 * GAP
    panels = [
        _panel(name, losses, GAP + column * (WIDTH + GAP), GAP + row * (HEIGHT + GAP))
        for number, name in enumerate(SHOWN)
        for row, column in [divmod(number, columns)]
    ]
    legend = "".join(
        f'<text x="{GAP + 130 * i}" y="{height - 14}" fill="{colour}">{name}</text>'
        for i, (name, colour) in enumerate(zip(losses, COLOURS, strict=False))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(panels)}{legend}</svg>\n"
    )


def _panel(name: str, losses: dict[str, torch.Tensor], left: float, top: float) -> str:
    curves = {key: smooth(values[:, COLUMNS.index(name)], max(1, len(values) // 20)) for key, values in losses.items()}
    low, high = (float(f([f(curve) for curve in curves.values()])) for f in (min, max))
    span, last = max(high - low, 1e-9), max(len(curve) for curve in curves.values())
    lines = ""
    for curve, colour in zip(curves.values(), COLOURS, strict=False):
        step = max(1, len(curve) // 150)
        points = " ".join(
            f"{left + WIDTH * i / max(1, last - 1):.1f},{top + HEIGHT * (high - float(curve[i])) / span:.1f}"
            for i in range(0, len(curve), step)
        )
        lines += f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ccc"/>{lines}'
        f'<text x="{left:g}" y="{top - 6:g}" fill="#222" font-weight="bold">{name}</text>'
        f'<text x="{left - 4:g}" y="{top + 9:g}" fill="#555" text-anchor="end">{high:.3g}</text>'
        f'<text x="{left - 4:g}" y="{top + HEIGHT:g}" fill="#555" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left + WIDTH:g}" y="{top + HEIGHT + 13:g}" fill="#555" text-anchor="end">{last} iterations</text>'
    )


def main() -> None:
    """Prints a table in Markdown and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="folder with keypoints.json")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("laptop.toml"))
    parser.add_argument("--picture", type=Path, help="SVG file to write")
    arguments = parser.parse_args()
    config = asic3d.make_config(file=arguments.config)
    print("| set | photos | identity | start | nearest neighbour | trained | matches that agree | objective | CPU s |")
    print("|---" * 9 + "|")
    losses = {}
    for folder in arguments.sets:
        row, losses[folder.name] = measure(folder, config)
        print(f"| {' | '.join(row)} |", flush=True)
    if arguments.picture:
        arguments.picture.write_text(picture(losses), "utf-8")


if __name__ == "__main__":
    main()
