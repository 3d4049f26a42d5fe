import weakref
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from planted_alignment import plant

from asic3d.canonical_grid import (
    GRID_FILE,
    find_grid,
    grid_bytes,
    lay_out_cells,
    load_grid,
    map_photos,
    solve_grid,
    to_cells,
)
from asic3d.errors import StorageError

R = 96


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted") / "photos")


@pytest.fixture(scope="module")
def grid(planted):
    return find_grid(planted, R)


def waves(canonical: np.ndarray) -> np.ndarray:
    """The planted disc's colours in [0, 1] at (..., 2) canonical coordinates."""
    x, y = np.moveaxis(canonical, -1, 0)
    return (np.stack([np.sin(5 * x), np.cos(4 * y), np.sin(3 * x + 4 * y)], -1) * 100 + 128) / 255


def on_disc(radius: float = 0.85) -> np.ndarray:
    line = np.linspace(-radius, radius, 41, dtype=np.float32)
    places = np.stack(np.meshgrid(line, line), -1)
    return places[np.hypot(*places.transpose(2, 0, 1)) < radius][:, None]


def test_the_grid_shows_the_planted_disc(grid):
    places = on_disc()
    assert np.abs(grid.sample(places) - waves(places)).mean() < 0.04
    opaque = cv2.remap(grid.foreground, *np.moveaxis(grid.place(places), -1, 0), cv2.INTER_LINEAR)
    assert opaque.min() > 0.95
    angles = np.linspace(0, 6, 60, dtype=np.float32)
    ring = 1.14 * np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]
    assert cv2.remap(grid.foreground, *np.moveaxis(grid.place(ring), -1, 0), cv2.INTER_LINEAR).max() < 0.3


def test_colours_are_those_of_most_photos_and_not_their_mean(planted):
    photos = list(map_photos(planted, R))
    spoiled = photos[0].pixels.copy()
    middle = np.hypot(*photos[0].canonical.transpose(2, 0, 1)) < 0.3
    spoiled[middle] = 1 - waves(photos[0].canonical)[middle]  # one of the three has something else there
    found = solve_grid([replace(photos[0], pixels=spoiled), *photos[1:]], planted.canonical, planted.confidence, R)
    places = on_disc(0.25)
    wrong = np.abs(found.sample(places) - waves(places)).mean()
    mean = np.abs((1 - 2 * waves(places)) / 3).mean()  # by how much the mean of the three is off
    assert wrong < 0.5 * mean
    here = tuple(np.rint(found.place(np.zeros((1, 1, 2)))[0, 0, ::-1]).astype(int))
    assert found.coverage[here] == pytest.approx(3 * 0.95, abs=0.3)


def test_exposure_is_matched_before_photos_are_joined(planted):
    photos = list(map_photos(planted, R))
    darker = [replace(photo, pixels=photo.pixels * gain) for photo, gain in zip(photos, (1.0, 0.6, 0.8), strict=True)]
    found = solve_grid(darker, planted.canonical, planted.confidence, R)
    ratio = found.gains.mean(1) / found.gains.mean()
    assert ratio[1] / ratio[0] == pytest.approx(1 / 0.6, rel=0.06)
    assert ratio[2] / ratio[0] == pytest.approx(1 / 0.8, rel=0.06)
    assert found.psnr_matched.min() > found.psnr.min() + 3
    assert found.psnr_matched.mean() > 25


def test_spread_is_large_where_photos_disagree(planted, grid):
    photos = list(map_photos(planted, R))
    changed = []
    for number, photo in enumerate(photos):
        pixels = photo.pixels.copy()
        pixels[(photo.canonical[..., 0] > 0.2)] = (0.1, 0.5, 0.9)[number]
        changed.append(replace(photo, pixels=pixels))
    found = solve_grid(changed, planted.canonical, planted.confidence, R)
    right, left = (found.place(np.full((1, 1, 2), (x, 0.0)))[0, 0].astype(int) for x in (0.6, -0.5))
    assert found.spread[right[1], right[0]] > 0.1 > 3 * found.spread[left[1], left[0]]


def test_psnr_says_how_exactly_photos_come_back(planted, grid):
    assert grid.psnr.shape == (3,) and grid.psnr.min() > 22
    shifted = replace(planted, canonical=planted.canonical + torch.tensor([0.3, 0.0, -0.3]).reshape(3, 1, 1, 1))
    assert find_grid(shifted, R).psnr.max() < grid.psnr.min() - 5
    photo = list(map_photos(planted, R))[1]
    inside = photo.mask > 0.5
    error = ((grid.reconstruct(photo)[inside].astype(float) - photo.pixels[inside]) ** 2).mean()
    assert grid.psnr[1] == pytest.approx(-10 * np.log10(error), abs=1e-3)


def test_photos_are_let_go_one_after_the_other(planted, grid):
    seen, most = [], 0

    def one_by_one():
        nonlocal most
        for photo in map_photos(planted, R):
            seen.append(weakref.ref(photo.canonical))
            yield photo
            del photo
            most = max(most, sum(reference() is not None for reference in seen))

    found = solve_grid(one_by_one(), planted.canonical, planted.confidence, R)
    assert len(seen) == 3 and most == 1
    assert np.array_equal(found.colour, grid.colour) and np.array_equal(found.psnr, grid.psnr)


def test_holes_inside_the_object_are_filled(planted):
    photos = list(map_photos(planted, R))
    holed = [
        replace(photo, mask=np.where(np.hypot(*photo.canonical.transpose(2, 0, 1)) < 0.15, 0, photo.mask))
        for photo in photos
    ]
    found = solve_grid(holed, planted.canonical, planted.confidence, R)
    colour = found.sample(np.zeros((1, 1, 2), np.float32))[0, 0]
    ring = waves(0.2 * np.stack([np.cos(np.arange(8.0)), np.sin(np.arange(8.0))], -1))
    assert ((colour > ring.min(0) - 0.1) & (colour < ring.max(0) + 0.1)).all()


def test_cells_are_laid_out_where_they_belong(planted, grid):
    x = lay_out_cells(grid, planted.canonical, planted.canonical[..., :1], planted.foreground)[..., 0]
    places = on_disc(0.7)
    found = cv2.remap(x, *np.moveaxis(grid.place(places), -1, 0), cv2.INTER_LINEAR)[:, 0]
    assert np.abs(found - places[:, 0, 0]).max() < 0.06
    assert np.isnan(x[0, 0])


def test_a_corner_of_the_plane_is_the_corner_of_the_first_cell():
    assert to_cells(np.array([[-2.0, -2.0], [2.0, 0.0]]), 2.0, 10).tolist() == [[-0.5, -0.5], [9.5, 4.5]]


def test_a_grid_is_saved_and_loaded_whole(grid, tmp_path):
    (tmp_path / GRID_FILE).write_bytes(grid_bytes(grid))
    again = load_grid(tmp_path / GRID_FILE)
    for name in ("colour", "foreground", "coverage", "spread", "gains", "psnr", "psnr_matched"):
        assert np.array_equal(getattr(again, name), getattr(grid, name)), name
    places = on_disc()
    assert np.array_equal(again.sample(places), grid.sample(places))
    assert again.distortion.mean_angle == grid.distortion.mean_angle
    assert again.distortion_before.mean_stretch == grid.distortion_before.mean_stretch


def test_a_damaged_grid_is_refused_in_a_sentence(grid, tmp_path):
    place = tmp_path / GRID_FILE
    place.write_bytes(grid_bytes(replace(grid, colour=grid.colour[:-1])))
    with pytest.raises(StorageError, match="its tensor 'colour' is 95 x 96 x 3"):
        load_grid(place)
    place.write_bytes(grid_bytes(replace(grid, extent=-1.0)))
    with pytest.raises(StorageError, match="a grid without a size"):
        load_grid(place)
    place.write_bytes(b"nothing")
    with pytest.raises(StorageError, match="not a safetensors file"):
        load_grid(place)


def test_the_rendered_toy_is_recognised_in_its_grid(toy):
    """Photos are painted back from the grid better than from a grid whose maps are the bare starting positions."""
    grid = find_grid(toy.alignment, R)
    unaligned = replace(toy.alignment.space, canonical=toy.alignment.space.canonical.mean(0).expand(6, -1, -1))
    worse = find_grid(replace(toy.alignment, space=unaligned), R)
    assert grid.psnr_matched.mean() > worse.psnr_matched.mean() + 1
    assert grid.distortion.mean_angle < grid.distortion_before.mean_angle
    assert np.array_equal(find_grid(toy.alignment, R).colour, grid.colour)


def test_an_alignment_solves_for_its_grid_once(toy):
    alignment = replace(toy.alignment)
    assert alignment.canonical_grid is alignment.canonical_grid
    assert alignment.canonical_grid.resolution == 256
