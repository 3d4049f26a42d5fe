"""MATLAB files, read by scipy; it crashes on some that are damaged, so their structure is looked at first."""

import struct
import zlib
from pathlib import Path
from typing import Any

from asic3d.reading import read_bounded
from asic3d_integrations.datasets.annotated import malformed

_HEADER = 128  # bytes; the last two say in which order bytes are
_MOST = 2**28  # bytes that a compressed variable may have
_DEEPEST = 20  # structs within structs
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}  # types of elements
_TEXTS = {16, 17, 18}
_NESTED = {1, 2, 3}  # classes of matrices: cell, struct, object
_NUMERIC = set(range(4, 16))  # characters, sparse, numbers


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, structs as objects with their fields, squeezed.

    Raises:
        CollectionError: the file is no MATLAB file.
    """
    from scipy.io import loadmat

    try:
        _check(read_bounded(path))
        return loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise malformed(path, "it is no MATLAB file of version 4 to 7.2") from error


def _check(content: bytes) -> None:
    """Raises ValueError or struct.error where a file of version 5 to 7.2 holds what scipy reads without looking."""
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is not None:  # version 4 has no header
        for kind, data in _elements(content[_HEADER:], order):
            if kind == _COMPRESSED:
                decompressor = zlib.decompressobj()
                plain = decompressor.decompress(data, _MOST)
                if not decompressor.eof:
                    raise ValueError("a variable is cut off or too large")
                ((kind, data),) = _elements(plain, order)
            if kind != _MATRIX:
                raise ValueError(f"type {kind} is no variable")
            _check_matrix(data, order, 0)


def _elements(content: bytes, order: str) -> list[tuple[int, bytes]]:
    """Type and data of each element."""
    found, place = [], 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        start, short = place + 8, kind >> 16
        if short:  # four bytes or fewer, in place of the size
            kind, size, start = kind & 0xFFFF, short, place + 4
            if short > 4:
                raise ValueError(f"{short} bytes do not fit into four")
        if start + size > len(content):
            raise ValueError("an element is cut off")
        found.append((kind, content[start : start + size]))
        place = place + 8 if short else start + size + (-size % 8 if kind != _COMPRESSED else 0)
    return found


def _check_matrix(content: bytes, order: str, depth: int) -> None:
    """A matrix: its flags, its sides, its name, then numbers, or matrices in it."""
    if not content:  # an empty one
        return
    (flags_kind, flags), (sides_kind, sides), (name_kind, _), *rest = _elements(content, order)
    if depth > _DEEPEST or flags_kind != 6 or len(flags) != 8 or sides_kind != 5 or len(sides) % 4 or name_kind != 1:
        raise ValueError("a matrix has no flags, sides or name")
    kind = struct.unpack(f"{order}I", flags[:4])[0] & 0xFF
    if kind not in _NESTED | _NUMERIC:
        raise ValueError(f"class {kind} is no matrix")
    for element, data in rest:
        if element == _MATRIX and kind in _NESTED:
            _check_matrix(data, order, depth + 1)
        elif element not in _NUMBERS | (_TEXTS if kind == 4 else set()):
            raise ValueError(f"type {element} is no content of class {kind}")
