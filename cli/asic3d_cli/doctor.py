"""``asic3d doctor``: what this machine has of what asic3d needs."""

import sys
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import output_options

if TYPE_CHECKING:
    from asic3d_integrations.doctor import Diagnosis

_MARKS = {"ok": "", "note": "-", "fault": "!"}
_COLOURS = {"ok": "green", "note": "yellow", "fault": "red"}


@click.command(
    cls=Command,
    examples=(
        ("asic3d doctor", "Look at versions, devices, networks, optional parts and disks."),
        ("asic3d doctor --json > doctor.json", "The same for a program, or to send with a question."),
    ),
)
@output_options
@click.pass_obj
def doctor(console: Console) -> None:
    """Say what works on this machine, what is missing, and how to get it.

    Nothing is changed or downloaded. The exit code is 0 where photos can be aligned, else 1.
    """
    import dataclasses

    from asic3d_integrations.doctor import examine

    found = examine()
    if console.as_json:
        console.emit(dataclasses.asdict(found))
    elif not console.quiet:
        _show(console, found)
    if not found.works:
        raise click.exceptions.Exit(1)


def _show(console: Console, found: "Diagnosis") -> None:
    """A table on a terminal, plain lines elsewhere and where rich itself is what is broken."""
    if sys.stdout.isatty():
        try:
            console.show(*_table(found))
            return
        except Exception:  # whatever a broken package raises
            click.echo()
    click.echo(found.verdict)
    section = ""
    for one in found.findings:
        if one.section != section:
            section = one.section
            click.echo(f"\n{section}")
        click.echo(f"{_MARKS[one.level]:>1} {one.name:<22} {one.text}")
        if one.remedy:
            click.echo(f"{'':<24} get it: {one.remedy}")


def _table(found: "Diagnosis") -> list:
    from rich.table import Table
    from rich.text import Text

    colour = "green" if found.works else "red"
    shown: list = [Text(found.verdict, style=f"bold {colour}"), Text()]
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    section = ""
    for one in found.findings:
        if one.section != section:
            section = one.section
            table.add_row(Text(section, style="bold"))
        text = Text(one.text)
        if one.remedy:
            text.append(f"\n{one.remedy}", style="cyan")
        table.add_row(Text(f"  {one.name}", style=_COLOURS[one.level]), Text(one.level, _COLOURS[one.level]), text)
    return [*shown, table]
