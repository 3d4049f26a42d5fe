"""Turned, mirrored and foreign photos from files to answers: put right, named, added, saved and loaded."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from changed_photos import AS_IT_WAS, Change, changed_collection, changed_errors
from PIL import Image

from asic3d.adding import add_photos
from asic3d.alignment import align, load_alignment
from asic3d.backbones import load_backbone
from asic3d.collection import load_collection
from asic3d.errors import AlignmentError, StorageError
from asic3d.features import extract_features, extract_photo

# Strangers are made of noise, which is said of them.
pytestmark = pytest.mark.filterwarnings("ignore:Nothing but grain:asic3d.errors.CollectionWarning")
CHANGES = {1: Change(quarters=1), 3: Change(mirrored=True, quarters=2), 4: Change(mirrored=True)}
EVERYTHING_OFF = {"turns": False, "flips": False, "outliers": False}


@pytest.fixture(scope="module")
def changed(toy, tmp_path_factory):
    return changed_collection(toy, tmp_path_factory.mktemp("changed") / "photos", CHANGES)


@pytest.fixture(scope="module")
def right(toy, changed):
    """The changed photos, aligned."""
    return align(changed, toy.config, cache=toy.cache)


def share(errors: np.ndarray) -> float:
    """PCK@0.1."""
    return float(np.mean(errors < 0.1))


# --- turned and mirrored photos


def test_changed_photos_are_found_and_put_right(toy, changed, right):
    assert right.turns == tuple(CHANGES.get(index, AS_IT_WAS).turns for index in range(6))
    assert right.mirrored == tuple(CHANGES.get(index, AS_IT_WAS).mirrored for index in range(6))
    assert right.outliers == ()
    assert right.sizes == changed.sizes
    plain = share(toy.errors(toy.alignment, toy.alignment.transfer))
    assert share(changed_errors(toy, right.transfer, CHANGES)) > plain - 0.05 > 0.8


@pytest.mark.parametrize(
    ("setting", "photos"), [("turns", [0, 1, 2, 5]), ("flips", [0, 2, 4, 5])], ids=lambda value: str(value)
)
def test_without_the_setting_they_are_not(toy, changed, right, setting, photos):
    config = dataclasses.replace(toy.config, **{setting: False})
    wrong = align(changed, config, cache=toy.cache)
    assert not any(wrong.turns if setting == "turns" else wrong.mirrored)
    with_it, without = (
        changed_errors(toy, a.transfer, CHANGES, photos, [photos[1 + (setting == "flips")]]) for a in (right, wrong)
    )
    assert share(with_it) > share(without) + 0.2


def test_people_are_told_what_was_done(toy, right):
    names = right.names
    assert right.warnings[-2:] == (
        "Turned for the alignment, because most others stand: "
        f"'{names[1]}' (on its left side), '{names[3]}' (upside down). Pixels and points stay as they are.",
        f"Mirrored for the alignment, because most others face the other way: '{names[3]}', '{names[4]}'. If what they "
        "show is another side of one and the same object, align with --set flips=false.",
    )
    assert not any("for the alignment" in text for text in toy.alignment.warnings)


def test_photos_that_all_stand_are_aligned_as_if_nobody_had_looked(toy):
    plain = align(toy.collection, dataclasses.replace(toy.config, **EVERYTHING_OFF), cache=toy.cache)
    for part in ("canonical", "descriptors", "foreground"):
        assert torch.equal(getattr(plain.space, part), getattr(toy.alignment.space, part)), part
    assert toy.alignment.turns == plain.turns == (0,) * 6
    assert toy.alignment.mirrored == plain.mirrored == (False,) * 6
    assert toy.alignment.outliers == plain.outliers == ()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_features_of_a_turned_photo_are_those_of_the_photo_that_was_turned_first(toy, tmp_path, quarters):
    backbone = load_backbone("efficientnet-lite0", sides=(64, 96))
    photo = toy.collection.photos[1]  # higher than wide
    first = dataclasses.replace(photo, pixels=np.ascontiguousarray(np.rot90(photo.pixels, quarters)))
    wanted = [torch.rot90(tap, -quarters, (1, 2)) for tap in extract_photo(first, backbone).taps]
    for _ in range(2):  # computed, then from the cache
        found = extract_photo(photo, backbone, tmp_path, turns=quarters)
        for one, other in zip(found.taps, wanted, strict=True):
            assert torch.equal(one, other)
    assert [path.name for path in (tmp_path / "features").iterdir()] == [
        f"{photo.sha256}-{backbone.fingerprint}-turn{quarters}.safetensors"
    ]
    maps = extract_features(toy.collection, backbone, toy.config, turns=torch.tensor([0, quarters, 0, 0, 0, 0]))
    assert maps.quarters.tolist() == [0, quarters, 0, 0, 0, 0]
    assert bool(maps.valid[1, :, 3].logical_not().all()), "cells stay those of the photo as it is"


def test_features_of_a_mirrored_photo_are_those_of_its_mirror_image(toy, tmp_path):
    backbone = load_backbone("efficientnet-lite0", sides=(64, 96))
    photo = toy.collection.photos[1]
    first = dataclasses.replace(photo, pixels=np.ascontiguousarray(np.rot90(photo.pixels, 1)[:, ::-1]))
    wanted = [torch.rot90(tap.flip(2), -1, (1, 2)) for tap in extract_photo(first, backbone).taps]
    for _ in range(2):  # computed, then from the cache
        found = extract_photo(photo, backbone, tmp_path, turns=1, mirrored=True)
        for one, other in zip(found.taps, wanted, strict=True):
            assert torch.equal(one, other)
    assert [path.name for path in (tmp_path / "features").iterdir()] == [
        f"{photo.sha256}-{backbone.fingerprint}-turn1-mirrored.safetensors"
    ]


@pytest.mark.parametrize("index", sorted(CHANGES))
def test_changed_photos_are_described_as_if_nothing_was_done_to_them(toy, right, index):
    grid, change = toy.config.grid, CHANGES[index]
    plain, found = (a.features[index].unflatten(0, (grid, grid)).float() for a in (toy.alignment, right))
    valid = toy.alignment.space.valid[index].reshape(grid, grid)
    undone = torch.rot90(found, change.turns)
    undone = undone.flip(1) if change.mirrored else undone
    assert torch.nn.functional.cosine_similarity(undone, plain, dim=2)[valid].min() > 0.99


# --- photos of something else


@pytest.fixture(scope="module")
def with_strangers(toy, tmp_path_factory):
    """The toy's photos and, in the order of names, a stranger before and one after the first three."""
    folder = tmp_path_factory.mktemp("strangers") / "photos"
    changed_collection(toy, folder, {})
    generator = np.random.default_rng(0)
    for name, block in (("aaa.png", 20), ("photo_03.png", 12)):
        blocks = generator.integers(0, 256, (180 // block, 240 // block, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(block, 0).repeat(block, 1)).save(folder / name)
    return load_collection(folder)


@pytest.fixture(scope="module")
def screened(toy, with_strangers):
    return align(with_strangers, toy.config, cache=toy.cache)


def test_strangers_are_named(with_strangers, screened):
    assert screened.outliers == ("aaa.png", "photo_03.png")
    assert screened.names == with_strangers.names
    for name in screened.outliers:
        assert sum(text.startswith(f"'{name}' seems to show something else") for text in screened.warnings) == 1


def test_the_others_are_aligned_as_if_the_strangers_were_not_there(toy, with_strangers, screened):
    kept = [index for index, name in enumerate(with_strangers.names) if name not in screened.outliers]
    photos = tuple(with_strangers.photos[index] for index in kept)
    alone = align(dataclasses.replace(with_strangers, photos=photos), toy.config, cache=toy.cache)
    assert torch.equal(screened.space.canonical[kept], alone.space.canonical)
    assert torch.equal(screened.space.descriptors[kept], alone.space.descriptors)
    assert torch.equal(screened.features[kept], alone.features)
    for one, other in zip(kept, range(len(kept)), strict=True):
        assert np.array_equal(screened.masks[one], alone.masks[other])


def test_nobody_relies_on_a_stranger(screened):
    fits = (screened.confidence * screened.foreground).sum((1, 2)) / screened.foreground.sum((1, 2)).clamp(min=1e-6)
    strange = torch.tensor([name in screened.outliers for name in screened.names])
    assert fits[strange].max() < 0.3 * fits[~strange].min()
    rest = [name for name in screened.names if name not in screened.outliers]
    for name in screened.outliers:
        into = screened.transfer([[120, 90], [100, 60]], source=rest[0], target=name)
        back = screened.transfer([[120, 90], [100, 60]], source=name, target=rest[0])
        assert into.confidence.max() < 0.3 and back.confidence.max() < 0.3


def test_strangers_have_their_say_where_they_are_wanted(toy, with_strangers):
    config = dataclasses.replace(toy.config, outliers=False)
    assert align(with_strangers, config, cache=toy.cache).outliers == ()


@pytest.mark.parametrize(("kind", "size"), [("black", (240, 180)), ("noise", (16, 16)), ("noise", (300, 20))])
def test_a_stranger_is_placed_whatever_it_shows(toy, tmp_path, kind, size):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    if kind == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "odd.png")
    found = add_photos(toy.alignment, [tmp_path / "odd.png"], stranger=True)
    assert found.outliers == ("odd.png",)
    assert bool(found.canonical.isfinite().all() and found.confidence.isfinite().all())
    assert found.foreground[-1].max() < 0.1 and found.confidence[-1].max() < 0.1


def test_a_stranger_without_matches_is_placed(toy, tmp_path, monkeypatch):
    from asic3d import adding

    def none_matches(*_):
        raise AlignmentError("Nothing in the new photo can be matched with the others; is it the same object?")

    monkeypatch.setattr(adding, "placed", none_matches)
    Image.new("RGB", (60, 40), (10, 200, 90)).save(tmp_path / "odd.png")
    with pytest.raises(AlignmentError):
        add_photos(toy.alignment, [tmp_path / "odd.png"])
    assert bool(add_photos(toy.alignment, [tmp_path / "odd.png"], stranger=True).canonical.isfinite().all())


# --- adding


@pytest.fixture(scope="module")
def five(toy, tmp_path_factory):
    collection = changed_collection(toy, tmp_path_factory.mktemp("five") / "photos", {}, range(5))
    return align(collection, toy.config, cache=toy.cache)


def added(toy, alignment, folder, change):
    """The sixth photo, changed, added to an alignment."""
    changed_collection(toy, folder, {5: change}, [5, 4])
    return alignment.add(folder / f"{toy.truth.names[5]}.png")


@pytest.fixture(scope="module")
def as_it_was(toy, five, tmp_path_factory):
    """PCK@0.1 of the points that go to the sixth photo, added upright."""
    six = added(toy, five, tmp_path_factory.mktemp("upright") / "photos", AS_IT_WAS)
    assert (six.turns, six.mirrored) == ((0,) * 6, (False,) * 6)
    return share(changed_errors(toy, six.transfer, {}, range(6), [5]))


@pytest.mark.parametrize("change", [Change(quarters=1), Change(quarters=2), Change(True), Change(True, 3)], ids=str)
def test_a_changed_photo_is_added_as_well_as_it_was(toy, five, as_it_was, tmp_path, change):
    six = added(toy, five, tmp_path / "photos", change)
    assert (six.turns[5], six.mirrored[5]) == (change.turns, change.mirrored)
    assert share(changed_errors(toy, six.transfer, {5: change}, range(6), [5])) > as_it_was - 0.08 > 0.75


def test_a_changed_photo_is_not_put_right_where_that_is_not_wanted(toy, five, tmp_path):
    strict = dataclasses.replace(five, config=dataclasses.replace(five.config, turns=False, flips=False))
    six = added(toy, strict, tmp_path / "photos", Change(True, 1))
    assert (six.turns[5], six.mirrored[5]) == (0, False)


# --- the run folder


def test_how_photos_stand_is_saved_and_loaded(right, tmp_path):
    right = dataclasses.replace(right, outliers=right.names[5:])
    right.save(tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["photos"]
    beyond = [{k: entry[k] for k in ("turned", "mirrored", "outlier") if k in entry} for entry in facts]
    assert beyond == [{}, {"turned": 3}, {}, {"turned": 2, "mirrored": True}, {"mirrored": True}, {"outlier": True}]
    found = load_alignment(tmp_path / "run")
    assert (found.turns, found.mirrored, found.outliers) == (right.turns, right.mirrored, right.outliers)


HOSTILE = [
    *(("turned", value) for value in (7, -1, True, 1.5, "x", None, [], {})),
    *(("mirrored", value) for value in (1, "yes", None, [])),
    *(("outlier", value) for value in (1, "yes", None, {})),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=repr)
def test_what_can_not_be_is_refused(toy, tmp_path, key, value):
    toy.alignment.save(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    facts["photos"][2][key] = value
    path.write_text(json.dumps(facts))
    wanted = rf"^The run in '.*' is damaged: a photo's '{key}' is {re.escape(repr(value))}\. Align .* --overwrite\.$"
    with pytest.raises(StorageError, match=wanted):
        load_alignment(tmp_path / "run")
