"""One line about a value that is made of arrays: their shapes in place of their numbers."""

import dataclasses
from collections.abc import Sized
from typing import Any

_LONGEST = 40


class Brief:
    """Gives a dataclass (with ``repr=False``) a representation of one line.

    Example:
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class Line(Brief):
        ...     points: object
        ...     width: float
        >>> import numpy
        >>> Line(numpy.zeros((3, 2)), 0.5)
        Line(points=float64 (3, 2), width=0.5)
    """

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        shown = (f"{item.name}={_short(getattr(self, item.name))}" for item in fields if item.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    if len(text) <= _LONGEST and "\n" not in text:
        return text
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, Sized) else type(value).__name__
