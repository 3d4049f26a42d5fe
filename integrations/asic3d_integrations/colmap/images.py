"""The photos as COLMAP reads them: the files themselves, or upright copies of all of them where one can't be used."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image

from asic3d.collection import Collection, Photo
from asic3d.decoding import quiet_pillow
from asic3d.errors import CollectionError
from asic3d.storage import atomic_write, inside

FOLDER = "images"
_FORMATS = ("JPEG", "PNG", "BMP")
_MODES = ("L", "RGB")
_ORIENTATION = 0x0112
_QUALITY = 97  # of JPEG copies


@dataclass(frozen=True)
class Images:
    """How COLMAP finds the photos.

    Attributes:
        names: what COLMAP calls each photo, relative to the folder of the images.
        reasons: photo -> why it can't be used as it is; empty where no copies are needed.
        copies: whether all photos are to be copied.
    """

    names: tuple[str, ...]
    reasons: dict[str, str]
    copies: bool


def plan_images(collection: Collection, *, always: bool = False) -> Images:
    """Decides whether COLMAP can read the photos where they are.

    COLMAP does not turn pixels as EXIF says, does not read every format, and its text files can't hold names with
    spaces. Where one photo needs a copy all are copied, because COLMAP takes one folder.

    Args:
        collection: the photos.
        always: copy them in any case.
    """
    reasons = {photo.name: reason for photo in collection if (reason := _trouble(photo, collection.root))}
    if not reasons and not always:
        return Images(collection.names, {}, copies=False)
    taken: set[str] = set()
    names = []
    for photo in collection:
        name = _plain_name(photo.name, recoded=_is_recoded(photo))
        while name.casefold() in taken:
            name = str(PurePosixPath(name).with_name("_" + PurePosixPath(name).name))
        taken.add(name.casefold())
        names.append(name)
    return Images(tuple(names), reasons, copies=True)


def write_images(
    collection: Collection, images: Images, folder: Path, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Writes upright copies of all photos to a folder: the file itself where its pixels are upright already.

    Raises:
        CollectionError: a photo is gone or has changed since it was loaded.
        StorageError: the folder can't be written.
    """
    for done, (photo, name) in enumerate(zip(collection, images.names, strict=True), 1):
        content = _recoded(photo, name) if _is_recoded(photo) else _bytes(photo)
        atomic_write(inside(folder, name), lambda file, content=content: file.write(content))
        progress(done)


def write_masks(masks: Callable[[str], np.ndarray], collection: Collection, images: Images, folder: Path) -> None:
    """Writes ``IMAGE.png`` for each image, white on black, as COLMAP's ``mask_path`` expects them.

    Args:
        masks: photo -> (H, W) uint8, 255 = object.
        collection: the photos.
        images: what COLMAP calls them.
        folder: where to write.
    """
    for photo, name in zip(collection, images.names, strict=True):
        content = cv2.imencode(".png", masks(photo.name))[1].tobytes()
        atomic_write(inside(folder, f"{name}.png"), lambda file, content=content: file.write(content))


def _trouble(photo: Photo, root: Path) -> str | None:
    """Why COLMAP can't use a photo where it is; None where it can."""
    kind = _kind(photo)
    if kind is None:
        return "COLMAP does not read its kind of file everywhere"
    if kind != 1:
        return "it is stored turned"
    if photo.path != root / photo.name:
        return "it lies outside the photo folder"
    return None if _plain_name(photo.name, recoded=False) == photo.name else "its name breaks COLMAP's text files"


def _is_recoded(photo: Photo) -> bool:
    return _kind(photo) != 1


def _kind(photo: Photo) -> int | None:
    """The EXIF orientation of a file that COLMAP can read, else None."""
    try:
        with quiet_pillow, Image.open(photo.path, formats=_FORMATS) as image:
            if image.mode not in _MODES or "transparency" in image.info:
                return None
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises nearly any type on a corrupt block; the decoder of asic3d copes with more
        return None
    return orientation if orientation in range(2, 9) else 1


def _plain_name(name: str, *, recoded: bool) -> str:
    """A name without what breaks text files; of a file that is written anew, with an ending that says its format."""
    plain = re.sub(r"[\s#\"'\\\x00-\x1f\x7f]+", "_", name)
    if recoded and PurePosixPath(plain).suffix.lower() not in (".jpg", ".jpeg", ".png"):
        return plain + ".jpg"
    return plain


def _recoded(photo: Photo, name: str) -> bytes:
    """The upright pixels in full size, without EXIF data: the database holds what COLMAP would read of them."""
    file = io.BytesIO()
    picture = Image.fromarray(photo.read(max(photo.size)))
    if name.lower().endswith(".png"):
        picture.save(file, "PNG", compress_level=1)  # a quarter of the time, a tenth more bytes
    else:
        picture.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()


def _bytes(photo: Photo) -> bytes:
    try:
        return photo.path.read_bytes()
    except OSError as error:
        raise CollectionError(f"The photo '{photo.name}' can't be read any more ({error.strerror}).") from error
