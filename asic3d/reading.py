"""Files that people name, read as far as they can be meant: a device has no end."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

TEXT = 256 * 2**20
"""Bytes of a table, a list or a JSON file, at most; and of what comes out of a pipe or a device."""
_STEP = 2**20


def read_bounded(path: Path, largest: int | None = TEXT) -> bytes:
    """A file's bytes.

    Args:
        path: the file, or a pipe.
        largest: bytes that it may have; None: as many as the disk has of it.

    Raises:
        OSError: it can't be read, or has more.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        largest = max(status.st_size, TEXT) if largest is None else largest
        if not stat.S_ISREG(status.st_mode):
            largest = min(largest, TEXT)
        content = b"" if status.st_size > largest else _all_of(file, status.st_size, largest + 1)
    if max(status.st_size, len(content)) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest / 2**20:g} MiB")
    return content


def _all_of(file: BinaryIO, size: int, most: int) -> bytes:
    """What a file of about this size holds, at most so many bytes; memory is taken for what is there."""
    parts, step = [], size + 1
    while most > 0 and (part := file.read(min(most, step))):
        parts.append(part)
        most, step = most - len(part), _STEP
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_text_bounded(path: Path, largest: int = TEXT) -> str:
    """A file's text in UTF-8, with or without its mark.

    Raises:
        OSError: as :func:`read_bounded`.
        UnicodeDecodeError: it is no such text.
    """
    return read_bounded(path, largest).decode("utf-8-sig")
