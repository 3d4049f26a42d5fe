"""Exporters by name: what writes an alignment for another program. Other installed packages bring their own."""

import csv
import inspect
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asic3d.errors import Asic3dError, ExportError, PluginError, StorageError
from asic3d.photo_folder import shown
from asic3d.plugins import EXPORTERS, Plugin, find_plugins
from asic3d.storage import atomic_write, read_json, write_json
from asic3d_integrations.colmap.exported import files_below

if TYPE_CHECKING:
    from asic3d import Alignment

RECORD = "export.json"
"""The file in an export's folder that says what wrote it, and which files are its own."""
_FORMAT = "asic3d export"


class Exporter(Protocol):
    """What an entry point of the group ``asic3d.exporters`` is: a function. Its docstring's first line describes it."""

    def __call__(self, alignment: "Alignment", folder: Path, /) -> object:
        """Writes files into a new, empty folder, which takes its final place when this returns.

        Args:
            alignment: the photos, aligned.
            folder: where to write. Names in the files must not depend on it: it is moved afterwards.
        """
        ...


@dataclass(frozen=True)
class Known:
    """An exporter that is here.

    Attributes:
        name: what people write to ask for it.
        package: what brings it, with its version; '' = asic3d.
        description: what it writes; '' for one that does not say.
        fault: why it can't be used, a sentence; '' where it can.
    """

    name: str
    package: str = ""
    description: str = ""
    fault: str = ""


def known_exporters() -> Iterator[Known]:
    """All exporters: ours, then those of other packages, which are imported for it; one that fails says why."""
    for name, exporter in _OURS.items():
        yield Known(name, "", _description(exporter))
    for name, plugin in _plugins().items():
        try:
            yield Known(name, plugin.package, _description(plugin.load()))
        except PluginError as error:
            yield Known(name, plugin.package, fault=str(error))


def export(alignment: "Alignment", name: str, folder: Path, *, overwrite: bool = False) -> tuple[str, ...]:
    """Writes an alignment with an exporter; the folder appears whole or is as it was before.

    Args:
        alignment: the photos, aligned.
        name: of the exporter; no other one is imported.
        folder: where to write; made where it is missing.
        overwrite: replace what the same exporter wrote there earlier; files that it did not write are never replaced.

    Returns:
        The files that were written, relative to the folder.

    Raises:
        ExportError: there is no such exporter, or it wrote nothing.
        PluginError: the exporter is another package's, and does not work.
        StorageError: something is there already, or the folder can't be written.

    Example:
        >>> export(asic3d.load_alignment("asic3d_out"), "csv", Path("points"))  # doctest: +SKIP
        ('tracks.csv',)
    """
    from asic3d_integrations.colmap.export import replaced_together

    exporter, plugin = _exporter(name)
    _refuse(folder, name, overwrite)
    with replaced_together(folder) as new:
        if plugin is None:
            exporter(alignment, new)
        else:
            plugin.call(exporter, alignment, new)
        files = files_below(new)
        if not files:
            raise ExportError(f"The exporter '{name}' wrote no file for these photos.")
        if RECORD in files:
            raise ExportError(f"The exporter '{name}' wrote '{RECORD}', a name that asic3d needs for its own record.")
        by = plugin.package if plugin else "asic3d"
        write_json(new / RECORD, {"format": _FORMAT, "exporter": name, "package": by, "files": [*files, RECORD]})
    return tuple(files)


def check_exporter(name: str) -> None:
    """Finds out what would stop :func:`export` at once, before the alignment is read.

    Raises:
        ExportError: there is no such exporter.
        PluginError: it can't be loaded.
    """
    _exporter(name)


def _exporter(name: str) -> tuple[Exporter, Plugin | None]:
    if name in _OURS:
        return _OURS[name], None
    plugins = _plugins()
    if name not in plugins:
        raise ExportError(
            f"There is no exporter '{name}' here; choose one of: {', '.join([*_OURS, *plugins])}. For COLMAP, hloc and "
            "nerfstudio: asic3d export-colmap."
        )
    return plugins[name].load(), plugins[name]


def _plugins() -> dict[str, Plugin]:
    """Those of other packages; they can't take the name of one of ours."""
    return {name: plugin for name, plugin in find_plugins(EXPORTERS).items() if name not in _OURS}


def _description(exporter: Exporter) -> str:
    """The first line of a docstring."""
    return next(iter((inspect.getdoc(exporter) or "").splitlines()), "")


def _refuse(folder: Path, name: str, overwrite: bool) -> None:
    """Raises StorageError where something is in the way."""
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"'{folder}' is a file. Choose a folder with -o.")
    ours = _earlier_files(folder, name)
    if ours and not overwrite:
        raise StorageError(
            f"'{folder}' holds an earlier export, and nothing was changed. Replace it with --overwrite, or choose "
            "another folder with -o."
        )
    others = sorted(set(files_below(folder)) - ours) if folder.exists() else []
    if others:
        raise StorageError(
            f"'{folder}' holds other files, such as {shown(others[0])}, and nothing was changed. Choose a new folder "
            "with -o."
        )


def _earlier_files(folder: Path, name: str) -> set[str]:
    """What the exporter of this name wrote into a folder earlier."""
    try:
        record = read_json(folder / RECORD)
    except Asic3dError:
        return set()
    files = record.get("files")
    ours = record.get("format") == _FORMAT and record.get("exporter") == name and isinstance(files, list)
    return {str(file) for file in files} if ours and isinstance(files, list) else set()


def write_csv(alignment: "Alignment", folder: Path) -> None:
    """tracks.csv: which point of each photo is the same place; a row a point, for spreadsheets and scripts."""
    from asic3d.tracks import canonical_tracks

    graph = canonical_tracks(alignment)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["track", "photo", "x", "y"])
    for track, photo, keypoint in graph.tracks.tolist():
        x, y = graph.keypoints[photo][keypoint].tolist()
        rows.writerow([track, graph.names[photo], f"{x:.2f}", f"{y:.2f}"])
    content = text.getvalue().encode("utf-8", "replace")
    atomic_write(folder / "tracks.csv", lambda file: file.write(content))


_OURS: dict[str, Exporter] = {"csv": write_csv}
