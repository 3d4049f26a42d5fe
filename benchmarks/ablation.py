"""What each term of the paper's objective does for the fast preset's splines: refined with and without it.

python benchmarks/ablation.py SET [SET ...] [--steps 60] [--size 64]

"fit" is not refined at all, "all" has every term with its usual weight, "no X" leaves one out, "only X" keeps one
beside smoothness, without which a single term has nothing to hold against. Equivariance says nothing of splines.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import asic3d
from asic3d.objective import TERMS
from asic3d_integrations.keypoint_sets import evaluate_keypoints, load_keypoint_set, named_transfer

FIGURES = ("pck@0.1", "pck@0.05", "cycle3@0.1_hops", "cycle3@0.1_return")
USED = tuple(name for name in TERMS if name != "equivariance")


def variants(steps: int, size: int) -> dict[str, dict[str, float]]:
    """Name -> settings."""
    refined = {"refine_steps": steps, "restart_period": steps, "working_size": size, "grid_resolution": size}
    found: dict[str, dict[str, float]] = {"fit": {}, "all": refined}
    for name in USED:
        found[f"no {name}"] = {**refined, f"weight_{name}": 0.0}
    for name in USED:
        if name != "smoothness":
            others = [other for other in USED if other not in (name, "smoothness")]
            found[f"only {name}"] = {**refined, **{f"weight_{other}": 0.0 for other in others}}
    return found


def main() -> None:
    """Prints a table in Markdown: means over the sets, in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="folder with keypoints.json")
    parser.add_argument("--steps", type=int, default=60, help="iterations")
    parser.add_argument("--size", type=int, default=64, help="working_size, pixels")
    parser.add_argument("--cycles", type=int, default=300, help="cycles at most")
    arguments = parser.parse_args()
    truths = [load_keypoint_set(folder) for folder in arguments.sets]
    collections = [asic3d.load_collection(truth.photo_folder) for truth in truths]
    print("| variant | PCK@0.1 | PCK@0.05 | 3-cycle (return) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for name, settings in variants(arguments.steps, arguments.size).items():
            config = asic3d.make_config(backbone="efficientnet-lite0", **settings)
            rows = []
            for truth, collection in zip(truths, collections, strict=True):
                transfer = named_transfer(asic3d.align(collection, config, cache=cache).transfer, truth)
                found = evaluate_keypoints(transfer, truth, cycles=arguments.cycles)
                rows.append([100 * found.get(figure, np.nan) for figure in FIGURES])
            pck, fine, hops, back = np.mean(rows, 0)
            print(f"| {name} | {pck:.1f} | {fine:.1f} | {hops:.1f} ({back:.1f}) |", flush=True)


if __name__ == "__main__":
    main()
