"""Splines that were solved for, refined by the paper's objective: the control points take the place of the network."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from asic3d.canonical import spline_basis
from asic3d.collection import Collection
from asic3d.config import AlignmentConfig, ProgressCallback
from asic3d.coordinates import cell_centres
from asic3d.features import FeatureMaps
from asic3d.fitting import Checkpoint, Fit, moved
from asic3d.foreground import Foreground
from asic3d.losses import sample_map
from asic3d.objective import Batch
from asic3d.optimisation import Trained, train
from asic3d.training_set import make_training_set


class SplineMap(nn.Module):
    """Maps that start from what was solved for and move by uniform cubic B-splines.

    Args:
        start: (N, W, W, 2) float32, the maps to start from.
        control_points: n, along a side.
    """

    def __init__(self, start: Tensor, control_points: int) -> None:
        super().__init__()
        count, side = start.shape[:2]
        self.control = nn.Parameter(torch.zeros(count, control_points**2, 2, device=start.device))
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("basis", spline_basis(side, control_points).to(start), persistent=False)

    def forward(self, batch: Batch, index: Tensor) -> tuple[Tensor, None]:
        """The maps of some photos, (B, W, W, 2); there is none of warped photos, whose pixels are not looked at."""
        start = self.get_buffer("start")[index]
        return start + (self.get_buffer("basis") @ self.control[index]).reshape(start.shape), None


def refine(
    collection: Collection,
    maps: FeatureMaps,
    foreground: Foreground,
    fit: Fit,
    config: AlignmentConfig,
    *,
    checkpoint: Checkpoint | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Fit, Trained]:
    """Refines the splines of a fit by the terms of the objective that have a weight, in ``refine_steps`` iterations.

    The matches are the fit's own. Total variation is that of what is added to the fit. Equivariance says nothing of
    maps that do not look at pixels, so it is left out.

    Args:
        collection: N photos.
        maps: their features.
        foreground: their objects.
        fit: what was solved for.
        config: as :func:`asic3d.optimisation.train` has it, and ``refine_steps``, ``working_size``, ``parts``.
        checkpoint: as there.
        progress: as there.

    Raises:
        AlignmentError: the objective is no finite number any more.
        StorageError: the checkpoint can't be written.
    """
    grid, size = maps.grid, config.working_size
    plane = fit.canonical.unflatten(1, (grid, grid))
    pixels = cell_centres(size, plane.device).reshape(1, size, size, 2).expand(len(plane), -1, -1, -1)
    mapping = SplineMap(sample_map(plane, pixels), config.control_points)
    data = make_training_set(collection, maps, foreground, config, (fit.buddies, fit.pairs), canonical=plane)
    trained = train(
        replace(data, rest=mapping.get_buffer("start")),
        mapping,
        replace(config, weight_equivariance=0.0),
        steps=config.refine_steps,
        checkpoint=checkpoint,
        progress=progress,
    )
    added = spline_basis(grid, config.control_points).to(plane) @ mapping.control.detach()
    return moved(fit, fit.canonical + added, config), trained
