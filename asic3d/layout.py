"""The two ways into the canonical space: splines that are solved for, and the paper's network, which is trained."""

from dataclasses import dataclass

from torch import Tensor

from asic3d.alignment_network import AlignmentNetwork
from asic3d.best_buddies import BestBuddies, Cells
from asic3d.config import ProgressCallback
from asic3d.coordinates import cell_centres
from asic3d.correspondences import CanonicalSpace, as_stored, canonical_space
from asic3d.fitting import Checkpoint, fit_canonical
from asic3d.judgement import agreeing
from asic3d.losses import sample_map
from asic3d.optimisation import NetworkMap, Trained, map_photos, train
from asic3d.refinement import refine
from asic3d.screening import Photos, timed
from asic3d.training_set import make_training_set, object_of, raw_buddies


@dataclass(frozen=True, eq=False)
class Layout:
    """All photos in the canonical space, by either way.

    Attributes:
        space: descriptors and canonical coordinates of all cells.
        cells: the cells that show the object.
        pairs: (E, 2) int64, the pairs of photos that were matched.
        buddies: the matches.
        projection: (C, D) float32, from features to descriptors.
        mean: (C,) float32, subtracted from the features first.
        trained: what training left; None where nothing was trained.
    """

    space: CanonicalSpace
    cells: Cells
    pairs: Tensor
    buddies: BestBuddies
    projection: Tensor
    mean: Tensor
    trained: Trained | None = None

    def agreement(self) -> dict[str, float]:
        """What share of the matches the canonical space explains, and how many there are."""
        return {
            "agreeing_matches": float(agreeing(self.buddies, self.space.canonical).double().mean()),
            "matches_per_pair": len(self.buddies) / len(self.pairs),
        }


def lay_out(
    photos: Photos,
    *,
    checkpoint: Checkpoint | None = None,
    progress: ProgressCallback | None = None,
    seconds: dict[str, float],
) -> Layout:
    """Lays photos into the canonical space in the way that ``mapping`` names.

    Args:
        photos: what is known of them.
        checkpoint: where an interrupted fit or training goes on.
        progress: called after each step of each stage.
        seconds: gets the time of each stage.

    Raises:
        AlignmentError: nothing in the photos can be matched, or the training went astray.
        StorageError: the checkpoint can't be written.
    """
    return (_by_network if photos.problem is None else _by_spline)(photos, checkpoint, progress, seconds)


def _by_spline(
    photos: Photos, checkpoint: Checkpoint | None, progress: ProgressCallback | None, seconds: dict[str, float]
) -> Layout:
    """Splines that are solved for, and refined where ``refine_steps`` says so."""
    maps, foreground, config = photos.maps, photos.foreground, photos.config
    assert photos.problem is not None, "the photos were compared"
    trained = None
    with timed(seconds, "canonical"):
        resumed = None if config.refine_steps else checkpoint  # the refinement keeps its own state there
        fit = fit_canonical(photos.problem, checkpoint=resumed, progress=progress)
    if config.refine_steps:
        with timed(seconds, "training"):
            fit, trained = refine(
                photos.collection, maps, foreground, fit, config, checkpoint=checkpoint, progress=progress
            )
    space = CanonicalSpace(
        descriptors=as_stored(fit.descriptors),
        canonical=fit.canonical,
        foreground=foreground.probability.flatten(1),
        valid=maps.valid.flatten(1),
        prior=config.transfer_prior,
        learned=True,
    )
    return Layout(space, fit.cells, fit.pairs, fit.buddies, fit.projection, fit.mean, trained)


def _by_network(
    photos: Photos, checkpoint: Checkpoint | None, progress: ProgressCallback | None, seconds: dict[str, float]
) -> Layout:
    """The paper's way: a network that is trained on the photos' pixels."""
    maps, foreground, config = photos.maps, photos.foreground, photos.config
    with timed(seconds, "matching"):
        cells = object_of(maps, foreground)
        matches = raw_buddies(maps, cells, config.partners, config.search)
        data = make_training_set(photos.collection, maps, foreground, config, matches)
    with timed(seconds, "training"):
        network = AlignmentNetwork(config.network_width, seed=config.seed).to(maps.features.device)
        mapping = NetworkMap(network, config)
        trained = train(data, mapping, config, steps=config.steps, checkpoint=checkpoint, progress=progress)
        centres = cell_centres(maps.grid, maps.features.device).expand(len(maps), -1, -1)
        canonical = sample_map(map_photos(network, data.photos), centres)
    space = canonical_space(canonical, foreground.probability.flatten(1), maps.valid.flatten(1))
    mean = maps.principal_axes(1)[1]
    return Layout(space, cells, matches[1], matches[0], mean.new_zeros(len(mean), 0), mean, trained)
