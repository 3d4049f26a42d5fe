"""What other installed packages add to asic3d: entry points, found without importing anything."""

from dataclasses import dataclass
from importlib import metadata
from typing import Any

from asic3d.errors import Asic3dError, PluginError

BACKBONES = "asic3d.backbones"
"""Entry points that are factories of backbones: see :data:`asic3d.backbones.Factory`."""
EXPORTERS = "asic3d.exporters"
"""Entry points that write an alignment for another program: see :class:`asic3d_integrations.exporters.Exporter`."""


@dataclass(frozen=True)
class Plugin:
    """An entry point of an installed package; nothing of the package is imported before :meth:`load`.

    Attributes:
        name: what people write to ask for it.
        package: the package that brings it, as pip calls it, with its version.
        kind: what it is, for messages: ``backbone`` or ``exporter``.
        point: the entry point.
    """

    name: str
    package: str
    kind: str
    point: metadata.EntryPoint

    def load(self) -> Any:
        """Imports the package and returns what the entry point names.

        Raises:
            PluginError: it can't be imported, or is nothing that can be called.
        """
        try:
            found = self.point.load()
        except Exception as error:  # a stranger's module may raise anything
            raise PluginError(f"{self} can't be loaded ({_told(error)}). Update or uninstall that package.") from error
        if not callable(found):
            raise PluginError(f"{self} is {found!r} and can't be called. Update or uninstall that package.")
        return found

    def call(self, function: Any, *args: Any, **options: Any) -> Any:
        """Calls what :meth:`load` returned; errors that the package did not foresee become one sentence.

        Raises:
            PluginError: it raised something else than an :class:`asic3d.Asic3dError`.
        """
        try:
            return function(*args, **options)
        except Asic3dError:
            raise
        except Exception as error:
            raise PluginError(f"{self} failed ({_told(error)}). Report it to the makers of that package.") from error

    def __str__(self) -> str:
        return f"The {self.kind} '{self.name}' of the package {self.package}"


def find_plugins(group: str) -> dict[str, Plugin]:
    """Name -> plugin for every entry point of a group, in the order of their names.

    Where two packages bring the same name, the one whose package comes first in the alphabet has it.

    Args:
        group: :data:`BACKBONES` or :data:`EXPORTERS`.
    """
    kind = group.rpartition(".")[2].removesuffix("s")
    found = [Plugin(point.name, _package(point), kind, point) for point in metadata.entry_points(group=group)]
    by_name: dict[str, Plugin] = {}
    for one in sorted(found, key=lambda one: (one.name, one.package)):
        by_name.setdefault(one.name, one)
    return by_name


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "that brings it"


def _told(error: Exception) -> str:
    """An error in one line."""
    return ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
