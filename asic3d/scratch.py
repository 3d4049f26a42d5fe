"""Large arrays that lie in files and not in memory: mapped, nameless, and gone with whoever used them.

The system writes them out and reads them in as memory allows. No path leads to the files, so that a killed process
leaves none behind.
"""

import contextlib
import ctypes
import math
import mmap
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asic3d.storage import clear_write_errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGE = 256 * 2**20
"""Bytes up to which an array stays in memory."""
BLOCK = 2**16
"""Cells that are worked on at once: those of 40 photos of 40 x 40 cells."""
FORGOTTEN = 32
"""Photos that are worked on before the memory of what lies in files is given back."""
_SEGMENT = 64 * 2**20
_mapped: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()
_lock = threading.Lock()  # of the set: another thread's alignment maps files too


def scratch(shape: Sequence[int], device: "torch.device | str" = "cpu", folder: Path | None = None) -> "Tensor":
    """A float32 tensor that is to be filled: in memory, or in a file where it has more than LARGE bytes.

    Args:
        shape: of the tensor.
        device: where it lies; only the CPU's may be in a file.
        folder: on whose disk the file is to lie; None: where the system keeps temporary files.

    Raises:
        StorageError: there is no room for the file.
    """
    import torch

    size = math.prod(shape) * torch.float32.itemsize
    if torch.device(device).type != "cpu" or size <= LARGE:
        return torch.empty(*shape, dtype=torch.float32, device=device)
    return torch.frombuffer(_file(size, folder), dtype=torch.float32).reshape(*shape)


def _file(size: int, folder: Path | None) -> mmap.mmap:
    """A mapped file of that many bytes, all of which the disk has."""
    place = Path(tempfile.gettempdir() if folder is None else folder)
    with clear_write_errors(place / "(a temporary file)"), tempfile.TemporaryFile(dir=place) as file:
        # A hole in the file would be found to be too much only when it is written: the process would be killed.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, _SEGMENT):
                file.write(bytes(min(_SEGMENT, size - start)))
            file.flush()
        mapped = mmap.mmap(file.fileno(), size)
    with _lock:
        _mapped.add(mapped)
    return mapped


def forget() -> None:
    """Gives back the memory of all files' pages, which are read in again when they are needed; no value is lost."""
    if hasattr(mmap, "MADV_DONTNEED"):
        with _lock:
            everyone = list(_mapped)
        for mapped in everyone:
            mapped.madvise(mmap.MADV_DONTNEED)


def give_back() -> None:
    """:func:`forget`, and gives back what was freed, of which the GNU C library keeps hundreds of megabytes."""
    forget()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class Shelf:
    """Takes arrays one after the other, and keeps those beyond LARGE bytes in files."""

    def __init__(self) -> None:
        self._kept = 0
        self._left: np.ndarray = np.empty(0, np.uint8)

    def put(self, array: np.ndarray) -> np.ndarray:
        """The same array, perhaps in a file; read-only.

        Raises:
            StorageError: there is no room for the file.
        """
        self._kept += array.nbytes
        if self._kept > LARGE and array.nbytes:
            if len(self._left) < array.nbytes:
                self._left = np.frombuffer(_file(max(_SEGMENT, array.nbytes), None), np.uint8)
            kept = self._left[: array.nbytes].view(array.dtype).reshape(array.shape)
            kept[:] = array
            self._left, array = self._left[array.nbytes :], kept
        array.setflags(write=False)
        return array
