"""asic3d: dense, mutually consistent correspondences for a handful of photos of one rare object.

Example:
    >>> import asic3d  # doctest: +SKIP
    >>> alignment = asic3d.align(asic3d.load_collection("photos"))  # doctest: +SKIP
    >>> alignment.transfer([[120, 80]], source="a.jpg", target="b.jpg").points  # doctest: +SKIP
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asic3d.alignment import Alignment, align, load_alignment
    from asic3d.collection import Collection, Photo, load_collection
    from asic3d.config import AlignmentConfig, make_config
    from asic3d.correspondences import Correspondences, DenseMap
    from asic3d.errors import Asic3dError

__version__ = "0.1.0"

# GNU OpenMP, which torch computes with, lets idle threads spin. Where another program wants the cores too, all wait
# for spinning threads: an alignment of 2 seconds was measured to take over a minute. Spinning 1000 rounds only costs
# nothing when the machine is idle. Read when torch is loaded; whoever has set one of these keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_HOMES = {
    "Alignment": "alignment",
    "align": "alignment",
    "load_alignment": "alignment",
    "Collection": "collection",
    "Photo": "collection",
    "load_collection": "collection",
    "AlignmentConfig": "config",
    "make_config": "config",
    "Correspondences": "correspondences",
    "DenseMap": "correspondences",
    "Asic3dError": "errors",
}

__all__ = [
    "Alignment",
    "AlignmentConfig",
    "Asic3dError",
    "Collection",
    "Correspondences",
    "DenseMap",
    "Photo",
    "align",
    "load_alignment",
    "load_collection",
    "make_config",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import asic3d`` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asic3d' has no attribute '{name}'")
    return getattr(importlib.import_module(f"asic3d.{_HOMES[name]}"), name)
