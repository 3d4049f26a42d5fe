"""Optional packages: imported where they are needed, or an error that says what is missing and how to get it."""

import importlib
import re
from typing import Any

from asic3d.errors import MissingExtraError

_LIBRARIES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libgomp.so.1": "libgomp1",
    "libglib-2.0.so.0": "libglib2.0-0",
}
"""Shared library -> Debian's package."""


def load_extra(module: str, need: str, package: str) -> Any:
    """Imports a module of an optional package.

    Args:
        module: what is imported.
        need: what needs what, the beginning of a sentence.
        package: what pip calls it.

    Raises:
        MissingExtraError: it is not installed, or it is and can't be imported: a library of the system is missing, or
            it is damaged.

    Example:
        >>> load_extra("h5py", "hloc's files need h5py", "h5py")  # doctest: +SKIP
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a damaged package raises anything
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise MissingExtraError(f"{need}: pip install {package}.") from None
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MissingExtraError(
            f"{need}, which is installed but can't be imported ({cause}). {_cure(error, package)}"
        ) from error


def _cure(error: Exception, package: str) -> str:
    """What to do about a package that can't be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install what it needs: pip install {error.name.partition('.')[0]}."
    library = system_package(str(error))
    if library:
        return f"Install the system's library, on Debian and Ubuntu: apt-get install {library}."
    return f"Install it anew: pip install --force-reinstall {package}."


def system_package(error: str) -> str:
    """Debian's package of the shared library that an import error names; '' where it names none that is known."""
    missing = re.search(r"(lib[\w.+-]+?\.so[.\d]*)", error)
    return _LIBRARIES.get(missing[1], "") if missing else ""
