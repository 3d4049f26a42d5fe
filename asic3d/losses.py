"""The six terms of the paper's objective, each a pure function of tensors.

Canonical coordinates are (x, y) in the frame of the canonical grid, [-1, 1]^2, last; photos are square, in the
normalised frame of :mod:`asic3d.coordinates`. Every function follows the device and the dtype of its inputs, returns a
scalar and is differentiable. docs/method.md has the equations.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from asic3d.hypercolumns import efficientnet_lite0

RENDERED_SIDE = 128
"""Side at which the grid is compared with the photos, pixels, at most."""
_PERCEPTUAL_BLOCKS = (0, 2, 4)  # the last ones at a half, a quarter and an eighth of the side
_BLOCK = {"cpu": 2**18, "cuda": 2**26}  # distances at a time: what a core's cache holds; what a GPU has room for

Distance = Callable[[Tensor, Tensor], Tensor]
"""A perceptual distance: ``distance(rendered, photos)`` of two (B, 3, h, w) in [0, 1], to a scalar."""


def sample_map(canonical: Tensor, points: Tensor) -> Tensor:
    """A photo's map at some of its points, bilinear.

    Args:
        canonical: (B, H, W, 2) canonical coordinates of the pixels.
        points: (B, K, 2), or (B, h, w, 2), normalised; beyond the outermost pixels' centres their value goes on.

    Returns:
        (B, K, 2), or (B, h, w, 2), canonical.
    """
    rows = points if points.dim() == 4 else points[:, None]
    found = F.grid_sample(canonical.permute(0, 3, 1, 2), rows, padding_mode="border", align_corners=False)
    found = found.permute(0, 2, 3, 1)
    return found if points.dim() == 4 else found[:, 0]


def sample_grid(grid: Tensor, canonical: Tensor) -> Tensor:
    """The canonical grid at the places that photos' pixels map to, bilinear: the photos as the grid renders them.

    Args:
        grid: (4, R, R), red, green, blue, and the logit of the foreground.
        canonical: (B, H, W, 2); beyond the grid its border goes on.

    Returns:
        (B, 4, H, W).
    """
    count, height, width, _ = canonical.shape
    # One tall image: its gradient is one grid, where a batch of expanded grids would have one for every photo.
    tall = canonical.reshape(1, count * height, width, 2)
    found = F.grid_sample(grid[None], tall, padding_mode="border", align_corners=False)
    return found.reshape(len(grid), count, height, width).transpose(0, 1)


def contrastive_loss(first: Tensor, second: Tensor, used: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Each best buddy shall be nearer to its own partner, in the canonical space, than to any other of the pair.

    With a and b the canonical coordinates of the two sides, ``logits[k, l] = -|a_k - b_l| / T``: the cross-entropy of
    its rows, target l = k, with b held fixed, plus that of its columns with a held fixed. Mean over the buddies of a
    pair, then over the pairs that have any.

    Args:
        first: (P, K, 2), a.
        second: (P, K, 2), b.
        used: (P, K) bool; the other entries are padding, whatever they hold.
        temperature: T, canonical units.

    Returns:
        Scalar; 0 where nothing is used.
    """
    return _Contrastive.apply(first, second, used, temperature)  # pyright: ignore[reportReturnType]


class _Contrastive(torch.autograd.Function):
    """The loss with its gradient worked out by hand, from ONE matrix of distances that is not kept.

    The two cross-entropies have the same logits: only what is held fixed differs. Autograd would compute them twice
    and keep half a dozen matrices of P K^2 numbers.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, first: Tensor, second: Tensor, used: Tensor, temperature: float) -> Tensor:
        """Keeps no more than the gradients, (P, K, 2) each: with respect to a scalar they are known by now."""
        wide = torch.promote_types(first.dtype, torch.float32)
        a, b = (torch.where(used[..., None], side, 0).to(wide) for side in (first, second))
        share = used.to(wide) / (used.sum(1, keepdim=True).clamp(min=1) * used.any(1).sum().clamp(min=1))
        step = max(1, _BLOCK.get(first.device.type, 2**18) // max(1, used.shape[1] ** 2))
        parts = [
            _contrastive_block(
                a[at : at + step], b[at : at + step], used[at : at + step], share[at : at + step], temperature
            )
            for at in range(0, len(used), step)
        ]
        losses, *gradients = zip(*parts, strict=True) if parts else ((a.sum(),), (a,), (b,))
        ctx.save_for_backward(*(torch.cat(side).to(first.dtype) for side in gradients))
        return torch.stack(losses).sum().to(first.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The kept gradients, times what the loss is multiplied with."""
        first, second = ctx.saved_tensors
        return gradient * first, gradient * second, None, None


def _contrastive_block(
    a: Tensor, b: Tensor, used: Tensor, share: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of some pairs and its gradients, (P, K, 2) each; share: (P, K), what each buddy weighs in the mean."""
    distance = (a[:, :, None, 0] - b[:, None, :, 0]).square_()
    distance = distance.add_((a[:, :, None, 1] - b[:, None, :, 1]).square_()).sqrt_()
    padding = (~used).to(a.dtype) * -1e30  # finite, or a row that is nothing but padding would give NaN
    logits = (distance / -temperature).add_(padding[:, None, :]).add_(padding[:, :, None])
    own = (a - b).norm(dim=2)
    loss = (share * (2 * own / temperature + logits.logsumexp(2) + logits.logsumexp(1))).sum()
    inverse = distance.reciprocal_().nan_to_num_(posinf=0.0)  # two points in one place pull in no direction
    inverse.diagonal(dim1=1, dim2=2).zero_()  # a buddy's own partner is near: apart, where nothing cancels
    apart = (a - b) / torch.where(own > 0, own, 1)[..., None]
    gradients = []
    for here, there, sign, axis in ((a, b, 1, 2), (b, a, -1, 1)):
        likely = logits.softmax(axis)
        missed = 1 - likely.diagonal(dim1=1, dim2=2)[..., None]
        pull = likely.mul_(inverse)
        pull = pull if axis == 2 else pull.transpose(1, 2)
        others = here * pull.sum(2, keepdim=True) - pull @ there
        gradients.append((share[..., None] / temperature) * (sign * missed * apart - others))
    return loss, gradients[0], gradients[1]


def total_variation_loss(flow: Tensor) -> Tensor:
    """Neighbouring pixels shall be moved alike: smooth-L1 of their differences, mean along x plus mean along y.

    Args:
        flow: (B, H, W, 2) residual flow, the canonical coordinate less the pixel's own place.
    """
    along_y = F.smooth_l1_loss(flow[:, 1:], flow[:, :-1])
    return along_y + F.smooth_l1_loss(flow[:, :, 1:], flow[:, :, :-1])


def parts_loss(canonical: Tensor, parts: Tensor, count: int) -> Tensor:
    """Each part shall come together: L1 between a pixel's canonical coordinate and its part's centroid in the batch.

    The centroids are held fixed. The mean is over all pixels and coordinates; pixels of no part add 0.

    Args:
        canonical: (B, H, W, 2).
        parts: (B, H, W) int64, from 0; -1 where there is no part.
        count: number of parts.
    """
    place, at = parts.flatten() + 1, canonical.reshape(-1, 2)
    with torch.no_grad():
        sums = at.new_zeros(count + 1, 2).index_add_(0, place, at)
        sizes = at.new_zeros(count + 1).index_add_(0, place, at.new_ones(()).expand(len(place)))
        centroids = sums / sizes.clamp(min=1)[:, None]
        target = F.embedding(place, centroids)
        target = torch.where((place > 0)[:, None], target, at)  # distance and gradient 0
    return F.l1_loss(at, target)


def equivariance_loss(canonical: Tensor, canonical_of_warped: Tensor, warp: Tensor, inside: Tensor) -> Tensor:
    """The map of a warped photo shall be the photo's map, warped: L1 in both directions.

    Either side is held fixed in turn. The mean is over all pixels and coordinates; those that are not inside add 0. The
    two directions have one value, so the gradient is that of one of them, with nothing held fixed.

    Args:
        canonical: (B, H, W, 2), the map of the photos.
        canonical_of_warped: (B, H, W, 2), the map of the warped photos.
        warp: (B, H, W, 2), where each pixel of the warped photo was taken from, normalised.
        inside: (B, H, W) bool, the pixels of the warped photo that show the object.
    """
    moved = sample_map(canonical, warp)
    distance = ((canonical_of_warped - moved).abs() * inside[..., None]).mean()
    return distance + distance.detach()


def reconstruction_loss(photos: Tensor, rendered: Tensor, masks: Tensor, distance: Distance) -> Tensor:
    """The grid shall look like the photos where they show the object.

    Args:
        photos: (B, 3, h, w), sRGB in [0, 1].
        rendered: (B, 3, h, w), the first three channels of :func:`sample_grid`.
        masks: (B, 1, h, w) in [0, 1].
        distance: how unlike they look, such as :class:`PerceptualDistance`.
    """
    return distance(rendered * masks, photos * masks)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The grid's foreground shall be the photos': binary cross-entropy, mean over pixels.

    Args:
        logits: (B, H, W), the last channel of :func:`sample_grid`.
        masks: (B, H, W) in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits, masks)


class PerceptualDistance:
    """How unlike two images look to the first blocks of the embedded network, EfficientNet-Lite0.

    The features of every block that is read are brought to unit length in each cell; the squared distance of the two
    images' is averaged over cells and images and summed over the blocks. The paper uses VGG-16 trained without labels,
    whose weights no package holds; these are at hand wherever asic3d is.

    Args:
        device: where the images will be.

    Example:
        >>> distance = PerceptualDistance()
        >>> images = torch.rand(1, 3, 32, 32)
        >>> bool(distance(images, images) < 1e-6)
        True
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        with torch.random.fork_rng(devices=[]):  # as load_backbone has it
            self._network = efficientnet_lite0(
                None,
                torch.device(device),
                sides=(RENDERED_SIDE,),
                blocks=_PERCEPTUAL_BLOCKS,
                tap_weights=(1.0,) * len(_PERCEPTUAL_BLOCKS),
            )

    def __call__(self, rendered: Tensor, photos: Tensor) -> Tensor:
        """(B, 3, h, w) float32 each, to a scalar; the gradient goes to ``rendered``, not to the photos."""
        wanted = self._network(photos).taps
        found = self._network.taps(rendered)
        apart = [
            (F.normalize(one, dim=1) - F.normalize(other, dim=1)).square().sum(1).mean()
            for one, other in zip(found, wanted, strict=True)
        ]
        return torch.stack(apart).sum()
