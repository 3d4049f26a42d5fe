"""Frozen networks that turn a photo into feature maps: one small protocol, and a registry of those that fit it."""

import functools
import hashlib
import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from asic3d.checkpoints import fetch, read_checkpoint, unreadable
from asic3d.errors import BackboneError, BackboneWarning, PluginError
from asic3d.plugins import BACKBONES, Plugin, find_plugins

EMBEDDED = "efficientnet-lite0"
"""The backbone whose weights are always at hand."""
FETCHED = "dinov2-vits14"
"""The backbone that ``auto`` downloads where no better one is on the machine: the smallest of the good ones, 84 MiB."""
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
"""Makes a backbone: ``factory(weights: Path | None, device: torch.device, **options)``.

An installed package brings one as an entry point of the group ``asic3d.backbones``; see docs/how-to/plugins.md.
"""

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
    """The names that :func:`load_backbone` takes, besides ``auto``: ours, then those of other packages."""
    return tuple(dict.fromkeys([*_FACTORIES, *find_plugins(BACKBONES)]))


def _found(name: str) -> tuple[Factory, Plugin | None]:
    """The factory of a known name, and the plugin that brings it; nothing is imported that was not asked for."""
    if name in _FACTORIES:
        return _FACTORIES[name], None
    plugin = find_plugins(BACKBONES)[name]
    return plugin.load(), plugin


@dataclass(frozen=True)
class Choice:
    """What ``auto`` comes to.

    Attributes:
        name: the backbone.
        weights: the file of its weights; None for the embedded one.
        reason: why this one, to be read after its name and a colon.
    """

    name: str
    weights: Path | None
    reason: str


def choose_backbone(weights: Path | None = None) -> Choice:
    """The best backbone whose weights are on this machine or can be fetched, else the embedded one.

    Args:
        weights: a checkpoint; the backbone is then the one that it belongs to.

    Raises:
        BackboneError: ``weights`` is not a checkpoint.
    """
    from asic3d import vision_transformers

    if weights is not None:
        name = vision_transformers.recognise(read_checkpoint(weights)[0]) or EMBEDDED
        return Choice(name, weights, f"'{weights}' holds weights of {name}.")
    for name in vision_transformers.ARCHITECTURES:
        path = vision_transformers.weights_on_disk(name)
        if path is not None:
            return Choice(name, path, f"the weights of {name} are on this machine.")
    repository = vision_transformers.ARCHITECTURES[FETCHED].repository
    try:
        return Choice(FETCHED, fetch(repository), f"the weights of {FETCHED} could be fetched.")
    except BackboneError as error:
        return Choice(
            EMBEDDED, None, f"no vision transformer's weights are on this machine, and none can be fetched ({error})."
        )


def check_backbone(name: str, weights: str | Path = "") -> None:
    """Finds out what would stop :func:`load_backbone` at once, before anything else is done.

    Raises:
        BackboneError: there is no such backbone, or no such file.
    """
    if name != "auto" and name not in backbone_names():
        raise BackboneError(f"There is no backbone '{name}'; choose 'auto' or one of: {', '.join(backbone_names())}.")
    if weights:
        try:
            Path(weights).open("rb").close()
        except OSError as error:
            raise unreadable(weights, error) from None


def load_backbone(
    name: str = "auto",
    *,
    weights: str | Path = "",
    device: torch.device | str = "cpu",
    wishes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Backbone:
    """A backbone by name.

    Args:
        name: one of :func:`backbone_names`, or ``auto`` for what :func:`choose_backbone` says. It warns
            (BackboneWarning) where that is the embedded one.
        weights: a checkpoint file, .safetensors or .pth; empty: where the weights are usually found.
        device: where it runs.
        wishes: options for the backbones that take them; others pass over them.
        **options: what the backbone takes, such as ``layer``, ``facet``, ``stride`` and ``side`` of a transformer.

    Raises:
        BackboneError: unknown name or option, or weights that are missing or wrong.
        PluginError: the backbone is another package's, and does not work.

    Example:
        >>> load_backbone("efficientnet-lite0").sides
        (240, 320, 480)
    """
    check_backbone(name)
    path = Path(weights) if weights else None
    if name == "auto":
        choice = choose_backbone(path)
        name, path = choice.name, choice.weights
        if path is None:
            message = f"Using the embedded backbone {name}: {choice.reason} Name it with --backbone to silence this."
            warnings.warn(message, BackboneWarning, stacklevel=2)
    factory, plugin = _found(name)
    known = list(inspect.signature(factory).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BackboneError(f"{name} takes no option '{unknown[0]}'; its options are: {', '.join(known[2:])}.")
    options = {**{option: value for option, value in (wishes or {}).items() if option in known}, **options}
    # timm fills a network with random weights before ours replace them; the caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        if plugin is None:
            return factory(path, torch.device(device), **options)
        made = plugin.call(factory, path, torch.device(device), **options)
    lacking = [part for part in ("name", "fingerprint", "sides", "tap_weights", "device") if not hasattr(made, part)]
    if lacking:
        raise PluginError(f"{plugin} makes something without '{lacking[0]}', which is no asic3d.backbones.Backbone.")
    return made


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
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return importlib.import_module("timm")


def _embedded(
    weights: Path | None,
    device: torch.device,
    *,
    sides: tuple[int, ...] = (240, 320, 480),
    blocks: tuple[int, ...] = (10, 14),
    tap_weights: tuple[float, ...] = (1.0, 1.5),
) -> Backbone:
    """As :func:`asic3d.hypercolumns.efficientnet_lite0`, which is imported when it is needed."""
    from asic3d.hypercolumns import efficientnet_lite0

    return efficientnet_lite0(weights, device, sides=sides, blocks=blocks, tap_weights=tap_weights)


def _vision_transformer(
    name: str,
    weights: Path | None,
    device: torch.device,
    *,
    layer: int | None = None,
    facet: str | None = None,
    stride: int | None = None,
    side: int | None = None,
) -> Backbone:
    """As :func:`asic3d.vision_transformers.load_vision_transformer`, which is imported when it is needed."""
    from asic3d.vision_transformers import load_vision_transformer

    return load_vision_transformer(name, weights, device, layer=layer, facet=facet, stride=stride, side=side)


register_backbone(EMBEDDED, _embedded)
for _name in ("dinov2-vitb14", "dinov3-vits16", "dinov2-vits14", "dino-vitb8", "dino-vits8"):
    register_backbone(_name, functools.partial(_vision_transformer, _name))
