"""What the coarse matches of many photos rest on: the same descriptors, and little of each photo in memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asic3d import scratch
from asic3d.collection import load_collection
from asic3d.features import RawFeatures, describe, principal_axes, square_images, tap_centres
from asic3d.rendering import render_collection
from asic3d_integrations.colmap import coarse
from asic3d_integrations.colmap.coarse import coarse_backbones, coarse_matches
from asic3d_integrations.colmap.working import working_photo

PHOTOS = 3


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    render_collection(PHOTOS, seed=0).save(folder)
    return [working_photo(photo) for photo in load_collection(folder / "images")]


@pytest.fixture(scope="module")
def network():
    return coarse_backbones()[1]  # of two sides


def all_at_once(pieces, network, step):
    """Descriptors as they are defined, all photos in memory."""
    images = [square_images(piece.pixels, network.sides) for piece in pieces]
    raw = [RawFeatures(tuple(tap[0] for image in sides for tap in network(image).taps)) for sides in images]
    maps = torch.stack([describe(one, tap_centres(raw), network.tap_weights, coarse.GRID) for one in raw])
    axes, mean = principal_axes(maps.flatten(0, 2)[::step])
    reduced = ((maps - mean) @ axes[:, :160]).permute(0, 3, 1, 2)
    smooth = F.avg_pool2d(F.pad(reduced, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return F.normalize(smooth, dim=1).permute(0, 2, 3, 1).flatten(1, 2)


@pytest.mark.parametrize("largest", [0, scratch.LARGE])
def test_descriptors_photo_by_photo_are_those_of_all_at_once(working, network, monkeypatch, largest):
    monkeypatch.setattr(scratch, "LARGE", largest)
    monkeypatch.setattr(coarse, "_SAMPLE", PHOTOS * coarse.GRID**2 // 3)  # every third cell: 4096 is no multiple of it
    pieces, before = [coarse._Piece.of(one) for one in working], sum(map(len, scratch._mapped))
    found = coarse._described(pieces, network)
    assert sum(map(len, scratch._mapped)) - before == (0 if largest else found.nbytes)  # and nothing else stays
    assert found.shape == (PHOTOS, coarse.GRID**2, 160)
    assert torch.allclose(found, all_at_once(pieces, network, 3), atol=1e-5)


def test_matches_are_the_same_where_descriptors_lie_in_files(working, network, monkeypatch):
    monkeypatch.setattr(coarse, "FEWEST", 1)
    usual = coarse_matches(working, [network])
    monkeypatch.setattr(scratch, "LARGE", 0)
    monkeypatch.setattr(coarse, "FORGOTTEN", 1)
    found = coarse_matches(working, [network])
    assert usual and found.keys() == usual.keys()
    for pair, matches in usual.items():
        assert all(np.array_equal(one, other) for one, other in zip(matches, found[pair], strict=True))
