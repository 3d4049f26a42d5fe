"""The whole way from photos to an alignment: the same every time, after an interruption, and for bad input."""

import dataclasses
import shutil
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from asic3d.alignment import Alignment, align
from asic3d.collection import Collection, load_collection
from asic3d.config import AlignmentConfig
from asic3d.devices import choose_device
from asic3d.errors import (
    AlignmentError,
    CheckpointWarning,
    CollectionError,
    CollectionWarning,
    ConfigError,
    StorageError,
)
from asic3d.judgement import photo_fits
from asic3d.storage import write_safetensors

BACKBONE = "efficientnet-lite0"
ROUNDS = 8  # of matching and fitting, with the default settings


def tensors_of(alignment: Alignment) -> dict[str, torch.Tensor]:
    space, placing = alignment.space, alignment.placing
    return {
        "descriptors": space.descriptors,
        "canonical": space.canonical,
        "foreground": space.foreground,
        "valid": space.valid,
        "features": alignment.features,
        "confidence": alignment.confidence,
        "projection": placing.projection,
        "mean": placing.mean,
        "classifier": placing.classifier,
        **{f"centre{i}": centre for i, centre in enumerate(placing.centres)},
        **{f"mask{i}": torch.from_numpy(mask) for i, mask in enumerate(alignment.masks)},
    }


def assert_same_bits(one: Alignment, other: Alignment) -> None:
    left, right = tensors_of(one), tensors_of(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    assert one.quality == other.quality
    assert one.warnings == other.warnings


# --- what an alignment holds


def test_shapes_ranges_and_names(toy):
    found = toy.alignment
    assert found.names == toy.truth.names
    assert found.sizes == tuple(photo.size for photo in toy.truth.photos)
    assert found.canonical.shape == (6, 40, 40, 2)
    assert found.foreground.shape == found.confidence.shape == (6, 40, 40)
    for values in (found.foreground, found.confidence):
        assert 0 <= float(values.min()) < float(values.max()) <= 1
    assert not any(values.requires_grad for values in tensors_of(found).values())
    assert found.backbone == BACKBONE
    assert found.device == "cpu"
    assert set(found.timings) == {"features", "foreground", "canonical", "confidence"}
    assert all(np.isfinite(value) for value in found.quality.values())


def test_the_objects_lie_around_the_origin_at_a_size_of_one_to_two(toy):
    objects = toy.alignment.foreground > 0.5
    at = toy.alignment.canonical[objects]
    assert at.mean(0).norm() < 0.3
    assert 0.8 < float((at.quantile(0.95, dim=0) - at.quantile(0.05, dim=0)).mean()) < 2.5


def test_the_reduced_masks_are_the_masks_before_their_edges_were_drawn(toy):
    for name, photo, soft in zip(toy.alignment.names, toy.truth.photos, toy.alignment.masks, strict=True):
        assert soft.dtype == np.float32
        assert 0 <= soft.min() < soft.max() <= 1
        full = cv2.resize(soft, photo.size)
        assert ((full > 0.5) == (toy.alignment.mask(name) > 0)).mean() > 0.97


def test_the_fit_of_a_photo_is_the_mean_confidence_of_its_object():
    confidence = torch.tensor([[0.5, 1.0, 0.0], [0.3, 0.3, 0.3]])
    objects = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert photo_fits(confidence, objects).tolist() == pytest.approx([1 / 1.5, 0])


# --- points


def test_points_may_come_as_any_array(toy):
    a, b = toy.alignment.names[:2]
    rows = [[100, 80], [60.5, 70.25]]
    wanted = toy.alignment.transfer(rows, source=a, target=b)
    for points in (np.array(rows), np.array(rows, np.float32), torch.tensor(rows), tuple(map(tuple, rows))):
        found = toy.alignment.transfer(points, source=a, target=b)
        torch.testing.assert_close(found.points, wanted.points)


@pytest.mark.parametrize("points", [[], (), np.empty((0, 2)), torch.zeros(0, 2)])
@pytest.mark.parametrize("target", [0, 1])
def test_no_points(toy, points, target):
    names = toy.alignment.names
    for transfer in (toy.alignment.transfer, toy.alignment.nearest_neighbour):
        found = transfer(points, source=names[0], target=names[target])
        assert found.points.shape == (0, 2)
        assert found.confidence.shape == found.cycle_error.shape == (0,)


SHAPE = "Points must be an array of shape (n, 2), x and y in pixels; this one is {}."
NUMBERS = "Points must be numbers, one x and one y for each: an array of shape (n, 2)."


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1, 2], SHAPE.format("(2,)")),
        ([[1, 2, 3]], SHAPE.format("(1, 3)")),
        (5, SHAPE.format("()")),
        ([["a", "b"]], NUMBERS),
        ([[1, 2], [3]], NUMBERS),
        ([[1, None], [object(), 2]], NUMBERS),
        ([[1, np.nan]], "Points must be finite numbers; some are NaN or infinite."),
        ([[np.inf, 0]], "Points must be finite numbers; some are NaN or infinite."),
    ],
)
def test_points_that_are_none(toy, points, message):
    a, b = toy.alignment.names[:2]
    with pytest.raises(AlignmentError) as caught:
        toy.alignment.transfer(points, source=a, target=b)
    assert str(caught.value) == message


def test_the_points_given_are_not_changed_and_not_kept(toy):
    a = toy.alignment.names[0]
    points = np.array([[3.0, 4.0]])
    found = toy.alignment.transfer(points, source=a, target=a)
    points[:] = 9
    assert found.points.tolist() == [[3, 4]]


def test_an_unknown_photo_is_named_with_those_that_look_like_it(toy):
    wanted = r"^There is no photo 'photo_1.jpg' in the collection\. Did you mean "
    with pytest.raises(CollectionError, match=wanted):
        toy.alignment.transfer([[1, 2]], source="photo_1.jpg", target="photo_02.jpg")
    with pytest.raises(CollectionError, match=wanted):
        toy.alignment.dense("photo_02.jpg", "photo_1.jpg")
    with pytest.raises(CollectionError, match=wanted):
        toy.alignment.mask("photo_1.jpg")


def test_a_dense_map_agrees_with_single_points(toy):
    a, b = toy.alignment.names[:2]
    found = toy.alignment.dense(a, b)
    points, _ = toy.pair(a, b)
    at, confidence = found.at(torch.from_numpy(points))
    single = toy.alignment.transfer(points, source=a, target=b)
    assert (at - single.points).norm(dim=1).median() < 1.5
    assert (confidence - single.confidence).abs().median() < 0.1


# --- the same every time


def test_two_runs_are_the_same_to_the_last_bit_with_and_without_the_cache(toy, tmp_path):
    three = Collection(toy.collection.root, toy.collection.photos[:3])
    cached = align(three, toy.config, cache=toy.cache)
    assert_same_bits(align(three, toy.config), cached)
    assert_same_bits(align(three, toy.config, cache=tmp_path), cached)
    assert_same_bits(align(three, toy.config, cache=tmp_path), cached)


def test_the_seed_decides_the_random_draws(toy):
    other = align(toy.collection, dataclasses.replace(toy.config, seed=1), cache=toy.cache)
    assert not torch.equal(other.space.foreground, toy.alignment.space.foreground)
    assert np.mean(toy.errors(other, other.transfer) < 0.1) > 0.9


def test_an_alignment_leaves_the_random_numbers_of_others_alone(toy):
    torch.manual_seed(3)
    np.random.seed(3)
    wanted = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    align(Collection(toy.collection.root, toy.collection.photos[:2]), toy.config, cache=toy.cache)
    assert (torch.rand(1), np.random.rand()) == wanted


# --- interrupted


class Stop(Exception):
    pass


def stop_at(stage, done):
    def report(progress):
        if (progress.stage, progress.done) == (stage, done):
            raise Stop

    return report


def rounds_of(toy, **options):
    """The alignment, and how many rounds of matching it took."""
    seen = []
    found = align(toy.collection, toy.config, cache=toy.cache, progress=seen.append, **options)
    return found, sum(progress.stage in ("matching", "canonical") for progress in seen)


def interrupt(toy, checkpoint, stage="canonical", done=2, config=None, collection=None):
    with pytest.raises(Stop):
        align(
            collection or toy.collection,
            config or toy.config,
            cache=toy.cache,
            checkpoint=checkpoint,
            progress=stop_at(stage, done),
        )


@pytest.mark.parametrize(
    ("stage", "done", "left"),
    [("features", 3, 8), ("foreground", 2, 8), ("matching", 1, 7), ("matching", 3, 5), ("canonical", 4, 1)],
)
def test_an_interrupted_alignment_goes_on_to_the_same_bits(toy, tmp_path, stage, done, left):
    checkpoint = tmp_path / "fit.safetensors"
    interrupt(toy, checkpoint, stage, done)
    found, rounds = rounds_of(toy, checkpoint=checkpoint)
    assert rounds == left
    assert_same_bits(found, toy.alignment)
    assert not list(tmp_path.iterdir()), "the checkpoint is deleted at the end, and nothing else is left"


def test_ctrl_c_comes_through(toy, tmp_path):
    def report(progress):
        if progress.stage == "canonical":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(toy.collection, toy.config, cache=toy.cache, checkpoint=tmp_path / "fit", progress=report)
    assert [path.name for path in tmp_path.iterdir()] == ["fit"]


def test_the_checkpoint_of_other_settings_is_not_used(toy, tmp_path):
    interrupt(toy, tmp_path / "fit", config=dataclasses.replace(toy.config, bending=0.01))
    with pytest.warns(CheckpointWarning, match="is of other photos or settings"):
        found, rounds = rounds_of(toy, checkpoint=tmp_path / "fit")
    assert rounds == ROUNDS
    assert_same_bits(found, toy.alignment)


def test_the_checkpoint_of_other_photos_is_not_used(toy, tmp_path):
    photos = (*toy.collection.photos[:-1], dataclasses.replace(toy.collection.photos[-1], sha256="0" * 64))
    interrupt(toy, tmp_path / "fit", collection=Collection(toy.collection.root, photos))
    with pytest.warns(CheckpointWarning, match="is of other photos or settings"):
        found, rounds = rounds_of(toy, checkpoint=tmp_path / "fit")
    assert rounds == ROUNDS
    assert_same_bits(found, toy.alignment)


def test_the_checkpoint_of_other_masks_is_not_used(toy, tmp_path):
    masked = load_collection(toy.folder / "images", masks=toy.folder / "masks")
    interrupt(toy, tmp_path / "fit", collection=masked)
    with pytest.warns(CheckpointWarning, match="is of other photos or settings"):
        found, rounds = rounds_of(toy, checkpoint=tmp_path / "fit")
    assert rounds == ROUNDS
    assert_same_bits(found, toy.alignment)


@pytest.mark.parametrize("content", ["half", "another file", "nothing"])
def test_a_damaged_checkpoint_is_not_used(toy, tmp_path, content):
    checkpoint = tmp_path / "fit"
    interrupt(toy, checkpoint)
    whole = checkpoint.read_bytes()
    if content == "another file":
        write_safetensors(checkpoint, {"affine": torch.zeros(6, 3, 2)})
    else:
        checkpoint.write_bytes(whole[: len(whole) // 2] if content == "half" else b"")
    with pytest.warns(CheckpointWarning, match="The fit begins anew"):
        found, rounds = rounds_of(toy, checkpoint=checkpoint)
    assert rounds == ROUNDS
    assert_same_bits(found, toy.alignment)


# --- bad input


def photos_in(folder, **pictures) -> Collection:
    """A collection of these pictures, (h, w, 3) uint8 arrays; its warnings are not of interest here."""
    folder.mkdir(exist_ok=True)
    for name, pixels in pictures.items():
        Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / f"{name}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollectionWarning)
        return load_collection(folder)


def aligned(collection, **settings) -> Alignment:
    return align(collection, AlignmentConfig(backbone=BACKBONE, device="cpu", **settings))


def assert_answers(alignment) -> None:
    """Every pair gives finite points on, near and far from the photos, and every photo has a mask."""
    points = [[0, 0], [50, 40], [-700, 1e6]]
    for source in alignment.names:
        for target in alignment.names:
            found = alignment.transfer(points, source=source, target=target)
            assert bool(found.points.isfinite().all() & found.cycle_error.isfinite().all())
            assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
        width, height = alignment.sizes[alignment.collection.index(source)]
        assert alignment.mask(source).shape == (height, width)
    assert all(np.isfinite(value) for value in alignment.quality.values())


@pytest.fixture(scope="module")
def one(toy) -> np.ndarray:
    return toy.truth.photos[0].image


def test_two_photos_are_enough(toy):
    found = align(Collection(toy.collection.root, toy.collection.photos[:2]), toy.config, cache=toy.cache)
    assert_answers(found)
    errors = toy.errors(found, found.transfer)
    assert np.mean(errors < 0.1) > 0.75
    assert len(errors) > 10


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_photos(toy, count):
    few = Collection(toy.collection.root, toy.collection.photos[:count])
    with pytest.raises(AlignmentError) as caught:
        align(few, toy.config)
    assert str(caught.value) == f"An alignment needs two photos or more; this collection has {count}."


def test_photos_that_are_all_identical_map_to_themselves(tmp_path, one):
    found = aligned(photos_in(tmp_path, a=one, b=one, c=one))
    assert_answers(found)
    y, x = np.mgrid[20:170:10, 20:230:10]
    points = np.stack([x, y], -1).reshape(-1, 2)
    off = (found.transfer(points, source="a.png", target="c.png").points - torch.from_numpy(points)).norm(dim=1)
    assert off.median() < 1.5
    assert off.max() < 12  # two cells


@pytest.mark.parametrize("level", [0, 255])
def test_photos_of_one_colour(tmp_path, level):
    pictures = {name: np.full((90, 120 + i, 3), level) for i, name in enumerate("abc")}
    assert_answers(aligned(photos_in(tmp_path, **pictures)))


def test_a_black_photo_among_others_is_reported(tmp_path, toy):
    pictures = {f"{i}": photo.image for i, photo in enumerate(toy.truth.photos[:3])}
    found = aligned(photos_in(tmp_path, **pictures, black=np.zeros((100, 140, 3))))
    assert_answers(found)
    assert found.outliers == ("black.png",)
    assert any(text.startswith("'black.png' seems to show something else") for text in found.warnings)


def test_noise_is_aligned_without_an_exception(tmp_path):
    generator = np.random.default_rng(0)
    pictures = {name: generator.integers(0, 256, (80, 110, 3)) for name in "abc"}
    assert_answers(aligned(photos_in(tmp_path, **pictures)))


def test_tiny_and_extremely_narrow_photos_are_left_out(tmp_path, toy):
    pictures = {f"p{i}": photo.image for i, photo in enumerate(toy.truth.photos[:2])}
    folder = tmp_path / "photos"
    collection = photos_in(folder, **pictures, dot=np.zeros((1, 1, 3)), line=np.zeros((5000, 1, 3)))
    assert collection.names == ("p0.png", "p1.png")
    assert collection.left_out == {
        "dot.png": "it is 1 x 1 pixels; each side needs at least 16",
        "line.png": "it is 1 x 5000 pixels; each side needs at least 16",
    }
    assert_answers(aligned(collection))


def test_small_and_narrow_photos_are_aligned(tmp_path, one):
    found = aligned(photos_in(tmp_path, whole=one, low=one[60:80], thin=one[:, 100:118], small=one[50:66, 80:96]))
    assert_answers(found)


def test_given_masks_are_the_masks(toy):
    masked = load_collection(toy.folder / "images", masks=toy.folder / "masks")
    found = align(masked, toy.config, cache=toy.cache)
    for name, photo in zip(found.names, toy.truth.photos, strict=True):
        np.testing.assert_array_equal(found.mask(name) > 0, photo.mask)
    assert np.mean(toy.errors(found, found.transfer) < 0.1) > 0.9
    assert found.confidence[found.foreground == 0].max() == 0


def test_an_unwritable_checkpoint_is_an_error_of_ours(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be written"):
        align(toy.collection, toy.config, cache=toy.cache, checkpoint=tmp_path / "file" / "fit")


def test_a_photo_that_changed_since_it_was_loaded_has_no_full_mask(toy, tmp_path):
    shutil.copytree(toy.folder / "images", tmp_path / "images")
    shutil.copytree(toy.folder / "masks", tmp_path / "masks")
    masked = load_collection(tmp_path / "images", masks=tmp_path / "masks")
    alignment = dataclasses.replace(toy.alignment, collection=masked)
    (tmp_path / "masks" / "photo_01.jpg.png").unlink()
    with pytest.raises(CollectionError, match=r"photo_01\.jpg"):
        alignment.mask("photo_01.jpg")


# --- devices


def test_the_device_that_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="torch finds 1 CUDA device here"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "There is no device 'gpu'; choose 'auto', 'cpu', 'cuda' or 'cuda:N'."),
        ("", "There is no device ''; choose 'auto', 'cpu', 'cuda' or 'cuda:N'."),
        ("meta", "asic3d runs on 'cpu' and 'cuda', not on 'meta'; use --device auto (device= in Python)."),
        (
            "cuda",
            "The device 'cuda' was asked for, and torch finds no CUDA devices here; use --device auto or cpu "
            "(device= in Python).",
        ),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, name, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        choose_device(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda toy: ([1, 2], None), "Give a folder of photos, or what asic3d.load_collection returns, not list."),
        (lambda toy: (toy.collection, {"seed": 1}), "The settings must be an asic3d.AlignmentConfig, not dict."),
    ],
)
def test_what_is_no_collection_and_no_settings_is_said(toy, wrong, sentence):
    with pytest.raises(AlignmentError) as caught:
        align(*wrong(toy))
    assert str(caught.value) == sentence
