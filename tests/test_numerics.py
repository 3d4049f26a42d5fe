"""Photos at the edge of what is a photo give numbers; one thread and two give the same ones to a stated tolerance."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asic3d.alignment import align
from asic3d.collection import load_collection
from asic3d.run_folder import read_alignment

ROOT = Path(__file__).parents[1]
ALIGN = """
import sys
import torch
from asic3d import AlignmentConfig, align, load_collection
torch.set_num_threads(int(sys.argv[4]))
config = AlignmentConfig(backbone="efficientnet-lite0", device="cpu", grid=20, refine_steps=4, working_size=32)
alignment = align(load_collection(sys.argv[1]), config, cache=sys.argv[2])
torch.save({"canonical": alignment.canonical, "confidence": alignment.confidence}, sys.argv[3])
"""
TOLERANCE = 1e-3
"""Of canonical coordinates, the object being about 2 wide, and of confidences: docs/method.md says so."""


def picture(name: str, size: tuple[int, int]) -> Image.Image:
    """Of one colour, with one bright pixel, or noise."""
    pixels = np.full((size[1], size[0], 3), 255 if name == "white" else 0, np.uint8)
    if name == "speck":
        pixels[size[1] // 2, size[0] // 2] = 255
    elif name == "noise":
        pixels[:] = np.random.default_rng(0).integers(0, 256, pixels.shape)
    return Image.fromarray(pixels)


@pytest.mark.filterwarnings("ignore::asic3d.errors.CollectionWarning")
@pytest.mark.parametrize("among", ["photos", "themselves"])
def test_odd_photos_give_no_number_that_is_none(toy, tmp_path, among):
    odd = {"black": (64, 48), "white": (16, 16), "speck": (320, 16), "noise": (16, 320), "huge": (20000, 1000)}
    for name, size in odd.items():
        picture(name, size).save(tmp_path / f"{name}.png")
    picture("noise", (30000, 20)).save(tmp_path / "strip.png")
    if among == "photos":
        for photo in toy.collection.photos[:2]:
            (tmp_path / photo.name).write_bytes(photo.path.read_bytes())
    collection = load_collection(tmp_path)
    assert list(collection.left_out) == ["strip.png"]
    alignment = align(collection, dataclasses.replace(toy.config, grid=16))
    found = {"quality": torch.tensor(list(alignment.quality.values())), "grid": alignment.canonical_grid.colour}
    found |= {"confidence": alignment.confidence, "features": alignment.features, "canonical": alignment.canonical}
    found |= {"foreground": alignment.foreground, "descriptors": alignment.space.descriptors}
    for source in alignment.names:
        for target in alignment.names:
            one = alignment.transfer([[8, 8]], source=source, target=target)
            found |= {f"{kind} {source} {target}": value for kind, value in vars(one).items() if torch.is_tensor(value)}
    assert [name for name, value in found.items() if not np.isfinite(np.asarray(value)).all()] == []
    assert all(np.isfinite(mask).all() for mask in alignment.masks)
    alignment.save(tmp_path / "run")  # and what was saved is taken for an alignment
    assert read_alignment(tmp_path / "run").names == alignment.names


def test_one_thread_and_two_give_the_same_alignment(toy, tmp_path):
    found = []
    for threads in ("1", "2"):
        path = tmp_path / f"{threads}.pt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        arguments = [str(toy.folder / "images"), str(tmp_path / f"cache{threads}"), str(path), threads]
        subprocess.run([sys.executable, "-c", ALIGN, *arguments], env=environment, check=True)
        found.append(torch.load(path, weights_only=True))
    for name, value in found[0].items():
        assert float((value - found[1][name]).abs().max()) <= TOLERANCE, name
