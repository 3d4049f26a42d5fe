"""The options that set an alignment's configuration, derived from the fields of AlignmentConfig."""

import dataclasses
import functools
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asic3d.config import PRESETS, AlignmentConfig, make_config
from asic3d.errors import ConfigError
from asic3d_cli.commands import Examples
from asic3d_cli.runs import FOLDER

PROMOTED = ("preset", "backbone", "weights", "device", "seed", "max_memory")
"""Settings that have an option of their own; all of them can be given with ``--set`` too."""


class WholeNumber(click.IntRange):
    """A whole number of a range; what is wrong with another value is said with the range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text as a number, or click's usage error."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            most = "up" if self.max is None else f"to {self.max}"
            self.fail(f"'{value}' is not a whole number from {self.min} {most}.", param, ctx)


SEED = WholeNumber(0, 2**31 - 1)
"""Seeds as COLMAP takes them; it takes -1 for "another one each time"."""
_METAVARS = {str: "TEXT", int: "N", float: "X", bool: "true|false"}
_FIELDS = {item.name: item for item in dataclasses.fields(AlignmentConfig)}


def config_options(command: Callable) -> Callable:
    """Adds the configuration's options to a command and passes them on as one ``config``."""

    @functools.wraps(command)
    def configured(*args: Any, changes: tuple[str, ...], settings_file: Path | None, **options: Any) -> Any:
        given = {name: options.pop(name) for name in PROMOTED}
        return command(*args, config=_make_config(given, changes, settings_file), **options)

    decorated = click.option(
        "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change any setting; see below. Repeatable."
    )(configured)
    decorated = click.option(
        "--config",
        "settings_file",
        type=FOLDER,
        metavar="FILE",
        help="TOML file of settings, 'name = value' on each line. Other options win over it.",
    )(decorated)
    for name in reversed(PROMOTED):
        decorated = _option(name)(decorated)
    return decorated


def settings() -> Examples:
    """Every setting as ``name=default`` with its meaning."""
    return tuple((f"{name}={_text(item.default)}", item.metadata["help"]) for name, item in _FIELDS.items())


def _option(name: str) -> Callable:
    """One promoted setting as an option; a value that was not given is None, so that the preset's stays."""
    item = _FIELDS[name]
    kind = typing.get_type_hints(AlignmentConfig)[name]
    known = {"preset": f" Known: {', '.join(PRESETS)}.", "backbone": " 'asic3d doctor' lists them."}.get(name, "")
    shown = f" [default: {_text(item.default)}]" if item.default != "" else ""
    text = item.metadata["help"]
    return click.option(
        f"--{name.replace('_', '-')}",
        type=str,  # the configuration reads it, and says what it takes
        default=None,
        metavar=_METAVARS[kind],
        help=f"{text[0].upper()}{text[1:]}.{known}{shown}",
    )


def _make_config(given: dict[str, Any], changes: tuple[str, ...], file: Path | None) -> AlignmentConfig:
    """The configuration out of the promoted options, the ``--set`` ones and a file."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"'{change}' is not of the form NAME=VALUE.", param_hint="--set")
        if name in chosen:
            raise ConfigError(f"The setting '{name}' is given twice. Give it once.")
        chosen[name] = value
    return make_config(chosen.pop("preset", None), file=file, **chosen)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def output_options(command: Callable) -> Callable:
    """Adds ``--quiet`` and ``--json``; the console has read them already, before anything could fail."""
    quiet = click.option("-q", "--quiet", is_flag=True, expose_value=False, help="Print nothing but errors.")
    return quiet(json_option(command))


def json_option(command: Callable) -> Callable:
    """Adds ``--json``, which the console has read already."""
    return click.option("--json", is_flag=True, expose_value=False, help="Print one JSON object and nothing else.")(
        command
    )
