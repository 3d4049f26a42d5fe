"""Checkpoint files of backbones: found, fetched, and read without trusting them."""

import contextlib
import hashlib
import io
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asic3d.errors import BackboneError
from asic3d.reading import read_bounded

_LARGEST = 16 * 2**30  # bytes of weights

HUB_FILE = "model.safetensors"
"""The file that holds the weights in timm's repositories on the Hugging Face Hub."""
_PROBE_SECONDS = 4.0
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
        content = read_bounded(path, _LARGEST)
    except OSError as error:
        raise unreadable(path, error) from None
    return _unwrap(_parse(path, content), path), hashlib.sha256(content).hexdigest()


def unreadable(path: str | Path, error: OSError) -> BackboneError:
    """The error to raise where the file of the weights can't be opened."""
    return BackboneError(f"The weights '{path}' can't be read ({error.strerror}). Check the path given with --weights.")


def _parse(path: Path, content: bytes) -> Any:
    """What a checkpoint holds, by its extension."""
    from safetensors.torch import load

    try:
        if path.suffix == ".safetensors":
            return load(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats, which are read all the same
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # the readers let pass whatever a damaged or hostile file makes them run into
        raise BackboneError(
            f"'{path}' is not a checkpoint: it is damaged, or holds more than tensors. "
            "Give a .safetensors file, or a .pth file with the tensors alone."
        ) from None


def _unwrap(found: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside what training scripts put around it."""
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise BackboneError(f"'{path}' holds no named tensors, so it is no checkpoint. Give the file of the weights.")
    for prefix in _PREFIXES:
        if any(str(name).startswith(prefix) for name in found):
            found = {n.removeprefix(prefix): v for n, v in found.items() if str(n).startswith(prefix)}
    return found


def find_on_disk(repositories: Sequence[str], patterns: Sequence[str]) -> Path | None:
    """Weights that an earlier download left on this machine.

    Args:
        repositories: of the Hugging Face Hub, looked up in its cache.
        patterns: file names, with wildcards, in the folder where torch.hub puts checkpoints.
    """
    from huggingface_hub import try_to_load_from_cache

    for repository in repositories:
        found = try_to_load_from_cache(repository, HUB_FILE)
        if isinstance(found, str):
            return Path(found)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def fetch(repository: str) -> Path:
    """Downloads weights from the Hugging Face Hub into its cache, without a word.

    Raises:
        BackboneError: offline, out of reach, or not allowed; found out in a few seconds. The message is the reason,
            without a full stop.
    """
    from huggingface_hub import hf_hub_download

    # Without a network the Hub's client tries again for half a minute, so ask for the file's header first.
    reason = why_not_fetched(repository)
    if reason:
        raise BackboneError(reason)
    try:
        with _quiet_hub():
            return Path(hf_hub_download(repository, HUB_FILE, etag_timeout=_PROBE_SECONDS))
    except (OSError, ValueError, RuntimeError) as error:
        raise BackboneError(f"the download of {repository} failed ({type(error).__name__})") from error


def why_not_fetched(repository: str) -> str:
    """Why :func:`fetch` would fail, without a full stop, found out in a few seconds; empty where it should not."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return _probe(f"{constants.ENDPOINT}/{repository}/resolve/main/{HUB_FILE}", _PROBE_SECONDS)


def _probe(url: str, seconds: float) -> str:
    """Why a URL can't be had; empty when it can. Takes no longer than ``seconds``."""
    host = url.split("/")[2]
    answer = [f"{host} did not answer within {seconds:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                answer[0] = ""
        except urllib.error.HTTPError as error:
            # A repository that asks for a licence answers 401 or 403 without a token; the Hub's client has the token.
            answer[0] = "" if error.code in (401, 403) else f"{host} answered with status {error.code}"
        except (OSError, ValueError):
            answer[0] = f"{host} can't be reached"

    # In a thread, because looking up a name ignores the time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keeps the Hub's client from drawing progress bars and logging."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    verbosity, shown = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(50)  # logging.CRITICAL
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            enable_progress_bars()
