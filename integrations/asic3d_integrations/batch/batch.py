"""All collections of a batch, and the record of what became of each: whatever ends it, the next one goes on."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asic3d.errors import StorageError
from asic3d.run_lock import hold_run
from asic3d.storage import (
    FORMAT_VERSION,
    atomic_write,
    clear_write_errors,
    is_run_folder,
    json_bytes,
    read_json,
    read_run,
    write_json,
)
from asic3d_integrations.batch.index import index_page
from asic3d_integrations.batch.plan import INDEX, STATE_FILE, Job
from asic3d_integrations.batch.work import FAILED, FINISHED, Outcome

WAITING, RUNNING = "waiting", "running"
STATES = (FAILED, RUNNING, WAITING, FINISHED)
_NUMBER = (int, float, type(None))
_RECORD = {
    "run": str,
    "error": str,
    "photos": int,
    "seconds": _NUMBER,
    "warnings": list,
    "left_out": dict,
    "verdict": dict,
}
"""The kinds of what batch.json says of a collection, where it says it."""
Executor = Callable[[Sequence[Job]], Iterable[tuple[Job, Outcome | None]]]
"""Aligns collections: gives each with None when it begins, and with its outcome when it ends."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a collection.

    Attributes:
        name: the collection.
        state: ``running``, ``finished`` or ``failed``.
        record: what ``batch.json`` has about it.
        skipped: nothing was done, because nothing has changed since an earlier batch.
    """

    name: str
    state: str
    record: dict[str, Any]
    skipped: bool = False


def run_batch(
    jobs: Sequence[Job],
    runs: str | Path,
    executor: Executor,
    *,
    retry: bool = False,
    report: Callable[[Event], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Aligns each collection that is not finished, and writes ``batch.json`` after each and ``index.html`` at the end.

    A finished run of the same photos, masks and settings is left as it is; one whose photos or settings have changed is
    made again. A collection that failed is not tried again before something about it changes, or ``retry`` is set;
    where the machine was at fault, such as a full disk or too little memory, it is.

    Args:
        jobs: the collections.
        runs: where their run folders and the record lie; made where it is missing.
        executor: such as :func:`asic3d_integrations.batch.processes.on_this_machine`.
        retry: try again what failed.
        report: called after each thing that happened.

    Returns:
        Name -> record of each of these collections.

    Raises:
        StorageError: the folder is a run, can't be written, or another batch is at it; ``batch.json`` is damaged.

    Example:
        >>> run_batch(jobs, "runs", lambda jobs: on_this_machine(jobs, 2))["mug"]["state"]  # doctest: +SKIP
        'finished'
    """
    runs = Path(runs)
    if is_run_folder(runs):
        raise StorageError(f"'{runs}' is the run of one collection. Choose another folder with -o.")
    if runs.is_file():
        raise StorageError(f"'{runs}' is a file. Choose a folder for the runs with -o.")
    with clear_write_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
    with hold_run(runs):
        records = _read(runs / STATE_FILE)
        waiting = _still_to_do(jobs, records, retry, report)
        try:
            _work_off(waiting, records, runs, executor, report)
        finally:
            for record in records.values():
                if record["state"] == RUNNING:
                    record["state"] = WAITING
            _write(runs, records)
            atomic_write(runs / INDEX, lambda file: file.write(index_page(records, runs)))
    return {job.name: records[job.name] for job in jobs}


def _still_to_do(
    jobs: Sequence[Job], records: dict[str, dict[str, Any]], retry: bool, report: Callable[[Event], None]
) -> list[tuple[Job, str]]:
    """The collections to align, each with its inputs; what is said of the others is kept."""
    waiting = []
    for job in jobs:
        inputs, record = job.inputs(), records.get(job.name, {})
        same = record.get("inputs", inputs) == inputs
        if same and job.is_finished(recorded=record.get("state") == FINISHED and "inputs" in record):
            state = FINISHED
        elif same and not retry and record.get("state") == FAILED and not record.get("passing"):
            state = FAILED
        else:
            waiting.append((job, inputs))
            records[job.name] = {**_places(job), "state": WAITING, "inputs": record.get("inputs", "")}
            continue
        known = record if record.get("state") == state else _facts_of(job)
        records[job.name] = {**known, **_places(job), "state": state, "inputs": inputs}
        report(Event(job.name, state, records[job.name], skipped=True))
    return waiting


def _work_off(
    waiting: list[tuple[Job, str]],
    records: dict[str, dict[str, Any]],
    runs: Path,
    executor: Executor,
    report: Callable[[Event], None],
) -> None:
    _write(runs, records)
    inputs = {job.name: digest for job, digest in waiting}
    for job, outcome in executor([job for job, _ in waiting]):
        if outcome is None:
            records[job.name]["state"] = RUNNING
        else:
            records[job.name] = {**_places(job), **outcome, "inputs": inputs[job.name]}
        _write(runs, records)
        report(Event(job.name, records[job.name]["state"], records[job.name]))


def _facts_of(job: Job) -> dict[str, Any]:
    """What a finished run that no batch has recorded says of itself."""
    run = read_run(job.run)
    facts = {key: run[key] for key in ("backbone", "left_out", "quality", "warnings") if key in run}
    facts["photos"] = len(run["photos"])
    with contextlib.suppress(AttributeError, TypeError):
        facts["seconds"] = sum(run["seconds"].values()) if "seconds" in run else 0
    return facts if _is_record({**facts, "state": FINISHED}) else {}


def _places(job: Job) -> dict[str, Any]:
    return {"photo_folder": job.photos, "run": job.run.name}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    remedy = "Delete it; finished runs are found without it."
    found = read_json(path, remedy=remedy).get("collections")
    if not isinstance(found, dict) or not all(map(_is_record, found.values())):
        raise StorageError(f"'{path}' is no record of a batch. {remedy}")
    try:
        json_bytes(found)
    except RecursionError:  # it could be read, and not be written again
        raise StorageError(f"'{path}' is nested too deeply for the record of a batch. {remedy}") from None
    return found


def _is_record(found: Any) -> bool:
    """Whether it is what a batch writes of a collection; what it holds besides is kept and not looked at."""
    return (
        _fits(found, _RECORD)
        and found.get("state") in STATES
        and _fits(found.get("verdict", {}), {"level": str})
        and _fits(found.get("quality", {}), {"confidence": _NUMBER})
    )


def _fits(found: Any, kinds: dict[str, Any]) -> bool:
    return isinstance(found, dict) and all(isinstance(found[key], kinds[key]) for key in kinds.keys() & found.keys())


def _write(runs: Path, records: dict[str, dict[str, Any]]) -> None:
    write_json(runs / STATE_FILE, {"format_version": FORMAT_VERSION, "collections": records})
