"""Points spread over each photo's object and followed into every other photo: what the report shows and counts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from asic3d.coordinates import cell_centres, normalised_to_pixels

if TYPE_CHECKING:
    from asic3d import Alignment

NUMBERED = 12
"""Points of the reference photo that are drawn with a number in all photos."""


@dataclass(frozen=True, eq=False)
class SampledMatches:
    """Where points of each photo lie in all photos.

    Attributes:
        points: one (N, n, 2) float32 for each source photo: its n points in each of the N photos, original pixels.
        confidence: one (N, n) float32 in [0, 1] for each source photo; 1 in the source itself.
    """

    points: tuple[np.ndarray, ...]
    confidence: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.points)

    def pair_confidence(self) -> np.ndarray:
        """(N, N) float: mean confidence of the points of photo i (row) in photo j (column); NaN on the diagonal."""
        table = np.array([confidence.mean(1) for confidence in self.confidence])
        np.fill_diagonal(table, np.nan)
        return table

    def reference(self) -> int:
        """The photo whose points are found most surely in the others."""
        return int(np.nanmean(self.pair_confidence(), 1).argmax())


def sample_matches(alignment: "Alignment", count: int) -> SampledMatches:
    """Follows up to ``count`` points of each photo into all others.

    The points of a photo are ordered so that any first few of them are spread over the whole object.
    """
    points, confidence = [], []
    for index in range(len(alignment.names)):
        start = normalised_to_pixels(_spread(alignment, index, count), alignment.sizes[index])
        followed = [_follow(alignment, start, index, target) for target in range(len(alignment.names))]
        points.append(np.stack([place for place, _ in followed]))
        confidence.append(np.stack([sure for _, sure in followed]))
    return SampledMatches(tuple(points), tuple(confidence))


def _follow(alignment: "Alignment", start: Tensor, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of one photo in another: (n, 2) original pixels and (n,) confidence."""
    if source == target:
        return start.numpy().astype(np.float32), np.ones(len(start), np.float32)
    found = alignment.transfer(start, source=alignment.names[source], target=alignment.names[target])
    return np.asarray(found.points, np.float32), np.asarray(found.confidence, np.float32)


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
