"""What holds shapes and what does not, at any size, and pictures that are the same."""

import cv2
import numpy as np
import pytest

from asic3d.content import first_of_picture, holds_shapes, one_colour, same_picture
from asic3d.rendering import render_collection


def noise(height, width, seed=0, deviation=60.0):
    values = np.random.default_rng(seed).normal(128, deviation, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def rendered():
    return [photo.image for photo in render_collection(4, seed=3, size=(240, 180)).photos]


@pytest.mark.parametrize("size", [(40, 40), (64, 64), (200, 30), (300, 400), (1024, 700)])
@pytest.mark.parametrize("deviation", [0.0, 3.0, 25.0, 80.0])
def test_grain_and_single_colours_hold_no_shapes(size, deviation):
    assert not holds_shapes(noise(*size, deviation=deviation))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30), (255, 0, 255)])
def test_every_colour_is_flat(colour):
    pixels = np.full((50, 70, 3), colour, np.uint8)
    assert one_colour(pixels)
    assert not holds_shapes(pixels)


@pytest.mark.parametrize("size", [(30, 40), (480, 640)])
def test_a_bare_wall_that_is_lit_from_one_side_or_darker_in_the_corners_holds_no_shapes(size):
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j][..., None]
    colour = np.array([150, 160, 140])
    for wall in (colour + 60 * x + 20 * y, colour * (1 - 0.3 * (x * x + y * y))):
        grain = np.random.default_rng(0).normal(0, 3, (*size, 3))
        assert not holds_shapes((wall + grain).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("longest", [40, 240, 1000])
def test_photos_of_things_hold_shapes_at_any_size(rendered, longest):
    for image in rendered:
        scale = longest / max(image.shape)
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        assert holds_shapes(resized)
        assert not one_colour(resized)


def test_a_grainy_photo_of_a_thing_holds_shapes(rendered):
    grain = np.random.default_rng(0).normal(0, 40, rendered[0].shape)
    assert holds_shapes((rendered[0] + grain).clip(0, 255).astype(np.uint8))


def test_a_small_thing_before_a_plain_wall_is_a_shape():
    pixels = np.full((480, 640, 3), 235, np.uint8)
    cv2.circle(pixels, (320, 300), 15, (60, 40, 90), -1)
    assert holds_shapes(pixels)


def test_copies_are_the_same_picture_and_others_are_not(rendered):
    compressed = cv2.imdecode(cv2.imencode(".jpg", rendered[0], [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)
    larger = cv2.resize(rendered[0], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    assert same_picture([rendered[0], compressed, larger])
    assert not same_picture(rendered[:2])
    moved = [np.full((400, 600, 3), 240, np.uint8) for _ in range(2)]
    for place, pixels in zip((100, 250), moved, strict=True):
        pixels[200:214, place : place + 14] = (60, 60, 120)
    assert not same_picture(moved)
    assert not same_picture([rendered[0], rendered[0], rendered[3]])


def test_pictures_that_were_saved_again_are_told_from_others(rendered):
    first, other = rendered[:2]
    _, packed = cv2.imencode(".jpg", first, [cv2.IMWRITE_JPEG_QUALITY, 85])
    again = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    half = cv2.resize(first, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert first_of_picture([first, other, again, half]) == [0, 1, 0, 0]
