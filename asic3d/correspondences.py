"""From points of one photo to points of another, with what each answer is worth."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.best_buddies import Cells, with_canonical
from asic3d.brief import Brief
from asic3d.coordinates import (
    cell_centres,
    grid_to_normalised,
    normalised_to_pixels,
    pixels_to_normalised,
)
from asic3d.photo_folder import shown
from asic3d.scratch import forget

if TYPE_CHECKING:
    import numpy as np

    from asic3d.collection import Photo

_REACH = 2  # cells to each side over which an answer is refined
_TEMPERATURE = 0.05
_OUTSIDE = -1e4
_CYCLE_SCALE = 0.06
"""Cycle error at which confidence has fallen to 1/e, normalised units (the photo's longer side is 2)."""
_SLOPE, _EVEN = 11.8, 0.82
"""Cosine of two descriptors of which half the matches are right, and how steeply that changes."""
_OFF_OBJECT = 0.1
"""Product of both ends' probabilities of the object below which confidence falls with it."""
_ELSEWHERE = 0.35
"""Canonical distance from which a place is another part of the object."""
_RIVAL = 0.3  # probability of the object of a cell that may be mistaken for the answer
_AMBIGUITY = 0.02
"""Difference of cosines at which a look-alike elsewhere hardly counts any more."""
_ROUNDED = 64
"""Photos whose values are rounded at once."""
_CHUNK = 4096  # points at once, and
_SCORES = 2**23  # (points x cells) scores at once: 32 MB
_OBJECT = 0.5  # probability from which a cell is the object, in a photo where any is that likely


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Where points of the source photo lie in the target photo.

    Attributes:
        points: (n, 2) float64, original pixels of the target, x right, y down.
        confidence: (n,) float64 in [0, 1]; low where the point is not on the object, or the way back leads elsewhere.
        cycle_error: (n,) float64, distance between a point and its way to the target and back, original pixels of the
            source.
        start: (n, 2) float64, the points that were followed, original pixels of the source; None where nobody said.
        photos: the source and the target; None where nobody said.
    """

    points: Tensor
    confidence: Tensor
    cycle_error: Tensor
    start: Tensor | None = field(default=None, kw_only=True, repr=False)
    photos: "tuple[Photo, Photo] | None" = field(default=None, kw_only=True, repr=False)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        count = len(self)
        sure = f", mean confidence {float(self.confidence.mean()):.2f}" if count else ""
        return f"<Correspondences: {count} point{'s' * (count != 1)}{_between(self.photos)}{sure}>"

    def plot(self, most: int = 30) -> "np.ndarray":
        """Draws both photos with lines between the points, by matplotlib; see :mod:`asic3d.plotting`.

        Args:
            most: points that are drawn, spread over all.

        Returns:
            (2,) axes of the source and the target; ``axes[0].figure.savefig(FILE)`` keeps the figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
            AlignmentError: the photos are not known.
        """
        from asic3d.plotting import plot_correspondences

        return plot_correspondences(self, most)

    def _repr_html_(self) -> str:
        from asic3d.display import correspondences_html

        return correspondences_html(self)


@dataclass(frozen=True, eq=False)
class DenseMap:
    """Where every place of the source photo lies in the target photo.

    Attributes:
        points: (h, w, 2) float32, original pixels of the target; (h, w) has the shape of the source, reduced.
        confidence: (h, w) float32 in [0, 1].
        size: (width, height) of the original source photo, pixels.
        photos: the source and the target; None where nobody said.
    """

    points: Tensor
    confidence: Tensor
    size: tuple[int, int]
    photos: "tuple[Photo, Photo] | None" = field(default=None, kw_only=True, repr=False)

    def __repr__(self) -> str:
        height, width = self.confidence.shape
        sure = f"mean confidence {float(self.confidence.mean()):.2f}"
        return f"<DenseMap: {width} x {height} points{_between(self.photos)}, {sure}>"

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Bilinear look-up: (n, 2) original source pixels to (n, 2) target pixels and (n,) confidence, float32."""
        full = torch.tensor(self.size, dtype=torch.float32)
        place = (torch.as_tensor(points, dtype=torch.float32) + 0.5) / full * 2 - 1
        values = torch.cat([self.points, self.confidence[..., None]], -1).permute(2, 0, 1)[None]
        found = F.grid_sample(values, place[None, None], align_corners=False, padding_mode="border")[0, :, 0].T
        return found[:, :2], found[:, 2]

    def plot(self) -> "np.ndarray":
        """Draws the source, the target laid onto it, and the confidence, by matplotlib.

        Returns:
            (3,) axes; ``axes[0].figure.savefig(FILE)`` keeps the figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
            AlignmentError: the photos are not known.
        """
        from asic3d.plotting import plot_dense

        return plot_dense(self)

    def _repr_html_(self) -> str:
        from asic3d.display import dense_html

        return dense_html(self)


def _between(photos: "tuple[Photo, Photo] | None") -> str:
    return f" of {shown(photos[0].name)} in {shown(photos[1].name)}" if photos else ""


@dataclass(frozen=True, eq=False, repr=False)
class CanonicalSpace(Brief):
    """What transfer needs of N photos with G x G cells each.

    Attributes:
        descriptors: (N, G * G, D) float32, unit length, in the learned metric.
        canonical: (N, G * G, 2) float32, canonical coordinates.
        foreground: (N, G * G) float32 in [0, 1].
        valid: (N, G * G) bool, cells on the photo.
        prior: weight of the squared canonical distance against the cosine.
        on_object: look for answers on the object alone, as the paper does, and not all over the photo.
        learned: the descriptors are those of the learned metric, shared between the photos: their cosine says how right
            an answer is. Elsewhere the cycle error has to.
    """

    descriptors: Tensor
    canonical: Tensor
    foreground: Tensor
    valid: Tensor
    prior: float
    on_object: bool = field(default=False, kw_only=True)  # so that a subclass may ask for more
    learned: bool = field(default=False, kw_only=True)

    @property
    def grid(self) -> int:
        """Cells along a side."""
        return round(self.descriptors.shape[1] ** 0.5)

    def sample(self, values: Tensor, photo: int, points: Tensor) -> Tensor:
        """Bilinear values, (n, D), of a photo's cells, (G * G, D) or (G * G,), at (n, 2) normalised points."""
        maps = values[photo].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        where = points.to(maps)[None, None]
        return F.grid_sample(maps, where, align_corners=False, padding_mode="border")[0, :, 0].T

    def find(self, source: int, target: int, points: Tensor) -> Tensor:
        """(n, 2) normalised points of one photo to (n, 2) float32 normalised points of another.

        The best cell by ``<d, d'> - prior |c - c'|^2``, then the centroid of a softmax over its neighbourhood.
        """
        return self._found(target, self._looks(source, points)[1]) if len(points) else points.float()

    def _found(self, target: int, query: Tensor) -> Tensor:
        """:meth:`find` of (n, D') queries, of which there is one at least."""
        _, keys = with_canonical(self.descriptors[target], self.canonical[target], self.prior)
        closed = torch.where(self._searched(target), 0.0, _OUTSIDE)
        found = [
            _refined_best(torch.addmm(closed, part, keys.T), self.grid)
            for part in query.split(min(_CHUNK, max(1, _SCORES // len(keys))))
        ]
        return grid_to_normalised(torch.cat(found), self.grid)

    def _searched(self, photo: int) -> Tensor:
        """(G * G,) bool: the cells of a photo where an answer may lie."""
        valid = self.valid[photo]
        if not self.on_object:
            return valid
        likely = torch.where(valid, self.foreground[photo], 0.0)
        return valid & (likely >= torch.clamp(likely.amax(), max=_OBJECT))

    def _looks(self, source: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """(n, D) unit descriptors at points of a photo, and (n, D') what is looked for by them."""
        descriptors = F.normalize(self.sample(self.descriptors, source, points), dim=1)
        return descriptors, with_canonical(descriptors, self.sample(self.canonical, source, points), self.prior)[0]

    def _on_photo(self, photo: int, points: Tensor) -> Tensor:
        limit = photo_limits(self.valid[photo].reshape(self.grid, self.grid))
        return (points.abs() <= limit + 1e-4).all(1)

    def there_and_back(self, source: int, target: int, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`find`, with (n,) confidence in [0, 1] and (n,) cycle error in normalised units of the source."""
        found = self.find(source, target, points)  # which a subclass may do in another way
        error = (self.find(target, source, found) - points).norm(dim=1)
        objects = self.sample(self.foreground, source, points)[:, 0] * self.sample(self.foreground, target, found)[:, 0]
        if self.learned:
            wanted = self._looks(source, points)[0]
            sure = self._recognised(target, wanted, found) * (objects / _OFF_OBJECT).clamp(0, 1)
        else:
            sure = cycle_confidence(error) * objects.clamp(0, 1).sqrt()
        return found, torch.where(self._on_photo(source, points), sure, 0.0), error

    def there(self, starts: Mapping[int, Tensor]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
        """Points of some photos in every photo: :meth:`find` and the confidence of :meth:`there_and_back`.

        Each target is looked through once for all sources. A learned metric says how right an answer is without the way
        back, which is spared then.

        Args:
            starts: photo -> (n, 2) float32 normalised points.

        Yields:
            For each photo in turn, source -> (n, 2) float32 normalised points and (n,) float32 confidence. A photo's
            own points are looked for like the others'.
        """
        if not self.learned or not any(map(len, starts.values())):
            for target in range(len(self.valid)):
                yield {source: self.there_and_back(source, target, points)[:2] for source, points in starts.items()}
            return
        looks = [self._looks(source, points) for source, points in starts.items()]
        wanted, query = (torch.cat(values) for values in zip(*looks, strict=True))
        objects = torch.cat([self.sample(self.foreground, *start)[:, 0] for start in starts.items()])
        on_photo = torch.cat([self._on_photo(*start) for start in starts.items()])
        counts = [len(points) for points in starts.values()]
        for target in range(len(self.valid)):
            found = self._found(target, query)
            both = objects * self.sample(self.foreground, target, found)[:, 0]
            sure = self._recognised(target, wanted, found) * (both / _OFF_OBJECT).clamp(0, 1)
            answers = zip(found.split(counts), torch.where(on_photo, sure, 0.0).split(counts), strict=True)
            yield dict(zip(starts, answers, strict=True))

    def _recognised(self, target: int, wanted: Tensor, found: Tensor) -> Tensor:
        """(n,) in [0, 1]: how likely what was found is what was looked for, by its looks: (n, D) unit descriptors.

        Where another part of the target's object looks the same, it is as likely: the other wheel, the other eye.
        """
        similar = (wanted * F.normalize(self.sample(self.descriptors, target, found), dim=1)).sum(1)
        place = self.sample(self.canonical, target, found)
        closed = torch.where(self.valid[target] & (self.foreground[target] > _RIVAL), 0.0, _OUTSIDE)
        rival = []
        for some, near in zip(wanted.split(_CHUNK), place.split(_CHUNK), strict=True):
            elsewhere = torch.cdist(near, self.canonical[target]) > _ELSEWHERE
            score = torch.addmm(closed, some, self.descriptors[target].T)
            rival.append(score.masked_fill(~elsewhere, _OUTSIDE).amax(1))
        return likeness(similar) * torch.sigmoid((similar - torch.cat([similar[:0], *rival])) / _AMBIGUITY)


def canonical_space(canonical: Tensor, foreground: Tensor, valid: Tensor) -> CanonicalSpace:
    """The space of photos that are compared by canonical coordinates alone, as the paper has it.

    The nearest cell of the object answers, refined over its neighbours: the weight of the distance makes the softmax as
    wide as a cell.
    """
    cells = canonical.shape[1]
    nothing = canonical[..., :0]
    return CanonicalSpace(nothing, canonical, foreground, valid, prior=_TEMPERATURE * cells / 4, on_object=True)


def as_stored(values: Tensor) -> Tensor:
    """Rounded as the run folder stores it, so that a loaded alignment answers exactly as the one that was saved."""
    return round_as_stored(values.clone())


def round_as_stored(values: Tensor) -> Tensor:
    """:func:`as_stored`, in place; returns the same tensor."""
    for some in values.split(_ROUNDED):  # not all of them three times
        some.copy_(some.half())
        forget()
    return values


def photo_limits(valid: Tensor) -> Tensor:
    """(2,) float32: how far a photo reaches in x and y, normalised, from its (G, G) valid cells."""
    grid = len(valid)
    return torch.stack([valid.any(0).sum(), valid.any(1).sum()]).float() / grid


def likeness(similarity: Tensor) -> Tensor:
    """Cosines of matched descriptors of the learned metric to the share of them that is right, in [0, 1].

    Fitted to annotated photos: right is within a tenth of the object's size.
    """
    return torch.sigmoid(_SLOPE * (similarity - _EVEN))


def cycle_confidence(error: Tensor) -> Tensor:
    """Cycle errors, normalised units, to confidence in [0, 1]."""
    return torch.exp(-error / _CYCLE_SCALE)


def _refined_best(score: Tensor, grid: int) -> Tensor:
    """(n, G * G) scores to (n, 2) float32 grid coordinates: the softmax's centroid around the best cell."""
    best = score.argmax(1)
    step = torch.arange(-_REACH, _REACH + 1, device=score.device)
    dy, dx = (offset.flatten() for offset in torch.meshgrid(step, step, indexing="ij"))
    y, x = (best // grid)[:, None] + dy, (best % grid)[:, None] + dx
    inside = (y >= 0) & (y < grid) & (x >= 0) & (x < grid)
    near = score.gather(1, y.clamp(0, grid - 1) * grid + x.clamp(0, grid - 1))
    share = torch.softmax(near.masked_fill(~inside, _OUTSIDE) / _TEMPERATURE, 1)
    return torch.stack([(share * x).sum(1), (share * y).sum(1)], 1)


def transfer(
    space: CanonicalSpace, points: Tensor, source: int, target: int, sizes: tuple[tuple[int, int], ...]
) -> Correspondences:
    """Points of one photo in another.

    Args:
        space: the aligned photos.
        points: (n, 2) float64, original pixels of the source; anywhere, also beside the object or the photo.
        source: index of the source photo.
        target: index of the target photo; the source itself gives the points back.
        sizes: (width, height) of every original photo.
    """
    start = pixels_to_normalised(points, sizes[source])
    if source == target:
        inside = space.sample(space.foreground, source, start)[:, 0].double() if len(points) else points[:, 0]
        return Correspondences(points.clone(), inside.clamp(0, 1), torch.zeros(len(points), dtype=torch.float64))
    found, confidence, error = space.there_and_back(source, target, start.float())
    return Correspondences(
        normalised_to_pixels(found.double(), sizes[target]),
        confidence.double(),
        error.double() * max(sizes[source]) / 2,
    )


def transfer_all(
    space: CanonicalSpace, points: Mapping[int, Tensor], sizes: tuple[tuple[int, int], ...]
) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Points of some photos in every photo: :func:`transfer` without cycle errors, for many photos at once.

    Args:
        space: the aligned photos.
        points: photo -> (n, 2) float64, original pixels.
        sizes: (width, height) of every original photo.

    Yields:
        For each photo in turn, source -> (n, 2) float64 original pixels and (n,) float64 confidence.
    """
    starts = {source: pixels_to_normalised(some, sizes[source]).float() for source, some in points.items()}
    for target, answers in enumerate(space.there(starts)):
        found = {
            source: (normalised_to_pixels(place.double(), sizes[target]), sure.double())
            for source, (place, sure) in answers.items()
        }
        if target in found:
            own = transfer(space, points[target], target, target, sizes)
            found[target] = own.points, own.confidence
        yield found


def dense(
    space: CanonicalSpace, source: int, target: int, sizes: tuple[tuple[int, int], ...], longest: int = 160
) -> DenseMap:
    """The whole source photo in the target, at ``longest`` points along the source's longer side (or fewer)."""
    width, height = sizes[source]
    scale = min(1.0, longest / max(width, height))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) * width / columns - 0.5
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) * height / rows - 0.5
    at_y, at_x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([at_x, at_y], -1).reshape(-1, 2)
    found = transfer(space, points, source, target, sizes)
    return DenseMap(
        found.points.float().reshape(rows, columns, 2),
        found.confidence.float().reshape(rows, columns),
        (width, height),
    )


def cell_confidence(space: CanonicalSpace, cells: Cells, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """How well each cell is explained by the photos that its photo is matched with.

    Args:
        space: the aligned photos.
        cells: the cells that are looked at, K a photo.
        pairs: (E, 2) int64 pairs of photos.

    Returns:
        (N, G * G) float32 in [0, 1], mean over the partners of how likely its answer there is right, by its looks or,
        where no metric was learned, by its cycle; times the foreground, 0 for cells that were not looked at. And (E,)
        float32, the mean of it over each pair's cells.
    """
    count, size = cells.index.shape
    left, right = with_canonical(cells.take(space.descriptors), cells.take(space.canonical), space.prior)
    closed = torch.where(cells.used, 0.0, _OUTSIDE)
    centres = cell_centres(space.grid, cells.index.device)[cells.index]
    total = torch.zeros(count, size, device=cells.index.device)
    partners = torch.zeros(count, 1, device=cells.index.device)
    by_pair = []
    values = cells.take(space.descriptors)
    for i, j in pairs.tolist():
        score = left[i] @ right[j].T + closed[i][:, None] + closed[j]
        forward, backward = score.max(1).indices, score.max(0).indices
        if space.learned:
            sure_i = likeness((values[i] * values[j, forward]).sum(1))
            sure_j = likeness((values[j] * values[i, backward]).sum(1))
        else:
            sure_i = cycle_confidence((centres[i, backward[forward]] - centres[i]).norm(dim=1))
            sure_j = cycle_confidence((centres[j, forward[backward]] - centres[j]).norm(dim=1))
        total[i] += sure_i
        total[j] += sure_j
        partners[i] += 1
        partners[j] += 1
        by_pair.append(torch.cat([sure_i[cells.used[i]], sure_j[cells.used[j]]]).mean())
    mean = torch.where(cells.used, total / partners.clamp(min=1), 0.0)
    spread = torch.zeros_like(space.foreground).scatter_add_(1, cells.index, mean)
    return spread * space.foreground, torch.stack(by_pair)


def nearest_neighbour_space(features: Tensor, space: CanonicalSpace) -> CanonicalSpace:
    """The same photos without an alignment: plain features, (N, G * G, C), and no canonical distance."""
    return CanonicalSpace(features, torch.zeros_like(space.canonical), space.foreground, space.valid, 0.0)
