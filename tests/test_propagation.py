import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from planted_alignment import CENTRES, RADII, SIZES, plant

from asic3d.correspondences import DenseMap
from asic3d.errors import CollectionError, EditError, EditWarning
from asic3d.propagation import backward_map, painted, propagate


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted") / "photos")


def disc(size: tuple[int, int], centre, radius: float, colour=(255, 0, 0)) -> np.ndarray:
    """An antialiased disc: (h, w, 4) uint8 RGBA."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    alpha = np.clip(radius - np.hypot(x - centre[0], y - centre[1]) + 0.5, 0, 1)
    layer = np.zeros((size[1], size[0], 4), np.uint8)
    layer[..., :3] = colour
    layer[..., 3] = np.rint(255 * alpha)
    return layer


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two opacities."""
    one, other = one.astype(float), other.astype(float)
    return np.minimum(one, other).sum() / np.maximum(one, other).sum()


def middle(alpha: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    return np.array([(x * alpha).sum(), (y * alpha).sum()]) / alpha.sum()


def test_a_planted_map_carries_the_edit_exactly(planted):
    place, radius = np.array([0.2, -0.1]), 0.45  # in the canonical plane
    edit = disc(SIZES[0], place * RADII[0] + CENTRES[0], radius * RADII[0])
    layers = dict(planted.propagate(edit, source="a.jpg"))
    assert list(layers) == ["a.jpg", "b.jpg", "c.jpg"]
    for photo, name in ((1, "b.jpg"), (2, "c.jpg")):
        truth = disc(SIZES[photo], place * RADII[photo] + CENTRES[photo], radius * RADII[photo])
        assert layers[name].shape == truth.shape and layers[name].dtype == np.uint8
        assert np.linalg.norm(middle(layers[name][..., 3]) - middle(truth[..., 3])) < 0.1
        assert overlap(layers[name][..., 3], truth[..., 3]) > 0.93
        assert (layers[name][layers[name][..., 3] > 0, :3] == (255, 0, 0)).all()  # no dark fringe


def test_the_edited_photo_gets_the_edit_exactly(planted):
    edit = np.random.default_rng(0).integers(0, 256, (*SIZES[1][::-1], 4), dtype=np.uint8)
    assert np.array_equal(dict(planted.propagate(edit, source="b.jpg"))["b.jpg"], edit)


def test_nothing_is_painted_beside_the_object(planted):
    edit = np.full((*SIZES[0][::-1], 4), 255, np.uint8)
    layer = dict(planted.propagate(edit, source="a.jpg"))["b.jpg"]
    x, y = np.meshgrid(np.arange(SIZES[1][0]), np.arange(SIZES[1][1]))
    distance = np.hypot(x - CENTRES[1][0], y - CENTRES[1][1]) - RADII[1]
    assert layer[distance > 3, 3].max() == 0
    assert layer[distance < -5, 3].min() > 250


def test_a_transparent_edit_leaves_photos_as_they_are(planted):
    edit = np.full((*SIZES[0][::-1], 4), 200, np.uint8)
    edit[..., 3] = 0
    for name, layer in planted.propagate(edit, source="a.jpg"):
        pixels = planted.collection[name].pixels
        assert np.array_equal(painted(pixels, layer), pixels)


def test_pixels_beside_the_edit_are_untouched_and_those_under_it_replaced(planted):
    pixels = planted.collection["a.jpg"].pixels
    layer = disc(SIZES[0], (40, 30), 8, (1, 2, 3))
    result = painted(pixels, layer)
    assert np.array_equal(result[layer[..., 3] == 0], pixels[layer[..., 3] == 0])
    assert (result[layer[..., 3] == 255] == (1, 2, 3)).all()


def test_a_shrunk_edit_is_averaged_and_not_sampled():
    """A chessboard of single pixels becomes grey where the photo shows it at a quarter of the size."""
    size = (400, 400)
    x, y = np.meshgrid(np.arange(100), np.arange(100))
    points = torch.from_numpy(np.stack([x * 4 + 1.5, y * 4 + 1.5], -1)).float()
    dense = DenseMap(points, torch.ones(100, 100), (100, 100))

    class Shrunk:
        names, sizes = ("a", "b"), (size, (100, 100))
        collection = type("Names", (), {"index": staticmethod(lambda name: ("a", "b").index(name)), "absent": ()})

        def dense(self, source, target):
            return dense

        def mask(self, name):
            return np.full((100, 100), 255, np.uint8)

    edit = np.zeros((*size, 4), np.uint8)
    edit[::2, ::2] = edit[1::2, 1::2] = 255
    layer = dict(propagate(Shrunk(), edit, "a"))["b"]  # pyright: ignore[reportArgumentType]
    inner = layer[10:-10, 10:-10]
    assert np.abs(inner[..., 3].astype(int) - 128).max() <= 3
    assert (inner[..., :3] > 250).all()


def test_jumps_are_faded_and_outliers_not_followed():
    x, y = np.meshgrid(np.arange(80.0), np.arange(60.0))
    points = np.stack([x, y], -1)
    points[:, 40:, 0] += 300  # a jump
    points[20, 10] += 200  # one wrong answer
    dense = DenseMap(torch.from_numpy(points).float(), torch.full((60, 80), 0.9), (80, 60))
    found = backward_map(dense, 640)
    assert found.opacity[:, 39:41].max() < 0.05
    assert found.opacity[30, 20] > 0.95 and found.opacity[30, 60] > 0.95
    assert np.abs(found.points[20, 10] - (10, 20)).max() < 1
    assert np.abs(found.points[30, 60] - (360, 30)).max() < 1


def test_what_is_unsure_fades(planted):
    edit = disc(SIZES[0], CENTRES[0], 10)

    def opacity(confidence: float) -> int:
        class Unsure(type(planted)):
            def dense(self, source, target):
                found = super().dense(source, target)
                return replace(found, confidence=torch.full_like(found.confidence, confidence))

        unsure = Unsure(planted.collection, planted.canonical, planted.foreground, planted.confidence)
        return int(dict(unsure.propagate(edit, source="a.jpg"))["b.jpg"][..., 3].max())

    assert opacity(0.05) == 0
    assert 20 < opacity(0.18) < 235
    assert opacity(0.5) > 250


def test_where_a_map_turns_over_nothing_is_painted():
    x, y = np.meshgrid(np.arange(90.0), np.arange(50.0))
    folded = np.stack([np.where(x < 60, x, 120 - x), y], -1)
    dense = DenseMap(torch.from_numpy(folded).float(), torch.ones(50, 90), (90, 50))
    opacity = backward_map(dense, 90).opacity
    assert opacity[:, :50].min() > 0.9
    assert opacity[:, 66:].max() == 0


def test_a_photo_that_faces_the_other_way_is_painted_mirrored():
    x, y = np.meshgrid(np.arange(50.0), np.arange(50.0))
    dense = DenseMap(torch.from_numpy(np.stack([49 - x, y], -1)).float(), torch.ones(50, 50), (50, 50))
    found = backward_map(dense, 50)
    assert found.opacity.min() > 0.9
    assert np.abs(found.points[25, 10] - (39, 25)).max() < 0.1


# ---- the rendered toy ----------------------------------------------------------------------------------------------


def test_an_edit_of_the_rendered_toy_lands_where_the_truth_says(toy):
    """A disc on the flank, in every photo that shows most of it: against the exact surface and against the identity."""
    found, identity, errors = [], [], []
    for source in (0, 3):
        name = toy.alignment.names[source]
        photo = toy.truth.photos[source]
        rows, columns = np.nonzero(photo.mask)
        centre, radius = (np.median(columns), np.median(rows)), 0.13 * max(np.ptp(rows), np.ptp(columns))
        edit = disc(photo.size, centre, radius)
        layers = dict(toy.alignment.propagate(edit, source=name))
        for target, other in enumerate(toy.alignment.names):
            truth = true_opacity(toy, edit, target, source)
            if target == source or truth.sum() < 0.5 * 255 * np.pi * radius**2:
                continue
            alpha = layers[other][..., 3]
            errors.append(np.linalg.norm(middle(alpha) - middle(truth)) / max(toy.truth.photos[target].size))
            found.append(overlap(alpha, truth))
            still = Image.fromarray(edit[..., 3]).resize(toy.truth.photos[target].size)
            identity.append(overlap(np.asarray(still), truth))
    assert len(found) >= 6
    assert np.median(errors) < 0.02  # 5 of 240 pixels
    assert np.mean(found) > 0.5 > np.mean(identity) + 0.2


def true_opacity(toy, edit: np.ndarray, target: int, source: int) -> np.ndarray:
    """(h, w): the edit's opacity at the exact place of each pixel of the target."""
    there = toy.truth.correspondences(target, source)
    seen = np.isfinite(there).all(-1)
    x, y = np.rint(there[seen]).astype(int).T
    height, width = edit.shape[:2]
    truth = np.zeros(seen.shape)
    truth[seen] = edit[y.clip(0, height - 1), x.clip(0, width - 1), 3]
    return truth


# ---- files ---------------------------------------------------------------------------------------------------------


def layer_of(planted, path) -> np.ndarray:
    return next(iter(planted.propagate(path, source="a.jpg")))[1]


def test_edits_of_every_kind_are_read(planted, tmp_path):
    wanted = disc(SIZES[0], (40, 30), 10, (128, 128, 128))
    wanted[..., 3] = np.where(wanted[..., 3] > 127, 255, 0)
    grey = Image.fromarray(wanted)
    paletted = Image.fromarray(np.where(wanted[..., 3] > 0, 1, 3).astype(np.uint8)).convert("P")
    paletted.putpalette([7, 7, 7, 128, 128, 128, 9, 9, 9, 200, 0, 0])
    files = {}
    for name, image, options in (
        ("rgba.png", grey, {}),
        ("grey.png", grey.convert("LA"), {}),
        ("palette.png", paletted, {"transparency": 3}),
        ("deep.png", Image.fromarray(np.where(wanted[..., 3] > 0, 0x8080, 7).astype(np.uint16)), {}),
        ("a.webp", grey, {"lossless": True, "exact": True}),
        ("a.tif", grey, {}),
    ):
        files[name] = tmp_path / name
        image.save(files[name], **options)
    content = files["deep.png"].read_bytes()  # Pillow writes no transparency for 16 bits: the chunk is put in by hand
    chunk = b"tRNS\x00\x07"
    chunk = (2).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    files["deep.png"].write_bytes(content[:33] + chunk + content[33:])
    for name, path in files.items():
        found = layer_of(planted, path)
        inside = wanted[..., 3] > 0
        assert np.array_equal(found[..., 3], wanted[..., 3]), name
        assert np.abs(found[inside].astype(int) - wanted[inside]).max() <= 1, name


def test_the_orientation_of_an_edit_is_honoured(planted, tmp_path):
    wanted = disc(SIZES[0], (70, 20), 9)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(wanted).copy())  # to be turned clockwise
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(layer_of(planted, tmp_path / "turned.png"), wanted)


def test_an_edit_of_another_size_is_scaled_with_a_warning(planted, tmp_path):
    edit = disc((192, 144), (80.5, 60.5), 20)
    Image.fromarray(edit).save(tmp_path / "large.png")
    with pytest.warns(
        EditWarning, match="is 192 x 144 pixels, but the photo 'a.jpg' is 96 x 72 upright: it was scaled"
    ):
        found = layer_of(planted, tmp_path / "large.png")
    assert found.shape == (72, 96, 4)
    assert overlap(found[..., 3], disc((96, 72), (40, 30), 10)[..., 3]) > 0.97
    assert (found[found[..., 3] > 0, :3] == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: Image.new("RGBA", (72, 96)).save(path), "which has other proportions. Paint it over the whole"),
        (lambda path: Image.new("RGB", (96, 72)).save(path), "it has no transparency, so nothing says what is painted"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99), "the file is cut off"),
        (lambda path: path.write_text("no picture"), "it is not a photo"),
        (lambda path: path.mkdir(), "it can't be read"),
        (lambda path: None, "it can't be read (No such file or directory)"),
    ],
)
def test_edits_that_cant_be_used_are_refused_in_a_sentence(planted, tmp_path, make, sentence):
    make(tmp_path / "edit.png")
    with pytest.raises(EditError) as error:
        planted.propagate(tmp_path / "edit.png", source="a.jpg")
    assert sentence in str(error.value) and "edit.png" in str(error.value)


def test_a_png_that_claims_to_be_huge_is_refused_before_it_is_decoded(planted, tmp_path):
    Image.new("RGBA", (96, 72)).save(tmp_path / "bomb.png")
    content = bytearray((tmp_path / "bomb.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(EditError, match="it has 3600 megapixels; at most 500 are read"):
        planted.propagate(tmp_path / "bomb.png", source="a.jpg")


def test_arrays_of_another_kind_are_refused(planted):
    for wrong in (np.zeros((72, 96, 3), np.uint8), np.zeros((72, 96, 4)), np.zeros((0, 0, 4), np.uint8)):
        with pytest.raises(EditError, match=r"The edit must be \(h, w, 4\) uint8 RGBA"):
            planted.propagate(wrong, source="a.jpg")


def test_an_unknown_photo_is_named_at_once(planted):
    with pytest.raises(CollectionError, match=r"There is no photo 'x\.jpg'"):
        planted.propagate(np.zeros((72, 96, 4), np.uint8), source="x.jpg")
