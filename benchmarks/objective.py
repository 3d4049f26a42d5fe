"""One iteration of the paper's objective, against the same written down straightforwardly (straightforward.py).

python benchmarks/objective.py [--photos 8] [--size 128] [--repeats 5]

Each row is forward and backward; processor time, the least of the repeats, both sides in turn. "objective" is all that
surrounds the network: warps, sampling, the six terms, and their gradients. "network" is its pass over the photos and
the warped photos. The last column says how far the values and gradients are apart, relative to the largest of each.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import straightforward as plain
import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.alignment_network import AlignmentNetwork
from asic3d.config import AlignmentConfig, make_config
from asic3d.losses import PerceptualDistance
from asic3d.objective import TERMS, Batch, map_both, objective
from asic3d.warps import warp_photos

Work = Callable[[], list[Tensor]]
"""Does one side's work and returns what it came to: values first, then gradients."""


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


def pieces(scene: Scene) -> dict[str, tuple[Work, Work]]:
    """Name of a row -> the work of the straightforward side and of asic3d."""
    scale = scene.config.warp_scale
    images, masks = scene.batch.photos, scene.batch.masks

    def warp(make) -> Batch:
        return replace(scene.batch, warped=make(images, masks, scale=scale, generator=scene.generator()))

    def shown(batch: Batch) -> list[Tensor]:
        assert batch.warped is not None
        return [batch.warped.warp, batch.warped.photos, batch.warped.masks]

    def two_passes(batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.warped is not None
        one = plain.map_photos(scene.plain_network, batch.photos)
        return one, plain.map_photos(scene.plain_network, batch.warped.photos)

    fixed = warp(warp_photos)
    with torch.no_grad():
        maps = map_both(scene.network, fixed)
    leaves = tuple(found.contiguous().requires_grad_() for found in maps if found is not None)
    upstream = [torch.randn(found.shape, generator=scene.generator()) for found in leaves]

    def terms(side, batch: Batch, names: tuple[str, ...]) -> list[Tensor]:
        config = replace(scene.config, **{f"weight_{name}": 0.0 for name in TERMS if name not in names})
        if side is plain:
            only = names[0] if len(names) == 1 else ""
            found = plain.objective(batch, *leaves, scene.grid, config, scene.plain, only)
        else:
            found = objective(batch, *leaves, scene.grid, config, scene.ours)
        return [*(found[name] for name in names), *gradients(found["total"], *leaves, scene.grid)]

    def network(maps: tuple[Tensor, ...], owner: AlignmentNetwork) -> list[Tensor]:
        total = torch.stack([(found * up).sum() for found, up in zip(maps, upstream, strict=True)]).sum()
        return [*maps, *gradients(total, *owner.parameters())]

    def whole(side) -> list[Tensor]:
        if side is plain:
            batch, owner = warp(plain.warp_photos), scene.plain_network
            found = plain.objective(batch, *two_passes(batch), scene.grid, scene.config, scene.plain)
        else:
            batch, owner = warp(warp_photos), scene.network
            found = objective(batch, *map_both(owner, batch), scene.grid, scene.config, scene.ours)
        return [*(found[name] for name in TERMS), *gradients(found["total"], scene.grid, *owner.parameters())]

    rows: dict[str, tuple[Work, Work]] = {
        "warps and colours": (lambda: shown(warp(plain.warp_photos)), lambda: shown(warp(warp_photos)))
    }
    for name in TERMS:
        rows[name] = (lambda n=name: terms(plain, fixed, (n,)), lambda n=name: terms(None, fixed, (n,)))
    rows["**objective**"] = (
        lambda: terms(plain, warp(plain.warp_photos), TERMS),
        lambda: terms(None, warp(warp_photos), TERMS),
    )
    rows["network"] = (
        lambda: network(two_passes(fixed), scene.plain_network),
        lambda: network(map_both(scene.network, fixed), scene.network),  # type: ignore[arg-type]
    )
    rows["**together**"] = (lambda: whole(plain), lambda: whole(None))
    return rows


def compare(works: tuple[Work, Work], repeats: int) -> tuple[float, float, float]:
    """Least milliseconds of the two sides, and the largest relative difference of what they come to."""
    results = [work() for work in works]  # warms up
    least = [float("inf")] * 2
    for _ in range(repeats):
        for side, work in enumerate(works):
            start = time.process_time()
            work()
            least[side] = min(least[side], 1000 * (time.process_time() - start))
    apart = [
        float((one - other).abs().max() / one.abs().max().clamp(min=1e-12)) for one, other in zip(*results, strict=True)
    ]
    return least[0], least[1], max(apart)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=int, default=8, help="photos in the iteration, an even number")
    parser.add_argument("--size", type=int, default=128, help="side of the photos, pixels")
    parser.add_argument("--buddies", type=int, default=400, help="best buddies of a pair, at most")
    parser.add_argument("--resolution", type=int, default=256, help="side of the canonical grid")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scene = make_scene(arguments.photos, arguments.size, arguments.buddies, arguments.resolution)
    print(f"{arguments.photos} photos of {arguments.size} x {arguments.size}, torch {torch.__version__}, CPU\n")
    print("| piece | straightforward, ms | asic3d, ms | ratio | largest difference |\n|---|---|---|---|---|")
    for name, works in pieces(scene).items():
        one, other, apart = compare(works, arguments.repeats)
        print(f"| {name} | {one:.1f} | {other:.1f} | {other / one:.2f} | {apart:.0e} |", flush=True)


if __name__ == "__main__":
    main()
