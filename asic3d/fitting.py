"""The fit: rounds of matching with what is known and solving for the maps into the canonical plane."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.best_buddies import (
    NOTHING_MATCHES,
    BestBuddies,
    Cells,
    find_best_buddies,
    pack_cells,
    propagate,
)
from asic3d.canonical import (
    AFFINE_SCALES,
    affine_map,
    fit_affine,
    fit_spline,
    learn_metric,
    robust_weight,
    start_affine,
)
from asic3d.config import AlignmentConfig, Progress, ProgressCallback
from asic3d.errors import AlignmentError, CheckpointWarning, StorageError
from asic3d.features import FeatureMaps, project
from asic3d.orientations import MIRRORED, find_flips, oriented, pair_support, photo_support, unsure_of_flips
from asic3d.retrieval import choose_pairs
from asic3d.storage import read_safetensors, write_safetensors

OBJECT = 0.15
"""Recurring probability from which a cell may be matched; matches weigh in proportion to it."""
_FEWEST_CELLS = 30  # that are matched in a photo, if it has as many
_FARTHEST = 1e6  # what a checkpoint may hold: the plane is a few units wide
_STIFFEST = 0.3  # of the first spline round


@dataclass(frozen=True, eq=False)
class Fit:
    """All photos in one canonical plane.

    Attributes:
        projection: (C, D) float32, from features to descriptors in the learned metric, before they are normalised.
        mean: (C,) float32, subtracted from the features first.
        plain: (N, G * G, D) float32, unit length, each photo's own descriptors.
        descriptors: (N, G * G, D) float32, unit length, after what the partners show was added.
        canonical: (N, G * G, 2) float32.
        cells: the cells that show the object.
        matched: those that were matched, every second one.
        shared: those whose descriptors the partners were shown, every fourth one.
        probability: (N, G * G) float32, by which matches weigh.
        pairs: (E, 2) int64, the pairs of photos that were matched.
        buddies: the last matches.
        weights: (M,) float64, what each of them weighed at the end.
    """

    projection: Tensor
    mean: Tensor
    plain: Tensor
    descriptors: Tensor
    canonical: Tensor
    cells: Cells
    matched: Cells
    shared: Cells
    probability: Tensor
    pairs: Tensor
    buddies: BestBuddies
    weights: Tensor


@dataclass(frozen=True, eq=False)
class _State:
    """What a round hands to the next: enough to go on from a file."""

    done: int
    affine: Tensor  # (N, 3, 2) float64
    canonical: Tensor  # (N, G * G, 2) float64
    metric: Tensor  # (D, d) float32


@dataclass(frozen=True)
class Checkpoint:
    """Where an interrupted fit goes on.

    Attributes:
        path: the file.
        fingerprint: of the photos, the features and the settings; a file of another fit is not used.
    """

    path: Path
    fingerprint: str

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes the file whole or not at all."""
        mark = torch.tensor(list(self.fingerprint.encode()), dtype=torch.uint8)
        write_safetensors(self.path, {**tensors, "fingerprint": mark})

    def read(self, expected: Mapping[str, tuple[torch.dtype, tuple[int | str | None, ...]]]) -> dict[str, Tensor]:
        """The tensors of an earlier run of the same fit.

        Args:
            expected: as :func:`asic3d.storage.read_safetensors` has it.

        Raises:
            StorageError: there is no file, it is damaged, or it is of other photos or settings.
        """
        mark = read_safetensors(self.path, {"fingerprint": (torch.uint8, (None,))})["fingerprint"]
        if bytes(mark.tolist()) != self.fingerprint.encode():
            raise StorageError(f"'{self.path}' is of other photos or settings.")
        return read_safetensors(self.path, expected)


def _save(checkpoint: Checkpoint, state: _State) -> None:
    tensors = {"affine": state.affine, "canonical": state.canonical, "metric": state.metric}
    checkpoint.write({**tensors, "done": torch.tensor([state.done])})


def _load(checkpoint: Checkpoint, count: int, cells: int, channels: int) -> _State | None:
    """The state of an earlier run of the same fit; None where there is none. A file that can't be used is warned of."""
    if not checkpoint.path.is_file():
        return None
    expected = {
        "affine": (torch.float64, (count, 3, 2)),
        "canonical": (torch.float64, (count, cells, 2)),
        "metric": (torch.float32, (channels, None)),
        "done": (torch.int64, (1,)),
    }
    try:
        found = checkpoint.read(expected)
        done = int(found["done"])
        far = any(bool((found[name].abs() > _FARTHEST).any()) for name in ("affine", "canonical", "metric"))
        if done < 1 or far or not found["metric"].numel():
            raise StorageError(f"'{checkpoint.path}' is damaged: its numbers do not fit together.")
    except StorageError as error:
        warnings.warn(CheckpointWarning("The fit", str(error)), stacklevel=2)
        return None
    return _State(done, found["affine"], found["canonical"], found["metric"])


def fit_canonical(
    problem: "Problem", *, checkpoint: Checkpoint | None = None, progress: ProgressCallback | None = None
) -> Fit:
    """Lays all photos into one canonical plane.

    Args:
        problem: the photos.
        checkpoint: where the state is kept after each round, and from where it is taken up.
        progress: called after each round, with the stage ``matching`` while the maps are affine, then ``canonical``.

    Raises:
        AlignmentError: nothing in the photos can be matched.
    """
    earlier, state = None, None
    if checkpoint is not None:
        earlier = _load(checkpoint, len(problem.start), problem.grid**2, problem.descriptors.shape[2])
    for state in problem._rounds(earlier):
        if checkpoint is not None and not problem._finished(state):
            _save(checkpoint, state)
        if progress is not None:
            progress(problem._progress(state))
    return problem._result(state)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be fitted: N photos' matches by their looks alone, and where each photo's map starts.

    Attributes:
        config: the settings.
        axes: (C, D) float32, from features to principal components.
        mean: (C,) float32, subtracted from the features first.
        descriptors: (N, G * G, D) float32, principal components, unit length.
        probability: (N, G * G) float32, that a cell shows the object.
        cells: the cells that show the object.
        few: every second one of them, which is matched first and last: measured to lose nothing, at a quarter of the
            cost.
        fewest: every fourth one, which is matched in the rounds between, and shared: measured to lose nothing either.
        pairs: (E, 2) int64, the pairs of photos that are matched.
        buddies: best buddies by the cosine alone.
        support: (E,) float64, weight of each pair's best buddies that agree on one map.
        first: (N,) int64, for each photo the first one that shows the same picture.
        flips: (N,) bool, the photos that are mirrored: as the features have it, or else as the buddies hint at it.
        unsure: (N,) bool, the photos for which it hints at neither clearly.
        start: (N, 3, 2) float64, upright affine maps of the objects to one place and size.
        bending: stiffness of the spline in each round.
    """

    config: AlignmentConfig
    axes: Tensor
    mean: Tensor
    descriptors: Tensor
    probability: Tensor
    cells: Cells
    few: Cells
    fewest: Cells
    pairs: Tensor
    buddies: BestBuddies
    support: Tensor
    first: Tensor
    flips: Tensor
    unsure: Tensor
    start: Tensor
    bending: list[float]

    @staticmethod
    def of(
        maps: FeatureMaps, recurring: Tensor, config: AlignmentConfig, first: Sequence[int] | None = None
    ) -> "Problem":
        """The problem of N photos.

        Args:
            maps: their features.
            recurring: (N, G, G) float32, probability of the object.
            config: the settings.
            first: for each photo the first one that shows the same picture; None where all differ.

        Raises:
            AlignmentError: nothing in the photos can be matched.
        """
        axes, mean = maps.principal_axes(config.channels)
        descriptors = project(maps.features.flatten(1, 2), axes, mean, unit=True)
        usable = object_cells(recurring, maps.valid)
        cells = pack_cells(usable)
        few, fewest = pack_cells(_thinned(usable, 2)), pack_cells(_thinned(usable, 4))
        pairs = choose_pairs(descriptors, cells, config.partners, config.search)
        buddies = _matched(descriptors[..., : config.coarse_channels], few, pairs, None, config)
        unknown = config.flips and maps.flips is None
        flips = torch.zeros(len(maps), dtype=torch.bool) if maps.flips is None else maps.flips.cpu()
        start = oriented(oriented(start_affine(recurring * usable), maps.quarters), flips * MIRRORED)
        weight = match_weights(buddies, recurring.flatten(1), config.similarity_power)
        ways = (0, MIRRORED) if unknown else (0,)
        support = pair_support(buddies, weight, affine_map(start, maps.grid), pairs, ways)
        unsure = torch.zeros(len(maps), dtype=torch.bool)
        if unknown:
            flips = find_flips(support, pairs, len(maps))
            unsure = unsure_of_flips(support, pairs, flips)
        splines = config.spline_rounds + config.metric_rounds
        return Problem(
            config=config,
            axes=axes,
            mean=mean,
            descriptors=descriptors,
            probability=recurring.flatten(1),
            cells=cells,
            few=few,
            fewest=fewest,
            pairs=pairs,
            buddies=buddies,
            support=support.amax(1),
            first=torch.tensor(range(len(maps)) if first is None else first, device=pairs.device),
            flips=flips,
            unsure=unsure,
            start=oriented(start, flips * MIRRORED) if unknown else start,
            bending=np.geomspace(max(_STIFFEST, config.bending), config.bending, max(splines, 1)).tolist(),
        )

    @property
    def grid(self) -> int:
        """Cells along a side."""
        return round(self.descriptors.shape[1] ** 0.5)

    @property
    def supported(self) -> Tensor:
        """(N,) float64: how well each photo goes with others, as :func:`asic3d.orientations.photo_support` has it."""
        return photo_support(self.support, self.pairs, (self.probability * self._mask()).sum(1), self.first)

    def _mask(self) -> Tensor:
        """(N, G * G) float32: 1 for the cells that show the object."""
        return (
            torch.zeros_like(self.probability).scatter_add_(1, self.cells.index, self.cells.used.float()).clamp(max=1)
        )

    @property
    def _total(self) -> int:
        return self.config.affine_rounds + self.config.spline_rounds + self.config.metric_rounds

    def _finished(self, state: _State) -> bool:
        return state.done >= self._total

    def _progress(self, state: _State) -> Progress:
        affine = self.config.affine_rounds
        if state.done <= affine:
            return Progress("matching", state.done, affine)
        return Progress("canonical", state.done - affine, self._total - affine)

    def _rounds(self, state: _State | None) -> Iterator[_State]:
        """The state after each round that is still to do; at least one."""
        grid = self.grid
        done = 0 if state is None else min(state.done, self._total - 1)
        affine = self.start if state is None else state.affine.to(self.start.device)
        canonical = None if state is None else state.canonical.to(self.start.device)
        metric = torch.eye(len(self.axes.T), device=self.start.device) if state is None else state.metric
        metric = metric.to(self.descriptors)
        while done < self._total:
            buddies = self._match(done, canonical, metric)
            weight = match_weights(buddies, self.probability, self.config.similarity_power)
            if done < self.config.affine_rounds:
                scales = AFFINE_SCALES[min(done, 1)]
                affine = fit_affine(buddies, weight, self.start, affine, grid, scales)
                canonical = affine_map(affine, grid)
            else:
                base = affine_map(affine, grid)
                canonical = fit_spline(
                    buddies,
                    weight,
                    base,
                    base if canonical is None else canonical,
                    grid=grid,
                    control_points=self.config.control_points,
                    bending=self.bending[done - self.config.affine_rounds],
                )
            done += 1
            if done >= self.config.affine_rounds + self.config.spline_rounds:
                metric = learn_metric(
                    self.descriptors, buddies, canonical, self.config.shrinkage, self.config.metric_channels
                )
            yield _State(done, affine, canonical, metric)

    def _match(self, done: int, canonical: Tensor | None, metric: Tensor) -> BestBuddies:
        """The best buddies of one round."""
        if canonical is None:
            return self.buddies
        near = canonical.float()
        cells = self.few if done == self._total - 1 else self.fewest
        if done < self.config.affine_rounds + self.config.spline_rounds:
            descriptors = self.descriptors[..., : self.config.coarse_channels]
        else:
            shared = self._in_metric(metric)
            descriptors = propagate(shared, self.fewest, self.pairs, near, self.config.sharing_prior, queries=cells)
        return _matched(descriptors, cells, self.pairs, near, self.config)

    def _in_metric(self, metric: Tensor) -> Tensor:
        return F.normalize(self.descriptors @ metric, dim=2)

    def _result(self, state: _State | None) -> Fit:
        assert state is not None, "there is at least one round"
        canonical = state.canonical.float()
        plain = self._in_metric(state.metric)
        return Fit(
            projection=self.axes @ state.metric,
            mean=self.mean,
            plain=plain,
            canonical=canonical,
            cells=self.cells,
            matched=self.few,
            shared=self.fewest,
            probability=self.probability,
            pairs=self.pairs,
            **_settled(plain, canonical, self.few, self.fewest, self.pairs, self.probability, self.config),
        )


def _matched(
    descriptors: Tensor, cells: Cells, pairs: Tensor, canonical: Tensor | None, config: AlignmentConfig
) -> BestBuddies:
    buddies = find_best_buddies(descriptors, cells, pairs, canonical, config.match_prior)
    if len(buddies) < 3:
        raise AlignmentError(NOTHING_MATCHES)
    return buddies


def moved(fit: Fit, canonical: Tensor, config: AlignmentConfig) -> Fit:
    """A fit with its cells at other canonical coordinates, (N, G * G, 2) float32: shared and matched once more."""
    settled = _settled(fit.plain, canonical, fit.matched, fit.shared, fit.pairs, fit.probability, config)
    return replace(fit, canonical=canonical, **settled)


def _settled(
    plain: Tensor,
    canonical: Tensor,
    matched: Cells,
    shared: Cells,
    pairs: Tensor,
    probability: Tensor,
    config: AlignmentConfig,
) -> dict[str, Any]:
    """The descriptors with what the partners show, the last matches, and their weights."""
    descriptors = propagate(plain, shared, pairs, canonical, config.sharing_prior)
    buddies = find_best_buddies(descriptors, matched, pairs, canonical, config.match_prior)
    weights = match_weights(buddies, probability, config.similarity_power)
    squared = (canonical[buddies.first, buddies.first_cell] - canonical[buddies.second, buddies.second_cell]) ** 2
    return {
        "descriptors": descriptors,
        "buddies": buddies,
        "weights": weights * robust_weight(squared.sum(1), 0.15).double(),
    }


def object_cells(probability: Tensor, valid: Tensor) -> Tensor:
    """The cells that may be matched: (N, G, G) bool, from (N, G, G) probability of the object and valid cells.

    A photo in which nothing is likely uses what is likeliest in it.
    """
    return valid & (probability > torch.clamp(probability.amax((1, 2), keepdim=True) / 2, max=OBJECT))


def match_weights(buddies: BestBuddies, probability: Tensor, power: float) -> Tensor:
    """(M,) float64: similarity to a power, times the probability, (N, G * G), that both cells are the object."""
    objects = probability[buddies.first, buddies.first_cell] * probability[buddies.second, buddies.second_cell]
    return buddies.similarity.double().clamp(min=1e-3) ** power * objects.double()


def _thinned(usable: Tensor, share: int) -> Tensor:
    """The (N, G, G) bool cells, every second one (a chessboard) or every fourth one (every second row and column).

    A photo with too few of them keeps more.
    """
    black = chessboard(usable)
    fields = black & (torch.arange(usable.shape[1], device=usable.device) % 2 == 0)
    found = usable
    for fewer in (black, fields)[: 1 if share == 2 else 2]:
        enough = fewer.flatten(1).sum(1) >= _FEWEST_CELLS
        found = torch.where(enough[:, None, None], fewer, found)
    return found


def chessboard(cells: Tensor) -> Tensor:
    """Every second of (..., G, G) bool cells: the black fields."""
    line = torch.arange(cells.shape[-1], device=cells.device)
    return cells & ((line[:, None] + line) % 2 == 0)
