"""How much memory an alignment takes at most, said before the work."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asic3d.errors import AlignmentError

if TYPE_CHECKING:
    from asic3d.config import AlignmentConfig

_LIBRARIES = 0.8e9
"""Bytes of the libraries, the network, and what they use for one photo."""
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
    return (_LIBRARIES + load.pixels + load.photos * max(_of_one(load, config).values())) / 1e9


def _of_one(load: Load, config: "AlignmentConfig") -> dict[str, float]:
    """Bytes for each photo, besides its pixels, in the stages that take most."""
    cells, channels = config.grid**2, load.channels
    turned = 4 * load.largest + _CLOSER_CELLS * (channels + 3 * 64)
    fitted = cells * (channels + 3 * config.channels + 6 * config.metric_channels)
    stored = cells * (5 * channels // 2 + config.channels + 3 * config.metric_channels)
    saved = cells * (2 * channels + 2 * config.metric_channels)
    return {
        "turned": 4 * turned if config.turns else 0,
        "described": 4 * (load.raw + cells * channels),
        "fitted": 4 * fitted,
        "stored": 4 * stored,
        "saved": 4 * saved + _PAGE,
    }


def check_memory(load: Load, config: "AlignmentConfig") -> None:
    """Refuses what would not stay within ``max_memory``.

    Raises:
        AlignmentError: it takes more.
    """
    expected = expected_memory(load, config)
    if not 0 < config.max_memory < expected:
        return
    each = _of_one(load, config)
    remedy = f"take a coarser grid (--set grid={max(8, config.grid * 3 // 4)})"
    if each["turned"] == max(each.values()):
        remedy = "do not look for turned photos (--set turns=false)"
    raise AlignmentError(
        f"{load.photos} photos may take {expected:.1f} GB of memory, and max_memory allows {config.max_memory:g}. "
        f"Allow more, align some of the photos and bring the others in with 'asic3d add', or {remedy}."
    )
