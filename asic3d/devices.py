"""Where torch computes."""

import torch

from asic3d.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:N' as a device.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"There is no device '{name}'; choose 'auto', 'cpu', 'cuda' or 'cuda:N'.") from None
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ConfigError(
            f"The device '{name}' was asked for, and torch finds {found or 'no'} CUDA device{'s' * (found != 1)} here; "
            "use --device auto or cpu (device= in Python)."
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"asic3d runs on 'cpu' and 'cuda', not on '{name}'; use --device auto (device= in Python).")
    return device
