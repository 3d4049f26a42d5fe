"""``asic3d batch``: many collections, each into a run folder of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import WholeNumber, config_options, output_options, settings
from asic3d_cli.runs import FOLDER

if TYPE_CHECKING:
    from rich.table import Table

    from asic3d import AlignmentConfig
    from asic3d_integrations.batch.batch import Event, Executor
    from asic3d_integrations.batch.plan import Job

_MOST_NAMED = 5
_MOST_WARNINGS = 10
_STYLES = {"good": "green", "fair": "yellow", "poor": "red", "failed": "red"}


@click.command(
    cls=Command,
    notes=settings(),
    examples=(
        (
            "asic3d batch collections -o runs",
            "Align the photos in each folder; look at runs/index.html.",
        ),
        ("asic3d batch list.csv -o runs --masks masks", "Those of a list, with the masks in masks/NAME."),
        ("asic3d batch collections -o runs --retry", "Go on, and try again what failed."),
        ("asic3d batch collections -o runs --ray=auto", "The same on the Ray cluster that this machine is part of."),
    ),
)
@click.argument("collections", type=FOLDER)
@click.option("-o", "--output", "runs", required=True, metavar="RUNS", type=FOLDER,
              help="Folder for the run folders, batch.json and index.html.")  # fmt: skip
@config_options
@click.option(
    "--masks", metavar="DIR", type=FOLDER, help="Folder with a folder of masks for each collection, of its name."
)
@click.option("--strict", is_flag=True, help="Let a collection fail at a photo that can't be used.")
@click.option("--jobs", "at_once", type=WholeNumber(1, 1024), metavar="N",
              help="Collections at once, which share the cores. [default: as cores and memory allow]")  # fmt: skip
@click.option("--retry", is_flag=True, help="Try again what failed in an earlier batch.")
@click.option("--ray", is_flag=False, flag_value="auto", metavar="[ADDRESS]",
              help="Run on a Ray cluster: --ray=HOST:PORT, or --ray=auto for that of this machine.")  # fmt: skip
@output_options
@click.pass_obj
def batch(
    console: Console,
    collections: Path,
    runs: Path,
    config: "AlignmentConfig",
    masks: Path | None,
    strict: bool,
    at_once: int | None,
    retry: bool,
    ray: str | None,
) -> None:
    """Align many collections, each in a process of its own.

    COLLECTIONS is a folder with a folder of photos for each object, or a list of such folders: one on each line, or a
    .csv file with the columns name and folder. Finished runs of the same photos and settings are left as they are, and
    failures do not stop the others; given again, the command goes on.
    """
    from asic3d.config import Progress
    from asic3d_integrations.batch.batch import run_batch
    from asic3d_integrations.batch.index import shared_warnings
    from asic3d_integrations.batch.plan import INDEX, find_collections, find_masks

    if ray is not None and at_once is not None:
        raise click.UsageError("A cluster decides how much runs at once; leave --jobs or --ray away.")
    found = find_collections(collections, runs)
    mask_of = {} if masks is None else find_masks(masks, list(found))
    jobs, executor = _planned(found, mask_of, runs, config, strict, at_once, ray)
    console.after_interrupt = lambda: f"Stopped. What is finished is kept in '{runs}'. Give the same command to go on."
    with console.progress({"collections": "Aligning the collections"}) as progress:
        done: list[Event] = []

        def report(event: "Event") -> None:
            if event.state in ("finished", "failed"):
                done.append(event)
                console.note(_line(event))
                progress(Progress("collections", len(done), len(jobs)))

        records = run_batch(jobs, runs, executor, retry=retry, report=report)
    failed = {name: record for name, record in records.items() if record["state"] == "failed"}
    if console.as_json:
        console.emit({"runs": runs, "index": runs / INDEX, "failed": list(failed), "collections": records})
    else:
        shared = shared_warnings(records)
        for sentence in [*shared, *_own_warnings(records, shared, runs / INDEX)]:
            console.warn(sentence)
        console.show("", _table(records, shared), "", f"Index  {runs / INDEX}")
    if failed:
        _say_failed(console, failed, len(records))


def _planned(
    found: dict[str, Path],
    mask_of: dict[str, Path],
    runs: Path,
    config: "AlignmentConfig",
    strict: bool,
    at_once: int | None,
    ray: str | None,
) -> tuple[list["Job"], "Executor"]:
    """The jobs, and what runs them."""
    from asic3d_integrations.batch.plan import Job
    from asic3d_integrations.batch.processes import cores, fitting, on_this_machine

    number = 1 if ray is not None else at_once or fitting(list(found.values()), config)
    threads = 1 if ray is not None else max(1, cores() // number)
    jobs = [
        Job(name, folder, runs.absolute() / name, config, mask_of.get(name), strict, threads)
        for name, folder in found.items()
    ]
    if ray is None:
        return jobs, lambda waiting: on_this_machine(waiting, number)
    from asic3d_integrations.batch.ray_cluster import on_ray

    return jobs, lambda waiting: on_ray(waiting, ray)


def _line(event: "Event") -> str:
    from asic3d.photo_folder import spelled

    name, record = spelled(event.name), event.record
    if event.state == "failed":
        return f"{name}: failed{' earlier' * event.skipped}. {record.get('error', '')}"
    left = _left_out(record.get("left_out") or {})
    if event.skipped:
        return f"{name}: finished earlier{left}"
    return f"{name}: {record['verdict']['level']}, {record['photos']} photos, {record['seconds']:.1f} s{left}"


def _left_out(reasons: dict[str, str]) -> str:
    """A line, to follow that of the collection, with the photos that were left out; nothing where none was."""
    from asic3d.photo_folder import shown, spelled

    named = [f"{shown(name)} ({spelled(str(reason))})" for name, reason in list(reasons.items())[:_MOST_NAMED]]
    more = f" and {len(reasons) - _MOST_NAMED} more" if len(reasons) > _MOST_NAMED else ""
    return f"\n  left out: {', '.join(named)}{more}" if named else ""


def _own_warnings(records: dict[str, dict[str, Any]], shared: list[str], index: Path) -> list[str]:
    """The warnings about single collections where they are few, else where they stand.

    Those about photos that were left out are not among them: the line of the collection has them.
    """
    from asic3d.photo_folder import shown, spelled

    found = []
    for name, record in records.items():
        left = [f"{shown(photo)} is left out: {reason}." for photo, reason in (record.get("left_out") or {}).items()]
        said = [*shared, *left]
        found += [f"{spelled(name)}: {spelled(str(one))}" for one in record.get("warnings", ()) if one not in said]
    if len(found) > _MOST_WARNINGS:
        return [f"There are {len(found)} warnings about single collections; they stand in '{index}'."]
    return found


def _table(records: dict[str, dict[str, Any]], shared: list[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from asic3d.photo_folder import spelled

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("Collection", "State", "Photos", "Confidence", "Warnings", "Seconds"):
        table.add_column(column, justify="left" if column in ("Collection", "State") else "right")
    for name, record in records.items():
        state = record["state"]
        word = record.get("verdict", {}).get("level") or state if state == "finished" else state
        quality, seconds = record.get("quality", {}), record.get("seconds")
        table.add_row(
            Text(spelled(name)),
            Text(word, style=_STYLES.get(word, "")),
            str(record.get("photos", "")),
            f"{quality['confidence']:.2f}" if quality.get("confidence") is not None else "",
            str(sum(sentence not in shared for sentence in record.get("warnings", ()))) if state == "finished" else "",
            "" if seconds is None else f"{seconds:.1f}",
        )
    return table


def _say_failed(console: Console, failed: dict[str, dict[str, Any]], count: int) -> None:
    """Names what failed, and ends with exit code 1; with ``--json`` the object has said it."""
    from asic3d.photo_folder import listed

    if not console.as_json:
        passing = [name for name, record in failed.items() if record.get("passing")]
        if len(passing) == len(failed):
            remedy = "the same command tries again"
        elif passing:
            remedy = f"the same command tries {listed(passing)} again, with --retry all of them"
        else:
            remedy = "--retry tries again"
        console.error(f"{len(failed)} of {count} collections failed: {listed(list(failed))}. See why above; {remedy}.")
    click.get_current_context().exit(1)
