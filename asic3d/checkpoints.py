"""Checkpoint files of backbones: read without trusting them."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asic3d.errors import BackboneError

_WRAPPERS = ("teacher", "model", "state_dict")
_PREFIXES = ("module.", "backbone.")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Reads the tensors of a checkpoint, on the CPU.

    Args:
        path: a .safetensors file, or one that torch saved, with nothing in it but tensors and plain values.

    Returns:
        name -> tensor in the file's order, freed of the usual wrappers and prefixes; the file's SHA-256.

    Raises:
        BackboneError: no such file, or not a checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BackboneError(
            f"The weights '{path}' can't be read ({error.strerror}). Check the path given with --weights."
        ) from None
    return _unwrap(_parse(path, content), path), hashlib.sha256(content).hexdigest()


def _parse(path: Path, content: bytes) -> Any:
    """What a checkpoint holds, by its extension."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if path.suffix == ".safetensors":
            return load(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError):
        raise BackboneError(
            f"'{path}' is not a checkpoint: it is damaged, or holds more than tensors. "
            "Give a .safetensors file, or a .pth file with the tensors alone."
        ) from None


def _unwrap(found: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside what training scripts put around it."""
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BackboneError(f"'{path}' holds no named tensors, so it is no checkpoint. Give the file of the weights.")
    for prefix in _PREFIXES:
        if any(str(name).startswith(prefix) for name in found):
            found = {n.removeprefix(prefix): v for n, v in found.items() if str(n).startswith(prefix)}
    return found
