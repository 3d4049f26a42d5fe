"""Vision transformers of the DINO family as backbones: any facet of any layer, at any stride, with saliency."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asic3d.backbones import EMBEDDED, BackboneOutput, fingerprint, import_timm
from asic3d.checkpoints import HUB_FILE, fetch, find_on_disk, read_checkpoint
from asic3d.errors import BackboneError

FACETS = ("query", "key", "value", "token")
"""What can be read of a block: its three projections, or its output."""


@dataclass(frozen=True)
class Variant:
    """A network under one of our names.

    Attributes:
        timm: its name in timm, and in the Hub's repository.
        files: how its publisher's checkpoint is called, with wildcards.
        marks: endings of tensor names, one of which its checkpoints have and those of the next variant have not.
    """

    timm: str
    files: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """What a name stands for, and at which setting it is run.

    Attributes:
        variants: the first whose marks a checkpoint bears is built.
        fetched: the timm name of the variant that is downloaded.
        patch: side of a patch, pixels.
        width: channels of a token.
        side: side of the input, pixels.
        layer: the block to read, counted from 0.
        facet: one of FACETS.
        licence: address of the licence that has to be accepted before the weights can be fetched.
    """

    variants: tuple[Variant, ...]
    fetched: str
    patch: int
    width: int
    side: int
    layer: int
    facet: str
    licence: str = ""

    @property
    def repository(self) -> str:
        """The repository on the Hugging Face Hub that holds the weights."""
        return f"timm/{self.fetched}"


def _dino(size: str, width: int, file: str) -> Architecture:
    name = f"vit_{size}_patch8_224.dino"
    return Architecture((Variant(name, file),), name, patch=8, width=width, side=320, layer=9, facet="key")


def _dinov2(size: str, width: int, file: str) -> Architecture:
    registers = Variant(
        f"vit_{size}_patch14_reg4_dinov2.lvd142m", f"{file}_reg4_pretrain.pth", ("reg_token", "register_tokens")
    )
    plain = Variant(f"vit_{size}_patch14_dinov2.lvd142m", f"{file}_pretrain.pth")
    return Architecture((registers, plain), registers.timm, patch=14, width=width, side=560, layer=11, facet="token")


_DINOV3 = "vit_small_patch16_dinov3"
ARCHITECTURES: Mapping[str, Architecture] = {
    "dinov2-vitb14": _dinov2("base", 768, "dinov2_vitb14"),
    "dinov3-vits16": Architecture(
        (
            Variant(f"{_DINOV3}_qkvb.lvd1689m", "dinov3_vits16_pretrain_*.pth", ("q_bias", "qkv.bias")),
            Variant(f"{_DINOV3}.lvd1689m", "dinov3_vits16_pretrain_*.pth"),
        ),
        fetched=f"{_DINOV3}.lvd1689m",
        patch=16,
        width=384,
        side=640,
        layer=11,
        facet="token",
        licence="https://ai.meta.com/resources/models-and-libraries/dinov3-license",
    ),
    "dinov2-vits14": _dinov2("small", 384, "dinov2_vits14"),
    "dino-vitb8": _dino("base", 768, "dino_vitbase8_pretrain.pth"),
    "dino-vits8": _dino("small", 384, "dino_deitsmall8_pretrain.pth"),
}
"""Our name -> network, the best first."""


def weights_on_disk(name: str) -> Path | None:
    """Where an earlier download left the weights of a vision transformer; None where it is not on this machine."""
    variants = ARCHITECTURES[name].variants
    return find_on_disk([f"timm/{variant.timm}" for variant in variants], [variant.files for variant in variants])


def recognise(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the vision transformer that a checkpoint's tensors belong to, judged by the patch embedding."""
    weight = tensors.get("patch_embed.proj.weight")
    if weight is None or weight.ndim != 4:
        return None
    fits = (a for a in ARCHITECTURES.items() if (a[1].width, a[1].patch) == (weight.shape[0], weight.shape[-1]))
    return next((name for name, _ in fits), None)


def load_vision_transformer(
    name: str,
    weights: Path | None,
    device: torch.device,
    *,
    layer: int | None = None,
    facet: str | None = None,
    stride: int | None = None,
    side: int | None = None,
) -> "VisionTransformer":
    """A vision transformer by its name in :data:`ARCHITECTURES`.

    Args:
        name: the name.
        weights: checkpoint in timm's or in the publisher's format; None: looked for on this machine, then fetched.
        device: where to run.
        layer: the block to read, counted from 0.
        facet: ``query``, ``key``, ``value`` (before any rotary position) or ``token`` (of the last block: after the
            final normalisation).
        stride: distance between patches, pixels; the patch's side is the plain model.
        side: side of the input, pixels, a multiple of the stride.

    Raises:
        BackboneError: a setting does not fit, or the weights can't be had or belong to another network.
    """
    architecture = ARCHITECTURES[name]
    stride, side = stride or architecture.patch, side or architecture.side
    layer, facet = architecture.layer if layer is None else layer, facet or architecture.facet
    _check_stride(name, architecture.patch, stride, side)
    path = weights or weights_on_disk(name) or _fetched(name)
    tensors, sha256 = read_checkpoint(path)
    variant = _variant(architecture, tensors)
    settings = {"layer": layer, "facet": facet, "stride": stride, "side": side}
    return VisionTransformer(
        name,
        load_model(variant.timm, tensors, path, name),
        **settings,
        fingerprint=fingerprint(name=name, timm=variant.timm, weights=sha256, **settings),
        device=device,
    )


def _check_stride(name: str, patch: int, stride: int, side: int) -> None:
    if not 1 <= stride <= patch or side % stride or side < patch:
        raise BackboneError(
            f"The stride {stride} does not fit {name}: it lies between 1 and the patch's {patch} pixels and divides "
            f"the side of the input, which is {side} and at least {patch}."
        )


def _fetched(name: str) -> Path:
    """The weights from the Hub, or an error that says how to get them."""
    architecture = ARCHITECTURES[name]
    try:
        return fetch(architecture.repository)
    except BackboneError as error:
        licence = f" Its licence has to be accepted first: {architecture.licence} ." if architecture.licence else ""
        raise BackboneError(
            f"The weights of {name} are not on this machine and can't be fetched: {error}.{licence} Get them with "
            f"'hf download {architecture.repository} {HUB_FILE}' where there is a network, and give the file with "
            f"--weights; or take the network that needs none: --backbone {EMBEDDED} (weights=, backbone= in Python)."
        ) from error


def _variant(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Variant:
    bears = (v for v in architecture.variants if not v.marks or any(n.endswith(v.marks) for n in tensors))
    return next(bears)


def load_model(timm_name: str, tensors: Mapping[str, Tensor], path: Path, name: str) -> Any:
    """Builds a network in timm and fills it from a checkpoint in timm's or in the publisher's format."""
    timm = import_timm()
    model = timm.create_model(timm_name, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    kind = timm.models.eva if isinstance(model, timm.models.eva.Eva) else timm.models.vision_transformer
    try:
        model.load_state_dict(kind.checkpoint_filter_fn(dict(tensors), model))
    except (RuntimeError, KeyError) as error:
        raise BackboneError(
            f"'{path}' does not hold the weights of {name} ({_first_line(error)}). "
            f"Give those of {ARCHITECTURES[name].repository}, or name the backbone that they belong to with "
            "--backbone (backbone= in Python)."
        ) from None
    return model


def _first_line(error: Exception) -> str:
    """The first thing that torch says does not fit, without its heading."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = lines[1] if len(lines) > 1 else lines[0]
    return text if len(text) < 120 else f"{text[:117]}..."


class VisionTransformer:
    """Reads one facet of one block, and the class token's attention in the last block.

    With a stride below the patch's side the image is padded by the difference, half of it on each side, with its edge
    pixels. The patches' centres then are the centres of equal parts of the image at every stride, which is what timm's
    resampled positions, the rotary positions and features.py take them to be.

    Args:
        name: its name in :data:`ARCHITECTURES`.
        model: timm's VisionTransformer or Eva made with ``dynamic_img_size``, in evaluation mode.
        layer: as for :func:`load_vision_transformer`, and so are the next three.
        facet: see above.
        stride: see above.
        side: see above.
        fingerprint: as in :class:`asic3d.backbones.Backbone`.
        device: where to run.

    Raises:
        BackboneError: there is no such layer or facet.
    """

    tap_weights: tuple[float, ...] = (1.0,)

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        layer: int,
        facet: str,
        stride: int,
        side: int,
        fingerprint: str,
        device: torch.device,
    ) -> None:
        if facet not in FACETS:
            raise BackboneError(f"There is no facet '{facet}'; choose one of: {', '.join(FACETS)}.")
        if not 0 <= layer < len(model.blocks):
            raise BackboneError(f"{name} has the layers 0 to {len(model.blocks) - 1}; there is no layer {layer}.")
        self.name, self.fingerprint, self.device, self.sides = name, fingerprint, device, (side,)
        self._model = model.to(device)
        self._layer, self._facet, self._stride = layer, facet, stride
        mean, std = (torch.tensor(model.pretrained_cfg[key], device=device) for key in ("mean", "std"))
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    # Not inference_mode: its tensors could not be used as inputs of a network in training later on.
    @torch.no_grad()
    def __call__(self, images: Tensor) -> BackboneOutput:
        """As :class:`asic3d.backbones.Backbone` has it, for images of any side that the stride divides."""
        patches = self._patches((images.to(self.device) - self._mean) / self._std)
        tokens, rope = self._positioned(patches)
        blocks = self._model.blocks
        before = facet = tokens
        for i, block in enumerate(blocks):
            before = tokens
            if i + 1 < len(blocks) or self._facet == "token":  # else the last block's output is of no use
                tokens = block(tokens) if rope is None else block(tokens, rope=rope)
            if i == self._layer:
                facet = self._read(i, before, tokens)
        saliency = _class_attention(blocks[-1].attn, blocks[-1].norm1(before), rope)
        shape, prefix = patches.shape[1:3], self._model.num_prefix_tokens
        tap = facet[:, prefix:].transpose(1, 2).unflatten(2, shape).contiguous()
        return BackboneOutput((tap,), _unit_range(saliency[:, prefix:].unflatten(1, shape)))

    def _read(self, layer: int, before: Tensor, after: Tensor) -> Tensor:
        """The facet (B, tokens, C) of a layer that turned the tokens ``before`` into those ``after``."""
        if self._facet == "token":
            return self._model.norm(after) if layer + 1 == len(self._model.blocks) else after
        block = self._model.blocks[layer]
        projections = _projections(block.attn, block.norm1(before))
        return projections[FACETS.index(self._facet)].transpose(1, 2).flatten(2)  # heads beside each other

    def _patches(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to embedded patches (B, S / stride, S / stride, C)."""
        embed = self._model.patch_embed  # not called itself: it refuses sides that the patch does not divide
        excess = embed.proj.kernel_size[0] - self._stride
        before = excess // 2
        padded = F.pad(images, (before, excess - before) * 2, mode="replicate") if excess else images
        patches = F.conv2d(padded, embed.proj.weight, embed.proj.bias, stride=self._stride)
        return embed.norm(patches.permute(0, 2, 3, 1))

    def _positioned(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, prefix + patches, C) with class, registers and learned positions; rotary positions or None."""
        # timm resamples learned positions to, and computes rotary ones for, the grid that it is given here.
        placed = self._model._pos_embed(patches)
        tokens, rope = placed if isinstance(placed, tuple) else (placed, None)
        return self._model.norm_pre(tokens), rope


def _projections(attention: Any, tokens: Tensor) -> Tensor:
    """Query, key and value, (3, B, heads, tokens, channels), as the fused projection gives them."""
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # Eva keeps them apart, because its keys have none
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    projected = F.linear(tokens, attention.qkv.weight, bias)
    return projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)


def _class_attention(attention: Any, tokens: Tensor, rope: Tensor | None) -> Tensor:
    """What the class token attends to, mean over heads: (B, tokens), its sum is 1."""
    query, key, _ = _projections(attention, tokens)
    query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
    if rope is not None:
        from timm.layers import apply_rot_embed_cat  # pyright: ignore[reportPrivateImportUsage]

        prefix = attention.num_prefix_tokens  # the class token is one of these: they have no position
        turned = apply_rot_embed_cat(key[:, :, prefix:], rope, half=getattr(attention, "rotate_half", False))
        key = torch.cat([key[:, :, :prefix], turned], dim=2)
    logits = query @ key.transpose(-2, -1) / math.sqrt(key.shape[-1])
    return logits.softmax(-1).mean(1)[:, 0]


def _unit_range(maps: Tensor) -> Tensor:
    """(B, h, w), each map scaled to [0, 1]; an even map to 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
