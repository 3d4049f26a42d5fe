"""Mask IoU against the truth: on rendered collections, and on photos whose background is black.

python benchmarks/foreground.py [--black PHOTOS] [--seeds 0 1 2]

On photos with a black background the truth is where the largest of R, G and B is above 40; it is not used otherwise.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import asic3d
from asic3d.metrics import mask_iou
from asic3d.rendering import render_collection


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--black", nargs="*", type=Path, default=[], metavar="PHOTOS")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the rendered collections")
    arguments = parser.parse_args()
    print("| photos | mean IoU | lowest |\n|---|---|---|")
    for seed in arguments.seeds:
        rendered = render_collection(8, seed)
        with tempfile.TemporaryDirectory() as folder:
            rendered.save(Path(folder))
            _print(f"demo, seed {seed}", Path(folder) / "images", {p: r.mask for p, r in zip_names(rendered)})
    for folder in arguments.black:
        _print(folder.parent.name, folder, None)


def zip_names(rendered):
    """(name, rendered photo) pairs."""
    return zip(rendered.names, rendered.photos, strict=True)


def _print(label: str, folder: Path, truth: dict[str, np.ndarray] | None) -> None:
    alignment = asic3d.align(asic3d.load_collection(folder), asic3d.make_config(backbone="efficientnet-lite0"))
    ious = []
    for photo in alignment.collection:
        exact = photo.read().max(2) > 40 if truth is None else truth[photo.name]
        ious.append(mask_iou(alignment.mask(photo.name) > 127, exact))
    print(f"| {label} | {np.mean(ious):.3f} | {np.min(ious):.3f} |", flush=True)


if __name__ == "__main__":
    main()
