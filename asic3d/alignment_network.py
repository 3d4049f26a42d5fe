"""The paper's alignment network: a U-Net from a photo's pixels to their coordinates in the canonical space.

Section 3.3 of the paper. The last layer starts at zero and its output is added to the identity grid, so training starts
from the map that leaves every photo as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asic3d.coordinates import cell_centres

_CHANNELS = (64, 128, 256, 512, 1024)
"""Channels of each level at width 1; the sides halve from level to level."""
_GROUPS = 8


class AlignmentNetwork(nn.Module):
    """Maps each pixel of a photo to the canonical space.

    Each normalisation is over one photo alone (group normalisation): a photo's map does not depend on which others are
    in the batch, and is the same in training and afterwards.

    Args:
        width: multiplies the channels of all levels; 0.5 is the paper's, with 7.8 million parameters.
        seed: of the random start of all layers but the last.

    Example:
        >>> AlignmentNetwork(0.0625, seed=0)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 32, 32, 2])
    """

    def __init__(self, width: float, *, seed: int) -> None:
        super().__init__()
        channels = [max(1, round(count * width / _GROUPS)) * _GROUPS for count in _CHANNELS]
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            before = (3, *channels[:-1])
            self.down = nn.ModuleList(_block(a, b) for a, b in zip(before, channels, strict=True))
            pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
            self.enlarge = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
            self.up = nn.ModuleList(_block(2 * b, b) for _, b in pairs)
            self.flow = nn.Conv2d(channels[0], 2, 1)
        nn.init.zeros_(self.flow.weight)
        assert self.flow.bias is not None
        nn.init.zeros_(self.flow.bias)

    def forward(self, photos: Tensor) -> Tensor:
        """Photos (B, 3, H, W) float in [0, 1] to canonical coordinates (B, H, W, 2), x and y, the grid is [-1, 1]^2."""
        return identity_grid(photos.shape[2], photos.shape[3], photos) + self.residual(photos)

    def residual(self, photos: Tensor) -> Tensor:
        """What is added to the identity: (B, 3, H, W) in [0, 1] to (B, H, W, 2)."""
        height, width = photos.shape[2:]
        step = 2 ** (len(self.down) - 1)
        # H and W of any size: padded to what can be halved at every level, and cut off again
        x = F.pad(2 * photos - 1, (0, -width % step, 0, -height % step), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        kept = []
        for block in self.down[:-1]:
            kept.append(block(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.down[-1](x)
        for enlarge, block, skipped in zip(self.enlarge, self.up, reversed(kept), strict=True):
            x = block(torch.cat([skipped, enlarge(x)], 1))
        return self.flow(x)[:, :, :height, :width].permute(0, 2, 3, 1)


def _block(channels: int, wanted: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each normalised and rectified."""
    layers: list[nn.Module] = []
    for source in (channels, wanted):
        layers += [nn.Conv2d(source, wanted, 3, padding=1, bias=False), nn.GroupNorm(_GROUPS, wanted), nn.ReLU()]
    return nn.Sequential(*layers)


def identity_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2) normalised coordinates of pixel centres, of the dtype and device of ``like``: the identity map."""
    if height == width:
        return cell_centres(width, like.device).to(like.dtype).reshape(height, width, 2)
    theta = torch.eye(2, 3, dtype=like.dtype, device=like.device)[None]
    return F.affine_grid(theta, [1, 1, height, width], align_corners=False)[0]


def count_parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())
