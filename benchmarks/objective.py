"""One iteration of the paper's objective, against the same written down straightforwardly (straightforward.py).

python benchmarks/objective.py [--photos 8] [--size 128] [--repeats 3] [--terms]

Each row is forward and backward; processor time, the least of the repeats, both sides in turn. "objective" is all that
surrounds the network: warps, sampling, the six terms, and their gradients. "network" is its pass over the photos and
the warped photos. In the last rows asic3d's network runs in bfloat16, which does not come to the same.

The last columns say how far apart the two sides' values and gradients are, at most, relative to their norms. Gradients
differ by more than rounding where a network has kinks: an input within rounding of one goes either way. In double
precision the sides agree, as tests/test_objective.py has it.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import straightforward as plain
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.alignment_network import AlignmentNetwork
from asic3d.config import AlignmentConfig, make_config
from asic3d.losses import PerceptualDistance
from asic3d.objective import TERMS, Batch, map_both, objective
from asic3d.warps import warp_photos


@dataclass(frozen=True)
class Outcome:
    """What one side came to."""

    values: list[Tensor]
    gradients: list[Tensor] = field(default_factory=list)


Work = Callable[[], Outcome]


@dataclass(frozen=True)
class Scene:
    """What both sides work on: the same photos, networks, grid and draws."""

    batch: Batch
    grid: Tensor
    network: AlignmentNetwork
    plain_network: AlignmentNetwork
    config: AlignmentConfig
    ours: PerceptualDistance
    plain: plain.Perceptual

    def generator(self) -> torch.Generator:
        """The draws of every iteration are the same."""
        return torch.Generator().manual_seed(1)


def make_scene(photos: int, size: int, buddies: int, resolution: int) -> Scene:
    """Smooth random photos of a disc, and maps that are neither the identity nor far from it."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int) -> Tensor:
        coarse = torch.rand(photos, channels, 8, 8, generator=generator)
        return F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)

    place = plain.identity(size, size)
    masks = (place.norm(dim=2) < 0.75).float().expand(photos, 1, size, size).contiguous()
    config = make_config("paper", grid_resolution=resolution)
    parts = (smooth(1)[:, 0] * config.parts).long().clamp(max=config.parts - 1).where(masks[:, 0] > 0, -1)
    used = torch.arange(buddies) < torch.randint(buddies // 2, buddies + 1, (photos // 2, 1), generator=generator)
    first = 1.2 * torch.rand(photos // 2, buddies, 2, generator=generator) - 0.6
    second = first + 0.1 * torch.randn(first.shape, generator=generator)
    pairs = torch.arange(photos // 2 * 2).reshape(2, -1).T
    batch = Batch(smooth(3), masks, parts, pairs, first, second, used)
    grid = torch.rand(4, resolution, resolution, generator=generator).requires_grad_()
    networks = [AlignmentNetwork(config.network_width, seed=0) for _ in range(2)]
    for network in networks:
        with torch.no_grad():
            network.flow.weight.copy_(0.01 * torch.randn(network.flow.weight.shape, generator=generator.manual_seed(2)))
    networks[0].to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return Scene(batch, grid, networks[0], networks[1], config, PerceptualDistance(), plain.Perceptual())


def gradients(total: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Of what the total depends on."""
    return [g for g in torch.autograd.grad(total, inputs, allow_unused=True) if g is not None]


@dataclass(frozen=True)
class Straightforward:
    """One side: everything as straightforward.py has it."""

    scene: Scene

    def warp(self) -> Batch:
        """The batch with warped photos."""
        batch, scale = self.scene.batch, self.scene.config.warp_scale
        warped = plain.warp_photos(batch.photos, batch.masks, scale=scale, generator=self.scene.generator())
        return replace(batch, warped=warped)

    def maps(self, batch: Batch) -> tuple[Tensor, ...]:
        """Of the photos and the warped photos."""
        assert batch.warped is not None
        return tuple(plain.map_photos(self.network, photos) for photos in (batch.photos, batch.warped.photos))

    def terms(self, batch: Batch, maps: tuple[Tensor, ...], config: AlignmentConfig) -> dict[str, Tensor]:
        """Those that have a weight, and the total."""
        used = [name for name in TERMS if getattr(config, f"weight_{name}")]
        only = used[0] if len(used) == 1 else ""
        return plain.objective(batch, maps[0], maps[1], self.scene.grid, config, self.scene.plain, only)

    @property
    def network(self) -> AlignmentNetwork:  # noqa: D102
        return self.scene.plain_network


@dataclass(frozen=True)
class Product:
    """The other side: asic3d, in single precision or with the network in bfloat16."""

    scene: Scene
    half: bool = False

    def warp(self) -> Batch:
        """The batch with warped photos."""
        batch, scale = self.scene.batch, self.scene.config.warp_scale
        warped = warp_photos(batch.photos, batch.masks, scale=scale, generator=self.scene.generator())
        return replace(batch, warped=warped)

    def maps(self, batch: Batch) -> tuple[Tensor, ...]:
        """Of the photos and the warped photos."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            one, other = map_both(self.network, batch)
        assert other is not None
        return one, other

    def terms(self, batch: Batch, maps: tuple[Tensor, ...], config: AlignmentConfig) -> dict[str, Tensor]:
        """All of them, and the total."""
        return objective(batch, maps[0], maps[1], self.scene.grid, config, self.scene.ours)

    @property
    def network(self) -> AlignmentNetwork:  # noqa: D102
        return self.scene.network


Side = Straightforward | Product


def warps_of(side: Side) -> Outcome:
    """Warps and colours alone."""
    warped = side.warp().warped
    assert warped is not None
    return Outcome([warped.warp, warped.photos, warped.masks])


def terms_of(side: Side, names: tuple[str, ...], batch: Batch | None, maps: tuple[Tensor, ...]) -> Outcome:
    """Some terms of maps that are there; batch None: the warps too."""
    weights = {f"weight_{name}": 0.0 for name in TERMS if name not in names}
    found = side.terms(batch or side.warp(), maps, replace(side.scene.config, **weights))
    return Outcome([found[name] for name in names], gradients(found["total"], *maps, side.scene.grid))


def network_of(side: Side, batch: Batch) -> Outcome:
    """The network alone, with gradients that are handed to it."""
    maps = side.maps(batch)
    handed = torch.randn(2, *maps[0].shape, generator=side.scene.generator())
    total = (torch.stack(maps) * handed).sum()
    return Outcome(list(maps), gradients(total, *side.network.parameters()))


def whole_of(side: Side) -> Outcome:
    """One iteration, but for the optimiser's step."""
    batch = side.warp()
    found = side.terms(batch, side.maps(batch), side.scene.config)
    learned = gradients(found["total"], side.scene.grid, *side.network.parameters())
    return Outcome([found[name] for name in TERMS], learned)


def pieces(scene: Scene) -> dict[str, tuple[Work, Work]]:
    """Name of a row -> the work of the straightforward side and of asic3d."""
    one, other, half = Straightforward(scene), Product(scene), Product(scene, half=True)
    fixed = other.warp()
    with torch.no_grad():
        found = other.maps(fixed)
    maps = tuple(m.contiguous().requires_grad_() for m in found)

    def both(work: Callable[[Side], Outcome], second: Side = other) -> tuple[Work, Work]:
        return lambda: work(one), lambda: work(second)

    return {
        "warps and colours": both(warps_of),
        **{name: both(lambda side, n=name: terms_of(side, (n,), fixed, maps)) for name in TERMS},
        "**objective**": both(lambda side: terms_of(side, TERMS, None, maps)),
        "network": both(lambda side: network_of(side, fixed)),
        "**together**": both(whole_of),
        "network, bfloat16": both(lambda side: network_of(side, fixed), half),
        "**together, bfloat16**": both(whole_of, half),
    }


def compare(works: tuple[Work, Work], repeats: int) -> tuple[float, float, float, float]:
    """Least milliseconds of the two sides, and the largest relative differences of their values and gradients."""
    results = [work() for work in works]  # warms up
    least = [float("inf")] * 2
    for _ in range(repeats):
        for side, work in enumerate(works):
            start = time.process_time()
            work()
            least[side] = min(least[side], 1000 * (time.process_time() - start))
    one, other = results
    return least[0], least[1], _apart(one.values, other.values), _apart(one.gradients, other.gradients)


def _apart(one: list[Tensor], other: list[Tensor]) -> float:
    pairs = [(a.detach().float(), b.detach().float()) for a, b in zip(one, other, strict=True)]
    return max((float((a - b).norm() / a.norm().clamp(min=1e-12)) for a, b in pairs), default=0.0)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=int, default=8, help="photos in the iteration, an even number")
    parser.add_argument("--size", type=int, default=128, help="side of the photos, pixels")
    parser.add_argument("--buddies", type=int, default=400, help="best buddies of a pair, at most")
    parser.add_argument("--resolution", type=int, default=256, help="side of the canonical grid")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--terms", action="store_true", help="leave out the network, which takes long for large photos")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scene = make_scene(arguments.photos, arguments.size, arguments.buddies, arguments.resolution)
    print(f"{arguments.photos} photos of {arguments.size} x {arguments.size}, torch {torch.__version__}, CPU\n")
    columns = ("piece", "straightforward, ms", "asic3d, ms", "ratio", "values apart", "gradients apart")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name, works in pieces(scene).items():
        if arguments.terms and ("network" in name or "together" in name):
            continue
        one, other, values, slopes = compare(works, arguments.repeats)
        print(f"| {name} | {one:.1f} | {other:.1f} | {other / one:.2f} | {values:.0e} | {slopes:.0e} |", flush=True)


if __name__ == "__main__":
    main()
