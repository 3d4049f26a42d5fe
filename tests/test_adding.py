"""One more photo in an alignment: where a full fit puts it, and the others where they were."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from asic3d import adding
from asic3d.alignment import Alignment, align, load_alignment
from asic3d.collection import Collection, load_collection, load_photo
from asic3d.config import Progress
from asic3d.errors import AlignmentError, BackboneError, CollectionError
from asic3d.judgement import Further, enlarged_quality, fit_warnings, photo_fits
from asic3d.metrics import mask_iou

NEW = 5  # the photo that comes later


@pytest.fixture(scope="module")
def five(toy) -> Alignment:
    return align(Collection(toy.collection.root, toy.collection.photos[:NEW]), toy.config, cache=toy.cache)


@pytest.fixture(scope="module")
def six(toy, five) -> Alignment:
    return five.add(toy.collection[NEW])


def ways(toy, alignment):
    """Errors of the points that go to the new photo, and of those that come from it."""
    name = toy.truth.names[NEW]
    others = [other for other in toy.truth.names if other != name]
    into = np.concatenate([toy.pair_errors(alignment.transfer, other, name) for other in others])
    out = np.concatenate([toy.pair_errors(alignment.transfer, name, other) for other in others])
    return into, out


def test_an_added_photo_is_as_right_as_in_a_full_fit(toy, six):
    for added, full in zip(ways(toy, six), ways(toy, toy.alignment), strict=True):
        assert np.mean(added < 0.1) > 0.85
        assert np.mean(added < 0.1) > np.mean(full < 0.1) - 0.08
        assert np.median(added) < 1.3 * np.median(full)


def test_an_added_photo_lies_within_a_few_pixels_of_where_a_full_fit_puts_it(toy, six):
    name = toy.truth.names[NEW]
    for other in toy.truth.names[:NEW]:
        points, _ = toy.pair(other, name)
        one, full = (a.transfer(points, source=other, target=name).points for a in (six, toy.alignment))
        assert (one - full).norm(dim=1).median() < 4  # pixels; a cell is 6


def test_the_other_photos_stay_exactly_where_they_were(toy, five, six):
    names = five.names
    assert six.names == (*names, toy.truth.names[NEW])
    for values in ("canonical", "foreground", "confidence", "features"):
        assert torch.equal(getattr(six, values)[:NEW], getattr(five, values)), values
    for one, other in zip(six.masks, five.masks, strict=False):
        assert np.array_equal(one, other)
    for source in names:
        for target in names:
            points = toy.truth.keypoints[names.index(source), :, :2]
            one, other = (a.transfer(points, source=source, target=target) for a in (six, five))
            for part in ("points", "confidence", "cycle_error"):
                assert torch.equal(getattr(one, part), getattr(other, part)), part


def test_the_alignment_that_a_photo_is_added_to_does_not_change(toy, five):
    before = five.space.descriptors.clone(), five.names, dict(five.timings)
    five.add(toy.collection[NEW])
    assert torch.equal(five.space.descriptors, before[0])
    assert (five.names, five.timings) == before[1:]


def test_the_object_of_an_added_photo_is_found(toy, six):
    name, truth = toy.truth.names[NEW], toy.truth.photos[NEW].mask
    mask = six.mask(name)
    assert mask.shape == truth.shape
    assert mask_iou(mask > 0, truth) > 0.6
    assert mask_iou(mask > 0, truth) > mask_iou(np.ones_like(truth), truth) + 0.2
    assert six.confidence[NEW].max() > 0.4


def test_adding_twice_gives_the_same_bits(toy, five, six):
    again = five.add(toy.folder / "images" / toy.truth.names[NEW])  # from its file this time
    assert torch.equal(again.space.canonical, six.space.canonical)
    assert torch.equal(again.space.descriptors, six.space.descriptors)
    assert np.array_equal(again.masks[NEW], six.masks[NEW])


def test_a_loaded_alignment_takes_a_photo_as_the_one_that_was_saved_does(toy, five, six, tmp_path):
    five.save(tmp_path / "run")
    loaded = load_alignment(tmp_path / "run").add(toy.collection[NEW])
    assert torch.equal(loaded.space.canonical, six.space.canonical)
    assert torch.equal(loaded.space.descriptors, six.space.descriptors)


def test_an_alignment_with_an_added_photo_is_saved_and_loaded(toy, five, tmp_path):
    elsewhere = tmp_path / "another folder"
    elsewhere.mkdir()
    shutil.copy(toy.folder / "images" / toy.truth.names[NEW], elsewhere / "späte Aufnahme.jpg")
    added = five.add(elsewhere / "späte Aufnahme.jpg")
    added.save(tmp_path / "run")
    found = load_alignment(tmp_path / "run")
    assert found.names == added.names == (*five.names, "späte Aufnahme.jpg")
    assert found.collection["späte Aufnahme.jpg"].path == elsewhere / "späte Aufnahme.jpg"
    points = [[100, 80], [50, 60]]
    one, other = (a.transfer(points, source=five.names[0], target="späte Aufnahme.jpg") for a in (found, added))
    assert torch.equal(one.points, other.points)
    assert torch.equal(one.confidence, other.confidence)


def test_a_second_photo_can_be_added(toy, six, tmp_path):
    Image.fromarray(toy.truth.photos[0].image[:, ::-1]).save(tmp_path / "mirrored.png")
    seven = six.add(tmp_path / "mirrored.png")
    assert seven.names == (*six.names, "mirrored.png")
    assert seven.mirrored == (*six.mirrored, True)
    rows, columns = np.nonzero(toy.truth.photos[0].mask)
    points = np.stack([columns, rows], 1)[::53].astype(float)
    wanted = points * [-1, 1] + [toy.truth.photos[0].image.shape[1] - 1, 0]
    found = seven.transfer(points, source=six.names[0], target="mirrored.png").points
    assert (found - torch.from_numpy(wanted)).norm(dim=1).median() < 2
    assert torch.equal(seven.canonical[:6], six.canonical)
    assert seven.timings["adding"] > six.timings["adding"]


def test_a_copy_of_a_photo_lands_on_it(toy, five, tmp_path):
    first = five.names[0]
    shutil.copy(toy.folder / "images" / first, tmp_path / "copy.jpg")
    found = five.add(tmp_path / "copy.jpg")
    rows, columns = np.nonzero(toy.truth.photos[0].mask)
    points = np.stack([columns, rows], 1)[::53].astype(float)
    off = (found.transfer(points, source=first, target="copy.jpg").points - torch.from_numpy(points)).norm(dim=1)
    assert off.median() < 2
    assert off.quantile(0.9) < 6  # a cell


def test_a_given_mask_is_used(toy, five):
    name = toy.truth.names[NEW]
    photo = load_photo(toy.folder / "images" / name, name="masked.jpg", mask=toy.folder / "masks" / f"{name}.png")
    found = five.add(photo)
    np.testing.assert_array_equal(found.mask("masked.jpg") > 0, toy.truth.photos[NEW].mask)
    assert not found.foreground[NEW, :3, :3].any()


# --- what is said of it afterwards


def test_figures_are_those_of_all_photos(toy, five, six):
    fits = photo_fits(six.confidence.flatten(1), six.space.foreground)
    assert six.quality["confidence"] == pytest.approx(float(fits.mean()))
    assert six.quality["weakest_photo"] == pytest.approx(float(fits.min()))
    assert (five.pairs, six.pairs) == (10, 15)  # of five photos, and five more with the new one
    for name, value in toy.alignment.quality.items():  # a full fit of the same photos
        assert six.quality[name] == pytest.approx(value, rel=0.3 if name == "support" else 0.15), name
    assert six.quality["matches_per_pair"] != five.quality["matches_per_pair"]
    assert six.quality["support"] == five.quality["support"]  # is about the photos that were fitted


def test_figures_of_what_is_counted_twice_are_means_over_pairs():
    quality = {"confidence": 0.9, "pair_agreement": 0.5, "agreeing_matches": 0.8, "matches_per_pair": 20.0, "own": 7.0}
    found = enlarged_quality(quality, 3, Further(1, 0.9, 40, 10), torch.tensor([0.5, 0.3]))
    assert found == pytest.approx(
        {
            "confidence": 0.4,
            "pair_agreement": (3 * 0.5 + 0.9) / 4,
            "agreeing_matches": (0.8 * 60 + 10) / 100,
            "matches_per_pair": 100 / 4,
            "own": 7.0,
        }
    )


@pytest.fixture
def odd(tmp_path):
    """A photo of nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "odd.png")
    return tmp_path / "odd.png"


def test_a_photo_of_something_else_is_found_out(toy, five, odd):
    found = five.add(odd, toy.collection[NEW])
    assert found.outliers == ("odd.png",)
    assert sum(sentence.startswith("'odd.png' seems to show something else") for sentence in found.warnings) == 1
    alone = five.add(toy.collection[NEW])
    assert found.quality == pytest.approx(alone.quality)  # it has no say in what is said of the others
    fits = photo_fits(found.confidence.flatten(1), found.space.foreground)
    assert float(fits[5]) < 0.1 * float(fits[6])


def test_two_photos_are_too_few_to_find_a_stranger(toy, five, odd):
    two = dataclasses.replace(five, outliers=five.names[2:])
    assert two.add(odd).outliers == five.names[2:]


def test_a_photo_that_does_not_fit_is_warned_of_and_makes_the_figures_worse(toy, five, odd):
    five = dataclasses.replace(five, config=dataclasses.replace(five.config, outliers=False))
    found = five.add(odd)
    fits = photo_fits(found.confidence.flatten(1), found.space.foreground)
    assert float(fits[-1]) < 0.4 * float(fits[:-1].median())
    assert found.quality["weakest_photo"] == pytest.approx(float(fits[-1]))
    assert found.quality["confidence"] < five.quality["confidence"]
    assert any(sentence.startswith("'odd.png' hardly fits the others") for sentence in found.warnings)
    assert "Nothing but grain, without a shape that could be matched: 'odd.png'." in found.collection.warnings
    again = found.add(toy.collection[NEW])
    assert sum("hardly fits" in sentence for sentence in again.warnings) == 1  # of all photos now, and not twice


def test_a_copy_of_a_photo_is_said_to_be_one(toy, five, tmp_path):
    first = five.names[0]
    for name in ("copy.jpg", "again.jpg"):
        shutil.copy(toy.folder / "images" / first, tmp_path / name)
    found = five.add(tmp_path / "copy.jpg", tmp_path / "again.jpg")
    assert [photo.duplicate_of for photo in found.collection][-2:] == [first, first]
    assert found.collection.warnings == (f"The same file as '{first}': 'copy.jpg', 'again.jpg'.",)
    found.save(tmp_path / "run")
    assert load_alignment(tmp_path / "run").collection["again.jpg"].duplicate_of == first


@pytest.mark.parametrize("how", ["same file", "saved again"])
def test_a_copy_makes_no_figure_better(toy, five, tmp_path, how):
    first = five.names[0]
    shutil.copy(toy.folder / "images" / first, tmp_path / "copy.jpg")
    if how == "saved again":
        with Image.open(toy.folder / "images" / first) as image:
            image.save(tmp_path / "copy.jpg", quality=80)
    found = five.add(tmp_path / "copy.jpg")
    assert (found.quality, found.pairs) == (five.quality, five.pairs)
    assert any(first in note and "'copy.jpg'" in note for note in found.collection.warnings)


def test_a_turned_stranger_is_not_called_turned(toy, five, odd, monkeypatch):
    look_at = adding.look_at
    monkeypatch.setattr(
        adding, "look_at", lambda *a: dataclasses.replace(look_at(*a), turns=2, mirrored=True, kinship=0.0)
    )
    found = five.add(odd)
    assert found.outliers == ("odd.png",) and (found.turns[-1], found.mirrored[-1]) == (2, True)
    assert not any(sentence.startswith(("Turned", "Mirrored")) for sentence in found.warnings)


def test_a_stranger_has_no_parts(five, odd):
    found = five.add(odd)
    assert (found.part_map("odd.png") == -1).all()
    assert (found.part_map(five.names[0]) >= 0).any()


def test_several_photos_take_the_network_once_and_are_told_of(toy, five, six, monkeypatch, tmp_path):
    Image.fromarray(toy.truth.photos[1].image).save(tmp_path / "another.png")
    loaded, seen = [], []
    load = adding.load_backbone
    monkeypatch.setattr(adding, "load_backbone", lambda *a, **k: (loaded.append(a), load(*a, **k))[1])
    found = five.add(toy.collection[NEW], tmp_path / "another.png", progress=seen.append)
    assert len(loaded) == 1
    assert seen == [Progress("adding", 1, 2), Progress("adding", 2, 2)]
    assert torch.equal(found.canonical[: NEW + 1], six.canonical)


def test_nothing_is_placed_where_one_of_several_cant_be(toy, five, tmp_path, monkeypatch):
    monkeypatch.setattr(adding, "load_backbone", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(CollectionError, match=r"missing\.jpg"):
        five.add(toy.collection[NEW], tmp_path / "missing.jpg")
    name = toy.truth.names[NEW]
    with pytest.raises(CollectionError, match=f"^Two of the new photos are called '{name}'; rename one.$"):
        five.add(toy.collection[NEW], toy.collection[NEW])
    assert five.add() is five


def test_a_photo_can_be_added_where_there_are_only_affine_maps(toy):
    config = dataclasses.replace(toy.config, affine_rounds=1, spline_rounds=0, metric_rounds=0)
    few = align(Collection(toy.collection.root, toy.collection.photos[:3]), config, cache=toy.cache)
    assert bool(few.add(toy.collection[NEW]).canonical.isfinite().all())


# --- what can't be added


def test_a_photo_of_the_same_name_is_refused(toy, five):
    name = five.names[0]
    wanted = f"The photo '{name}' is in this alignment already; there is nothing to add."
    for photo in (toy.collection[name], toy.folder / "images" / name, str(toy.folder / "images" / name)):
        with pytest.raises(CollectionError) as caught:
            five.add(photo)
        assert str(caught.value) == wanted
    with pytest.raises(CollectionError) as caught:
        five.add(dataclasses.replace(toy.collection[NEW], name=name))
    assert str(caught.value) == f"There is another photo '{name}' in this alignment already; rename the new one."


def test_what_is_no_photo_is_refused(five, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photo")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("RGB", (1, 5000)).save(tmp_path / "line.png")
    for name in ("notes.jpg", "folder.jpg", "missing.jpg", "line.png"):
        with pytest.raises(CollectionError, match=name.replace(".", r"\.")):
            five.add(tmp_path / name)


@pytest.mark.parametrize("size", [(200, 150), (16, 16), (300, 20)])
@pytest.mark.parametrize("kind", ["black", "noise"])
def test_a_photo_that_shows_nothing_is_placed_without_confidence_or_refused(five, tmp_path, size, kind):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    try:
        found = five.add(tmp_path / "odd.png")
    except AlignmentError as error:
        assert str(error) == "Nothing in 'odd.png' can be matched with the others; is it the same object?"
        return
    answer = found.transfer([[size[0] / 2, size[1] / 2]], source="odd.png", target=five.names[0])
    assert bool(answer.points.isfinite().all())
    usual = float(five.confidence[five.foreground > 0.5].mean())
    objects = found.foreground[-1] > 0.5
    assert not objects.any() or float(found.confidence[-1][objects].mean()) < 0.6 * usual


def test_an_alignment_of_a_backbone_that_is_not_known_here_says_so(toy, five):
    strange = dataclasses.replace(five, backbone="dino-vits99")
    with pytest.raises(BackboneError, match=r"^There is no backbone 'dino-vits99'; choose"):
        strange.add(toy.collection[NEW])


def test_a_masked_collection_takes_a_photo_without_a_mask(toy):
    masked = load_collection(toy.folder / "images", masks=toy.folder / "masks")
    alignment = align(Collection(masked.root, masked.photos[:NEW]), toy.config, cache=toy.cache)
    found = alignment.add(toy.collection[NEW])
    assert mask_iou(found.mask(toy.truth.names[NEW]) > 0, toy.truth.photos[NEW].mask) > 0.6
    assert np.mean(ways(toy, found)[0] < 0.1) > 0.85


# --- figures and warnings


def test_figures_are_near_those_of_a_full_fit(toy, six):
    for name, near in (("confidence", 0.05), ("pair_agreement", 0.05), ("agreeing_matches", 0.03)):
        assert six.quality[name] == pytest.approx(toy.alignment.quality[name], abs=near), name
    full = toy.alignment.quality["matches_per_pair"]
    assert six.quality["matches_per_pair"] == pytest.approx(full, rel=0.25)


def test_a_warning_that_is_no_longer_true_is_gone(toy, five):
    confidence = five.confidence * torch.tensor([1, 1, 1, 1, 0.1])[:, None, None]
    fits = photo_fits(confidence.flatten(1), five.space.foreground)
    doubtful = dataclasses.replace(
        five, confidence=confidence, warnings=(*fit_warnings(five.names, fits), "Something else.")
    )
    assert len(doubtful.warnings) == 2
    found = doubtful.add(toy.collection[NEW])
    after = photo_fits(found.confidence.flatten(1), found.space.foreground)
    assert found.warnings == ("Something else.", *fit_warnings(found.names, after))
    assert len(found.warnings) == 2 and found.warnings[1] != doubtful.warnings[0]  # the usual fit is another one now


def test_the_figures_of_an_added_photo_are_saved(six, tmp_path):
    six.save(tmp_path / "run")
    found = load_alignment(tmp_path / "run")
    assert (found.quality, found.warnings, found.pairs) == (six.quality, six.warnings, six.pairs)


def test_two_new_photos_of_one_name_are_refused(toy, five, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(toy.folder / "images" / toy.truth.names[NEW], tmp_path / folder / "new.jpg")
    with pytest.raises(CollectionError) as caught:
        five.add(tmp_path / "a" / "new.jpg", tmp_path / "b" / "new.jpg")
    assert str(caught.value) == "Two of the new photos are called 'new.jpg'; rename one."


def test_the_photo_that_can_not_be_matched_is_named(toy, five):
    nothing = dataclasses.replace(five, space=dataclasses.replace(five.space, valid=five.space.valid & False))
    with pytest.raises(AlignmentError) as caught:
        nothing.add(toy.collection[NEW])
    name = toy.truth.names[NEW]
    assert str(caught.value) == f"Nothing in '{name}' can be matched with the others; is it the same object?"
