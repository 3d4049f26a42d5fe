"""``asic3d transfer``: points of one photo in others."""

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import json_option
from asic3d_cli.points import Point, parse_point, read_points
from asic3d_cli.runs import FOLDER, RUN, photos_option, warn_of_doubts

if TYPE_CHECKING:
    from asic3d import Alignment, Correspondences

ALL = "all"
COLUMNS = ("source", "target", "source_x", "source_y", "x", "y", "confidence", "cycle_error")


class PointType(click.ParamType):
    """``X,Y`` in pixels."""

    name = "X,Y"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Point:
        """The text as a point, or click's usage error."""
        try:
            return value if isinstance(value, tuple) else parse_point(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(
    cls=Command,
    examples=(
        ("asic3d transfer --source a.jpg --target b.jpg --point 120,80", "Where is this point of a.jpg in b.jpg?"),
        ("asic3d transfer mug --source a.jpg --points points.csv > found.csv", "All points of a file, in all photos."),
        ("asic3d transfer --source a.jpg --point 120,80 --json", "The same for programs."),
    ),
)
@click.argument("run", type=FOLDER, default=RUN)
@click.option("--source", required=True, metavar="NAME", help="Photo that the points are in; its name in the run.")
@click.option("--target", "targets", multiple=True, metavar="NAME", default=(ALL,),
              help="Photo to find them in, or 'all'. Repeatable. [default: all]")  # fmt: skip
@click.option("--point", "points", multiple=True, type=PointType(), metavar="X,Y", help="A point. Repeatable.")
@click.option("--points", "file", type=FOLDER, metavar="FILE", help="CSV file of points: columns x and y.")
@photos_option
@json_option
@click.pass_obj
def transfer(
    console: Console,
    run: Path,
    source: str,
    targets: tuple[str, ...],
    points: tuple[Point, ...],
    file: Path | None,
    photo_folder: Path | None,
) -> None:
    """Find points of one photo in others.

    RUN is a run folder, asic3d_out where none is named. Points are pixels of the original upright photo, x to the
    right, y down, (0, 0) the centre of the top-left pixel. Confidence goes from 0 to 1; below 0.2 it
    is a guess, as for a point that the other photo does not show. Cycle error is by how many pixels the point is off
    when it is taken there and back.

    On a terminal a table is printed, otherwise CSV.
    """
    wanted = [*points, *(read_points(file) if file else [])]
    if not wanted:
        raise click.UsageError("Give at least one point: --point X,Y or --points FILE.")
    import asic3d

    alignment = asic3d.load_alignment(run, photos=photo_folder)
    names = _target_names(alignment, source, targets)
    warn_of_doubts(console, alignment, [alignment.names[alignment.collection.index(name)] for name in (source, *names)])
    _warn_beside(console, alignment, source, wanted)
    found = {name: alignment.transfer(wanted, source=source, target=name) for name in names}
    if console.as_json:
        answers = {name: _as_json(result) for name, result in found.items()}
        console.emit({"source": source, "points": wanted, "targets": answers, "warnings": console.warned})
    elif sys.stdout.isatty():
        _show_table(console, source, wanted, found)
    else:
        click.echo(_as_csv(source, wanted, found), nl=False)


def _target_names(alignment: "Alignment", source: str, targets: tuple[str, ...]) -> list[str]:
    """The photos to look in, each once; 'all' is every one but the source."""
    first = alignment.collection.index(source)
    others = [name for index, name in enumerate(alignment.names) if index != first]
    names = [name for target in targets for name in (others if target == ALL else [target])]
    for name in names:
        alignment.collection.index(name)  # an unknown name is an error before anything is computed
    return list(dict.fromkeys(names))


def _warn_beside(console: Console, alignment: "Alignment", source: str, points: list[Point]) -> None:
    """Says how many points are not on the photo; they are answered all the same."""
    width, height = alignment.sizes[alignment.collection.index(source)]
    beside = sum(not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5) for x, y in points)
    if beside:
        are = f"{beside} of {len(points)} points lie" if len(points) > 1 else "The point lies"
        console.warn(
            f"{are} beside the photo '{source}', which is {width} x {height} pixels: what is found for "
            f"{'them' if beside > 1 else 'it'} means nothing."
        )


def _rows(source: str, points: list[Point], found: dict[str, "Correspondences"]) -> list[tuple[str, ...]]:
    """One row for each target and point, in the order of ``COLUMNS``."""
    rows = []
    for target, result in found.items():
        lines = zip(
            points, result.points.tolist(), result.confidence.tolist(), result.cycle_error.tolist(), strict=True
        )
        for (x0, y0), (x, y), confidence, error in lines:
            numbers = (f"{x0:g}", f"{y0:g}", f"{x:.2f}", f"{y:.2f}", f"{confidence:.3f}", f"{error:.2f}")
            rows.append((source, target, *numbers))
    return rows


def _as_json(result: "Correspondences") -> dict[str, Any]:
    return {"points": result.points, "confidence": result.confidence, "cycle_error": result.cycle_error}


def _as_csv(source: str, points: list[Point], found: dict[str, "Correspondences"]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *_rows(source, points, found)])
    return text.getvalue()


def _show_table(console: Console, source: str, points: list[Point], found: dict[str, "Correspondences"]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("target", "point", "x", "y", "confidence", "cycle error"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for _, target, x0, y0, *numbers in _rows(source, points, found):
        table.add_row(Text(target), f"{x0},{y0}", *numbers)
    console.result(table)
