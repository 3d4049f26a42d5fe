import io
import random
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from asic3d import decoding
from asic3d.decoding import TooLargeError, UnreadableError, decode, decode_mask

WIDTH, HEIGHT = 64, 48
RAMP = np.linspace(0, 255, WIDTH)[None].repeat(HEIGHT, 0)  # left to right
SLOPE = np.linspace(0, 255, HEIGHT)[:, None].repeat(WIDTH, 1)  # top to bottom
COLOURS = np.stack([RAMP, SLOPE, np.full_like(RAMP, 90)], -1).astype(np.uint8)
LEFT = np.where(np.arange(WIDTH) < WIDTH // 2, 255, 0)[None].repeat(HEIGHT, 0).astype(np.uint8)


def picture() -> Image.Image:
    return Image.fromarray(COLOURS)


def with_alpha(alpha) -> Image.Image:
    image = picture()
    image.putalpha(Image.fromarray(np.broadcast_to(np.uint8(alpha), (HEIGHT, WIDTH)).copy()))
    return image


def reason(path) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(path, 1024)
    return str(caught.value)


def far(pixels, truth) -> int:
    return int(np.abs(pixels.astype(int) - np.asarray(truth, int)).max())


# --- kinds of files


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.tif", {}, 0),
        ("a.TIFF", {"compression": "tiff_lzw"}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.jpg", {"quality": 98, "subsampling": 0}, 8),
    ],
)
def test_formats(tmp_path, name, options, tolerance):
    picture().save(tmp_path / name, **options)
    decoded = decode(tmp_path / name, 1024)
    assert far(decoded.pixels, COLOURS) <= tolerance
    assert decoded.size == (WIDTH, HEIGHT)
    assert decoded.alpha is None
    assert decoded.pixels.dtype == np.uint8
    assert not decoded.pixels.flags.writeable


def test_the_content_decides_not_the_ending(tmp_path):
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert far(decode(tmp_path / "a.jpg", 1024).pixels, COLOURS) == 0


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(picture()).save(tmp_path / "a.heic", quality=100)
    decoded = decode(tmp_path / "a.heic", 1024)
    assert decoded.size == (WIDTH, HEIGHT)
    assert far(decoded.pixels, COLOURS) <= 16


def test_heic_without_pillow_heif(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "IMG_1.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))  # phones do name them so
    assert reason(tmp_path / "IMG_1.jpg") == "it is a HEIC photo, which needs pillow-heif: pip install pillow-heif"


def test_first_picture_of_several(tmp_path):
    other = Image.new("RGB", (WIDTH, HEIGHT), "red")
    for name, options in {"a.tif": {}, "a.png": {}, "a.webp": {"lossless": True}}.items():
        picture().save(tmp_path / name, save_all=True, append_images=[other], **options)
        assert far(decode(tmp_path / name, 1024).pixels, COLOURS) == 0, name
    picture().quantize(256).save(tmp_path / "a.gif", save_all=True, append_images=[other])
    assert far(decode(tmp_path / "a.gif", 1024).pixels, picture().quantize(256).convert("RGB")) == 0
    picture().save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[other], quality=98)
    assert far(decode(tmp_path / "a.mpo", 1024).pixels, COLOURS) <= 12


# --- kinds of pixels


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_modes(tmp_path, mode):
    image = picture().convert(mode)
    name = "a.tif" if mode == "CMYK" else "a.png"
    image.save(tmp_path / name)
    assert far(decode(tmp_path / name, 1024).pixels, image.convert("RGB")) <= 2


def test_cmyk_jpeg_is_not_a_negative(tmp_path):
    picture().convert("CMYK").save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert far(decode(tmp_path / "a.jpg", 1024).pixels, COLOURS) <= 12


def test_lab_tiff(tmp_path):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    grey = Image.fromarray(np.stack([RAMP] * 3, -1).astype(np.uint8))
    lab = ImageCms.applyTransform(grey, to_lab)
    lab.save(tmp_path / "a.tif")
    assert far(decode(tmp_path / "a.tif", 1024).pixels, grey) <= 4


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
def test_deep_grey_is_scaled_by_its_range(tmp_path, name, top):
    Image.fromarray((RAMP / 255 * top).astype(np.uint16)).save(tmp_path / name)
    assert far(decode(tmp_path / name, 1024).pixels, np.stack([RAMP.round()] * 3, -1)) <= 1


@pytest.mark.parametrize(
    "values",
    [RAMP / 255, RAMP, RAMP * 257, (RAMP - 100) * 1e6, np.int32(RAMP * 100_000), np.int32(RAMP.round() - 128)],
)
def test_float_and_long_tiff(tmp_path, values):
    Image.fromarray(values.astype(np.int32 if values.dtype == np.int32 else np.float32)).save(tmp_path / "a.tif")
    assert far(decode(tmp_path / "a.tif", 1024).pixels, np.stack([RAMP.round()] * 3, -1)) <= 1


def test_float_tiff_with_holes(tmp_path):
    values = (RAMP / 255).astype(np.float32)
    values[:, -8:] = [np.nan, np.inf, -np.inf, np.nan] * 2
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = decode(tmp_path / "a.tif", 1024).pixels
    assert far(pixels[:, :-8, 0], RAMP[:, :-8].round()) <= 1
    assert (pixels[:, -8:] == 0).all()


def test_deep_black_stays_black(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(tmp_path / "a.png")
    assert (decode(tmp_path / "a.png", 1024).pixels == 0).all()


# --- transparency


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_becomes_alpha_on_white(tmp_path, mode):
    if mode == "P":
        image = picture().convert("L").convert("P")
        image.save(tmp_path / "a.png", transparency=bytes([0] * 100 + [255] * 156))
        opaque = np.array(picture().convert("L")) >= 100
    else:
        image = picture().convert({"RGBA": "RGB", "LA": "L", "PA": "L"}[mode])
        image = image.convert("P") if mode == "PA" else image
        image.putalpha(Image.fromarray(LEFT))
        assert image.mode == mode
        image.save(tmp_path / ("a.tif" if mode == "PA" else "a.png"))
        opaque = LEFT == 255
    decoded = decode(next(tmp_path.glob("a.*")), 1024)
    assert ((decoded.alpha == 255) == opaque).all()
    assert (decoded.pixels[~opaque] == 255).all()
    truth = picture() if mode == "RGBA" else picture().convert("L").convert("RGB")
    assert far(decoded.pixels[opaque], np.array(truth)[opaque]) <= 1


@pytest.mark.parametrize("alpha", [255, 254, 0, 20])
def test_alpha_that_says_nothing_is_ignored(tmp_path, alpha):
    with_alpha(alpha).save(tmp_path / "a.png")
    decoded = decode(tmp_path / "a.png", 1024)
    assert decoded.alpha is None
    assert far(decoded.pixels, COLOURS) == 0


# --- orientation


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores for an upright photo, from the EXIF standard: where row 0 and column 0 are to be seen."""
    rows, columns = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    if "bottom" in (rows, columns):
        upright = upright[::-1]
    if "right" in (rows, columns):
        upright = upright[:, ::-1]
    return upright.swapaxes(0, 1) if rows in ("left", "right") else upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_orientation(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.jpg": {"quality": 98, "subsampling": 0}, "a.webp": {"lossless": True}}.get(name, {})
    Image.fromarray(np.ascontiguousarray(stored(COLOURS, orientation))).save(tmp_path / name, exif=exif, **options)
    decoded = decode(tmp_path / name, 1024)
    assert decoded.size == (WIDTH, HEIGHT)
    assert far(decoded.pixels, COLOURS) <= (8 if name == "a.jpg" else 0)


def test_orientation_applies_to_alpha_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(stored(np.array(with_alpha(LEFT)), 6))
    Image.fromarray(turned).save(tmp_path / "a.png", exif=exif)
    assert (decode(tmp_path / "a.png", 1024).alpha == LEFT).all()


def test_a_corrupt_exif_block_does_not_lose_the_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", exif=exif, quality=98)
    clean = buffer.getvalue()
    start = clean.index(b"Exif\0\0") + 6
    length = int.from_bytes(clean[start - 8 : start - 6], "big") - 8
    draw = random.Random(0)
    for trial in range(200):
        content = bytearray(clean)
        for _ in range(length if trial == 0 else draw.choice([1, 3, 20])):
            content[start + draw.randrange(length)] = draw.randrange(256)
        (tmp_path / "a.jpg").write_bytes(content)
        assert sorted(decode(tmp_path / "a.jpg", 1024).size) == [HEIGHT, WIDTH]


# --- colour profiles


def swapped_profile() -> bytes:
    """A matrix profile with sRGB's primaries, red and blue exchanged, and a gamma of 2.2."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"swapped\0" + bytes(78 + 2)
    tags = {
        b"desc": name,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.1431, 0.0606, 0.7141),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.4360, 0.2225, 0.0139),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, data, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", offset + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(data), b"test", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + xyz(0.9642, 1.0, 0.8249)[8:]
    return head.ljust(128, b"\0") + table + data


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_embedded_profile_is_applied(tmp_path, name):
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 98, "subsampling": 0}}.get(name, {})
    picture().save(tmp_path / name, icc_profile=swapped_profile(), **options)
    # A gamma of 2.2 is sRGB's curve within a few levels, apart from the darkest colours.
    assert np.abs(decode(tmp_path / name, 1024).pixels.astype(int) - COLOURS[..., ::-1])[12:, 12:].max() <= 8


def test_profile_keeps_alpha(tmp_path):
    with_alpha(LEFT).save(tmp_path / "a.png", icc_profile=swapped_profile())
    decoded = decode(tmp_path / "a.png", 1024)
    assert (decoded.alpha == LEFT).all()
    assert far(decoded.pixels[24, 20], COLOURS[24, 20, ::-1]) <= 8


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200, swapped_profile()[:200]])
def test_corrupt_profile_is_ignored(tmp_path, profile):
    picture().save(tmp_path / "a.png", icc_profile=profile)
    assert far(decode(tmp_path / "a.png", 1024).pixels, COLOURS) == 0


def test_profile_for_other_colours_is_ignored(tmp_path):
    picture().convert("L").save(tmp_path / "a.png", icc_profile=swapped_profile())
    assert far(decode(tmp_path / "a.png", 1024).pixels, picture().convert("L").convert("RGB")) == 0


# --- size


@pytest.mark.parametrize("size", [(1500, 1001), (901, 700), (640, 641), (321, 200), (300, 300)])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_reduced_photo_stays_in_place(tmp_path, name, size):
    width, height = size
    ramp = np.linspace(10, 245, width)[None].repeat(height, 0)
    Image.fromarray(np.stack([ramp + 0.5] * 3, -1).astype(np.uint8)).save(tmp_path / name, quality=98)
    decoded = decode(tmp_path / name, 320)
    assert decoded.size == size
    rows, columns = decoded.pixels.shape[:2]
    assert max(rows, columns) == min(320, max(size))
    assert abs(rows / columns - height / width) < 0.01
    place = (np.arange(columns) + 0.5) * width / columns - 0.5  # pixel edges coincide, as in coordinates.py
    truth = 10 + place * 235 / (width - 1)
    assert np.abs(decoded.pixels[rows // 2, 4:-4, 0] - truth[4:-4]).max() <= 2


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((1, 1), "it is 1 x 1 pixels; each side needs at least 16"),
        ((1, 5000), "it is 1 x 5000 pixels; each side needs at least 16"),
        ((15, 200), "it is 15 x 200 pixels; each side needs at least 16"),
        ((20, 500), "it is 20 x 500 pixels, more than 20 times as long as wide"),
    ],
)
def test_what_is_too_small_or_too_long(tmp_path, size, text):
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == text


def test_smallest_and_longest_photo(tmp_path):
    Image.new("RGB", (320, 16)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 1024).size == (320, 16)


def png_that_claims(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (16, 16)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_decompression_bomb(tmp_path):
    (tmp_path / "a.png").write_bytes(png_that_claims(40_000, 30_000))
    assert reason(tmp_path / "a.png") == "it has 1200 megapixels; at most 500 are read"


def test_pillows_own_limit_is_held_back_and_restored(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    filters = list(warnings.filters)
    picture().save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 1024).size == (WIDTH, HEIGHT)
    assert Image.MAX_IMAGE_PIXELS == 100
    assert warnings.filters == filters


# --- damaged files


def test_empty_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert reason(tmp_path / "a.jpg") == "the file is empty"


@pytest.mark.parametrize("content", [b"Dear diary, today I took a photo.", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(5000)])
def test_what_is_no_photo(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert reason(tmp_path / "a.jpg") == (
        "it is not a photo: its content is none of JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC"
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    assert reason(tmp_path / name) in (
        "the file is cut off or damaged",
        "the file is cut off, damaged or of a variant that can't be read",
    )


def test_truncated_jpeg_is_found_in_a_reduced_decoding_too(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (800, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(UnreadableError, match="the file is cut off or damaged"):
        decode(tmp_path / "a.jpg", 150)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_damaged_bytes_give_a_photo_or_a_reason(tmp_path, kind):
    buffer = io.BytesIO()
    picture().save(buffer, kind)
    draw = random.Random(kind)
    outcomes = set()
    for trial in range(120):
        content = bytearray(buffer.getvalue())
        for _ in range(draw.randrange(1, 10)):
            content[draw.randrange(min(len(content), 200 if trial % 2 else 10**9))] = draw.randrange(256)
        (tmp_path / "a").write_bytes(content)
        try:
            assert decode(tmp_path / "a", 64).pixels.ndim == 3
            outcomes.add("photo")
        except UnreadableError:
            outcomes.add("reason")
    assert "reason" in outcomes


def test_unreadable_file(tmp_path, monkeypatch):
    assert reason(tmp_path / "gone.jpg") == "it can't be read (No such file or directory)"
    assert reason(tmp_path) == "it can't be read (Is a directory)"


# --- masks


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (0, 200), (10, 255)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_masks_of_any_range(tmp_path, values, dtype):
    dark, light = values
    name = "a.tif" if dtype == np.float32 else "a.png"
    Image.fromarray(np.where(LEFT > 0, light, dark).astype(dtype)).save(tmp_path / name)
    mask = decode_mask(tmp_path / name)
    assert mask.dtype == bool
    assert (mask == (LEFT > 0)).all()


def test_masks_of_other_kinds(tmp_path):
    truth = LEFT > 0
    Image.fromarray(truth).save(tmp_path / "bits.png")
    palette = Image.fromarray((LEFT > 0).astype(np.uint8))
    palette.putpalette([0, 0, 0, 128, 0, 0])  # as PASCAL VOC has it
    palette.save(tmp_path / "palette.png")
    Image.merge("RGB", [Image.fromarray(LEFT)] * 3).save(tmp_path / "colour.png")
    Image.fromarray(LEFT).save(tmp_path / "lossy.jpg", quality=95)
    with_alpha(LEFT).save(tmp_path / "cut-out.png")
    opaque = Image.fromarray(LEFT).convert("LA")
    opaque.save(tmp_path / "opaque.png")
    for path in sorted(tmp_path.iterdir()):
        assert (decode_mask(path) == truth).all(), path.name


def test_black_mask_is_empty(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    assert not decode_mask(tmp_path / "a.png").any()


def large(tmp_path, mode, name, monkeypatch):
    """A detailed image, and all that decodes it told that it is large."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (30, 24, bands)).repeat(20, 0).repeat(20, 1)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    elif mode == "P":
        image = Image.fromarray(values[..., 0].astype(np.uint8)).quantize(16)
    else:
        image = Image.fromarray(values.astype(np.uint8).squeeze(), mode)
    image.save(tmp_path / name)
    monkeypatch.setattr(decoding, "_LARGE", 10_000)
    monkeypatch.setattr(decoding, "_STRIP", 30_000)
    return image.size


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("longest", [50, 333, 1024])
def test_a_large_image_is_worked_on_in_strips(tmp_path, monkeypatch, mode, longest):
    name = "a.tif" if mode == "CMYK" else "a.png"
    with monkeypatch.context() as patched:
        size = large(tmp_path, mode, name, patched)
        strips = decode(tmp_path / name, longest)
    whole = decode(tmp_path / name, longest)
    assert strips.size == whole.size == size
    assert strips.pixels.shape == whole.pixels.shape
    # Reducing before the filter begins at other rows in a strip: seen at edges, of which this picture is full.
    apart = np.abs(strips.pixels.astype(int) - whole.pixels)
    assert apart.mean() < 1.5 and np.percentile(apart, 99) < 30
    if longest > 100:
        assert apart.max() <= 2
    assert (strips.alpha is None) == (whole.alpha is None) == ("A" not in mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_a_large_mask_is_worked_on_in_strips(tmp_path, monkeypatch, mode):
    with monkeypatch.context() as patched:
        large(tmp_path, mode, "a.png", patched)
        strips = decode_mask(tmp_path / "a.png")
    assert (strips == decode_mask(tmp_path / "a.png")).all() and 0 < strips.mean() < 1


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_memory_that_is_not_enough_for_a_large_image(tmp_path, monkeypatch, extension):
    large(tmp_path, "RGB", f"a.{extension}", monkeypatch)
    assert decode(tmp_path / f"a.{extension}", 100, max_memory=100).pixels.any()
    with pytest.raises(TooLargeError, match=r"^it has 0 megapixels: to decode .* GB .* max_memory allows 0.1$"):
        decode(tmp_path / f"a.{extension}", 100, max_memory=0.1)
    monkeypatch.undo()
    assert decode(tmp_path / f"a.{extension}", 100, max_memory=0.1).pixels.any()  # it is not large
