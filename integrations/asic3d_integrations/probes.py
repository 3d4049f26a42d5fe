"""Single looks at this machine, each by a name; they run in a process of their own, which may crash.

``python -m asic3d_integrations.probes package:torch devices`` writes a JSON object in a line for each.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Answer = dict[str, Any]


def package(module: str) -> Answer:
    """``{"version": text}`` of a module that can be imported, ``{"missing": true}`` of one that is not installed."""
    try:
        if module == "timm":  # as asic3d imports it, past a torchvision of another build
            from asic3d.backbones import import_timm

            found = import_timm()
        else:
            found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return {"missing": True}
        raise
    return {"version": str(getattr(found, "__version__", ""))}


def devices(_: str) -> Answer:
    """Where torch can compute: ``threads``, ``cuda`` (cards with memory in bytes), ``cuda_build``, ``mps``."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(number) for number in range(count)]
    return {
        "threads": torch.get_num_threads(),
        "cuda": [{"name": card.name, "memory": card.total_memory, "bfloat16": card.major >= 8} for card in cards],
        "cuda_build": torch.version.cuda or "",
        "mps": torch.backends.mps.is_available(),
    }


def embedded(_: str) -> Answer:
    """Loads the embedded network, which checks its weights' SHA-256, and runs it."""
    import torch

    from asic3d.backbones import EMBEDDED, load_backbone

    taps = load_backbone(EMBEDDED)(torch.zeros(1, 3, 64, 64)).taps
    if not all(bool(tap.isfinite().all()) for tap in taps):
        raise ArithmeticError("its output is not finite")
    return {"name": EMBEDDED}


def networks(_: str) -> Answer:
    """The vision transformers: ``found`` (name -> file, size, licence, command that fetches it), and what auto takes.

    Nothing is downloaded; where no weights are here, the Hub is asked whether it has them.
    """
    from asic3d.backbones import EMBEDDED, FETCHED
    from asic3d.checkpoints import HUB_FILE, why_not_fetched
    from asic3d.vision_transformers import ARCHITECTURES, weights_on_disk

    found: dict[str, Answer] = {}
    for name, architecture in ARCHITECTURES.items():
        path = weights_on_disk(name)
        fetch = f"hf download {architecture.repository} {HUB_FILE}"
        size = path.stat().st_size if path else 0
        file = str(path) if path else ""
        found[name] = {"file": file, "size": size, "licence": architecture.licence, "fetch": fetch}
    here = next((name for name, one in found.items() if one["file"]), "")
    reason = "" if here else why_not_fetched(ARCHITECTURES[FETCHED].repository)
    auto = here or (EMBEDDED if reason else FETCHED)
    return {"found": found, "auto": auto, "unreachable": reason}


def plugin(words: str) -> Answer:
    """Imports what another package brings: ``GROUP:NAME``."""
    from asic3d.plugins import find_plugins

    group, _, name = words.partition(":")
    find_plugins(group)[name].load()
    return {}


def cache(_: str) -> Answer:
    """Where weights are kept, and how many bytes of networks that asic3d knows are there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from asic3d.vision_transformers import ARCHITECTURES, weights_on_disk

    files = [path for path in map(weights_on_disk, ARCHITECTURES) if path]
    return {"folder": str(HF_HUB_CACHE), "size": sum(path.stat().st_size for path in files)}


_PROBES: dict[str, Callable[[str], Answer]] = {
    probe.__name__: probe for probe in (package, devices, embedded, networks, plugin, cache)
}


def _answer(words: str) -> Answer:
    """What a probe says, or ``{"error": text}``, whatever it ran into."""
    name, _, rest = words.partition(":")
    try:
        return _PROBES[name](rest)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a module may even leave the program when it is imported
        sentence = type(error).__module__ == "asic3d.errors"
        told = " ".join(str(error).split())
        return {"error": told if sentence else f"{type(error).__name__}: {told}" if told else type(error).__name__}


def main(names: list[str]) -> None:
    """Writes the answers to the standard output, and what modules print to the standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    for words in names:
        print(json.dumps(_answer(words)), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
