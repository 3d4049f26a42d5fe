"""Points as people give them: ``X,Y`` on the command line, or a CSV file."""

import csv
import math
from pathlib import Path

from asic3d.errors import Asic3dError
from asic3d.photo_folder import shown
from asic3d.reading import read_text_bounded

Point = tuple[float, float]


class PointsError(Asic3dError):
    """A file with points can't be used."""


def parse_point(text: str) -> Point:
    """``"120,80"`` as two finite numbers.

    Raises:
        ValueError: it is something else; the message says what.
    """
    wanted = "write X,Y in pixels, for example 120,80."
    parts = text.split(",")
    if len(parts) != 2:
        raise ValueError(f"{shown(text)} is not a point; {wanted}")
    try:
        return _number(parts[0]), _number(parts[1])
    except ValueError as error:
        found, _, what = str(error).removesuffix(".").partition(" is ")
        raise ValueError(f"{found} in {shown(text)} is {what}; {wanted}") from None


def read_points(path: Path) -> list[Point]:
    """The points of a CSV file: columns x and y, named by a header or else the first two; pixels.

    Commas, semicolons and tabs separate columns; beside the latter two, numbers may have a decimal comma. Empty lines
    are passed over, and so are further columns.

    Raises:
        PointsError: the file can't be read, holds no point, or a row is no point; the row's line is named.
    """
    try:
        lines = read_text_bounded(path).splitlines()
    except OSError as error:
        raise PointsError(f"'{path}' can't be read ({error.strerror}). Give a CSV file with columns x and y.") from None
    except UnicodeDecodeError:
        raise PointsError(f"'{path}' is no text file. Give a CSV file with columns x and y.") from None
    separator = next((mark for mark in (";", "\t") if lines and mark in lines[0]), ",")
    rows = [(number, row) for number, row in enumerate(csv.reader(lines, delimiter=separator), 1) if any(row)]
    columns, header = _columns(path, rows[0][1]) if rows else ((0, 1), False)
    decimal = "." if separator == "," else ","
    points = [
        _point(path, number, [cell.replace(decimal, ".") for cell in row], columns) for number, row in rows[header:]
    ]
    if not points:
        raise PointsError(f"'{path}' holds no points. Write one x,y in pixels on each line.")
    return points


def _columns(path: Path, first: list[str]) -> tuple[tuple[int, int], bool]:
    """Which columns are x and y, and whether the first row is a header."""
    names = [name.strip().lower() for name in first]
    if "x" in names and "y" in names:
        return (names.index("x"), names.index("y")), True
    if all(_is_word(name) for name in names):
        raise PointsError(f"The header of '{path}' is {shown(','.join(first))}; it needs columns named x and y.")
    return (0, 1), False


def _is_word(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return True
    return False


def _point(path: Path, line: int, row: list[str], columns: tuple[int, int]) -> Point:
    try:
        return _number(row[columns[0]]), _number(row[columns[1]])
    except IndexError:
        raise PointsError(f"'{path}', line {line}: found {shown(','.join(row))}, but x,y is needed.") from None
    except ValueError as error:
        raise PointsError(f"'{path}', line {line}: {error}") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{shown(text.strip())} is not a number.") from None
    if not math.isfinite(value):
        raise ValueError(f"{shown(text.strip())} is not a finite number.")
    return value
