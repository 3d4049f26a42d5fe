"""How much memory an alignment takes at most, said before the work."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asic3d.errors import MemoryLimitError
from asic3d.scratch import BLOCK, LARGE

if TYPE_CHECKING:
    from asic3d.config import AlignmentConfig

_LIBRARIES = 0.5e9
"""Bytes of the libraries and the network, where the system does not tell what they take."""
_WORK = 0.35e9
"""Bytes that they use for one photo."""
_CLOSER_CELLS = 30**2
"""Cells of a photo that is looked at in its four turns, the second time."""
_MASKS = 0.8e6
"""Bytes of a photo's masks while they are made."""
_PAGE = 3e6
"""Bytes of a photo's pictures in the report, of its masks, and of what is made of them."""


@dataclass(frozen=True)
class Load:
    """What there is to hold.

    Attributes:
        photos: how many photos.
        pixels: bytes of all photos' pixels.
        channels: of a descriptor, C.
        raw: numbers that the network gives for one photo, at all sides.
        largest: those of the largest side.
    """

    photos: int
    pixels: float
    channels: int
    raw: int
    largest: int

    @staticmethod
    def usual(photos: int) -> "Load":
        """Photos from a camera, with a network of usual size, before anything is known of them."""
        return Load(photos, photos * 2.4e6, 384, 384 * 40**2, 384 * 40**2)


def expected_memory(load: Load, config: "AlignmentConfig", held: float | None = None) -> float:
    """GB that an alignment by splines and its report take at most.

    Args:
        load: the photos.
        config: the settings.
        held: bytes that the process has now, with the libraries, the network and the photos; None: not known.
    """
    before = _LIBRARIES + min(load.pixels, LARGE) if held is None else held
    return (before + _WORK + max(_stages(load, config).values())) / 1e9


def held_now() -> float | None:
    """Bytes of memory that this process has; None where the system does not tell. CUDA's libraries take 0.4 GB."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _stages(load: Load, config: "AlignmentConfig") -> dict[str, float]:
    """Bytes of the stages that take most, besides the photos' pixels. What is LARGE lies in files."""
    photos, cells, channels, metric = load.photos, config.grid**2, load.channels, config.metric_channels
    features = min(4 * photos * cells * channels, LARGE)
    block = 2 * 8 * min(BLOCK, photos * cells) * channels
    seen = 4 * photos * 4 * _CLOSER_CELLS
    matched = cells * (config.channels + 2 * metric + 2 * max(metric, config.coarse_channels))
    packed = cells * (channels + 2 * metric)  # half precision, and once more as bytes
    return {
        "turned": min(4 * photos * 4 * load.largest, LARGE) + min(seen * channels, LARGE) + 2 * seen * 64 + block
        if config.turns
        else 0,
        "described": min(4 * photos * load.raw, LARGE) + features + block,
        "fitted": features + photos * (4 * matched + _MASKS),
        "saved": features + photos * (4 * packed + _PAGE),
    }


def check_memory(load: Load, config: "AlignmentConfig") -> None:
    """Refuses what would not stay within ``max_memory``.

    Raises:
        MemoryLimitError: it takes more.
    """
    held = held_now()
    expected = expected_memory(load, config, held)
    if not 0 < config.max_memory < expected:
        return
    coarser = max(8, config.grid * 3 // 4)
    remedy = f"take a coarser grid (--set grid={coarser})"
    upright, rougher = replace(config, turns=False), replace(config, grid=coarser)
    if expected_memory(load, upright, held) < expected_memory(load, rougher, held):
        remedy = "do not look for turned photos (--set turns=false)"
    raise MemoryLimitError(
        f"{load.photos} photos may take {expected:.1f} GB of memory, and max_memory allows {config.max_memory:g}. "
        f"Allow more, align some of the photos and bring the others in with 'asic3d add', or {remedy}."
    )
