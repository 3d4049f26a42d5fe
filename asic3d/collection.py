"""A folder of photos: found, decoded, named and checked."""

import difflib
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asic3d.config import Progress, ProgressCallback
from asic3d.content import first_of_picture, grainy, holds_shapes, one_colour, same_picture
from asic3d.decoding import Decoded, TooLargeError, UnreadableError, decode, decode_mask, quiet_pillow
from asic3d.errors import CollectionError, CollectionWarning, MemoryLimitError
from asic3d.photo_folder import composed, find_photos, listed, match_masks, natural_key, shown
from asic3d.scratch import FORGOTTEN, Shelf, forget
from asic3d.storage import sha256_of

WORKING_SIDE = 1024
"""Longer side of :attr:`Photo.pixels` at most, pixels."""
FULL_SIDE = 8192
"""Longer side of what :meth:`Photo.read` decodes at most, pixels; cameras of 48 megapixels stay below it."""
MOST_PHOTOS = 100
"""Above this the run takes minutes; a warning says so."""
_AHEAD = 8
"""Photos that are decoded before their turn: the others wait in their files."""


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo, upright.

    Attributes:
        name: its path relative to the photo folder, with forward slashes: how it is called everywhere.
        path: the file.
        size: width and height of the original upright photo, pixels.
        sha256: of the file's bytes, hexadecimal.
        pixels: (h, w, 3) uint8 sRGB, the longer side at most WORKING_SIDE, never enlarged, read-only.
        mask: (h, w) uint8, 255 = object, else 0, of the same shape as ``pixels``; None where the object is not given.
        duplicate_of: the name of an earlier photo with the same bytes.
        mask_path: the file that the mask is from; None where it is from the photo's own transparency.
    """

    name: str
    path: Path
    size: tuple[int, int]
    sha256: str
    pixels: np.ndarray = field(repr=False)
    mask: np.ndarray | None = field(default=None, repr=False)
    duplicate_of: str | None = None
    mask_path: Path | None = None

    @cached_property
    def holds_shapes(self) -> bool:
        """Whether there is anything to recognise: it is neither of one colour nor all grain."""
        return holds_shapes(self.pixels)

    def is_unchanged(self) -> bool:
        """Whether the file is still the one that was loaded."""
        try:
            return sha256_of(self.path) == self.sha256
        except OSError:
            return False

    def read(self, longest: int = FULL_SIDE) -> np.ndarray:
        """Decodes the file again: (h, w, 3) uint8 sRGB, upright, the longer side at most ``longest`` pixels.

        Raises:
            CollectionError: the file is gone or no longer the one that was loaded.
        """
        return self._decode_again(longest).pixels

    def read_mask(self) -> np.ndarray | None:
        """The mask at full size: (height, width) uint8, 255 = object; None where the object is not given.

        Raises:
            CollectionError: the file of the photo or the mask is gone or has changed.
        """
        if self.mask is None:
            return None
        if self.mask_path is not None:
            return _read_mask(self.mask_path, self.name, self.size)
        alpha = self._decode_again(FULL_SIDE).alpha
        return None if alpha is None else _resized_mask(alpha >= 128, self.size)

    def _decode_again(self, longest: int) -> Decoded:
        try:
            unchanged = sha256_of(self.path) == self.sha256
            decoded = decode(self.path, longest)
        except (OSError, UnreadableError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CollectionError(f"The photo {shown(self.name)} can't be read any more: {reason}.") from error
        if not unchanged:
            raise CollectionError(f"The photo {shown(self.name)} has changed since it was loaded; load it again.")
        return decoded


class AbsentPhoto(Photo):
    """A photo whose file is not there: what is known of it can be used, its pixels and its mask can't.

    Points of it are still answered; whatever needs ``pixels`` or ``read`` raises a CollectionError that says where the
    file was looked for.
    """

    def __init__(self, name: str, path: Path, size: tuple[int, int], sha256: str, duplicate_of: str | None = None):
        known = {"name": name, "path": path, "size": size, "sha256": sha256, "duplicate_of": duplicate_of}
        for key, value in known.items():
            object.__setattr__(self, key, value)

    def __getattr__(self, name: str) -> Any:
        if name == "pixels":
            raise self._gone()
        raise AttributeError(name)

    @property
    def holds_shapes(self) -> bool:  # type: ignore[override]
        """True: nothing is known against it."""
        return True

    def read_mask(self) -> np.ndarray | None:
        """Raises a CollectionError: the mask is of the photo's pixels."""
        raise self._gone()

    def _decode_again(self, longest: int) -> Decoded:
        raise self._gone()

    def _gone(self) -> CollectionError:
        return CollectionError(self.whereabouts)

    @property
    def whereabouts(self) -> str:
        """Where the file was looked for, and what to do about it, in sentences."""
        return f"The photo {shown(self.name)} of this run is gone: there is no file '{self.path}'. {_put_back('it')}"


def _put_back(what: str) -> str:
    """What to do about photos that are gone, as a sentence."""
    return f"Put {what} back, or say with --photos DIR (photos=DIR in Python) where the photos are now."


@dataclass(frozen=True, eq=False)
class Collection:
    """The photos of a folder, in natural order of their names.

    Attributes:
        root: the photo folder.
        photos: those that can be used.
        left_out: name -> why the file can't be used.
        warnings: sentences for people: what is odd about the photos.
    """

    root: Path
    photos: tuple[Photo, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The photos' names."""
        return tuple(photo.name for photo in self.photos)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each original upright photo, pixels."""
        return tuple(photo.size for photo in self.photos)

    @property
    def unmasked(self) -> tuple[int, ...]:
        """The photos whose object was not given by a mask, by index."""
        return tuple(index for index, photo in enumerate(self.photos) if photo.mask is None)

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the photos whose files are gone since they were aligned."""
        return tuple(photo.name for photo in self.photos if isinstance(photo, AbsentPhoto))

    def changed(self) -> tuple[str, ...]:
        """Names of the photos whose files are gone, or other ones than those that were loaded."""
        return tuple(photo.name for photo in self.photos if not photo.is_unchanged())

    def __repr__(self) -> str:
        left = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"<Collection: {self.in_brief()} in '{self.root}'{left}{counted(self.warnings)}>"

    def in_brief(self) -> str:
        """How many photos there are, with the first and the last name."""
        ends = f", {shown(self.names[0])} to {shown(self.names[-1])}" if self.photos else ""
        return f"{len(self)} photo{'s' * (len(self) != 1)}{ends}"

    def gone(self) -> str:
        """Which photos are gone, and what to do about it, in sentences; '' where all are there."""
        absent = [photo for photo in self.photos if isinstance(photo, AbsentPhoto)]
        if len(absent) == 1:
            return absent[0].whereabouts
        if len(absent) < len(self):
            return f"Photos of this run are gone: {listed(self.absent)}. {_put_back('them')}" if absent else ""
        return f"The photos of this run are gone: none of them is in '{self.root}'. {_put_back('them')}"

    def __len__(self) -> int:
        return len(self.photos)

    def __iter__(self) -> Iterator[Photo]:
        return iter(self.photos)

    def __getitem__(self, key: int | str) -> Photo:
        return self.photos[self.index(key) if isinstance(key, str) else key]

    def index(self, name: str) -> int:
        """A photo's place in ``photos``.

        Raises:
            CollectionError: there is no photo of this name.
        """
        if name in self.names:
            return self.names.index(name)
        # The same name may come in another Unicode form: macOS takes accents apart, keyboards don't.
        known = [composed(photo.name) for photo in self.photos]
        if known.count(composed(name)) == 1:
            return known.index(composed(name))
        raise CollectionError(f"There is no photo {shown(name)} in the collection. {self._suggestion(name)}")

    def with_photo(self, photo: Photo) -> "Collection":
        """One more photo at the end, with what there is to say about all of them; a copy is noted as such."""
        first = next((other.name for other in self.photos if other.sha256 == photo.sha256), None)
        photos = (*self.photos, photo if first is None else replace(photo, duplicate_of=first))
        about_masks = set(_oddities(self.photos, True)) - set(_oddities(self.photos, False))
        wanted = not about_masks.isdisjoint(self.warnings)
        old = _oddities(self.photos, wanted)
        lasting = [note for note in self.warnings if note not in old]
        return replace(self, photos=photos, warnings=(*lasting, *_oddities(photos, wanted)))

    def _suggestion(self, name: str) -> str:
        same_file = [known for known in self.names if known.rpartition("/")[2] == name.rpartition("/")[2]]
        close = same_file or difflib.get_close_matches(name, self.names, n=3, cutoff=0.5)
        return f"Did you mean {listed(close)}?" if close else f"The photos are {listed(self.names)}."


def counted(warnings: Sequence[str]) -> str:
    """How many warnings there are, as the end of a line; '' for none."""
    return f", {len(warnings)} warning{'s' * (len(warnings) != 1)}" if warnings else ""


def load_collection(
    folder: str | Path,
    *,
    masks: str | Path | None = None,
    strict: bool = False,
    max_memory: float = 0.0,
    progress: ProgressCallback | None = None,
) -> Collection:
    """Loads all photos of a folder and its sub-folders.

    Hidden files, run folders and masks that lie in a sub-folder ``masks`` are passed over.

    Args:
        folder: holds at least two photos of one object or category.
        masks: a folder with masks of some or all photos: ``a.png`` or ``a.jpg.png`` for ``a.jpg``, in the same
            sub-folders; light = object, of the upright photo, of its size or proportions.
        strict: stop at the first file that can't be used, rather than leave it out with a warning.
        max_memory: GB that decoding a photo of many megapixels may take, with what the process has. 0: any.
        progress: called after each photo, with the stage "photos".

    Raises:
        CollectionError: no such folder, fewer than two photos that can be used, or a mask that does not fit.
        MemoryLimitError: ``max_memory``, or what memory there is, is not enough for a photo or a mask.

    Example:
        >>> load_collection("photos").names  # doctest: +SKIP
        ('IMG_9.jpg', 'IMG_10.jpg')
    """
    root, mask_root = existing_folder(folder, "photos"), None if masks is None else existing_folder(masks, "masks")
    if mask_root is not None and mask_root.samefile(root):
        raise CollectionError("The masks lie among the photos. Put them in a folder of their own.")
    found = find_photos(root, passed_over=mask_root)
    mask_of = {} if mask_root is None else match_masks(list(found.photos), mask_root)
    photos, unreadable = _load_all(found.photos, mask_of, max_memory, progress)
    left_out = dict(sorted((found.left_out | unreadable).items(), key=lambda item: natural_key(item[0])))
    if strict and left_out:
        name, reason = next(iter(left_out.items()))
        raise CollectionError(
            f"{shown(name)} can't be used: {reason}. Repair or remove it, or leave out "
            "--strict (strict=True in Python)."
        )
    if len(photos) < 2:
        raise CollectionError(_too_few(root, photos, left_out))
    notes = [f"{shown(name)} is left out: {reason}." for name, reason in left_out.items()]
    notes += found.notes
    if len(photos) > MOST_PHOTOS:
        notes.append(f"There are {len(photos)} photos: aligning more than {MOST_PHOTOS} takes minutes.")
    notes += _oddities(photos, masks_wanted=masks is not None)
    for note in notes:
        warnings.warn(note, CollectionWarning, stacklevel=2)
    return Collection(root, tuple(photos), left_out, tuple(notes))


def load_photo(path: str | Path, *, name: str | None = None, mask: str | Path | None = None) -> Photo:
    """Loads one photo.

    Args:
        path: the file.
        name: what to call it; the file's name where it is not given.
        mask: a file with its mask, as in :func:`load_collection`.

    Raises:
        CollectionError: the photo or its mask can't be used.
    """
    path = Path(path).absolute()
    name = name or path.name
    if _is(path.is_dir):
        raise CollectionError(f"'{path}' is a folder. Give the photos in it, file by file: 'FOLDER/*.jpg' in a shell.")
    if not _is(path.exists):
        raise CollectionError(f"There is no file '{path}'. Give the path of a photo.")
    try:
        return _load(path, name, None if mask is None else Path(mask).absolute())
    except UnreadableError as error:
        raise CollectionError(f"The photo {shown(name)} can't be used: {error}.") from error


def _is(test: Callable[[], bool]) -> bool:
    """A test of a path, False where it can't be made: no permission, or longer than paths can be."""
    try:
        return test()
    except (OSError, ValueError):
        return False


def existing_folder(folder: str | Path, content: str) -> Path:
    """A folder as an absolute path, so that it stays right when the working directory changes.

    Raises:
        CollectionError: there is none; ``content`` says what it should hold.
    """
    path = Path(folder).absolute()
    try:
        if path.is_dir():
            return path
        found = f"'{folder}' is a file." if path.is_file() else f"There is no folder '{folder}'."
    except OSError as error:
        found = f"The folder '{folder}' can't be reached ({error.strerror})."
    raise CollectionError(f"{found} Give the folder that holds the {content}.")


def _load_all(
    files: dict[str, Path], mask_of: dict[str, Path], max_memory: float, progress: ProgressCallback | None
) -> tuple[list[Photo], dict[str, str]]:
    """Loads photos two at a time: those that can be used, and name -> reason for the others."""
    photos: dict[str, Photo] = {}  # by hash, the first of each content
    loaded: list[Photo] = []
    left_out: dict[str, str] = {}
    shelf, begun, waiting = Shelf(), deque[Future[Photo]](), iter(files.items())
    with quiet_pillow, ThreadPoolExecutor(2) as pool:
        try:
            for done, name in enumerate(files, 1):
                for ahead, path in islice(waiting, _AHEAD + 1 - len(begun)):
                    begun.append(pool.submit(_load, path, ahead, mask_of.get(ahead), max_memory))
                try:
                    photo = begun.popleft().result()
                    mask = None if photo.mask is None else shelf.put(photo.mask)
                    photo = replace(photo, pixels=shelf.put(photo.pixels), mask=mask)
                    first = photos.setdefault(photo.sha256, photo)
                    loaded.append(photo if first is photo else replace(photo, duplicate_of=first.name))
                except TooLargeError as error:
                    raise MemoryLimitError(
                        f"{shown(name)} is too large: {error}. Reduce the photo, or allow more."
                    ) from error
                except UnreadableError as error:
                    left_out[name] = str(error)
                if done % FORGOTTEN == 0:
                    forget()
                if progress is not None:
                    progress(Progress("photos", done, len(files)))
        except BaseException:  # Ctrl-C or a wrong mask: what has not begun is not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return loaded, left_out


def _load(path: Path, name: str, mask_path: Path | None, max_memory: float = 0.0) -> Photo:
    """One photo with its mask; UnreadableError where the photo can't be used, CollectionError where the mask can't."""
    decoded = decode(path, WORKING_SIDE, max_memory)
    try:
        sha256 = sha256_of(path)
    except OSError as error:
        raise UnreadableError(f"it can't be read ({error.strerror})") from error
    height, width = decoded.pixels.shape[:2]
    mask = None
    if mask_path is not None:
        full = _read_mask(mask_path, name, decoded.size, decoded.on_its_side, max_memory)
        mask = _resized_mask(full > 0, (width, height))
    elif decoded.alpha is not None:
        mask = _resized_mask(decoded.alpha >= 128, (width, height))
    return Photo(name, path, decoded.size, sha256, decoded.pixels, mask, mask_path=mask_path)


def _read_mask(
    path: Path, name: str, size: tuple[int, int], on_its_side: bool = False, max_memory: float = 0.0
) -> np.ndarray:
    """A mask file at the size of its photo: (height, width) uint8, 255 = object."""
    try:
        mask = decode_mask(path, max_memory)
    except TooLargeError as error:
        raise MemoryLimitError(f"The mask '{path}' is too large: {error}. Reduce the mask, or allow more.") from error
    except UnreadableError as error:
        raise CollectionError(f"The mask '{path}' of the photo {shown(name)} can't be used: {error}.") from error
    height, width = mask.shape
    if abs(width * size[1] / (height * size[0]) - 1) > 0.01:
        stored = on_its_side and (height, width) == size
        turned = " It seems to show the photo as stored, before its EXIF orientation." * stored
        raise CollectionError(
            f"The mask '{path}' is {width} x {height} pixels, but the photo {shown(name)} is {size[0]} x {size[1]} "
            f"upright.{turned} Make the mask in the size of the upright photo."
        )
    if not mask.any():
        raise CollectionError(
            f"The mask '{path}' of the photo {shown(name)} is black everywhere. Paint the object white, or remove "
            "the mask."
        )
    return _resized_mask(mask, size)


def _resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A (h, w) bool mask in another (width, height): uint8, 255 = object, read-only, never empty."""
    grey = mask.astype(np.uint8) * 255
    if size != mask.shape[::-1]:
        smooth = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
        grey = np.where(smooth >= min(128, smooth.max()), 255, 0).astype(np.uint8)
    grey.setflags(write=False)
    return grey


def _too_few(root: Path, photos: Sequence[Photo], left_out: dict[str, str]) -> str:
    """What to say when there is nothing to align."""
    reasons = "; ".join(f"{shown(name)}: {reason}" for name, reason in list(left_out.items())[:5])
    reasons += f"; and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    found = f"only one photo, {shown(photos[0].name)}," if photos else "no photo"
    left = f" Left out: {reasons}." if left_out else ""
    return f"There is {found} in '{root}' that can be used; at least 2 photos of one object are needed.{left}"


def _oddities(photos: Sequence[Photo], masks_wanted: bool) -> list[str]:
    """Sentences about photos that can be used but will not help."""
    notes = []
    bare = [photo for photo in photos if not photo.holds_shapes]
    empty = {photo.name for photo in bare}
    if not bare and same_picture([photo.pixels for photo in photos]):
        notes.append(f"All {len(photos)} photos show the same picture: nothing can be learned by comparing them.")
    else:
        copies: dict[str, list[str]] = {}
        for photo in photos:
            if photo.duplicate_of is not None:
                copies.setdefault(photo.duplicate_of, []).append(photo.name)
        notes += [f"The same file as {shown(first)}: {listed(names)}." for first, names in copies.items()]
        notes += _saved_again([photo for photo in photos if photo.name not in empty and photo.duplicate_of is None])
    flat = [photo.name for photo in bare if one_colour(photo.pixels)]
    if flat:
        notes.append(f"Of one colour all over, so that nothing can be matched in it: {listed(flat)}.")
    smooth = [photo.name for photo in bare if photo.name not in flat and not grainy(photo.pixels)]
    if smooth:
        notes.append(f"Nothing but smooth shading, without a shape that could be matched: {listed(smooth)}.")
    noise = [photo.name for photo in bare if photo.name not in (*flat, *smooth)]
    if noise:
        notes.append(f"Nothing but grain, without a shape that could be matched: {listed(noise)}.")
    unmasked = [photo.name for photo in photos if photo.mask is None]
    if masks_wanted and unmasked:
        notes.append(f"Without a mask, so that the object is found from the photos alone: {listed(unmasked)}.")
    return notes


def _saved_again(photos: Sequence[Photo]) -> list[str]:
    """Which photos show the same picture in different files."""
    copies: dict[int, list[str]] = {}
    for index, first in enumerate(first_of_picture([photo.pixels for photo in photos])):
        if first != index:
            copies.setdefault(first, []).append(photos[index].name)
    return [
        f"The same picture as {shown(photos[first].name)}: {listed(names)}. Keep one of them."
        for first, names in copies.items()
    ]
