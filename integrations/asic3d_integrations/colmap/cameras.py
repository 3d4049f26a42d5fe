"""Cameras as COLMAP starts from them: a model, and a focal length that is given, from EXIF, or a guess."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from asic3d.decoding import quiet_pillow
from asic3d.errors import ExportError
from asic3d.photo_folder import listed, shown

MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Camera models that may be asked for."""
GUESS = 1.2
"""Focal length over the photo's longer side where nothing is known; COLMAP's own guess."""
_SHORTEST, _LONGEST = 0.1, 100.0
"""Focal lengths over the longer side that lenses have: a view of 157 degrees, and one of half a degree."""
_DIAGONAL = 43.27  # mm of the 36 x 24 mm frame, to which "35 mm equivalent" refers
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # of EXIF's units of resolution: inch, cm, mm, micrometre
_FOCAL, _FOCAL_35, _RESOLUTION, _UNIT, _WIDTH, _HEIGHT = 0x920A, 0xA405, 0xA20E, 0xA210, 0xA002, 0xA003


@dataclass(frozen=True)
class Camera:
    """A camera before any pose is known; its principal point is the middle of the photo.

    Attributes:
        model: name of COLMAP's camera model.
        size: (width, height), pixels.
        focal: focal length, pixels.
        known: whether the focal length is measured or given, not guessed.
    """

    model: str
    size: tuple[int, int]
    focal: float
    known: bool


@dataclass(frozen=True)
class Cameras:
    """The cameras of N photos.

    Attributes:
        cameras: each camera once.
        of_photo: N places in ``cameras``.
    """

    cameras: "tuple[Camera, ...]"
    of_photo: tuple[int, ...]

    def __getitem__(self, photo: int) -> Camera:
        return self.cameras[self.of_photo[photo]]


@dataclass(frozen=True)
class Focal:
    """A focal length as people give it: ``value`` in pixels, or in mm of the real lens."""

    value: float
    millimetres: bool = False


def parse_focal(text: str) -> Focal:
    """``"1200"`` or ``"1200px"``: pixels; ``"50mm"``: of the lens, with the sensor from each photo's EXIF.

    Raises:
        ExportError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(px|mm)?\s*", text)
    if not found or float(found[1]) <= 0:
        raise ExportError(f"'{text}' is no focal length; write pixels, such as 1200, or millimetres, such as 50mm.")
    return Focal(float(found[1]), found[2] == "mm")


def choose_cameras(
    names: Sequence[str],
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    *,
    model: str = "SIMPLE_RADIAL",
    focal: Focal | None = None,
    shared: bool = False,
) -> Cameras:
    """A camera for each photo, or one for all photos of one size.

    Args:
        names: N photos.
        paths: their files, whose EXIF data are read.
        sizes: (width, height) of the upright photos, pixels.
        model: one of MODELS.
        focal: the focal length of all photos; from EXIF where it is not given, else a guess.
        shared: all photos of one size were taken with one camera that was not zoomed.

    Raises:
        ExportError: there is no such model, or the sensor's size that ``focal`` needs is not in a photo's EXIF data.
    """
    if model not in MODELS:
        raise ExportError(f"There is no camera model '{model}' here; choose one of {', '.join(MODELS)}.")
    found = [_focal(path, size, focal) for path, size in zip(paths, sizes, strict=True)]
    silent = [name for name, value in zip(names, found, strict=True) if value is None]
    if silent and focal is not None:
        raise ExportError(
            f"A focal length in mm needs the sensor's size, which is not in the EXIF data of {listed(silent)}. Give it "
            "in pixels."
        )
    if focal is not None:
        _check_focal(focal, names, sizes, found)
    if not shared:
        own = [_camera(model, size, value) for size, value in zip(sizes, found, strict=True)]
        return Cameras(tuple(own), tuple(range(len(own))))
    groups = list(dict.fromkeys(sizes))
    values = [[value for value, size in zip(found, sizes, strict=True) if value and size == one] for one in groups]
    cameras = [
        _camera(model, one, float(np.median(known)) if known else None)
        for one, known in zip(groups, values, strict=True)
    ]
    return Cameras(tuple(cameras), tuple(groups.index(size) for size in sizes))


def _check_focal(
    focal: Focal, names: Sequence[str], sizes: Sequence[tuple[int, int]], found: Sequence[float | None]
) -> None:
    """Refuses a focal length that no lens has: a slip, such as millimetres given as pixels."""
    for name, size, value in zip(names, sizes, found, strict=True):
        if value is not None and not _plausible(value, size):
            unit = "mm" if focal.millimetres else "pixels"
            raise ExportError(
                f"A focal length of {focal.value:g} {unit} is {value / max(size):.2g} times the longer side of "
                f"{shown(name)}; lenses have {_SHORTEST:g} to {_LONGEST:g} times. Write pixels as 1200, millimetres as "
                "50mm."
            )


def _plausible(focal: float, size: tuple[int, int]) -> bool:
    return _SHORTEST <= focal / max(size) <= _LONGEST


def _camera(model: str, size: tuple[int, int], focal: float | None) -> Camera:
    return Camera(model, size, focal or GUESS * max(size), focal is not None)


def _focal(path: Path, size: tuple[int, int], given: Focal | None) -> float | None:
    """Focal length in pixels; None where it is not known."""
    if given is None:
        written = exif_focal(path, size)
        return written if written and _plausible(written, size) else None
    if not given.millimetres:
        return given.value
    density = _pixels_per_millimetre(_exif(path), size)
    return None if density is None else given.value * density


def exif_focal(path: Path, size: tuple[int, int]) -> float | None:
    """The focal length of a photo in pixels, from its EXIF data; None where they do not say it.

    Args:
        path: the file.
        size: (width, height) of the photo, pixels; it may have been made smaller since it was taken, not cut.
    """
    tags = _exif(path)
    equivalent, lens = _number(tags, _FOCAL_35), _number(tags, _FOCAL)
    if equivalent:
        return equivalent * float(np.hypot(*size)) / _DIAGONAL
    density = _pixels_per_millimetre(tags, size)
    return lens * density if lens and density else None


def _pixels_per_millimetre(tags: dict[int, object], size: tuple[int, int]) -> float | None:
    """Pixels of the photo for each mm of the sensor."""
    resolution, unit = _number(tags, _RESOLUTION), _MILLIMETRES.get(int(_number(tags, _UNIT) or 2))
    if resolution and unit:
        # The tag speaks of the photo as it was taken.
        taken = max(_number(tags, _WIDTH) or 0, _number(tags, _HEIGHT) or 0) or max(size)
        return resolution / unit * max(size) / taken
    equivalent, lens = _number(tags, _FOCAL_35), _number(tags, _FOCAL)
    return equivalent / lens * float(np.hypot(*size)) / _DIAGONAL if equivalent and lens else None


def _exif(path: Path) -> dict[int, object]:
    """The tags that describe how a photo was taken; none where there are none or they are corrupt."""
    try:
        with quiet_pillow, Image.open(path, formats=("JPEG", "PNG", "WEBP", "TIFF")) as image:
            exif = image.getexif()
            return {**exif, **exif.get_ifd(0x8769)}
    except Exception:  # Pillow raises nearly any type on a corrupt block, and none of them is worth the export
        return {}


def _number(tags: dict[int, object], tag: int) -> float | None:
    """A positive finite number, or None."""
    try:
        value = float(tags.get(tag, 0))  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value if 0 < value < 1e6 else None
