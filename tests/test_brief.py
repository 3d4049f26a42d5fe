from dataclasses import dataclass

import numpy as np
import torch

from asic3d.alignment import align
from asic3d.brief import Brief


@dataclass(frozen=True, repr=False)
class Some(Brief):
    points: torch.Tensor
    colours: np.ndarray
    width: float
    names: tuple[str, ...]


def test_arrays_are_shapes_and_long_values_are_counted():
    some = Some(torch.zeros(3, 2), np.zeros(4, np.uint8), 1 / 3, ("a name of some length.jpg",) * 9)
    assert repr(some) == "Some(points=float32 (3, 2), colours=uint8 (4,), width=0.333333, names=tuple of 9)"


def test_what_people_print_is_one_line(toy):
    alignment, names = toy.alignment, toy.alignment.names
    found = alignment.transfer([[60, 80], [90, 100]], source=names[0], target=names[1])
    sure = f"{float(found.confidence.mean()):.2f}"
    assert repr(found) == f"<Correspondences: 2 points of '{names[0]}' in '{names[1]}', mean confidence {sure}>"
    assert repr(alignment) == (
        f"<Alignment: 6 photos, '{names[0]}' to '{names[5]}', efficientnet-lite0, confidence "
        f"{alignment.quality['confidence']:.2f}>"
    )
    dense = alignment.dense(names[0], names[1])
    height, width = dense.confidence.shape
    assert repr(dense).startswith(f"<DenseMap: {width} x {height} points of '{names[0]}' in '{names[1]}', mean")
    for value in (alignment.space, alignment.placing, alignment.canonical_grid, alignment.canonical_grid.unfolding):
        assert "\n" not in repr(value) and "tensor" not in repr(value) and len(repr(value)) < 500


def test_a_folder_is_aligned_as_its_collection_is(toy):
    found = align(str(toy.folder / "images"), toy.config, cache=toy.cache)
    assert found.names == toy.alignment.names and torch.equal(found.canonical, toy.alignment.canonical)
