"""The object in each photo: against exact masks of rendered photos, planted pictures, and loops."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asic3d.backbones import load_backbone
from asic3d.collection import Collection, Photo, load_collection
from asic3d.config import AlignmentConfig, Progress
from asic3d.coordinates import normalised_to_grid, photo_cells, pixels_to_normalised
from asic3d.features import FeatureMaps, extract_features
from asic3d.foreground import (
    _agreement,
    cells_to_photo,
    classify,
    find_foreground,
    full_mask,
    mask_cells,
    quantised,
    reduced_size,
    sharpen,
)
from asic3d.metrics import mask_iou

GRID = 20


def iou(found, truth):
    return mask_iou(np.asarray(found) > 0, np.asarray(truth) > 0)


@pytest.fixture(scope="module")
def maps(toy) -> FeatureMaps:
    return extract_features(toy.collection, load_backbone("efficientnet-lite0"), toy.config, cache=toy.cache)


# --- the rendered collection


def test_the_object_is_found_without_labels_much_better_than_by_guessing(toy):
    truths = [photo.mask for photo in toy.truth.photos]
    found = [iou(toy.alignment.mask(name), truth) for name, truth in zip(toy.truth.names, truths, strict=True)]
    guesses = []
    for radius in np.linspace(0.1, 1.2, 23):  # the best ellipse in the middle of the photo, and thereby all of it
        guesses.append(np.mean([iou(ellipse(truth.shape, radius), truth) for truth in truths]))
    assert np.mean(found) > 0.6
    assert min(found) > 0.4
    assert np.mean(found) > max(guesses) + 0.1


def ellipse(shape, radius):
    """An ellipse of this share of a photo's half width and height around its middle."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    return np.hypot(y[:, None], x) <= radius


def test_masks_have_the_photos_size_and_two_values(toy):
    for name, (width, height) in zip(toy.alignment.names, toy.alignment.sizes, strict=True):
        mask = toy.alignment.mask(name)
        assert mask.dtype == np.uint8
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) == {0, 255}


def test_cells_of_the_object_are_likelier_than_the_others(toy, maps):
    found = find_foreground(toy.collection, maps, toy.config)
    for photo, probability, recurring in zip(toy.truth.photos, found.probability, found.recurring, strict=True):
        covered = mask_cells(photo.mask.astype(np.float32), len(probability))
        inside, outside = covered > 0.9, covered == 0
        assert probability[inside].mean() > probability[outside].mean() + 0.4
        assert recurring[inside].mean() > recurring[outside].mean() + 0.4
    assert bool(((found.probability >= 0) & (found.probability <= 1)).all())
    assert not found.probability[~maps.valid].any(), "the padding is not object"


def test_the_object_is_the_same_every_time_and_says_how_far_it_is(toy, maps):
    seen = []
    one = find_foreground(toy.collection, maps, toy.config, seen.append)
    other = find_foreground(toy.collection, maps, toy.config)
    assert seen == [Progress("foreground", done, 3) for done in (1, 2, 3)]
    for name in ("recurring", "probability", "classifier"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert all(np.array_equal(a, b) for a, b in zip(one.masks, other.masks, strict=True))
    assert one.whole == ()


def test_the_classifier_knows_the_object_in_photos_it_has_not_seen(toy, maps):
    count = len(toy.collection) - 1
    fewer = Collection(toy.collection.root, toy.collection.photos[:count])
    known = FeatureMaps(maps.features[:count], maps.valid[:count])
    classifier = find_foreground(fewer, known, toy.config).classifier
    probability = classify(maps.features[count], maps.valid[count], classifier)
    covered = mask_cells(toy.truth.photos[count].mask.astype(np.float32), len(probability))
    assert probability[covered > 0.9].mean() > 0.6
    assert probability[(covered == 0) & maps.valid[count]].mean() < 0.3


def test_what_is_said_of_a_photo_does_not_come_from_its_own_mask(toy, maps):
    coverage = torch.stack([mask_cells(photo.mask.astype(np.float32), maps.grid) for photo in toy.truth.photos])
    other = coverage.clone()
    other[0] = 1 - other[0]
    one, changed = (_agreement(maps, values)[0] for values in (coverage, other))
    torch.testing.assert_close(one[0], changed[0], atol=1e-3, rtol=0)
    assert (one[1] - changed[1]).abs().max() > 0.1


def test_classify_is_a_logistic_of_a_linear_score_on_the_photo():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 3, 4, generator=generator)
    classifier = torch.randn(5, generator=generator, dtype=torch.float64)
    valid = torch.ones(3, 3, dtype=torch.bool)
    valid[0] = False
    found = classify(features, valid, classifier)
    for y in range(3):
        for x in range(3):
            score = sum(float(f) * float(c) for f, c in zip(features[y, x], classifier, strict=False)) + classifier[4]
            wanted = 1 / (1 + np.exp(-4 * float(score))) if y else 0
            assert float(found[y, x]) == pytest.approx(wanted, abs=1e-6)


# --- given masks


@pytest.fixture
def masked(toy) -> Collection:
    return load_collection(toy.folder / "images", masks=toy.folder / "masks")


def test_given_masks_are_taken_as_they_are(toy, masked, maps):
    found = find_foreground(masked, maps, toy.config)
    for photo, truth, probability, recurring, mask in zip(
        masked.photos, toy.truth.photos, found.probability, found.recurring, found.masks, strict=True
    ):
        covered = mask_cells(truth.mask.astype(np.float32), toy.config.grid)
        torch.testing.assert_close(probability, covered, atol=0.01, rtol=0)
        torch.testing.assert_close(recurring, covered, atol=0.01, rtol=0)
        np.testing.assert_array_equal(full_mask(photo, mask), truth.mask.astype(np.uint8) * 255)


def test_a_mask_for_one_photo_leaves_the_others_to_be_found(toy, masked, maps):
    photos = (masked.photos[0], *toy.collection.photos[1:])
    found = find_foreground(dataclasses.replace(masked, photos=photos), maps, toy.config)
    truths = [photo.mask for photo in toy.truth.photos]
    masks = [full_mask(photo, mask) for photo, mask in zip(photos, found.masks, strict=True)]
    assert iou(masks[0], truths[0]) == 1
    assert np.mean([iou(mask, truth) for mask, truth in zip(masks[1:], truths[1:], strict=True)]) > 0.6


# --- photos that show no object


@pytest.mark.parametrize("level", [0, 128])
def test_where_all_cells_are_alike_no_part_of_a_photo_is_picked_out(toy, level):
    photos = tuple(
        dataclasses.replace(photo, pixels=np.full_like(photo.pixels, level)) for photo in toy.collection.photos[:2]
    )
    valid = torch.stack([photo_cells(photo.size, 40) for photo in photos])
    flat = FeatureMaps(torch.full((2, 40, 40, 16), 0.25), valid)
    found = find_foreground(Collection(toy.collection.root, photos), flat, toy.config)
    for photo, mask in zip(photos, found.masks, strict=True):
        assert len(np.unique(mask)) == 1
        assert len(np.unique(full_mask(photo, mask))) == 1
    for values in (found.recurring, found.probability):
        assert len(values[valid].unique()) == 1
    assert bool(found.classifier.isfinite().all())


def test_photos_whose_whole_border_is_like_their_middle_are_taken_for_all_object(toy):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 40, 40, 16, generator=generator)  # no place has anything of its own
    noise = FeatureMaps(torch.nn.functional.normalize(features, dim=3), torch.ones(2, 40, 40, dtype=torch.bool))
    grid = 12  # where a third of the cells lie at the border
    small = FeatureMaps(noise.features[:, :grid, :grid], noise.valid[:, :grid, :grid])
    photos = toy.collection.photos[:2]
    found = find_foreground(Collection(toy.collection.root, photos), small, toy.config)
    assert found.whole == (0, 1)
    assert torch.equal(found.recurring, small.valid.float())
    assert all((mask == 1).all() for mask in found.masks)


# --- sharpening on a planted picture


@pytest.fixture
def disc(toy):
    """A bright disc on a dark, grainy ground; the photo, and the disc."""
    generator = np.random.default_rng(0)
    truth = ellipse((120, 160), 1) & (np.hypot(*np.mgrid[-60:60, -80:80]) < 40)
    pixels = np.where(truth[..., None], [200, 160, 60], [40, 60, 70]) + generator.normal(0, 8, (120, 160, 3))
    photo = toy.collection.photos[0]
    return dataclasses.replace(photo, pixels=pixels.clip(0, 255).astype(np.uint8), size=(160, 120)), truth


def blurred_cells(truth, wider=0.0):
    """Probabilities of cells that are too wide, as deep features have them."""
    y, x = np.mgrid[-GRID / 2 + 0.5 : GRID / 2 + 0.5, -GRID / 2 + 0.5 : GRID / 2 + 0.5] * (max(truth.shape) / GRID)
    return torch.from_numpy(1 / (1 + np.exp((np.hypot(y, x) - 40 - wider) / 6))).float()


def test_a_mask_that_is_too_wide_is_drawn_to_the_edge(disc):
    photo, truth = disc
    cells = blurred_cells(truth, wider=10)
    plain = iou(cells_to_photo(cells.numpy(), (160, 120)) > 0.5, truth)
    assert plain < 0.7
    assert iou(sharpen(photo, cells, 320) > 0.5, truth) > 0.97
    assert iou(full_mask(photo, sharpen(photo, cells, 80)), truth) > 0.95


def test_a_piece_of_the_objects_colour_far_from_it_is_left_out(disc):
    photo, truth = disc
    pixels = photo.pixels.copy()
    pixels[4:30, 4:30] = (200, 160, 60)
    cells = blurred_cells(truth).clamp(min=0.4)  # nothing is ruled out
    found = sharpen(dataclasses.replace(photo, pixels=pixels), cells, 320) > 0.5
    assert iou(found, truth) > 0.95
    assert not found[4:30, 4:30].any()


def test_an_object_that_fills_the_photo_is_kept_whole(disc):
    photo, _ = disc
    pixels = np.random.default_rng(0).integers(0, 256, photo.pixels.shape, np.uint8)
    cells = torch.full((GRID, GRID), 0.7)
    cells[10, 5:10] = 0.5  # not likely, not ruled out: GrabCut takes it for object, because it looks like the rest
    found = sharpen(dataclasses.replace(photo, pixels=pixels), cells, 160)
    assert (found == 1).mean() > 0.9


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_photo_whose_cells_are_all_alike_keeps_its_probability(disc, value):
    photo, _ = disc
    np.testing.assert_allclose(sharpen(photo, torch.full((GRID, GRID), value), 160), value, atol=1e-6)


def test_a_full_mask_follows_the_photos_edge_at_full_size(disc):
    photo, truth = disc
    big = dataclasses.replace(photo, size=(640, 480))
    found = full_mask(big, cv2.resize(truth.astype(np.float32), (80, 60), interpolation=cv2.INTER_AREA))
    assert found.shape == (480, 640)
    exact = np.hypot(*np.mgrid[-239.5:240.5, -319.5:320.5]) < 160
    assert iou(found, exact) > 0.95


# --- cells and pixels


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_coverage_of_cells_matches_loops(width, height, factor):
    side = max(width, height)
    if (side - width) % 2 or (side - height) % 2:
        width, height = 2 * width, 2 * height  # so that the padding is whole pixels
        side = max(width, height)
    mask = np.random.default_rng(width * 100 + height).integers(0, 2, (height, width)).astype(np.float32)
    fine = np.repeat(np.repeat(mask, factor, 0), factor, 1)  # each cell is exactly factor x factor pixels
    found = mask_cells(fine, side).numpy()
    left, top = (side - width) // 2, (side - height) // 2
    wanted = np.zeros((side, side))
    for y in range(height):
        for x in range(width):
            wanted[top + y, left + x] = mask[y, x]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("size", [(160, 120), (75, 100), (64, 64), (33, 90)])
def test_values_of_cells_lie_where_the_frames_say(size):
    line = np.arange(GRID, dtype=np.float32)
    cells = np.stack(np.meshgrid(line, line), -1)  # each cell's own x and y
    found = cells_to_photo(cells, size)
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = torch.from_numpy(np.stack([x, y], -1).astype(np.float64))
    wanted = normalised_to_grid(pixels_to_normalised(pixels, size), GRID).numpy()
    # cv2 interpolates at steps of 1 / 32; beyond the outermost centres the value stays.
    np.testing.assert_allclose(found, wanted.clip(0, GRID - 1), atol=1 / 32 + 1e-4)
    one = cells_to_photo(np.ascontiguousarray(cells[..., 0]), size)
    assert one.shape == found.shape[:2]
    np.testing.assert_allclose(one, found[..., 0], atol=1 / 32)


@given(st.tuples(st.integers(1, 9000), st.integers(1, 9000)), st.integers(64, 2048))
def test_a_reduced_size_keeps_the_shape_and_never_grows(size, longest):
    width, height = reduced_size(size, longest)
    assert 1 <= width <= size[0]
    assert 1 <= height <= size[1]
    assert max(width, height) == min(longest, max(size))
    assert abs(width * size[1] - height * size[0]) <= 0.5 * max(size) + max(size) * (1 in (width, height))


def test_masks_are_rounded_as_they_are_stored():
    mask = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    once = quantised(mask)
    assert np.array_equal(quantised(once), once)
    assert np.array_equal(np.round(once * 255).astype(np.uint8).astype(np.float32) / 255, once)
    np.testing.assert_allclose(once, mask, atol=0.5 / 255 + 1e-6)


def test_the_side_at_which_edges_are_followed_is_a_setting(toy, maps):
    config = dataclasses.replace(toy.config, sharpening=64)
    found = find_foreground(toy.collection, maps, config)
    assert all(max(mask.shape) == 64 for mask in found.masks)
    assert AlignmentConfig().sharpening > 64


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (200, 30, 30), (250, 250, 0)])
def test_grab_cut_is_not_tried_on_one_colour(monkeypatch, colour):
    """It takes half a minute to find nothing there."""
    tried = []
    monkeypatch.setattr(cv2, "grabCut", lambda *_: tried.append(1))
    pixels = np.full((60, 80, 3), colour, np.uint8)
    cells = torch.zeros(GRID, GRID)
    cells[6:14, 6:14] = 1
    found = sharpen(Photo("a.png", Path("a.png"), (80, 60), "", pixels), cells, 80)
    assert not tried
    assert found[30, 40] == 1
    assert found[0, 0] == 0


@pytest.mark.parametrize("spots", [5, 60])
def test_a_picture_of_hardly_any_colours_is_given_to_grab_cut_with_a_grain(monkeypatch, spots):
    """Clusters of equal colours take it hundreds of times as long."""
    seen = []

    def watched(pixels, *others, cut=cv2.grabCut):
        seen.append(pixels)
        return cut(pixels, *others)

    monkeypatch.setattr(cv2, "grabCut", watched)
    pixels = np.full((60, 80, 3), (200, 0, 255), np.uint8)
    rng = np.random.default_rng(0)
    pixels[rng.integers(0, 60, spots), rng.integers(0, 80, spots)] = (0, 0, 255)
    cells = torch.zeros(GRID, GRID)
    cells[6:14, 6:14] = 1
    before = pixels.copy()
    mask = sharpen(Photo("a.png", Path("a.png"), (80, 60), "", pixels), cells, 80)
    few, given = seen  # the sample whose colours are clustered, here of all pixels, and the photo
    assert np.abs(few.astype(int) - pixels).max() == 1
    assert np.array_equal(pixels, before)
    assert np.abs(given.astype(int) - pixels).max() == 1
    assert mask[30, 40] == 1


def test_a_photo_of_many_colours_is_given_to_grab_cut_as_it_is(monkeypatch):
    seen = []
    monkeypatch.setattr(cv2, "grabCut", lambda pixels, *_: seen.append(pixels))
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    cells = torch.zeros(GRID, GRID)
    cells[6:14, 6:14] = 1
    sharpen(Photo("a.png", Path("a.png"), (80, 60), "", pixels), cells, 80)
    assert all(np.array_equal(one, pixels) for one in seen)


@pytest.mark.parametrize("grid", [7, 12, 20, 40])
def test_no_cell_is_covered_by_more_than_all_of_it(grid):
    """Else a run with given masks could be saved and not be read again."""
    for size in ((120, 160), (128, 150), (97, 101), (1024, 683)):
        assert float(mask_cells(np.ones(size, np.float32), grid).max()) <= 1
