"""Points spread over photos' objects and followed into every other photo: what the report shows and counts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from asic3d.coordinates import cell_centres, normalised_to_pixels
from asic3d.verdict import photo_fits

if TYPE_CHECKING:
    from asic3d import Alignment

NUMBERED = 12
"""Points of the reference photo that are drawn with a number in all photos."""


SOURCES = 12
"""Photos whose points are followed, where there are too many photos to follow those of all."""


@dataclass(frozen=True, eq=False)
class SampledMatches:
    """Where points of some photos lie in all photos.

    Attributes:
        sources: the photos whose points were followed, by index, in order.
        points: one (N, n, 2) float32 for each source: its n points in each of the N photos, original pixels.
        confidence: one (N, n) float32 in [0, 1] for each source; 1 in the source itself.
    """

    sources: tuple[int, ...]
    points: tuple[np.ndarray, ...]
    confidence: tuple[np.ndarray, ...]

    def of(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """The points of one of the sources, by its index among all photos, and their confidence."""
        place = self.sources.index(source)
        return self.points[place], self.confidence[place]

    def pair_confidence(self) -> np.ndarray:
        """(S, N) float: mean confidence of the points of each source (row) in each photo; NaN for itself."""
        table = np.array([confidence.mean(1) for confidence in self.confidence])
        table[np.arange(len(self.sources)), self.sources] = np.nan
        return table

    def reference(self) -> int:
        """The source whose points are found most surely in the others, by its index among all photos."""
        return self.sources[int(np.nanmean(self.pair_confidence(), 1).argmax())]


def sample_matches(alignment: "Alignment", count: int, *, most: int | None = None) -> SampledMatches:
    """Follows up to ``count`` points of each photo into all others.

    The points of a photo are ordered so that any first few of them are spread over the whole object.

    Args:
        alignment: N photos.
        count: most points of a photo.
        most: photos whose points are followed at most; all of them by default.
    """
    sources = spread_photos(alignment, len(alignment.names) if most is None else most)
    names = [alignment.names[index] for index in sources]
    starts = {
        name: normalised_to_pixels(_spread(alignment, index, count), alignment.sizes[index])
        for name, index in zip(names, sources, strict=True)
    }
    found = [answers for _, answers in alignment.transfer_all(starts)]
    points, confidence = [], []
    for name, index in zip(names, sources, strict=True):
        points.append(np.stack([answers[name][0].numpy() for answers in found]).astype(np.float32))
        confidence.append(np.stack([answers[name][1].numpy() for answers in found]).astype(np.float32))
        points[-1][index], confidence[-1][index] = starts[name].numpy(), 1
    return SampledMatches(sources, tuple(points), tuple(confidence))


def spread_photos(alignment: "Alignment", most: int) -> tuple[int, ...]:
    """All photos by index or, of more than ``most``, the one that fits best in each of so many equal stretches."""
    count = len(alignment.names)
    if count <= most:
        return tuple(range(count))
    fits = np.array(photo_fits(alignment))
    stretches = np.array_split(np.arange(count), most)
    return tuple(int(some[fits[some].argmax()]) for some in stretches)


def _spread(alignment: "Alignment", index: int, count: int) -> Tensor:
    """(n, 2) float32 normalised: cells of a photo's object, each as far as possible from those before it.

    The first is the surest one; doubtful cells are left out where there are surer ones. A photo that shows no object
    gives its likeliest cells, so that no photo is without points.
    """
    centres = cell_centres(alignment.canonical.shape[1])
    sure = (alignment.foreground[index] * alignment.confidence[index]).flatten()
    usable = (alignment.foreground[index].flatten() > 0.5).nonzero()[:, 0]
    if not len(usable):
        usable = alignment.foreground[index].flatten().topk(min(count, len(sure))).indices
    usable = usable[sure[usable] >= 0.6 * sure[usable].median()]
    centres, first = centres[usable], int(sure[usable].argmax())
    chosen, distance = [first], (centres - centres[first]).norm(dim=1)
    while len(chosen) < min(count, len(usable)):
        chosen.append(int(distance.argmax()))
        distance = distance.minimum((centres - centres[chosen[-1]]).norm(dim=1))
    return centres[chosen]
