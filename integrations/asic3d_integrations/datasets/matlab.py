"""MATLAB files, read by scipy where it is installed."""

from pathlib import Path
from typing import Any

from asic3d.errors import MissingExtraError
from asic3d_integrations.datasets.annotated import malformed


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, structs as objects with their fields, squeezed.

    Raises:
        MissingExtraError: scipy is not installed.
        CollectionError: the file is no MATLAB file.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingExtraError(
            f"'{path}' is a MATLAB file, and scipy, which reads it, is not installed; "
            'install it with: pip install "asic3d[datasets]"'
        ) from None
    try:
        return loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise malformed(path, "it is no MATLAB file of version 4 to 7.2") from error
