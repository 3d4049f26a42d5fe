"""Seconds and peak memory for 5 to 300 photos, and what it costs to match only the most similar photos.

python benchmarks/scaling.py SET [--counts 5 10 20 30 40 100 300]

SET holds photos and keypoints.json. Photos are used again, each copy cropped and recoloured at random, its keypoints
with it, until there are enough. Each alignment runs in a process of its own. "peak GB" is that of the alignment, "with
report" that of writing the run too, "expected" what --max-memory counts with. "all pairs" matches every photo with
every other; the default matches each with its most similar ones.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

ALL_UP_TO = 40
"""More photos are not matched with all others: it would take too long to be of use."""


def copied(source: Path, entries: list[dict], folder: Path, count: int) -> None:
    """Writes ``count`` photos of a set and its keypoints.json: the photos themselves, then changed copies."""
    random = np.random.default_rng(0)
    written = []
    for number in range(count):
        entry = entries[number % len(entries)]
        image = Image.open(source / entry["file"]).convert("RGB")
        left = top = 0
        if number >= len(entries):
            box = np.array(entry["bbox"])
            room = np.minimum(random.uniform(0, 1, 4) * 0.8, 1) * np.abs([*box[:2], *(image.size - box[2:])])
            left, top, right, bottom = (int(side) for side in room.clip(min=0))
            image = image.crop((left, top, image.width - right, image.height - bottom))
            for change in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
                image = change(image).enhance(random.uniform(0.6, 1.4))
        image.save(folder / f"{number:03d}.png")
        shift = np.array([left, top])
        points = {
            name: None if point is None else [*(np.array(point[:2]) - shift).tolist(), *point[2:]]
            for name, point in entry["keypoints"].items()
        }
        box = (np.array(entry["bbox"]) - [*shift, *shift]).tolist()
        written.append({"file": f"{number:03d}.png", "size": image.size, "bbox": box, "keypoints": points})
    (folder / "keypoints.json").write_text(json.dumps({"images": written}))


def measure(folder: Path, partners: str) -> None:
    """Prints one run as JSON."""
    import asic3d
    from asic3d import screening
    from asic3d.memory import expected_memory, held_now
    from asic3d.metrics import pck
    from asic3d_integrations.keypoint_sets import load_keypoint_set
    from asic3d_integrations.run_making import write_run

    config = asic3d.make_config(backbone="efficientnet-lite0", **({"partners": partners} if partners else {}))
    collection = asic3d.load_collection(folder)
    expected: list[float] = []
    screening.check_memory = lambda load, config: expected.append(expected_memory(load, config, held_now()))
    start = time.perf_counter()
    alignment = asic3d.align(collection, dataclasses.replace(config, max_memory=1e6), cache=folder / "cache")
    seconds = {**alignment.timings, "whole": time.perf_counter() - start}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    seconds |= write_run(alignment, folder / "run", lambda _: None)
    written = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    known = load_keypoint_set(folder)
    pairs = np.array([(i, j) for i in range(len(known)) for j in range(len(known)) if i != j])
    pairs = np.random.default_rng(0).permutation(pairs)[:400]
    names, points = known.photo_names, np.nan_to_num(known.keypoints)
    found = np.array(
        [alignment.transfer(points[i], source=names[i], target=names[j]).points.numpy() for i, j in pairs.tolist()]
    )
    visible = known.visible[pairs[:, 0]] & known.visible[pairs[:, 1]]
    right = pck(found, points[pairs[:, 1]], visible, known.extents[pairs[:, 1]], 0.1).per_point
    print(json.dumps({"seconds": seconds, "GB": [peak, written, *expected], "pck": 100 * right}))


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 30, 40, 100, 300])
    parser.add_argument("--measure", metavar="PARTNERS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.set, arguments.measure)
        return
    entries = json.loads((arguments.set / "keypoints.json").read_text())["images"]
    stages = ("features", "foreground", "canonical", "confidence", "whole", "report", "saving")
    memory = ("peak GB", "with report", "expected")
    print(f"| photos | {' | '.join(stages + memory)} | PCK@0.1 | whole, all pairs | PCK@0.1, all pairs |")
    print("|---" * (len(stages) + 7) + "|")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            copied(arguments.set, entries, Path(folder), count)
            usual = _run(Path(folder), "")
            every = _run(Path(folder), "0") if count <= ALL_UP_TO else None
        cells = [f"{usual['seconds'].get(stage, 0):.1f}" for stage in stages]
        cells += [*(f"{size:.1f}" for size in usual["GB"]), f"{usual['pck']:.1f}"]
        cells += ["", ""] if every is None else [f"{every['seconds']['whole']:.1f}", f"{every['pck']:.1f}"]
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def _run(folder: Path, partners: str) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, str(folder), "--measure", partners]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(result.stdout)


if __name__ == "__main__":
    main()
