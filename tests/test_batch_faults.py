"""Batches with others at the same folders, under a clock that is put back, and what they tell."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from batch_jobs import QUICK, SETTINGS, Pretended, finishing, job_of, photos_in, states, three_jobs
from cli_runner import run as asic3d

from asic3d.errors import StorageError
from asic3d.run_lock import hold_run
from asic3d_integrations.batch import processes, work
from asic3d_integrations.batch.batch import run_batch
from asic3d_integrations.batch.work import align_collection


@pytest.fixture
def three(tmp_path):
    return three_jobs(tmp_path)


@pytest.fixture
def alone(monkeypatch):
    """A collection may be aligned in this process: what that sets is set back."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


# ---- others at the same folders ------------------------------------------------------------------------------------


def test_a_second_batch_into_one_folder_is_refused(three, tmp_path):
    refused = []

    def second():
        with pytest.raises(StorageError) as caught:
            run_batch(three, tmp_path / "runs", Pretended())
        refused.append(str(caught.value))

    def at_work(jobs):
        before = (tmp_path / "runs" / "batch.json").read_bytes()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert (tmp_path / "runs" / "batch.json").read_bytes() == before
        yield from Pretended()(jobs)

    assert set(states(run_batch(three, tmp_path / "runs", at_work)).values()) == {"finished"}
    assert refused[0].startswith(f"Another asic3d is writing to '{tmp_path / 'runs'}' (process ")


def held_elsewhere(run: Path, until: threading.Event) -> threading.Thread:
    """Another thread that is at a run until it is told."""
    run.mkdir(parents=True)
    begun = threading.Event()

    def hold():
        with hold_run(run):
            begun.set()
            until.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    return thread


def test_a_batch_waits_for_who_is_at_a_run(alone, tmp_path, monkeypatch):
    job = job_of(photos_in(tmp_path / "photos" / "mug"), tmp_path / "runs")
    done = threading.Event()
    thread = held_elsewhere(job.run, done)
    timer = threading.Timer(1, done.set)
    timer.start()
    assert align_collection(job)["state"] == "finished"
    assert done.is_set()
    thread.join()


def test_a_batch_does_not_wait_for_ever(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_PATIENCE", 0.3)
    job = job_of(photos_in(tmp_path / "photos" / "mug"), tmp_path / "runs")
    done = threading.Event()
    thread = held_elsewhere(job.run, done)
    outcome = align_collection(job)
    done.set()
    thread.join()
    assert outcome["state"] == "failed"
    assert outcome["error"].startswith(f"Another asic3d is writing to '{job.run}' (process {os.getpid()} on ")
    assert list(job.run.iterdir()) == [job.run / ".asic3d"]


# ---- what is told --------------------------------------------------------------------------------------------------


def test_what_was_set_aside_is_told_of(alone, tmp_path):
    job = job_of(photos_in(tmp_path / "photos" / "mug"), tmp_path / "runs")
    assert align_collection(job)["state"] == "finished"
    (job.run / "csv").mkdir()
    changed = align_collection(replace(job, config=replace(QUICK, grid=14)))
    place = job.run / "earlier" / "1"
    told = f"Made from the alignment that was replaced, not from this one: 'csv'. They are in '{place}' now."
    assert changed["state"] == "finished" and told in changed["warnings"]
    assert (place / "csv").is_dir()


def lines_of(records, tmp_path, monkeypatch):
    """What the command says where the collections have these records already."""
    monkeypatch.chdir(tmp_path)
    jobs = [job_of(tmp_path / "photos" / name, tmp_path / "runs") for name in records]
    for job in jobs:
        job.photos.mkdir(parents=True)
        (job.photos / "a.jpg").write_bytes(b"1")

    def becoming(job):
        outcome = records[job.name]
        return (finishing(job) if outcome["state"] == "finished" else {}) | outcome

    run_batch(jobs, tmp_path / "runs", Pretended(**dict.fromkeys(records, becoming)))
    monkeypatch.setattr(
        processes, "on_this_machine", lambda jobs, _: Pretended(**dict.fromkeys(records, becoming))(jobs)
    )
    return asic3d("batch", "photos", "-o", "runs", *SETTINGS)


@pytest.mark.parametrize(
    ("passing", "remedy"),
    [
        ((False, False), "--retry tries again."),
        ((True, True), "the same command tries again."),
        ((True, False), "the same command tries 'cup' again, with --retry all of them."),
    ],
)
def test_the_last_line_says_how_it_is_tried_again(passing, remedy, tmp_path, monkeypatch):
    failures = [{"state": "failed", "error": "No."} | ({"passing": True} if one else {}) for one in passing]
    said = lines_of(dict(zip(("cup", "mug"), failures, strict=True)), tmp_path, monkeypatch)
    assert said.exit_code == 1
    last = f"Error: 2 of 2 collections failed: 'cup', 'mug'. See why above; {remedy}"
    assert said.stderr.splitlines()[-1] == last


def test_photos_that_were_left_out_are_named_with_the_reason(tmp_path, monkeypatch):
    left = {f"{number}.jpg": "the file is empty" for number in range(7)} | {"b\x1b.jpg": "it is odd"}
    warned = [f"'{name}' is left out: {reason}." for name, reason in list(left.items())[:7]]
    few = {"state": "finished", "left_out": {"b\x1b.jpg": "it is\x1b odd"}}
    many = {"state": "finished", "left_out": left, "warnings": warned}
    said = lines_of({"cup": few, "mug": many, "vase": {"state": "finished"}}, tmp_path, monkeypatch)
    named = ", ".join(f"'{number}.jpg' (the file is empty)" for number in range(5))
    lines = [line for line in said.stderr.splitlines() if not line.startswith("Aligning")]
    assert lines == [
        "cup: finished earlier",
        r"  left out: 'b\x1b.jpg' ('it is\x1b odd')",
        "mug: finished earlier",
        f"  left out: {named} and 3 more",
        "vase: finished earlier",
    ]


@pytest.mark.parametrize("count", [10, 11])
def test_warnings_are_shown_where_they_are_few_else_where_they_stand(count, tmp_path, monkeypatch):
    sentences = [f"This is {number}." for number in range(count)]
    said = lines_of({"mug": {"state": "finished", "warnings": sentences}}, tmp_path, monkeypatch)
    shown = [line for line in said.stderr.splitlines() if line.startswith("Warning: ")]
    if count == 10:
        assert shown == [f"Warning: mug: {sentence}" for sentence in sentences]
    else:
        place = Path("runs") / "index.html"
        assert shown == [f"Warning: There are 11 warnings about single collections; they stand in '{place}'."]


# ---- masks ---------------------------------------------------------------------------------------------------------


def picture(path: Path, content: np.ndarray, compression: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), content, [cv2.IMWRITE_PNG_COMPRESSION, compression])


def test_a_run_of_other_masks_is_not_finished(alone, tmp_path):
    """No batch has a record of it."""
    photos, masks = photos_in(tmp_path / "photos" / "mug"), tmp_path / "masks"
    first, second, third = sorted(photos.iterdir())
    true = {
        path: cv2.imread(str(tmp_path / "photos" / ".mug" / "masks" / f"{path.name}.png"), 0)
        for path in (first, second, third)
    }
    smaller = {path: cv2.erode(mask, np.ones((9, 9))) for path, mask in true.items()}
    picture(photos / "transparent.png", np.dstack([cv2.imread(str(third)), true[third]]))
    third.unlink()
    picture(masks / f"{first.name}.png", true[first])
    job = job_of(photos, tmp_path / "runs", masks=masks)
    outcome = align_collection(job)
    assert outcome["state"] == "finished", outcome

    assert job.is_finished()
    picture(masks / f"{first.name}.png", true[first] // 255, compression=9)
    assert job.is_finished(), "the same mask in another file"
    picture(masks / "transparent.png", true[third])
    assert job.is_finished(), "the same as its transparency"
    picture(masks / "transparent.png", smaller[third])
    assert not job.is_finished()
    (masks / "transparent.png").unlink()
    picture(masks / f"{second.name}.png", true[second])
    assert not job.is_finished() and not job.is_finished(recorded=True), "one more has a mask"
    (masks / f"{second.name}.png").unlink()
    picture(masks / f"{first.name}.png", smaller[first])
    assert not job.is_finished(), "another mask"
    assert not replace(job, masks=None).is_finished(), "no mask"


@pytest.mark.parametrize("recorded", [True, False])
def test_masks_for_a_run_that_had_none_are_used(recorded, three, tmp_path):
    picture(tmp_path / "masks" / "a.png", np.full((9, 9), 255, np.uint8))
    masked = [replace(job, masks=tmp_path / "masks") for job in three]
    run_batch(masked, tmp_path / "runs", Pretended())
    if not recorded:
        (tmp_path / "runs" / "batch.json").unlink()
    finishing(three[1])  # as align without masks leaves it
    again = Pretended()
    run_batch(masked[1:2], tmp_path / "runs", again)
    assert again.asked == ["mug"]


# ---- the clock -----------------------------------------------------------------------------------------------------

FUTURE, PAST = 4_000_000_000, -86_400  # 2096, and the day before computers' time began


@pytest.mark.parametrize("dates", [(FUTURE, PAST), (PAST, FUTURE)])
def test_dates_of_photos_and_runs_decide_nothing(alone, dates, tmp_path):
    job = job_of(photos_in(tmp_path / "photos" / "mug"), tmp_path / "runs")
    for path in job.photos.iterdir():
        os.utime(path, (dates[0], dates[0]))
    first = run_batch([job], tmp_path / "runs", lambda jobs: [(jobs[0], align_collection(jobs[0]))])
    for path in (tmp_path / "runs").rglob("*"):
        os.utime(path, (dates[1], dates[1]))
    again = Pretended()
    assert run_batch([job], tmp_path / "runs", again) == first and again.asked == []
    (job.photos / "photo_01.jpg").write_bytes((job.photos / "photo_02.jpg").read_bytes())
    os.utime(job.photos / "photo_01.jpg", (PAST, PAST))  # older than the run, and another all the same
    run_batch([job], tmp_path / "runs", again)
    assert again.asked == ["mug"]


def test_a_clock_that_goes_backwards_all_the_time(tmp_path):
    """Every question for the time of day is answered with a day earlier than the one before."""
    photos_in(tmp_path / "photos" / "mug")
    (tmp_path / "backwards").mkdir()
    (tmp_path / "backwards" / "sitecustomize.py").write_text(
        "import itertools, time\n"
        "count, really, really_ns = itertools.count(), time.time, time.time_ns\n"
        "time.time = lambda: really() - 86400 * next(count)\n"
        "time.time_ns = lambda: really_ns() - 86400 * 10**9 * next(count)\n"
    )
    path = os.pathsep.join([str(tmp_path / "backwards"), *filter(None, sys.path)])
    command = [sys.executable, "-c", "from asic3d_cli.main import main; main()"]
    for said in ("mug: ", "mug: finished earlier"):
        words = [*command, "batch", "photos", "-o", "runs", *SETTINGS]
        ended = subprocess.run(
            words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert ended.returncode == 0 and said in ended.stderr, ended.stderr
    record = json.loads((tmp_path / "runs" / "batch.json").read_text())["collections"]["mug"]
    assert record["state"] == "finished" and 0 <= record["seconds"] < 86400
    assert not list((tmp_path / "runs").rglob("*.lock")) and not list((tmp_path / "runs").rglob(".asic3d-*"))
