"""Feature maps: where a cell looks, how it is described, and the cache."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asic3d.backbones import BackboneOutput, load_backbone
from asic3d.collection import Collection, Photo
from asic3d.config import AlignmentConfig
from asic3d.coordinates import cell_centres, normalised_to_pixels, photo_cells
from asic3d.features import centred_square, describe, extract_features, extract_photo, square_images

CONFIG = AlignmentConfig(grid=10)
SIZES = [(60, 40), (41, 60), (50, 50)]


def photo(name: str, size: tuple[int, int], seed: int) -> Photo:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Photo(name=name, path=Path(name), size=size, sha256=f"{seed:064x}", pixels=pixels)


@pytest.fixture
def collection() -> Collection:
    photos = tuple(photo(f"{i}.png", size, i) for i, size in enumerate(SIZES))
    return Collection(root=Path("photos"), photos=photos)


class Patches:
    """A stand-in for a network: the mean colours of patches of 8 and of 16 pixels, mixed; counts its runs."""

    name, fingerprint, sides, tap_weights = "patches", "0123", (32, 64), (1.0, 1.5)
    device = torch.device("cpu")

    def __init__(self, saliency: bool = False) -> None:
        self.runs = 0
        self.saliency = saliency
        self.mix = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))

    def __call__(self, images: torch.Tensor) -> BackboneOutput:
        self.runs += 1
        taps = tuple(
            torch.einsum("cd,bdhw->bchw", mix, F.avg_pool2d(images, side))
            for mix, side in zip(self.mix, (8, 16), strict=True)
        )
        return BackboneOutput(taps, F.avg_pool2d(images.mean(1), 8) if self.saliency else None)


@pytest.mark.parametrize("size", [(201, 100), (200, 100), (100, 201), (77, 300), (300, 300), (45, 30), (40, 31)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_cell_looks_at_the_pixels_that_the_coordinates_say(size, axis):
    """A photo that is a steep ramp along x or y, so that a grey level says where a cell of the grid looks."""
    side, slope, start = 50, 4, 0.4 * (size[axis] - 1)
    where = np.mgrid[: size[1], : size[0]][1 - axis]
    grey = np.clip(np.round(127.5 + slope * (where - start)), 0, 255).astype(np.uint8)
    (image,) = square_images(np.repeat(grey[..., None], 3, 2), [side])
    assert image.shape == (1, 3, side, side) and image.dtype == torch.float32
    seen = start + (255 * image[0, 0].reshape(-1) - 127.5) / slope
    expected = normalised_to_pixels(cell_centres(side), size)[:, axis]
    reach = 2 * max(1, max(size) / side) + 1  # of the cubic kernel, pixels: all of it has to lie on the ramp
    clear = (expected >= reach) & (expected <= size[axis] - 1 - reach) & ((expected - start).abs() < 31 - reach)
    assert clear.sum() > 2 * side
    assert (seen - expected)[clear].abs().max() < 0.3  # pixels; grey levels are rounded two or three times


def test_the_square_of_a_photo_with_an_even_difference_is_the_photo_itself():
    pixels = photo("a", (40, 30), 0).pixels
    square = centred_square(pixels)
    assert square.shape == (40, 40, 3)
    assert (square[5:35] == pixels).all()
    assert (square[:5] == pixels[:1]).all() and (square[35:] == pixels[-1:]).all()


@pytest.mark.parametrize("turned", [False, True])
def test_the_square_of_a_photo_with_an_odd_difference_is_moved_by_half_a_pixel(turned):
    pixels = photo("a", (40, 31), 0).pixels.astype(int)
    square = centred_square((pixels.swapaxes(0, 1) if turned else pixels).astype(np.uint8)).astype(int)
    square = square.swapaxes(0, 1) if turned else square
    assert square.shape == (40, 40, 3)
    assert np.abs(2 * square[5:35] - pixels[:-1] - pixels[1:]).max() <= 1
    assert (square[:4] == pixels[:1]).all() and (square[36:] == pixels[-1:]).all()


def slow_features(collection, backbone, grid):
    """Step 1 of the method over whole stacks: normalise, centre, normalise, resample, weigh, add."""
    total = 0
    for side in backbone.sides:
        images = torch.cat([square_images(one.pixels, [side])[0] for one in collection.photos])
        maps = []
        for weight, tap in zip(backbone.tap_weights, backbone(images).taps, strict=True):
            unit = tap / tap.norm(dim=1, keepdim=True)
            mean = torch.stack([unit[:, channel].mean() for channel in range(unit.shape[1])])
            centred = unit - mean[:, None, None]
            centred = centred / centred.norm(dim=1, keepdim=True)
            maps.append(weight * F.interpolate(centred, (grid, grid), mode="bilinear"))
        both = torch.cat(maps, 1)
        total = total + both / both.norm(dim=1, keepdim=True)
    return (total / total.norm(dim=1, keepdim=True)).permute(0, 2, 3, 1)


def test_features_are_the_methods_step_one(collection):
    maps = extract_features(collection, Patches(), CONFIG)
    assert (len(maps), maps.grid) == (3, 10)
    torch.testing.assert_close(maps.features, slow_features(collection, Patches(), 10), rtol=1e-3, atol=1e-4)
    assert maps.features.shape == (3, 10, 10, 12) and maps.features.is_contiguous()
    torch.testing.assert_close(maps.features.norm(dim=-1), torch.ones(3, 10, 10))
    assert torch.equal(maps.valid, torch.stack([photo_cells(size, 10) for size in SIZES]))
    assert maps.saliency is None


def test_a_coarser_grid_averages_the_cells_it_covers(collection):
    maps = extract_features(collection, Patches(), AlignmentConfig(grid=8)).features
    single = type("Single", (Patches,), {"sides": (256,), "tap_weights": (1.0, 0.0)})()
    coarse = extract_features(collection, single, AlignmentConfig(grid=8)).features[..., :6]
    raw = [extract_photo(one, single) for one in collection.photos]
    unit = torch.stack([F.normalize(one.taps[0], dim=0) for one in raw])
    centred = F.normalize(unit - unit.mean((0, 2, 3))[:, None, None], dim=1)
    pooled = F.normalize(F.avg_pool2d(centred, 4), dim=1).permute(0, 2, 3, 1)
    assert maps.shape == (3, 8, 8, 12)
    assert (coarse * pooled).sum(-1).median() > 0.95  # nearest cells alone: about 0.6


def test_the_embedded_network_end_to_end(collection):
    backbone = load_backbone("efficientnet-lite0", sides=(64, 96))
    maps = extract_features(collection, backbone, CONFIG)
    assert maps.features.shape == (3, 10, 10, 304)
    torch.testing.assert_close(maps.features, slow_features(collection, backbone, 10), rtol=1e-3, atol=1e-4)
    assert [len(centre) for centre in maps.centres] == [112, 192, 112, 192]


def test_a_photo_that_comes_later_is_described_in_the_same_way(collection):
    backbone = Patches()
    maps = extract_features(collection, backbone, CONFIG)
    raw = extract_photo(collection.photos[1], backbone)
    assert torch.equal(describe(raw, maps.centres, backbone.tap_weights, 10), maps.features[1])


def test_saliency_is_brought_to_the_grid(collection):
    maps = extract_features(collection, Patches(saliency=True), CONFIG)
    assert maps.saliency.shape == (3, 10, 10)
    wanted = F.avg_pool2d(square_images(collection.photos[0].pixels, [64])[0].mean(1), 8)  # that of the largest side
    wanted = F.interpolate(wanted[None], (10, 10), mode="bilinear")[0, 0]
    torch.testing.assert_close(maps.saliency[0], wanted)


def test_features_may_be_inputs_of_a_network_in_training(collection):
    maps = extract_features(collection, load_backbone("efficientnet-lite0", sides=(64,)), CONFIG)
    weight = torch.zeros(304, requires_grad=True)
    (maps.features * weight).sum().backward()
    assert weight.grad.abs().max() > 0


def test_progress_is_told_after_each_photo(collection):
    seen = []
    extract_features(collection, Patches(), CONFIG, progress=seen.append)
    assert [(step.stage, step.done, step.total) for step in seen] == [("features", n, 3) for n in (1, 2, 3)]


@pytest.mark.parametrize("saliency", [False, True])
def test_the_cache_changes_nothing_but_the_time(collection, tmp_path, saliency):
    backbone = Patches(saliency)
    plain = extract_features(collection, backbone, CONFIG)
    first = extract_features(collection, backbone, CONFIG, cache=tmp_path)
    backbone.runs = 0
    second = extract_features(collection, backbone, CONFIG, cache=tmp_path)
    assert backbone.runs == 0
    assert torch.equal(first.features, plain.features) and torch.equal(second.features, plain.features)
    if saliency:
        assert torch.equal(second.saliency, plain.saliency)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        f"{i:064x}-0123.safetensors" for i in range(3)
    ]
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {tmp_path / "features"}


def test_the_embedded_network_gives_the_same_bits_with_a_partly_filled_cache(collection, tmp_path):
    backbone = load_backbone("efficientnet-lite0", sides=(64, 96))
    plain = extract_features(collection, backbone, CONFIG)
    extract_photo(collection.photos[1], backbone, tmp_path)
    assert torch.equal(extract_features(collection, backbone, CONFIG, cache=tmp_path).features, plain.features)


def test_another_backbone_does_not_read_the_cache(collection, tmp_path):
    extract_features(collection, Patches(), CONFIG, cache=tmp_path)
    other = Patches()
    other.fingerprint = "4567"
    extract_features(collection, other, CONFIG, cache=tmp_path)
    assert other.runs == 6


@dataclass
class Damage:
    name: str
    do: object


DAMAGES = [
    Damage("cut off", lambda content: content[: len(content) // 2]),
    Damage("empty", lambda content: b""),
    Damage("a huge header", lambda content: b"\xff" * 8 + content[8:]),
    Damage("not finite", lambda content: content[:-4] + np.float32(np.nan).tobytes()),
    Damage("no saliency", lambda content: content.replace(b'"saliency"', b'"salience"')),
    Damage("another tensor", lambda content: content.replace(b'"tap3"', b'"tapX"')),
    Damage("another shape", lambda content: content.replace(b"[6,4,4]", b"[6,2,8]")),
]


@pytest.mark.parametrize("saliency", [False, True])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_a_damaged_cache_file_is_made_again_silently(collection, tmp_path, damage, saliency):
    backbone = Patches(saliency)
    plain = extract_features(collection, backbone, CONFIG, cache=tmp_path)
    path = tmp_path / "features" / f"{0:064x}-0123.safetensors"
    whole = path.read_bytes()
    path.write_bytes(damage.do(whole))
    assert path.read_bytes() != whole
    backbone.runs = 0
    again = extract_features(collection, backbone, CONFIG, cache=tmp_path)
    assert backbone.runs == len(backbone.sides)
    assert torch.equal(again.features, plain.features)
    assert path.read_bytes() == whole
