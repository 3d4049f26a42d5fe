"""What ``align``, ``add`` and ``demo`` say at the end: how good it is, what looks wrong, where everything is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asic3d_cli.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from asic3d import Alignment

_STYLES = {"good": "green", "fair": "yellow", "poor": "red", "": ""}


def run_as_json(alignment: "Alignment", run: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """The summary for programs."""
    from asic3d_integrations.verdict import photo_fits, verdict, warnings_of

    level, sentence = verdict(alignment)
    return {
        "run": run,
        "report": run / "report.html",
        "photos": dict(zip(alignment.names, photo_fits(alignment), strict=True)),
        "left_out": alignment.collection.left_out,
        "backbone": alignment.backbone,
        "device": alignment.device,
        "verdict": {"level": level, "text": sentence},
        "quality": alignment.quality,
        "warnings": list(warnings_of(alignment)),
        "seconds": seconds,
    }


def show_run(console: Console, alignment: "Alignment", run: Path, seconds: dict[str, float]) -> None:
    """Prints the summary of a run that was just written."""
    if console.silent:
        return
    from rich.text import Text

    from asic3d_integrations.verdict import verdict

    level, sentence = verdict(alignment)
    count, total = len(alignment.names), sum(seconds.values())
    console.show(
        "",
        f"{count} photos, backbone {alignment.backbone}, {alignment.device}, {total:.1f} s",
        Text(sentence, style=_STYLES[level]),
        "",
        _quality_table(alignment),
        *_warnings(console, alignment),
        "",
        _time_table(seconds),
        "",
        _results(run),
    )


def _table(*columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number == 1 else "left")
    return table


def _quality_table(alignment: "Alignment") -> "Table":
    from rich.text import Text

    from asic3d_integrations.verdict import quality_figures

    table = _table("Quality", "", "", "What it means")
    for figure in quality_figures(alignment):
        level = Text(figure.level, style=_STYLES[figure.level])
        table.add_row(Text(figure.label), figure.text, level, Text(figure.meaning))
    return table


def _warnings(console: Console, alignment: "Alignment") -> list[Any]:
    """What looks wrong; what was shown while it ran is not repeated."""
    from rich.text import Text

    from asic3d_integrations.verdict import warnings_of

    new = [sentence for sentence in warnings_of(alignment) if sentence not in console.warned]
    return ["", *(Text(f"Look at this: {sentence}", style="yellow") for sentence in new)] if new else []


def _time_table(seconds: dict[str, float]) -> "Table":
    from asic3d_integrations.verdict import STAGES

    table = _table("Time", "s")
    for stage, duration in seconds.items():
        table.add_row(STAGES.get(stage, stage), f"{duration:.1f}")
    return table


def _results(run: Path) -> "Table":
    """Where the results are, and what to do with them."""
    from rich.table import Table
    from rich.text import Text

    named = "" if str(run) == "asic3d_out" else f"{quoted(run)} "
    rows = (
        (str(run / "report.html"), "open it in a browser"),
        (str(run / "masks"), "the object of each photo, in white"),
        (f"asic3d transfer {named}--source A --target B --point X,Y", "find a point of photo A in photo B"),
        (f"asic3d add {quoted(run)} PHOTO", "place another photo"),
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column()
    for where, what in rows:
        table.add_row(Text(where, style="bold"), what)
    return table


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))
