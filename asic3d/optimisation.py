"""The training loop of the paper's preset: Adam with warm restarts on the objective, gone on with bit for bit.

Where it goes astray it begins again with a smaller step size.
"""

import dataclasses
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asic3d.alignment_network import AlignmentNetwork
from asic3d.brief import Brief
from asic3d.config import AlignmentConfig, Progress, ProgressCallback
from asic3d.errors import AlignmentError, CheckpointWarning, ConfigError, StorageError
from asic3d.fitting import Checkpoint
from asic3d.losses import Distance, PerceptualDistance
from asic3d.objective import TERMS, Batch, map_both, objective
from asic3d.training_set import TrainingSet
from asic3d.warps import warp_photos

COLUMNS = (*TERMS, "total")
"""What is kept of every iteration: the terms without their weights, and the weighted sum."""
_SMALLER = 0.1
"""The step size of a training that is begun again, of the one that went astray."""
_MOST_AGAIN = 3
"""How often a training is begun again."""
_ASTRAY = 1000.0
"""An objective that is so many times as large as it was at first, or as 1, has gone astray."""
_KINDS = ("parameter", "mean", "square")  # what a checkpoint holds of each parameter: itself and Adam's two moments


@dataclass(frozen=True, eq=False, repr=False)
class Trained(Brief):
    """What training leaves besides the network.

    Attributes:
        image: (4, R, R) float32, the learned canonical image: red, green, blue, and the logit of the foreground.
        losses: (S, 7) float32, :data:`COLUMNS` of each iteration.
        again: how often it went astray and was begun again, each time with a tenth of the step size.
    """

    image: Tensor
    losses: Tensor
    again: int = 0


class NetworkMap(nn.Module):
    """The alignment network as :func:`train` runs it.

    Args:
        network: on its device.
        config: of it, ``precision`` and ``compile``, which is for CUDA alone.
    """

    def __init__(self, network: AlignmentNetwork, config: AlignmentConfig) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._device = next(network.parameters()).device.type
        on_cuda = self._device == "cuda"
        self._halved = config.precision == "bfloat16" or (config.precision == "auto" and on_cuda)
        self._run = torch.compile(self.network) if config.compile and on_cuda else self.network

    def forward(self, batch: Batch, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The maps of the photos and of the warped photos, (B, W, W, 2) each; ``index`` is not looked at."""
        with torch.autocast(self._device, torch.bfloat16, enabled=self._halved):
            return map_both(self._run, batch)  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def map_photos(network: AlignmentNetwork, photos: Tensor) -> Tensor:
    """(N, 3, W, W) to (N, W, W, 2) float32, one photo at a time."""
    return torch.cat([network(photo[None]) for photo in photos])


def step_size(step: int, config: AlignmentConfig) -> float:
    """Adam's step size in an iteration, counted from 0: a cosine from ``learning_rate`` down to 0, again and again.

    Example:
        >>> step_size(0, AlignmentConfig(learning_rate=0.5)), step_size(10000, AlignmentConfig(learning_rate=0.5))
        (0.5, 0.45)
    """
    restarts, place = divmod(step, config.restart_period)
    decayed = config.learning_rate * config.restart_decay**restarts
    return decayed * (1 + math.cos(math.pi * place / config.restart_period)) / 2


def train(
    data: TrainingSet,
    mapping: nn.Module,
    config: AlignmentConfig,
    *,
    steps: int,
    checkpoint: Checkpoint | None = None,
    progress: ProgressCallback | None = None,
) -> Trained:
    """Minimises the objective (section 3.3 of the paper) over a mapping and the canonical image.

    A training that goes astray is begun again with a tenth of the step size, up to three times.

    Args:
        data: the photos and their matches.
        mapping: what is trained, in place: called with a :class:`Batch` and the (B,) indices of its photos, it returns
            their maps, (B, W, W, 2), and those of the warped photos or None.
        config: schedule, weights, ``batch``, ``grid_resolution`` and ``seed``.
        steps: iterations.
        checkpoint: where the state is kept every ``checkpoint_every`` iterations, and from where it is taken up. On a
            CPU what comes out is the same to the last bit as without an interruption.
        progress: called after each iteration with the stage ``training``; whatever it raises stops the work.

    Raises:
        AlignmentError: it goes astray from the first iteration on, or with the smallest step size too.
        ConfigError: all weights are 0.
        StorageError: the checkpoint can't be written.
    """
    if not any(getattr(config, f"weight_{name}") for name in TERMS):
        raise ConfigError("Every weight of the objective is 0: there is nothing to train. Give one a weight.")
    state = _State(mapping, data, config, steps)
    done = 0 if checkpoint is None else state.resume(checkpoint)
    distance = PerceptualDistance(data.photos.device) if config.weight_reconstruction else None
    step = done
    while step < steps:
        if not state.iterate(step, distance):
            state.begin_again(step)
            step = 0
            continue
        if checkpoint is not None and (step + 1) % config.checkpoint_every == 0 and step + 1 < steps:
            state.save(checkpoint, step + 1)
        if progress is not None:
            progress(Progress("training", step + 1, steps))
        step += 1
    return Trained(state.image.detach(), state.losses, state.again)


class _State:
    """Everything that changes while training goes on."""

    def __init__(self, mapping: nn.Module, data: TrainingSet, config: AlignmentConfig, steps: int) -> None:
        self._mapping, self._data, self._config = mapping, data, config
        side, device = config.grid_resolution, data.photos.device
        self.image = nn.Parameter(torch.zeros(4, side, side, device=device))
        with torch.no_grad():
            self.image[:3] = 0.5  # grey, and as likely the object as not
        self.losses = torch.zeros(steps, len(COLUMNS))
        self._generator = torch.Generator().manual_seed(config.seed)
        painted = config.weight_reconstruction or config.weight_mask  # else nothing asks for the image
        self._parameters = [*mapping.parameters(), *([self.image] if painted else [])]
        self._optimiser = torch.optim.Adam(self._parameters, lr=config.learning_rate)
        self._first = [parameter.detach().clone() for parameter in self._parameters]
        self.again = 0

    @torch.enable_grad()
    def iterate(self, step: int, distance: Distance | None) -> bool:
        """One step of Adam on one batch; False where the training has gone astray."""
        config = self._config
        batch, index = self._data.draw(config.batch, self._generator)
        if config.weight_equivariance:
            warped = warp_photos(batch.photos, batch.masks, scale=config.warp_scale, generator=self._generator)
            batch = dataclasses.replace(batch, warped=warped)
        canonical, of_warped = self._mapping(batch, index)
        terms = objective(batch, canonical, of_warped, self.image, config, distance)
        row = torch.stack([terms[name].detach() for name in COLUMNS]).float().cpu()
        self.losses[step] = row
        if not bool(row.isfinite().all()) or row[-1] > _ASTRAY * max(1.0, float(self.losses[0, -1])):
            return False
        self._optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        for group in self._optimiser.param_groups:
            group["lr"] = step_size(step, config) * _SMALLER**self.again
        self._optimiser.step()
        return step + 1 < len(self.losses) or all(bool(one.isfinite().all()) for one in self._parameters)

    def begin_again(self, step: int) -> None:
        """Back to the start, with a smaller step size.

        Args:
            step: the iteration in which it went astray, counted from 0.

        Raises:
            AlignmentError: that would not help.
        """
        if step == 0 or self.again == _MOST_AGAIN:
            tried = f", also with {_SMALLER**self.again:g} times the learning_rate" if self.again else ""
            raise AlignmentError(
                f"The training went astray: in iteration {step + 1} the objective is no finite number or has exploded"
                f"{tried}. Set a smaller learning_rate, or precision=float32."
            )
        self.again += 1
        with torch.no_grad():
            for parameter, first in zip(self._parameters, self._first, strict=True):
                parameter.copy_(first)
        self._optimiser = torch.optim.Adam(self._parameters, lr=self._config.learning_rate)
        self._generator.manual_seed(self._config.seed)

    def save(self, checkpoint: Checkpoint, done: int) -> None:
        """Writes all of it."""
        tensors = {"done": torch.tensor([done]), "losses": self.losses[:done], "generator": self._generator.get_state()}
        tensors["again"] = torch.tensor([self.again])
        for i, parameter in enumerate(self._parameters):
            moments = self._optimiser.state[parameter]
            tensors[f"parameter{i}"] = parameter
            tensors |= {f"mean{i}": moments["exp_avg"], f"square{i}": moments["exp_avg_sq"]}
        checkpoint.write(tensors)

    def resume(self, checkpoint: Checkpoint) -> int:
        """Takes up what was written; how many iterations that is. A file that can't be used is warned of."""
        if not checkpoint.path.is_file():
            return 0
        try:
            found = checkpoint.read(self._expected())
            done = int(found["done"])
            self._check(found, done, checkpoint)
        except (StorageError, RuntimeError) as error:  # RuntimeError: what torch says of a generator's state
            reason = str(error) if isinstance(error, StorageError) else f"'{checkpoint.path}' is damaged."
            warnings.warn(CheckpointWarning("The training", reason), stacklevel=3)
            return 0
        self._take(found, done)
        return done

    def _expected(self) -> dict[str, tuple[torch.dtype, tuple[int | str | None, ...]]]:
        """What a checkpoint of this training holds."""
        expected: dict[str, tuple[torch.dtype, tuple[int | str | None, ...]]] = {
            "done": (torch.int64, (1,)),
            "again": (torch.int64, (1,)),
            "losses": (torch.float32, (None, len(COLUMNS))),
            "generator": (torch.uint8, tuple(self._generator.get_state().shape)),
        }
        for i, parameter in enumerate(self._parameters):
            expected |= {f"{kind}{i}": (torch.float32, tuple(parameter.shape)) for kind in _KINDS}
        return expected

    def _check(self, found: dict[str, Tensor], done: int, checkpoint: Checkpoint) -> None:
        """Refuses what no training can have written."""
        whole = 1 <= done < len(self.losses) and len(found["losses"]) == done and 0 <= found["again"] <= _MOST_AGAIN
        if not whole or any(bool((found[f"square{i}"] < 0).any()) for i in range(len(self._parameters))):
            raise StorageError(f"'{checkpoint.path}' is damaged: its numbers do not fit together.")
        torch.Generator().set_state(found["generator"])

    def _take(self, found: dict[str, Tensor], done: int) -> None:
        self._generator.set_state(found["generator"])
        self.losses[:done] = found["losses"]
        self.again = int(found["again"])
        moments = {}
        with torch.no_grad():
            for i, parameter in enumerate(self._parameters):
                parameter.copy_(found[f"parameter{i}"])
                # in the parameter's own memory layout, because sums in another order round differently
                mean, square = (torch.zeros_like(parameter).copy_(found[f"{kind}{i}"]) for kind in ("mean", "square"))
                moments[i] = {"step": torch.tensor(float(done)), "exp_avg": mean, "exp_avg_sq": square}
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": moments})
