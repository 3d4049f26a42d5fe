"""One image file to upright 8-bit sRGB pixels, whichever camera, scanner or program wrote it.

Everything that Pillow leaves open is settled here: orientation, colour profile, bit depth, transparency, size limits,
and what is wrong with a file that can't be used.
"""

import contextlib
import importlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from asic3d.errors import CollectionError, MissingExtraError
from asic3d.extras import load_extra
from asic3d.memory import held_now

# Formats that are opened, whatever a file's name ends with. Pillow knows more, but some of those start other programs.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF")
for _plugin in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP", "Avif"):
    with contextlib.suppress(ImportError):  # AVIF came with Pillow 11.3
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")

SMALLEST_SIDE = 16
"""Pixels: a photo whose shorter side is smaller shows nothing that could be matched."""
LARGEST_ASPECT = 20
"""A photo longer than this times its width is a strip, not a photo."""
MOST_PIXELS = 500_000_000
"""A file that claims more is refused before a byte of it is decoded."""
_LARGE = 64_000_000  # pixels; two such images are never decoded at the same time
_STRIP = 16_000_000  # pixels of a large image that are worked on at once
_MARGIN = 4  # pixels of the result that its filter sees of the original beyond a strip; Lanczos has 3
_COPIES = {"WEBP": 4, "AVIF": 3, "HEIF": 3}
"""Of the decoded image that a format's decoder holds itself, where it is more than one."""
_WORK = 0.3e9  # bytes beside a large image: its strips, and what they become

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_large_images = threading.Lock()


class UnreadableError(CollectionError):
    """An image file that can't be used; the message is the bare reason, such as "the file is empty"."""


class TooLargeError(UnreadableError):
    """An image file that can be used where there is more memory; the message is the bare reason."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a file shows.

    Attributes:
        pixels: (h, w, 3) uint8, sRGB, upright, read-only; white where the photo is transparent.
        alpha: (h, w) uint8, 255 = opaque; None where the photo is opaque or transparent everywhere.
        size: width and height of the upright photo before it was reduced, pixels.
        on_its_side: whether the file holds the photo on its side, and EXIF says so.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    size: tuple[int, int]
    on_its_side: bool = False


def decode(path: Path, longest: int, max_memory: float = 0.0) -> Decoded:
    """Decodes the first picture of a file.

    Args:
        path: the image file.
        longest: the longer side is reduced to this many pixels where it is longer; nothing is enlarged.
        max_memory: GB that the process may have while it decodes a large image; 0: any.

    Raises:
        TooLargeError: there is not enough memory, or not within ``max_memory``.
        UnreadableError: the file can't be used as a photo.
    """
    with _opened(path) as image:
        _check_shape(image.size)
        return _decode(image, longest, max_memory)


def decode_mask(path: Path, max_memory: float = 0.0) -> np.ndarray:
    """Decodes a mask of any kind: 0/1, 0/255, palette, or the transparency of a cut-out.

    Args:
        path: the image file.
        max_memory: as :func:`decode` has it.

    Returns:
        (h, w) bool, upright: the alpha of a file with transparent pixels, else what is lighter than half the lightest.

    Raises:
        TooLargeError: there is not enough memory.
        UnreadableError: the file can't be read as an image.
    """
    with _opened(path) as image:
        _check_memory(image, image.size, max_memory)
        image.load()
        turn = _TURNS.get(_orientation(image))
        if _has_alpha(image) and (alpha := _rgba(image).getchannel("A")).getextrema() != (255, 255):
            image = alpha
        image = image.transpose(turn) if turn is not None else image
        half = max(0.0, *(float(_lightness(strip).max()) for strip in _strips(image))) / 2
        return np.concatenate([_lightness(strip) > half for strip in _strips(image)])


def _lightness(image: Image.Image) -> np.ndarray:
    """(h, w) grey values, of any number of bits; of colours the largest."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return np.nan_to_num(values) if values.dtype.kind == "f" else values
    values = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return values.max(-1) if values.ndim == 3 else values


def decode_layer(path: Path) -> np.ndarray:
    """Decodes a picture with transparency, of any kind that has it: true colour, grey or palette, 8 or 16 bits.

    Returns:
        (h, w, 4) uint8 RGBA, sRGB, upright, not premultiplied.

    Raises:
        UnreadableError: the file can't be read as an image, or has no transparency.
    """
    with _opened(path) as image:
        image.load()
        if not _has_alpha(image):
            raise UnreadableError(
                "it has no transparency, so nothing says what is painted; save it as PNG with a transparent background"
            )
        turn = _orientation(image)
        if image.mode.startswith("I"):  # 16-bit grey with one transparent value, which Pillow does not convert
            values = np.asarray(image)
            alpha = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
            colour = _from_deep_grey(values, *_written_range(image)).convert("RGB")
        else:
            rgba = image.convert("RGBA")
            rgba.info |= {"icc_profile": image.info.get("icc_profile") if "L" not in image.mode else None}
            alpha, colour = rgba.getchannel("A"), _to_srgb(rgba)
        layer = Image.merge("RGBA", (*colour.split(), alpha))
        return np.array(layer.transpose(_TURNS[turn]) if turn in _TURNS else layer)


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height reduced so that the longer is at most ``longest``, in the same proportion, at least 1."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _decode(image: Image.Image, longest: int, max_memory: float) -> Decoded:
    """The steps from an open file to pixels, without a second copy of a large image."""
    size, box = image.size, None
    if image.format in ("JPEG", "MPO"):  # decodes straight to a half, a quarter or an eighth
        drafted = image.draft(None, fitted(size, longest))
        box = drafted[1] if drafted else None
    _check_memory(image, size, max_memory)
    image.load()
    if box is None:
        size = image.size  # Pillow has already turned a TIFF upright
    turn = _orientation(image)
    image = _reduced(image, fitted(size, longest), box)
    colour = _to_srgb(image)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    if alpha is not None:
        colour = Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)
    if turn in _TURNS:
        colour = colour.transpose(_TURNS[turn])
        alpha = alpha.transpose(_TURNS[turn]) if alpha is not None else None
    aside = turn >= 5
    upright = (size[1], size[0]) if aside else size
    return Decoded(_frozen(colour), None if alpha is None else _frozen(alpha), upright, aside)


def _frozen(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    array.setflags(write=False)
    return array


def _check_memory(image: Image.Image, size: tuple[int, int], max_memory: float) -> None:
    """Refuses a large image, of this size in its file, that can't be decoded within ``max_memory`` GB."""
    pixels = size[0] * size[1]
    if not max_memory or pixels <= _LARGE:
        return
    each = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    decoded = image.size[0] * image.size[1] * each * _COPIES.get(image.format or "", 1)
    coefficients = pixels * 6 if image.info.get("progressive") else 0  # a progressive JPEG's, all of them
    needed = ((held_now() or 0.0) + decoded + coefficients + _WORK) / 1e9
    if needed > max_memory:
        raise TooLargeError(
            f"it has {pixels / 1e6:.0f} megapixels: to decode them may take {needed:.1f} GB of memory, and "
            f"max_memory allows {max_memory:g}"
        )


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """The image, or, where it is large, one part of its rows after the other."""
    width, height = image.size
    if width * height <= _LARGE:
        yield image
        return
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(top + rows, height)))


def _reduced(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None) -> Image.Image:
    """A loaded image as :func:`_eight_bit`, reduced to this size; a large one strip by strip.

    Args:
        image: its ``info`` is kept.
        size: width and height of the result.
        box: the part of it that is to be seen; None: all.
    """
    eight_bit = _eight_bit(image)
    if size == image.size:
        return eight_bit(image)
    if image.width * image.height <= _LARGE:
        return eight_bit(image).resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    left, upper, right, lower = box or (0, 0, *image.size)
    scale, parts = (lower - upper) / size[1], []
    rows = max(1, int(_STRIP / image.width / scale))
    for top in range(0, size[1], rows):
        bottom = min(top + rows, size[1])
        first, last = upper + top * scale, upper + bottom * scale
        start, end = max(0, int(first - _MARGIN * scale)), min(image.height, int(last + _MARGIN * scale) + 1)
        strip = eight_bit(image.crop((0, start, image.width, end)))
        seen = (left, first - start, right, min(last - start, strip.height))
        parts.append(strip.resize((size[0], bottom - top), Image.Resampling.LANCZOS, box=seen, reducing_gap=3.0))
    found = Image.new(parts[0].mode, size)
    for number, part in enumerate(parts):
        found.paste(part, (0, number * rows))
    found.info = dict(image.info)
    return found


def _check_shape(size: tuple[int, int]) -> None:
    """Refuses what is too small or too long to be a photo."""
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise UnreadableError(f"it is {width} x {height} pixels; each side needs at least {SMALLEST_SIDE}")
    if max(size) > LARGEST_ASPECT * min(size):
        raise UnreadableError(f"it is {width} x {height} pixels, more than {LARGEST_ASPECT} times as long as wide")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 to 8; 1 where there is none or the EXIF block is corrupt."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises nearly any type on a corrupt block, and none of them is worth a photo
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def _eight_bit(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """How to bring the image, or any part of it, into one of the modes L, RGB, RGBA, CMYK, LAB.

    RGBA only where the image's alpha says something.
    """
    if image.mode.startswith("I") or image.mode == "F":
        low, high = _written_range(image)
        return lambda part: _from_deep_grey(np.asarray(part), low, high)
    if _has_alpha(image):
        with contextlib.suppress(ValueError, TypeError):  # a transparent colour that the mode can't have
            extrema = [_rgba(strip).getchannel("A").getextrema() for strip in _strips(image)]
            if min(low for low, _ in extrema) < 128 <= max(high for _, high in extrema):  # type: ignore[operator]
                return _rgba
            return lambda part: _rgba(part).convert("RGB")
    return lambda part: part if part.mode in ("L", "RGB", "CMYK", "LAB") else part.convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _written_range(image: Image.Image) -> tuple[float, float]:
    """Black and white of grey values of more than 8 bits, by the range they were written in."""
    low, high = np.inf, -np.inf
    for strip in _strips(image):
        values = np.asarray(strip)
        values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        low, high = 0.0, 1.0
    # Cameras and scanners store 10, 12 or 14 bits in 16; floats are mostly in [0, 1].
    ranges = [1.0] * (image.mode == "F") + [2.0**bits - 1 for bits in (8, 10, 12, 14, 16)]
    if low >= 0 and high <= ranges[-1]:
        low, high = 0.0, next(top for top in ranges if high <= top)
    return low, high


def _from_deep_grey(values: np.ndarray, low: float, high: float) -> Image.Image:
    """Grey values of more than 8 bits, scaled by their range: never clipped."""
    values = values.astype(np.float32)
    scaled = (np.where(np.isfinite(values), values, low) - low) * (255 / max(high - low, 1e-30))
    return Image.fromarray(np.clip(scaled + 0.5, 0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """The colours as sRGB, through the embedded profile where it fits; without alpha."""
    source = image.convert("RGB") if image.mode == "RGBA" else image
    try:
        profile = _profile(image)
        if profile is not None:
            converted = ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        pass  # a corrupt profile, or one for other colours than the photo has: the photo is worth more
    return source.convert("RGB")


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded profile; None where there is none or it is sRGB already."""
    if image.mode == "LAB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    content = image.info.get("icc_profile")
    if not isinstance(content, bytes) or not content:
        return None
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    description = ImageCms.getProfileDescription(profile)
    return None if "sRGB" in description else profile


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, its header read; whatever goes wrong with it is told as an UnreadableError."""
    try:
        with path.open("rb") as file, quiet_pillow:
            image = _identify(file)
            pixels = image.size[0] * image.size[1]
            if pixels > MOST_PIXELS:
                raise UnreadableError(f"it has {pixels / 1e6:.0f} megapixels; at most {MOST_PIXELS / 1e6:.0f} are read")
            with _large_images if pixels > _LARGE else contextlib.nullcontext():
                yield image
    except UnreadableError:
        raise
    except MemoryError:
        raise TooLargeError("there is not enough memory to decode it") from None
    except Exception as error:  # decoders raise nearly any type on damaged bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise UnreadableError(f"it can't be read ({error.strerror})") from error
        raise UnreadableError("the file is cut off or damaged") from error


def _identify(file: BinaryIO) -> Image.Image:
    """Opens an image by its content."""
    head = file.read(12)
    file.seek(0)
    if not head:
        raise UnreadableError("the file is empty")
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _enable_heif()
    try:
        return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        if head.startswith(_MAGIC) or head[4:8] == b"ftyp":
            raise UnreadableError("the file is cut off, damaged or of a variant that can't be read") from None
        raise UnreadableError(
            "it is not a photo: its content is none of JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC"
        ) from None


def _enable_heif() -> None:
    """Lets Pillow open HEIC, where pillow-heif is installed."""
    try:
        heif = load_extra("pillow_heif", "it is a HEIC photo, which needs pillow-heif", "pillow-heif")
    except MissingExtraError as error:
        raise UnreadableError(str(error).removesuffix(".")) from None
    if "HEIF" not in Image.OPEN:
        heif.register_heif_opener()


class _QuietPillow:
    """Holds Pillow's warnings and its own size limit back while any thread decodes.

    Both are global to the process, so the threads count themselves: the first in sets them, the last out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._stack.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None  # ours is checked before anything is decoded

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stack.close()


quiet_pillow = _QuietPillow()
