"""What ``align``, ``add`` and ``demo`` say at the end: how good it is, what looks wrong, where everything is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from asic3d_cli.console import Console

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from asic3d import Alignment

_STYLES = {"good": "green", "fair": "yellow", "poor": "red", "": ""}


def run_as_json(alignment: "Alignment", run: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """The summary for programs."""
    from asic3d.verdict import photo_fits, verdict, warnings_of

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

    from asic3d.verdict import verdict

    level, sentence = verdict(alignment)
    count, total = len(alignment.names), console.elapsed
    console.show(
        "",
        f"{count} photos, backbone {alignment.backbone}, {alignment.device}, {total:.1f} s",
        Text(sentence, style=_STYLES[level]),
        "",
        _quality_table(alignment),
        *_warnings(console, alignment),
        "",
        _time_table(seconds, total),
        "",
        _results(run, takes_more=alignment.config.mapping != "network"),
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

    from asic3d.verdict import quality_figures

    table = _table("Quality", "", "", "What it means")
    for figure in quality_figures(alignment):
        level = Text(figure.level, style=_STYLES[figure.level])
        table.add_row(Text(figure.label), figure.text, level, Text(figure.meaning))
    return table


def _warnings(console: Console, alignment: "Alignment") -> list[Any]:
    """What looks wrong; what was shown while it ran is not repeated."""
    from rich.text import Text

    from asic3d.verdict import warnings_of

    new = [sentence for sentence in warnings_of(alignment) if sentence not in console.warned]
    return ["", *(Text(f"Look at this: {sentence}", style="yellow") for sentence in new)] if new else []


def _time_table(seconds: dict[str, float], total: float) -> "Table":
    """What each stage took by itself; the rows add up to the time of the whole command."""
    from asic3d.verdict import STAGES

    table = _table("Time", "s")
    for stage, duration in seconds.items():
        table.add_row(STAGES.get(stage, stage), f"{duration:.1f}")
    table.add_row("Everything else", f"{max(total - sum(seconds.values()), 0):.1f}")
    return table


def _results(run: Path, *, takes_more: bool) -> "Text":
    """Where the results are, and what to do with them; never broken over lines, so that it can be copied."""
    from rich.text import Text

    named = "" if str(run) == "asic3d_out" else f"{quoted(run)} "
    lines = (
        ("Report", str(run / "report.html")),
        ("Masks", str(run / "masks")),
        ("Next", f"asic3d transfer {named}--source A --target B --point X,Y"),
        *([("", f"asic3d add {quoted(run)} PHOTO")] if takes_more else []),
    )
    parts = [part for label, value in lines for part in ((f"{label:8}", ""), (f"{value}\n", "bold"))]
    text = Text.assemble(*parts, no_wrap=True)
    text.rstrip()
    return text


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))
