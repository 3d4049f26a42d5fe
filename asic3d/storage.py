"""Files and run folders: they appear whole or not at all, and nothing in them is trusted when read.

A folder is a run of asic3d when it holds ``run.json``, written last (a finished run), or the marker ``.asic3d``,
written first (a run that is going on or was interrupted).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, BinaryIO

from asic3d.errors import StorageError
from asic3d.reading import read_bounded
from asic3d.temporaries import temporary_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMAT_VERSION = 1
"""Version of the run folder that is written; a newer one is not read."""
RUN_FILE = "run.json"
MARKER = ".asic3d"
_MARKED = "A run folder of asic3d.\n"
MAKE_AGAIN = "Delete it and make it again."
ALIGN_AGAIN = "Align the photos again with --overwrite."
"""What to do about a damaged run."""
_LARGEST_JSON = 256 * 2**20
_FULL_DISK = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows knows no quota


def is_run_folder(folder: Path) -> bool:
    """Whether asic3d wrote this folder: finished, going on or interrupted."""
    return _is_file(folder / RUN_FILE) or _is_file(folder / MARKER)


def _is_file(path: Path) -> bool:
    """As Path.is_file, and False where looking is not permitted."""
    with contextlib.suppress(OSError):
        return path.is_file()
    return False


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal, read in pieces.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: str | Path, name: str, *, follow_links: bool = False) -> Path:
    """The path of a file in a folder, from a name that may come from a file of unknown origin.

    Args:
        folder: the folder that the path must not leave.
        name: relative path with forward slashes, such as a photo's name.
        follow_links: let symbolic links below the folder lead out of it. Right for reading photos, which people do link
            into their folder; never for writing.

    Raises:
        StorageError: the name is empty, absolute, climbs with ``..`` or leads out of the folder through a link.

    Example:
        >>> inside("run/masks", "left/a.jpg.png").as_posix()
        'run/masks/left/a.jpg.png'
    """
    folder = Path(folder)
    refused = StorageError(f"The name {name!r} is not that of a file in '{folder}'; nothing was read or written.")
    if not isinstance(name, str) or "\0" in name:
        raise refused
    for path in (PurePosixPath(name), *([PureWindowsPath(name)] if os.name == "nt" else [])):
        if not path.name or path.anchor or ".." in path.parts:
            raise refused
    target = folder / name
    try:
        leaves = not target.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a link that leads to itself, or letters that no path holds
        raise refused from None
    if leaves and not follow_links:
        raise StorageError(f"The name {name!r} leads out of '{folder}' through a link; nothing was read or written.")
    return target


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file beside its place and renames it, so that it appears whole or not at all.

    Args:
        path: the file; its folder is made when it is missing. What stood there stays until the new file is complete.
        write: writes the content to an open binary file.

    Raises:
        StorageError: the disk is full or the place is not writable. What ``write`` raises on its own passes through.

    Example:
        >>> atomic_write("notes.txt", lambda file: file.write(b"hello"))  # doctest: +SKIP
    """
    path = Path(path)
    with clear_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as temporary:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # some file systems say only now that the disk is full
            temporary.replace(path)


@contextlib.contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about writing a file into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise StorageError(
                f"The disk is full: '{path}' was not written, and what was there before is unchanged. "
                "Free some space and run it again."
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"'{path}' is larger than files may be here: it was not written, and what was there before is "
                "unchanged. Lift the limit (ulimit -f), or choose a folder on another disk."
            ) from error
        raise StorageError(
            f"'{path}' can't be written ({error.strerror or error}). Choose another folder, or change its permissions."
        ) from error


def json_bytes(value: Any) -> bytes:
    """A value as JSON; NaN and infinity become null, paths texts, numpy scalars numbers.

    ASCII only: any name survives, whatever it holds and whichever editor opens the file.
    """
    return (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode("ascii")


def write_json(path: str | Path, value: Any) -> None:
    """Writes :func:`json_bytes` atomically.

    Raises:
        StorageError: as :func:`atomic_write`.
    """
    content = json_bytes(value)
    atomic_write(path, lambda file: file.write(content))


def _plain(value: Any) -> Any:
    """A value of Python's and numpy's kinds as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: str | Path, *, remedy: str = MAKE_AGAIN) -> dict[str, Any]:
    """Reads a JSON file that holds an object, and checks its ``format_version`` where it has one.

    Args:
        path: the file.
        remedy: what to do where it can't be read, as a sentence.

    Raises:
        StorageError: missing, unreadable, damaged, or written by a newer asic3d.
    """
    path = Path(path)
    content = _read_bytes(path, _LARGEST_JSON, remedy)
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError):  # ValueError: bad UTF-8, bad JSON, endless digits, NaN
        raise _damaged(path, "it is not valid JSON", remedy) from None
    if not isinstance(value, dict):
        raise _damaged(path, "it holds no JSON object", remedy)
    if "format_version" in value:
        _check_version(path, value["format_version"], remedy)
    return value


def read_run(folder: str | Path) -> dict[str, Any]:
    """The content of a finished run's ``run.json``.

    Raises:
        StorageError: not a run folder, an unfinished run, or as :func:`read_json`.
    """
    folder = Path(folder)
    if not _is_file(folder / RUN_FILE):
        if _is_file(folder / MARKER):
            photos = _noted_photos(folder)
            known = "" if photos else ", PHOTOS being its photo folder"
            raise StorageError(
                f"The run in '{folder}' did not finish. Go on with it{known}: "
                f"asic3d align {photos or 'PHOTOS'} -o {shlex.quote(str(folder))} --resume"
            )
        raise StorageError(f"'{folder}' is no run folder: it holds no {RUN_FILE}. Make one with 'asic3d align PHOTOS'.")
    run = read_json(folder / RUN_FILE, remedy=ALIGN_AGAIN)
    if "format_version" not in run:
        raise _damaged(folder / RUN_FILE, "it has no format_version", ALIGN_AGAIN)
    return run


def _noted_photos(folder: Path) -> str:
    """The photo folder of an unfinished run, for a shell; '' where it is not known."""
    try:
        with (folder / MARKER).open("rb") as file:
            noted = file.read(5000).decode().removeprefix(_MARKED)
    except (OSError, UnicodeDecodeError):
        return ""
    return shlex.quote(noted) if noted and noted.isprintable() and Path(noted).is_dir() else ""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _check_version(path: Path, version: Any, remedy: str) -> None:
    """Refuses a format version that is no number or newer than ours."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _damaged(path, f"its format_version is {version!r}", remedy)
    if version > FORMAT_VERSION:
        raise StorageError(
            f"'{path}' was made by a newer asic3d (format {version}; this one reads up to {FORMAT_VERSION}). "
            "Update asic3d as you installed it."
        )


def _half_of_memory() -> int | None:
    """Bytes that a file may have whose tensors are to be held beside it; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError, AttributeError):
        return None


def _read_bytes(path: Path, largest: int | None, remedy: str) -> bytes:
    """A file's content, or a StorageError that says why there is none."""
    try:
        return read_bounded(path, largest)
    except FileNotFoundError:
        raise StorageError(f"There is no file '{path}'.{'' if remedy == MAKE_AGAIN else f' {remedy}'}") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _damaged(path, str(error.strerror), remedy) from None
        raise StorageError(f"'{path}' can't be read ({error.strerror or error}).") from error


def _damaged(path: Path, why: str, remedy: str) -> StorageError:
    return StorageError(f"'{path}' is damaged: {why}. {remedy}")


def safetensors_bytes(tensors: Mapping[str, "Tensor"], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file with tensors of any device and layout."""
    from safetensors.torch import save

    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        place = held.untyped_storage().data_ptr()
        # Safetensors refuses tensors that share memory; others are not copied: there may be gigabytes of them.
        found[name] = held.clone() if place in places else held
        places.add(place)
    return save(found, metadata)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, "Tensor"], metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors of any device and layout atomically.

    Raises:
        StorageError: as :func:`atomic_write`.
    """
    content = safetensors_bytes(tensors, metadata)
    atomic_write(path, lambda file: file.write(content))


def read_safetensors(
    path: str | Path,
    expected: Mapping[str, tuple["torch.dtype", tuple[int | str | None, ...]]],
    *,
    finite: bool = True,
    remedy: str = MAKE_AGAIN,
) -> dict[str, "Tensor"]:
    """Reads the expected tensors, on the CPU, and believes nothing else about the file.

    Args:
        path: a safetensors file.
        expected: name -> dtype and shape. In a shape None stands for any length; a letter such as ``"N"`` stands for
            any length too, but the same one wherever that letter occurs.
        finite: refuse NaN and infinity.
        remedy: what to do where the file is missing or damaged, as a sentence.

    Raises:
        StorageError: missing, unreadable, cut off, damaged, too large for memory, or other tensors than expected.

    Example:
        >>> read_safetensors("run/alignment.safetensors",
        ...                  {"canonical": (torch.float32, ("N", "G", "G", 2))})  # doctest: +SKIP
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        tensors = load(_read_bytes(path, _half_of_memory(), remedy))
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, RuntimeError):
        # Torch's own errors come for a file that is well-formed but describes tensors that can't be made.
        raise _damaged(path, "it is cut off, or not a safetensors file", remedy) from None
    except MemoryError:
        raise StorageError(f"'{path}' does not fit in memory. Read it on a machine that has more.") from None
    lengths: dict[str, int] = {}
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise _damaged(path, f"it has no tensor '{name}'", remedy)
        fault = _fault(name, tensors[name], dtype, shape, lengths)
        if fault:
            raise _damaged(path, fault, remedy)
        if finite and not bool(tensors[name].isfinite().all()):
            raise _damaged(path, f"its tensor '{name}' holds values that are not finite", remedy)
    return {name: tensors[name] for name in expected}


def _fault(
    name: str, tensor: "Tensor", dtype: "torch.dtype", shape: tuple[int | str | None, ...], lengths: dict[str, int]
) -> str:
    """What is wrong where a tensor is of another dtype or shape; ``lengths`` collects what the letters stand for."""
    if tensor.dtype != dtype:
        return f"its tensor '{name}' is {_short(tensor.dtype)}, not {_short(dtype)}"
    fits = len(shape) == tensor.ndim
    for wanted, length in zip(shape, tensor.shape, strict=False):
        if isinstance(wanted, str):
            wanted = lengths.setdefault(wanted, length)
        fits = fits and wanted in (None, length)
    if fits:
        return ""
    wanted_shape = " x ".join("any" if n is None else str(lengths.get(str(n), n)) for n in shape)
    found = " x ".join(map(str, tensor.shape)) or "a single number"
    return f"its tensor '{name}' is {found}, not {wanted_shape}"


def _short(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def prepare_output(
    folder: str | Path, *, overwrite: bool = False, resume: bool = False, photos: Path | None = None
) -> None:
    """Makes a run folder ready to be written, and refuses early what would fail or destroy something later.

    Nothing is deleted: the files of an earlier run stay until the new ones replace them.

    Args:
        folder: the run folder; made when it is missing.
        overwrite: a finished run there may be replaced.
        resume: an interrupted run there is to be gone on with; a finished one is replaced with ``overwrite`` alone.
        photos: the folder of its photos, noted so that it can be named should the run not be finished.

    Raises:
        StorageError: a finished run is there and may not be replaced, other things are, or it is not writable.
    """
    folder = Path(folder)
    if _is_file(folder):
        raise StorageError(f"'{folder}' is a file. Choose a folder for the run with -o.")
    if _is_file(folder / RUN_FILE) and not overwrite:
        raise StorageError(
            f"{'There is nothing to resume: ' * resume}'{folder}' holds a finished run. Replace it with --overwrite "
            "(overwrite=True in Python), or choose another folder with -o."
        )
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    if others and not is_run_folder(folder):
        raise StorageError(
            f"'{folder}' holds other files, such as {min(others)!r}. Choose an empty or new folder for the run with -o."
        )
    content = _MARKED + (str(photos.absolute()) if photos else "")
    atomic_write(folder / MARKER, lambda file: file.write(content.encode("utf-8", "surrogateescape")))
