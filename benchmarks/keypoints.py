"""PCK and cycle PCK on annotated sets: the baselines on the same features, and the alignment.

python benchmarks/keypoints.py SET [SET ...] [--seeds 0 1]
"""

import argparse
from pathlib import Path

import numpy as np

import asic3d
from asic3d.baselines import baselines
from asic3d_integrations.keypoint_sets import evaluate_keypoints, load_keypoint_set, named_transfer

FIGURES = (
    "pck@0.1",
    "pck@0.05",
    "cycle2@0.1_hops",
    "cycle2@0.1_return",
    "cycle3@0.1_hops",
    "cycle3@0.1_return",
)


def rows_of(folder: Path, seeds: list[int], cycles: int) -> dict[str, list[float]]:
    """Method -> percent, in the order of FIGURES; the alignment's are the mean over the seeds."""
    truth = load_keypoint_set(folder)
    collection = asic3d.load_collection(truth.photo_folder)
    fits = [asic3d.align(collection, asic3d.make_config(backbone="efficientnet-lite0", seed=seed)) for seed in seeds]
    methods = {name: [named_transfer(plain, truth)] for name, plain in baselines(fits[0]).items()}
    methods["asic3d"] = [named_transfer(fit.transfer, truth) for fit in fits]
    return {name: _mean([_figures(transfer, truth, cycles) for transfer in runs]) for name, runs in methods.items()}


def _figures(transfer, truth, cycles: int) -> list[float]:
    found = evaluate_keypoints(transfer, truth, cycles=cycles)
    return [100 * found.get(figure, float("nan")) for figure in FIGURES]


def _mean(rows: list[list[float]]) -> list[float]:
    return np.mean(rows, 0).tolist()


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="folder with keypoints.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--cycles", type=int, default=300, help="cycles at most, of each length")
    arguments = parser.parse_args()
    print("| set | method | PCK@0.1 | PCK@0.05 | 2-cycle (return) | 3-cycle (return) |\n|---|---|---|---|---|---|")
    every = {}
    for folder in arguments.sets:
        for method, row in rows_of(folder, arguments.seeds, arguments.cycles).items():
            every.setdefault(method, []).append(row)
            _print(folder.name, method, row)
    for method, rows in every.items():
        _print(f"mean of {len(rows)}", method, _mean(rows))


def _print(name: str, method: str, row: list[float]) -> None:
    pck, fine, two, two_back, three, three_back = (f"{value:.1f}" for value in row)
    print(f"| {name} | {method} | {pck} | {fine} | {two} ({two_back}) | {three} ({three_back}) |", flush=True)


if __name__ == "__main__":
    main()
