"""MATLAB files, read by scipy."""

from pathlib import Path
from typing import Any

from asic3d_integrations.datasets.annotated import malformed


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file, structs as objects with their fields, squeezed.

    Raises:
        CollectionError: the file is no MATLAB file.
    """
    from scipy.io import loadmat

    try:
        return loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # scipy raises whatever the bytes lead it to
        raise malformed(path, "it is no MATLAB file of version 4 to 7.2") from error
