"""``asic3d evaluate spair``, ``cub``, ``pf-willow`` and ``samurai``: published data sets, category by category."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import WholeNumber, config_options, output_options, settings
from asic3d_cli.runs import FOLDER, Place

if TYPE_CHECKING:
    from asic3d import AlignmentConfig
    from asic3d_integrations.datasets.evaluation import CategoryScores

FILE = Place(dir_okay=False)

_OPTIONS = (
    ("--root",),
    ("--category", "categories"),
    ("--limit",),
    ("-o", "--output"),
    ("--csv", "table"),
    ("--cycles",),
)
_OUTPUT = (
    "Folder for scores.csv and scores.json, written after each category, and for the photos' features, so that the "
    "next evaluation is quicker."
)
_CYCLES = "Cycles of each length to walk at most; all of them where there are fewer."

_HELP = {
    "spair": (
        "SPair-71k",
        "cat",
        "the folder with JPEGImages, PairAnnotation and ImageAnnotation",
        "PCK is measured on the test pairs, in units of the longer side of the target's box.",
    ),
    "cub": (
        "CUB-200-2011",
        "001.Black_footed_Albatross",
        "the folder with images.txt, images and parts",
        "PCK is measured on all pairs of test photos of a class, which are cut to squares around their boxes as ACSM "
        "does, in units of the square's side.",
    ),
    "pf-willow": (
        "PF-WILLOW",
        "motorbike(S)",
        "the folder with car(S), duck(S) and the others",
        "PCK is measured on all pairs of a folder, or those of test_pairs_pf.csv, in units of the longer side of the "
        "box around the target's keypoints.",
    ),
    "samurai": (
        "SAMURAI",
        "duck",
        "the folder with a folder for each object",
        "There are no keypoints: points on a grid over the object's masks are carried around cycles, and those count "
        "that come back.",
    ),
}


def set_command(data_set: str) -> click.Command:
    """The command that evaluates one data set."""
    title, category, layout, measure = _HELP[data_set]

    def evaluate(console: Console, config: "AlignmentConfig", **options: Any) -> None:
        evaluate_set(console, data_set, config, **options)

    evaluate.__doc__ = (
        f"Align the photos of {title} and compare with its annotation.\n\n"
        f"{measure} Keypoints and masks are used for the scores alone. Cycles carry points over 2, 3 or 4 photos and "
        "back. docs/evaluation.md says what every figure means."
    )
    command = click.command(
        data_set,
        cls=Command,
        notes=settings(),
        examples=(
            (f"asic3d evaluate {data_set} --root {title} -o scores", "All categories; keep features and scores."),
            (f"asic3d evaluate {data_set} --root {title} --category '{category}'", "One category."),
        ),
    )
    return command(_set_options(layout)(click.pass_obj(evaluate)))


def _set_options(layout: str) -> Callable:
    """The options of all data sets, in the order of the help."""
    named, chosen, limit, output, table, cycles = (functools.partial(click.option, *names) for names in _OPTIONS)
    options = (
        named(required=True, metavar="DIR", type=FOLDER, help=f"Where the data is: {layout}."),
        chosen(multiple=True, metavar="NAME", help="Only this one. Repeatable. [default: all]"),
        limit(type=WholeNumber(min=2), metavar="N", help="Photos of each category at most, the first ones."),
        output(metavar="DIR", type=FOLDER, help=_OUTPUT),
        table(metavar="FILE", type=FILE, help="Write the figures as CSV too."),
        config_options,
        cycles(type=WholeNumber(min=1), default=1000, show_default=True, metavar="N", help=_CYCLES),
        output_options,
    )

    def decorated(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def evaluate_set(
    console: Console,
    data_set: str,
    config: "AlignmentConfig",
    *,
    root: Path,
    categories: tuple[str, ...],
    limit: int | None,
    output: Path | None,
    table: Path | None,
    cycles: int,
) -> None:
    """Evaluates the categories one after the other and prints the figures of all."""
    from asic3d.verdict import STAGES
    from asic3d_cli.scores import METHODS, categories_table
    from asic3d_integrations.datasets.evaluation import READERS, evaluate_collection, scores_as_json

    if output is not None:
        console.after_interrupt = lambda: f"Stopped. What was finished is in '{output}'."
    scores: list[CategoryScores] = []
    for annotated in READERS[data_set](root, categories, limit):
        labels = {stage: f"{annotated.name}: {label}" for stage, label in {**STAGES, **METHODS}.items()}
        with console.progress(labels) as progress:
            score = evaluate_collection(
                annotated,
                config,
                data_set=data_set,
                cache=None if output is None else output / "cache",
                cycles=cycles,
                progress=progress,
            )
        for warning in score.warnings:
            console.warn(f"{annotated.name}: {warning}")
        scores.append(score)
        _write(data_set, scores, output, table)
    if console.as_json:
        console.emit(scores_as_json(data_set, scores))
    else:
        console.result(categories_table(data_set, scores))


def _write(data_set: str, scores: "list[CategoryScores]", output: Path | None, table: Path | None) -> None:
    """Writes what is known so far, so that an interrupted evaluation was not for nothing."""
    from asic3d.storage import atomic_write, write_json
    from asic3d_integrations.datasets.evaluation import scores_as_csv, scores_as_json

    content = scores_as_csv(data_set, scores)
    for path in (table, None if output is None else output / "scores.csv"):
        if path is not None:
            atomic_write(path, lambda file: file.write(content))
    if output is not None:
        write_json(output / "scores.json", scores_as_json(data_set, scores))
