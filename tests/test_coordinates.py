"""Round trips between the frames, and where their corners lie."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asic3d.coordinates import (
    cell_centres,
    grid_to_normalised,
    normalised_to_grid,
    normalised_to_pixels,
    photo_cells,
    pixels_to_crop,
    pixels_to_normalised,
)

SIZES = st.tuples(st.integers(1, 20000), st.integers(1, 20000))
PLACES = st.lists(st.tuples(st.floats(-3e4, 3e4), st.floats(-3e4, 3e4)), min_size=1, max_size=8)


def double(points):
    return torch.tensor(points, dtype=torch.float64)


@given(SIZES, PLACES)
def test_pixels_go_to_the_normalised_frame_and_back(size, places):
    points = double(places)
    back = normalised_to_pixels(pixels_to_normalised(points, size), size)
    torch.testing.assert_close(back, points, rtol=1e-9, atol=1e-6)


@given(st.integers(1, 256), PLACES)
def test_normalised_goes_to_the_grid_and_back(cells, places):
    points = double(places) / 1e4
    torch.testing.assert_close(grid_to_normalised(normalised_to_grid(points, cells), cells), points)


@given(SIZES, st.floats(0.1, 8))
def test_a_resized_photo_has_the_same_frame(size, factor):
    # A point of the photo, at a share of its width and height, whatever the photo's resolution.
    width, height = size
    bigger = (width * factor, height * factor)
    share = double([[0.25, 0.75]])
    at = share * double([width, height]) - 0.5, share * double(bigger) - 0.5
    one, other = pixels_to_normalised(at[0], size), pixels_to_normalised(at[1], bigger)
    torch.testing.assert_close(one, other)


@given(SIZES)
def test_the_longer_side_fills_the_square_and_the_shorter_is_in_its_middle(size):
    width, height = size
    corners = pixels_to_normalised(double([[-0.5, -0.5], [width - 0.5, height - 0.5]]), size)
    wanted = double([width, height]) / max(size)
    torch.testing.assert_close(corners, torch.stack([-wanted, wanted]))


def test_cells_are_numbered_row_by_row():
    cells = 5
    found = normalised_to_grid(cell_centres(cells), cells)
    rows, columns = torch.arange(25) // cells, torch.arange(25) % cells
    torch.testing.assert_close(found, torch.stack([columns, rows], 1).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_and_the_leading_axes_are_kept(dtype):
    points = torch.zeros(2, 3, 2, dtype=dtype)
    for found in (
        pixels_to_normalised(points, (30, 20)),
        normalised_to_pixels(points, (30, 20)),
        normalised_to_grid(points, 7),
        grid_to_normalised(points, 7),
    ):
        assert found.dtype == dtype
        assert found.shape == (2, 3, 2)


@given(SIZES, st.integers(8, 64))
def test_the_cells_of_a_photo_are_those_whose_centre_is_on_it(size, cells):
    width, height = size
    found = photo_cells(size, cells)
    pixels = normalised_to_pixels(cell_centres(cells).double(), size).reshape(cells, cells, 2)
    margin = 1e-3 * max(size)  # a centre on the photo's very edge may count or not
    inside = (
        (pixels[..., 0] > -0.5 + margin)
        & (pixels[..., 0] < width - 0.5 - margin)
        & (pixels[..., 1] > -0.5 + margin)
        & (pixels[..., 1] < height - 0.5 - margin)
    )
    assert bool((found | ~inside).all()), "a cell on the photo is missing"
    assert found.any()
    if min(size) * cells >= 2 * max(size):  # else the photo is narrower than a cell, and one row of cells stays
        outside = (
            (pixels[..., 0] < -0.5 - margin)
            | (pixels[..., 0] > width - 0.5 + margin)
            | (pixels[..., 1] < -0.5 - margin)
            | (pixels[..., 1] > height - 0.5 + margin)
        )
        assert not bool((found & outside).any())


@given(st.tuples(st.integers(-50, 500), st.integers(-50, 500)), st.integers(8, 600))
def test_a_crop_keeps_its_edges(corner, side):
    # The outer edges of the cut square, half a pixel around its outermost centres, become those of the resized one.
    edges = double([[-0.5, -0.5], [side - 0.5, side - 0.5]]) + double(corner)
    torch.testing.assert_close(pixels_to_crop(edges, corner, 256 / side), double([[-0.5, -0.5], [255.5, 255.5]]))
