"""How much memory an alignment takes at most, said before the work."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asic3d.errors import AlignmentError

if TYPE_CHECKING:
    from asic3d.config import AlignmentConfig

_LIBRARIES = 0.8e9
"""Bytes of the libraries, the network, and what they use for one photo."""
_SPARE = 1.15
"""What the allocator leaves unused, at most, measured."""
_CLOSER_CELLS = 4 * 30**2
"""Cells of a photo that is looked at in its four turns, the second time."""
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


def expected_memory(load: Load, config: "AlignmentConfig") -> float:
    """GB that an alignment by splines and its report take at most.

    Args:
        load: the photos.
        config: the settings.
    """
    cells, channels = config.grid**2, load.channels
    turned = 4 * load.largest + _CLOSER_CELLS * (channels + 3 * 64)
    described = load.raw + cells * channels
    fitted = cells * (channels + 3 * config.channels + 6 * config.metric_channels)
    stored = cells * (3 * channels + config.channels + 3 * config.metric_channels)
    numbers = max(turned if config.turns else 0, described, fitted, stored)
    return (_LIBRARIES + load.pixels + load.photos * (4 * _SPARE * numbers + _PAGE)) / 1e9


def check_memory(load: Load, config: "AlignmentConfig") -> None:
    """Refuses what would not stay within ``max_memory``.

    Raises:
        AlignmentError: it takes more.
    """
    expected = expected_memory(load, config)
    if 0 < config.max_memory < expected:
        raise AlignmentError(
            f"{load.photos} photos may take {expected:.1f} GB of memory, and max_memory allows {config.max_memory:g}. "
            "Allow more, align some of the photos and bring the others in with 'asic3d add', or take a coarser grid "
            f"(--set grid={max(8, config.grid * 3 // 4)})."
        )
