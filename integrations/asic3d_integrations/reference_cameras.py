"""True cameras of photos, from a cameras.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asic3d.errors import CollectionError
from asic3d.photo_folder import composed, listed, shown
from asic3d.reading import read_text_bounded

_SHAPES = {"K": (3, 3), "R": (3, 3), "t": (3,)}


@dataclass(frozen=True, eq=False)
class ReferenceCameras:
    """Cameras with ``x_cam = R X + t``; pixels have (0, 0) at the centre of the top-left one.

    Attributes:
        files: the N photos, relative to the folder of cameras.json.
        K: (N, 3, 3) float64, pixels.
        R: (N, 3, 3) float64.
        t: (N, 3) float64.
    """

    files: tuple[str, ...]
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray

    def of(self, names: Sequence[str]) -> "ReferenceCameras":
        """The cameras of photos by their names, which may be shorter than the files' paths, or longer.

        Raises:
            CollectionError: a photo has no camera, or more than one.
        """
        places = [self._place(name) for name in names]
        return ReferenceCameras(tuple(names), self.K[places], self.R[places], self.t[places])

    def _place(self, name: str) -> int:
        wanted = composed(name)
        files = [composed(file) for file in self.files]
        found = [index for index, file in enumerate(files) if file == wanted]
        if not found:
            ends = [(f"/{file}", f"/{wanted}") for file in files]
            found = [index for index, (a, b) in enumerate(ends) if a.endswith(b) or b.endswith(a)]
        if len(found) != 1:
            raise CollectionError(
                f"There {'is no camera' if not found else 'are several cameras'} of the photo {shown(name)}; the "
                f"cameras are of {listed(self.files)}."
            )
        return found[0]


def load_cameras(path: Path) -> ReferenceCameras:
    """Reads ``{"images": [{"file", "size", "K": 3x3, "R": 3x3, "t": 3}]}``.

    Raises:
        CollectionError: the file is missing or malformed; what is wrong is named.
    """
    try:
        content = json.loads(read_text_bounded(path))
    except FileNotFoundError:
        raise CollectionError(f"There is no file '{path}' with cameras.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CollectionError(
            f"'{path}' can't be read as JSON ({getattr(error, 'strerror', None) or error}); check or replace the file."
        ) from error
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) < 2:
        raise CollectionError(
            f"'{path}' must hold {{\"images\": [...]}} with at least two entries, one for each photo."
        )
    parsed = [_parse(path, number, entry) for number, entry in enumerate(entries, 1)]
    files = tuple(file for file, _ in parsed)
    if len(set(files)) < len(files):
        raise CollectionError(f"'{path}' names a photo twice; keep one entry for each photo.")
    return ReferenceCameras(files, *(np.stack([values[key] for _, values in parsed]) for key in _SHAPES))


def _parse(path: Path, number: int, entry: Any) -> tuple[str, dict[str, np.ndarray]]:
    file = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(file, str) or not file:
        raise CollectionError(f"Entry {number} of '{path}' needs a \"file\": the photo's path.")
    values = {}
    for key, shape in _SHAPES.items():
        try:
            values[key] = np.asarray(entry.get(key), np.float64)
        except (TypeError, ValueError, OverflowError):
            values[key] = np.zeros(0)
        if values[key].shape != shape or not np.isfinite(values[key]).all():
            form = " x ".join(map(str, shape))
            raise CollectionError(f"The photo {shown(file)} in '{path}' needs \"{key}\": {form} finite numbers.")
    if not np.allclose(values["R"] @ values["R"].T, np.eye(3), atol=1e-3) or np.linalg.det(values["R"]) < 0:
        raise CollectionError(f"The \"R\" of the photo {shown(file)} in '{path}' is no rotation.")
    return file, values
