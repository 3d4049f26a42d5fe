import numpy as np
import pytest
import torch

from asic3d.collection import Photo
from asic3d.parts import find_parts, full_parts, part_shares


def planted(count: int = 3, grid: int = 16, noise: float = 0.3, seed: int = 0):
    """Features, foreground, canonical and true part of photos of a disc in three sectors, moved from photo to photo."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.arange(grid).float()
    y, x = torch.meshgrid(line, line, indexing="ij")
    looks = torch.randn(4, 32, generator=generator)
    features, foreground, canonical, truth = [], [], [], []
    for photo in range(count):
        place = torch.stack([x - 7 - photo % 2, y - 7 + photo % 3], -1) / 6
        part = (torch.atan2(place[..., 1], place[..., 0]) / (2 * np.pi / 3) + 1.5).floor().clamp(0, 2).long()
        inside = place.norm(dim=-1) < 1
        look = looks[torch.where(inside, part, 3)] + noise * torch.randn(grid, grid, 32, generator=generator)
        features.append(torch.nn.functional.normalize(look, dim=-1))
        foreground.append(inside.float())
        canonical.append(place)
        truth.append(torch.where(inside, part, -1))
    return torch.stack(features), torch.stack(foreground), torch.stack(canonical), torch.stack(truth)


def agreement(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of the object's cells whose part is the one that its true part mostly has."""
    right = sum(int(found[truth == part].bincount().max()) for part in range(3))
    return right / int((truth >= 0).sum())


@pytest.mark.parametrize("with_canonical", [True, False])
def test_planted_parts_are_found_in_all_photos(with_canonical):
    features, foreground, canonical, truth = planted()
    found = find_parts(features, foreground, 3, canonical=canonical if with_canonical else None)
    assert found.dtype == torch.int64
    assert ((found == -1) == (truth == -1)).all()
    assert agreement(found, truth) > 0.93
    assert len({int(found[truth == part].mode().values) for part in range(3)}) == 3


def test_parts_are_numbered_from_left_to_right():
    features, foreground, canonical, _ = planted()
    found = find_parts(features, foreground, 3, canonical=canonical)
    middles = [float(canonical[found == part][:, 0].mean()) for part in range(3)]
    assert middles == sorted(middles)


def test_the_same_seed_gives_the_same_parts():
    features, foreground, canonical, _ = planted(noise=2.0)
    one, same = (find_parts(features, foreground, 4, 3, canonical=canonical) for _ in range(2))
    assert torch.equal(one, same)


def test_what_looks_alike_in_two_places_is_two_parts_where_the_place_is_known():
    features, foreground, canonical, _ = planted()
    left = canonical[..., 0] < 0
    alike = torch.where((left | ~left)[..., None], features[0, 7, 7], features)  # one look everywhere
    alike = torch.nn.functional.normalize(
        alike + 0.05 * torch.randn(alike.shape, generator=torch.manual_seed(0)), dim=-1
    )
    found = find_parts(alike, foreground, 2, canonical=canonical)
    inside = foreground > 0
    means = torch.stack([canonical[found == part].mean(0) for part in range(2)])
    assert (means[0] - means[1]).norm() > 0.6
    assert min(int((found[inside] == part).sum()) for part in range(2)) > 0.3 * int(inside.sum())


def test_shares_sum_to_one_and_flat_features_are_taken_too():
    features, foreground, canonical, _ = planted()
    shares = part_shares(features.flatten(1, 2), foreground, 4, canonical=canonical)
    assert shares.shape == (3, 16, 16, 4)
    assert (shares.sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_an_object_of_few_cells_has_few_parts(cells):
    features, foreground, _, _ = planted()
    few = torch.zeros_like(foreground).flatten()
    few[:cells] = 1
    found = find_parts(features, few.reshape(foreground.shape), 4)
    assert int((found >= 0).sum()) == cells
    assert len(found.unique()) <= cells + 1


def test_full_parts_follow_the_photo_and_end_at_the_mask(tmp_path):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, 47:] = 220  # an edge that the cells, of 90 / 16 pixels, do not meet
    photo = Photo("a.png", tmp_path / "a.png", (90, 60), "0" * 64, pixels)
    shares = torch.zeros(16, 16, 2)
    shares[:, :8, 0] = 1
    shares[:, 8:, 1] = 1
    mask = np.zeros((120, 180), np.uint8)
    mask[20:100, 30:150] = 255
    found = full_parts(photo, shares, mask)
    assert found.dtype == np.int8 and found.shape == mask.shape
    assert ((found == -1) == (mask == 0)).all()
    borders = [int((row[30:150] == 0).sum()) + 30 for row in found[20:100]]
    assert max(abs(border - 94) for border in borders) <= 4


def test_full_parts_are_the_same_wherever_the_mask_ends(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    photo = Photo("a.jpg", tmp_path / "a.jpg", (120, 90), "", pixels)
    shares = torch.softmax(4 * torch.rand(12, 12, 3, generator=torch.Generator().manual_seed(0)), 2)
    whole = full_parts(photo, shares, np.full((90, 120), 255, np.uint8))
    mask = np.zeros((90, 120), np.uint8)
    mask[30:44, 50:70] = 255
    found = full_parts(photo, shares, mask)
    assert (found[mask == 0] == -1).all() and len(np.unique(whole)) == 3
    assert (found == whole)[mask > 0].mean() > 0.99  # but for ties, which the last digit decides
    assert (full_parts(photo, shares, np.zeros((90, 120), np.uint8)) == -1).all()


def test_an_alignment_has_its_parts(toy):
    parts = toy.alignment.parts
    grid = toy.config.grid
    assert parts.shape == (6, grid, grid) and parts.min() == -1 and parts.max() == 3
    name = toy.alignment.names[1]
    assert toy.alignment.part_map(name).shape == toy.alignment.mask(name).shape


def test_parts_are_the_same_places_of_the_rendered_toy(toy):
    """The surface point that a photo shows lies in the same part in another photo, mostly."""
    same, chance = [], []
    maps = [toy.alignment.part_map(name) for name in toy.alignment.names]
    for source in range(6):
        for target in range(6):
            there = toy.truth.correspondences(source, target)
            seen = np.isfinite(there).all(-1) & (maps[source] >= 0)
            x, y = np.rint(there[seen]).astype(int).T
            height, width = maps[target].shape
            other = maps[target][y.clip(0, height - 1), x.clip(0, width - 1)]
            both = other >= 0
            if source != target:
                same.append((maps[source][seen][both] == other[both]).mean())
                chance.append(((np.bincount(other[both], minlength=4) / both.sum()) ** 2).sum())
    assert np.mean(same) > 0.8 > 2 * np.mean(chance)
