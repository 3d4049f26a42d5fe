"""Seconds of each stage and peak memory for 10 and 20 photos of one folder, each in a process of its own.

python benchmarks/cost.py PHOTOS [--runs 3]

PHOTOS holds 20 photos or more; with fewer, photos are used again. "features" is the time of the network and the feature
maps alone, "whole" is everything that asic3d.align does, the loading of the network included.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

COUNTS = (10, 20)


def measure(folder: str) -> None:
    """Prints one run as JSON: seconds of each stage, of the features and of the whole, and peak memory in MB."""
    import asic3d
    from asic3d.backbones import load_backbone
    from asic3d.features import extract_features

    config = asic3d.make_config(backbone="efficientnet-lite0")
    collection = asic3d.load_collection(folder)
    backbone = load_backbone(config.backbone)
    extract_features(collection, backbone, config)  # warms up
    start = time.perf_counter()
    extract_features(collection, backbone, config)
    features = time.perf_counter() - start
    start = time.perf_counter()
    alignment = asic3d.align(collection, config)
    whole = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**alignment.timings, "features alone": features, "whole": whole, "peak MB": peak}))


def main() -> None:
    """Prints a table in Markdown: medians over the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.runs == 0:
        measure(str(arguments.photos))
        return
    photos = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    runs = {count: [_run(photos, count) for _ in range(arguments.runs)] for count in COUNTS}
    table = {count: {key: median(run[key] for run in found) for key in found[0]} for count, found in runs.items()}
    print("| photos | " + " | ".join(table[10]) + " | whole / features alone |")
    print("|---" * (len(table[10]) + 2) + "|")
    for count, row in table.items():
        cells = [f"{value:.2f}" if key != "peak MB" else f"{value:.0f}" for key, value in row.items()]
        print(f"| {count} | {' | '.join(cells)} | {row['whole'] / row['features alone']:.2f} |")
    print(f"\n20 photos take {table[20]['whole'] / table[10]['whole']:.2f} times as long as 10.")


def _run(photos: list[Path], count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            source = photos[number % len(photos)]
            shutil.copy(source, Path(folder) / f"{number:02d}{source.suffix}")
        command = [sys.executable, "-W", "ignore", __file__, folder, "--runs", "0"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
