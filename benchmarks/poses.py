"""Camera poses side by side in one run: COLMAP with SIFT, and asic3d with and without the SIFT gate.

python benchmarks/poses.py SET [SET ...] [--every K] [--start S] [--seeds 0 1] [--methods sift flow gated]

A SET holds cameras.json ({"images": [{"file", "size", "K", "R", "t"}]}, x_cam = R X + t) and the photos it names.
"""

import argparse
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import asic3d
from asic3d_integrations.colmap.cameras import Cameras, choose_cameras
from asic3d_integrations.colmap.mapping import MapOptions, guess_cameras, map_graph
from asic3d_integrations.colmap.poses import PoseOptions, find_poses
from asic3d_integrations.colmap.refined import RefineOptions
from asic3d_integrations.colmap.sift import sift_graph
from asic3d_integrations.colmap.working import working_photo


def load(folder: Path, every: int, start: int):
    """The photos of a set, and name -> R, t."""
    entries = json.loads((folder / "cameras.json").read_text())["images"]
    truth = {Path(e["file"]).name: (np.array(e["R"], float), np.array(e["t"], float).ravel()) for e in entries}
    collection = asic3d.load_collection(folder / "images")
    collection = replace(collection, photos=collection.photos[start::every])
    return collection, {name: truth[name] for name in collection.names}


def scores(poses, truth) -> dict[str, float]:
    """AUC at 5, 10 and 30 degrees over ALL pairs, in percent; photos registered; median rotation error."""
    errors, rotations = [], []
    for a, b in itertools.combinations(sorted(truth), 2):
        if a not in poses or b not in poses:
            errors.append(180.0)
            continue
        (r, t), (rt, tt) = (_relative(*values[a], *values[b]) for values in (poses, truth))
        turn = _degrees((np.trace(r.T @ rt) - 1) / 2)
        direction = _degrees(t @ tt / max(np.linalg.norm(t) * np.linalg.norm(tt), 1e-12))
        rotations.append(turn)
        errors.append(max(turn, direction))
    ordered = np.sort(errors)
    recall = np.arange(1, len(ordered) + 1) / len(ordered)
    found = {"photos": sum(name in poses for name in truth)}
    for limit in (5, 10, 30):
        inside = int(np.searchsorted(ordered, limit))
        height = recall[inside - 1] if inside else 0.0
        area = np.trapezoid(np.r_[0, recall[:inside], height], np.r_[0, ordered[:inside], limit])
        found[f"auc{limit}"] = 100 * float(area) / limit
    return {**found, "rotation": float(np.median(rotations)) if rotations else float("nan")}


def _relative(r1, t1, r2, t2):
    rotation = r2 @ r1.T
    return rotation, t2 - rotation @ t1


def _degrees(cosine: float) -> float:
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def cameras_of(collection) -> Cameras:
    """Where every method starts from."""
    own = choose_cameras(collection.names, [photo.path for photo in collection], collection.sizes)
    return guess_cameras(collection, own)


def run(method: str, collection, seed: int):
    """(poses, what the self-check says, facts)."""
    if method == "sift":
        graph = sift_graph(collection.photos, [working_photo(photo) for photo in collection])
        mapped = map_graph(graph, cameras_of(collection), (), MapOptions(seed, thorough=False))
        return mapped.poses, "-", mapped.facts
    found = find_poses(collection, PoseOptions(RefineOptions(seed=seed), gate=method == "gated"))
    opinion = "trusted" if found.mapped.verdict.trusted else "not trusted"
    return found.mapped.poses, f"{opinion} ({found.source})", {**found.facts, **found.mapped.facts}


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET")
    parser.add_argument("--every", type=int, default=1, help="take every K-th photo")
    parser.add_argument("--start", type=int, nargs="+", default=[0], help="beginning with this one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", default=["sift", "flow", "gated"], choices=("sift", "flow", "gated"))
    parser.add_argument("--facts", action="store_true", help="also print what each run notes")
    arguments = parser.parse_args()
    print("| set | method | seed | photos | AUC@5 | AUC@10 | AUC@30 | rotation | seconds | CPU | self-check |")
    print("|" + "---|" * 11)
    for folder, start, method, seed in itertools.product(
        arguments.sets, arguments.start, arguments.methods, arguments.seeds
    ):
        collection, truth = load(folder, arguments.every, start)
        began, cpu = time.perf_counter(), time.process_time()
        poses, opinion, facts = run(method, collection, seed)
        spent = f"{time.perf_counter() - began:.0f} | {time.process_time() - cpu:.0f}"
        s = scores(poses, truth)
        name = folder.name + (f" {start}::{arguments.every}" if arguments.every > 1 else "")
        figures = " | ".join(f"{s[key]:.1f}" for key in ("auc5", "auc10", "auc30"))
        print(
            f"| {name} | {method} | {seed} | {s['photos']} of {len(truth)} | {figures} | {s['rotation']:.2f} | {spent} "
            f"| {opinion} |",
            flush=True,
        )
        if arguments.facts:
            print(facts, flush=True)


if __name__ == "__main__":
    main()
