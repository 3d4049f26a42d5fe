"""A photo that is added to an alignment, against the same photo in a full fit.

python benchmarks/adding.py SET [SET ...]

Each photo in turn is left out, the others are aligned, and it is added; PCK@0.1 of all pairs that it is part of.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

import asic3d
from asic3d_integrations.keypoint_sets import load_keypoint_set


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="folder with keypoints.json")
    parser.add_argument("--photos", type=int, default=5, help="photos of each set that are left out in turn")
    arguments = parser.parse_args()
    print("| set | full fit | added | nearest neighbour |\n|---|---|---|---|")
    rows = []
    for folder in arguments.sets:
        rows.append(_compare(folder, arguments.photos))
        print(f"| {folder.name} | " + " | ".join(f"{100 * value:.1f}" for value in rows[-1]) + " |", flush=True)
    print(f"| mean of {len(rows)} | " + " | ".join(f"{100 * value:.1f}" for value in np.mean(rows, 0)) + " |")


def _compare(folder: Path, photos: int) -> tuple[float, float, float]:
    truth = load_keypoint_set(folder)
    config = asic3d.make_config(backbone="efficientnet-lite0")
    full = asic3d.align(asic3d.load_collection(truth.photo_folder), config)
    left_out = np.linspace(0, len(full.names) - 1, photos).round().astype(int).tolist()
    hits: dict[str, list[np.ndarray]] = {"full": [], "added": [], "nearest": []}
    for index in left_out:
        name = truth.photo_names[index]
        with tempfile.TemporaryDirectory() as rest:
            for other in truth.photo_names:
                if other != name:
                    shutil.copy(truth.photo_folder / other, Path(rest) / Path(other).name)
            added = asic3d.align(asic3d.load_collection(rest), config).add(truth.photo_folder / name)
            hits["added"].append(_hits(added.transfer, truth, index))
        hits["full"].append(_hits(full.transfer, truth, index))
        hits["nearest"].append(_hits(full.nearest_neighbour, truth, index))
    return tuple(float(np.concatenate(found).mean()) for found in hits.values())  # type: ignore[return-value]


def _hits(transfer, truth, index: int) -> np.ndarray:
    found = []
    for other in range(len(truth.photo_names)):
        for i, j in ((index, other), (other, index)):
            shared = truth.visible[i] & truth.visible[j]
            if other == index or not shared.any():
                continue
            names = [Path(truth.photo_names[k]).name for k in (i, j)]
            moved = np.asarray(transfer(truth.keypoints[i, shared], source=names[0], target=names[1]).points)
            error = np.linalg.norm(moved - truth.keypoints[j, shared], axis=1) / truth.extents[j]
            found.append(error <= 0.1)
    return np.concatenate(found)


if __name__ == "__main__":
    main()
