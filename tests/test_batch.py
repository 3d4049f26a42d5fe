import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batch_jobs import QUICK, SETTINGS, Pretended, fails, finishing, job_of, owner, photos_in, states, three_jobs
from chromium_pages import CHROMIUM
from cli_runner import run as asic3d

from asic3d.errors import CollectionError, StorageError
from asic3d.storage import read_json, write_json
from asic3d_integrations.batch import processes
from asic3d_integrations.batch.batch import Event, run_batch
from asic3d_integrations.batch.index import index_page, shared_warnings
from asic3d_integrations.batch.plan import Job, find_collections, find_masks
from asic3d_integrations.batch.processes import fitting, on_this_machine
from asic3d_integrations.batch.work import align_collection


def stops(_: Job) -> dict:
    raise KeyboardInterrupt


@pytest.fixture
def three(tmp_path):
    return three_jobs(tmp_path)


# ---- which collections ---------------------------------------------------------------------------------------------


def test_every_visible_sub_folder_is_a_collection_but_the_runs(tmp_path):
    for name in ("mug 10", "mug 9", ".hidden", "runs", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("")
    write_json(tmp_path / "old" / "run.json", {"format_version": 1})
    assert list(find_collections(tmp_path, tmp_path / "runs")) == ["mug 9", "mug 10"]


def test_lists_are_relative_to_themselves(tmp_path):
    (tmp_path / "list.txt").write_text("# mine\nphotos/mug\n\n/elsewhere/vase\n")
    (tmp_path / "list.csv").write_text("folder,name\nphotos/a,mug\nphotos/b, vase\n")
    assert find_collections(tmp_path / "list.txt", tmp_path / "runs") == {
        "mug": tmp_path / "photos" / "mug",
        "vase": Path("/elsewhere/vase"),
    }
    assert find_collections(tmp_path / "list.csv", tmp_path / "runs") == {
        "mug": tmp_path / "photos" / "a",
        "vase": tmp_path / "photos" / "b",
    }


@pytest.mark.parametrize("name", ["../out", "/out", "a/b", "a\\b", "..", ".hidden", "batch.json", "Index.html", "a\0b"])
def test_a_name_that_is_no_folder_in_the_runs_is_refused(name, tmp_path):
    (tmp_path / "list.csv").write_text(f'name,folder\n"{name}",photos\n')
    with pytest.raises(CollectionError, match=r"^A collection can't be called .* Give it another name"):
        find_collections(tmp_path / "list.csv", tmp_path / "runs")


@pytest.mark.parametrize("names", [("a/mug", "b/mug"), ("a/mug", "b/MUG"), ("a/caf\u00e9", "b/cafe\u0301")])
def test_two_of_one_name_are_refused(names, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(names), "utf-8")
    with pytest.raises(CollectionError, match=r"^Two collections are called .*, in a \.csv file with the columns"):
        find_collections(tmp_path / "list.txt", tmp_path / "runs")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("list.txt", "\n# nothing\n", r"names no folder\. Give a folder with"),
        ("list.csv", "a,b\n1,2\n", "needs a first line with the columns name and folder"),
        ("list.csv", "name,folder\nmug,\n", "^Line 2 of .* lacks its name or its folder"),
        ("list.txt", b"\xff\xfe\xff", r"can't be read \(it is not UTF-8 text\)"),
        ("nowhere/x", None, r"can't be read \(No such file or directory\)"),
    ],
)
def test_a_list_that_is_none_is_one_sentence(file, content, message, tmp_path):
    if content is not None:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CollectionError, match=message):
        find_collections(tmp_path / file, tmp_path / "runs")


def test_masks_lie_in_folders_of_the_collections_names(tmp_path):
    (tmp_path / "mug").mkdir()
    assert find_masks(tmp_path, ["mug", "vase"]) == {"mug": tmp_path / "mug"}
    with pytest.raises(CollectionError, match="is called as a collection is"):
        find_masks(tmp_path, ["vase"])


# ---- what is done and what is not ----------------------------------------------------------------------------------


def test_failures_are_recorded_and_the_rest_goes_on(three, tmp_path):
    records = run_batch(three, tmp_path / "runs", Pretended(cup=fails))
    assert states(records) == {"cup": "failed", "mug": "finished", "vase": "finished"}
    stored = read_json(tmp_path / "runs" / "batch.json")["collections"]
    assert states(stored) == states(records) and stored["cup"]["error"] == "There is no photo."


def test_what_is_finished_is_skipped_and_what_failed_waits_for_retry(three, tmp_path):
    runs, events = tmp_path / "runs", list[Event]()
    run_batch(three, runs, Pretended(cup=fails))
    second = Pretended()
    records = run_batch(three, runs, second, report=events.append)
    assert second.asked == [] and states(records)["cup"] == "failed"
    assert {(event.name, event.state, event.skipped) for event in events} == {
        ("cup", "failed", True),
        ("mug", "finished", True),
        ("vase", "finished", True),
    }
    assert records["mug"]["verdict"]["level"] == "good"
    third = Pretended()
    assert states(run_batch(three, runs, third, retry=True))["cup"] == "finished"
    assert third.asked == ["cup"]


def test_what_could_not_be_written_is_tried_again(three, tmp_path):
    def full(_):
        return {"state": "failed", "error": "The disk is full.", "passing": True}

    run_batch(three, tmp_path / "runs", Pretended(cup=full))
    again = Pretended()
    assert states(run_batch(three, tmp_path / "runs", again))["cup"] == "finished"
    assert again.asked == ["cup"]


def test_a_place_that_can_not_be_written_is_no_fault_of_the_collection(tmp_path):
    job = job_of(photos_in(tmp_path / "photos" / "mug"), tmp_path / "runs")
    job.run.parent.mkdir()
    job.run.write_text("a file")
    outcome = align_collection(job)
    assert outcome["state"] == "failed" and outcome["passing"]
    assert "is a file" in outcome["error"]


def test_a_limit_of_memory_is_no_fault_of_the_collection(tmp_path):
    job = job_of(photos_in(tmp_path / "photos" / "mug"), tmp_path / "runs")
    outcome = align_collection(replace(job, config=replace(job.config, max_memory=0.1)))
    assert outcome["state"] == "failed" and outcome["passing"]
    assert "max_memory allows 0.1" in outcome["error"]


@pytest.mark.parametrize("change", ["photo", "more", "setting", "strict", "mask"])
def test_what_has_changed_is_done_again(change, three, tmp_path):
    for job in three:
        (tmp_path / "masks" / job.name).mkdir(parents=True)
        (tmp_path / "masks" / job.name / "a.png").write_bytes(b"1")
    jobs = [replace(job, masks=tmp_path / "masks" / job.name) for job in three]
    run_batch(jobs, tmp_path / "runs", Pretended(cup=fails))
    for number in (0, 1):  # one that failed and one that was finished
        if change in ("photo", "more"):
            (jobs[number].photos / {"photo": "a.jpg", "more": "b.jpg"}[change]).write_bytes(b"other")
        elif change == "mask":
            (tmp_path / "masks" / jobs[number].name / "a.png").write_bytes(b"2")
        else:
            new = {"setting": {"config": replace(QUICK, seed=5)}, "strict": {"strict": True}}[change]
            jobs[number] = replace(jobs[number], **new)
    again = Pretended()
    run_batch(jobs, tmp_path / "runs", again)
    assert again.asked == ["cup", "mug"]


def test_a_run_that_no_batch_made_is_found_finished(three, tmp_path):
    finishing(three[0])
    others = Pretended()
    records = run_batch(three, tmp_path / "runs", others)
    assert others.asked == ["mug", "vase"]
    assert records["cup"]["photos"] == 1 and records["cup"]["quality"] == {"confidence": 0.5}


def test_a_batch_that_is_stopped_leaves_a_state_that_goes_on(three, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_batch(three, tmp_path / "runs", Pretended(mug=stops))
    stored = read_json(tmp_path / "runs" / "batch.json")["collections"]
    assert states(stored) == {"cup": "finished", "mug": "waiting", "vase": "waiting"}
    assert (tmp_path / "runs" / "index.html").is_file()
    again = Pretended()
    run_batch(three, tmp_path / "runs", again)
    assert again.asked == ["mug", "vase"]


def test_collections_of_another_batch_stay_in_the_record(three, tmp_path):
    run_batch(three[:2], tmp_path / "runs", Pretended())
    assert states(run_batch(three[2:], tmp_path / "runs", Pretended())) == {"vase": "finished"}
    assert len(read_json(tmp_path / "runs" / "batch.json")["collections"]) == 3


def test_folders_and_records_that_are_not_ours_are_refused(three, tmp_path):
    finishing(three[0])
    with pytest.raises(StorageError, match=r"is the run of one collection\. Choose another folder with -o\.$"):
        run_batch(three, three[0].run, Pretended())
    write_json(tmp_path / "runs" / "batch.json", {"format_version": 1, "collections": [1]})
    with pytest.raises(StorageError, match=r"is no record of a batch\. Delete it; finished runs are found"):
        run_batch(three, tmp_path / "runs", Pretended())


def test_runs_are_not_written_among_the_photos(three, tmp_path):
    photos = tmp_path / "photos"
    with pytest.raises(CollectionError, match=r"holds the collections: the runs need a folder of their own\."):
        find_collections(photos, photos)
    (tmp_path / "list.txt").write_text("photos/mug\n")
    with pytest.raises(CollectionError, match=r"^The run of 'mug' would be written among its photos\."):
        find_collections(tmp_path / "list.txt", photos)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"is a file\. Choose a folder for the runs with -o\.$"):
        run_batch(three, tmp_path / "file", Pretended())


def test_as_many_at_once_as_fit_and_one_on_a_card(tmp_path, monkeypatch):
    def at_once(cores, memory, card, device):
        monkeypatch.setattr(processes, "cores", lambda: cores)
        monkeypatch.setattr(processes, "free_memory", lambda: memory)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
        return fitting([tmp_path / "gone", tmp_path, tmp_path], replace(QUICK, device=device))

    unknown = float("inf")
    assert at_once(2, unknown, False, "auto") == at_once(2, unknown, True, "cpu") == 2
    assert at_once(8, unknown, False, "auto") == 3, "no more than there are"
    assert at_once(8, 0.1, False, "auto") == 1, "one, however little memory there is"
    assert at_once(8, unknown, True, "auto") == at_once(8, unknown, False, "cuda:1") == 1


def test_a_listed_folder_that_is_not_there_fails_alone(tmp_path):
    gone, mug = tmp_path / "gone", photos_in(tmp_path / "mug")
    records = run_batch(
        [job_of(gone, tmp_path / "runs"), job_of(mug, tmp_path / "runs")],
        tmp_path / "runs",
        lambda waiting: on_this_machine(waiting, 1),
    )
    assert states(records) == {"gone": "failed", "mug": "finished"}
    assert records["gone"]["error"].startswith("There is no folder")


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_leads_to_every_report_and_trusts_no_text(tmp_path):
    (tmp_path / "<b> 1").mkdir()
    (tmp_path / "<b> 1" / "report.html").write_text("")
    page = index_page(
        {
            "<b> 1": {"state": "finished", "run": "<b> 1", "photos": 3, "warnings": ["<i>"], "seconds": 1.25},
            "mug": {"state": "failed", "run": "mug", "error": "<script>"},
        },
        tmp_path,
    ).decode()
    assert '<a href="%3Cb%3E%201/report.html">&lt;b&gt; 1</a>' in page
    assert page.index("mug") < page.index("&lt;b&gt;"), "what failed comes first"
    assert "&lt;script&gt;" in page and "<script" not in page and "<i>" not in page
    assert "2 collections · 1 failed · 1 finished" in page


def test_what_is_said_of_all_is_said_once(tmp_path):
    records = {
        name: {"state": "finished", "run": name, "photos": 3, "warnings": ["The same.", f"Of {name}."]}
        for name in ("cup", "mug")
    }
    assert shared_warnings(records) == ["The same."]
    page = index_page(records, tmp_path).decode()
    assert page.count("The same.") == page.count("Of mug.") == 1
    assert page.index("The same.") < page.index("<table")
    assert shared_warnings({"cup": records["cup"], "mug": {"state": "failed", "error": "No."}}) == []


# ---- processes -----------------------------------------------------------------------------------------------------


def test_a_process_that_is_killed_is_one_failure_and_nothing_is_lost(tmp_path):
    runs = tmp_path / "runs"
    jobs = [job_of(photos_in(tmp_path / "photos" / name), runs) for name in ("mug", "vase")]

    def killing(waiting):
        for job, outcome in on_this_machine(waiting, 2):
            yield job, outcome
            if outcome is None and job.name == "mug":
                os.kill(owner(job.run), signal.SIGKILL)

    records = run_batch(jobs, runs, killing)
    assert states(records) == {"mug": "failed", "vase": "finished"}
    assert records["mug"]["error"].startswith("Its process was killed (SIGKILL), as the system does when memory runs")
    again = run_batch(jobs, runs, lambda waiting: on_this_machine(waiting, 1), retry=True)
    assert states(again) == {"mug": "finished", "vase": "finished"}
    assert all(job.is_finished() and (job.run / "report.html").is_file() for job in jobs)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_batch_that_is_ended_takes_its_processes_along(number, tmp_path):
    photos_in(tmp_path / "photos" / "mug")
    words = ["batch", "photos", "-o", "runs", *SETTINGS]
    command = [sys.executable, "-c", "from asic3d_cli.main import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    child = owner(tmp_path / "runs" / "mug")
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    until = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    if number != signal.SIGKILL:
        assert (
            process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
            and "Give the same command to go on." in said
        )
        assert states(read_json(tmp_path / "runs" / "batch.json")["collections"]) == {"mug": "waiting"}


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_names_what_failed_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos_in(tmp_path / "photos" / "mug")
    (tmp_path / "photos" / "empty").mkdir()
    first = asic3d("batch", "photos", "-o", "runs", "--json", "--jobs", "1", *SETTINGS)
    found = json.loads(first.stdout)
    assert first.exit_code == 1 and found["failed"] == ["empty"]
    assert found["collections"]["mug"]["state"] == "finished"
    assert found["collections"]["mug"]["photos"] == 3
    assert Path(found["index"]).is_file()
    second = asic3d("batch", "photos", "-o", "runs", *SETTINGS)
    assert second.exit_code == 1
    assert "mug: finished earlier" in second.stderr
    assert "empty: failed earlier. There is no photo in" in second.stderr
    assert "Error: 1 of 2 collections failed: 'empty'. See why above; --retry tries again." in second.stderr
    (tmp_path / "photos" / "empty").rmdir()
    third = asic3d("batch", "photos", "-o", "runs", "--quiet", *SETTINGS)
    assert third.exit_code == 0 and third.output == ""


def test_jobs_and_a_cluster_are_one_too_many(tmp_path):
    refused = asic3d("batch", tmp_path, "-o", tmp_path / "runs", "--ray=auto", "--jobs", "2")
    assert refused.exit_code == 2 and "leave --jobs or --ray away" in refused.output


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_is_shown_without_an_error(three, tmp_path):
    from chromium_pages import Chromium

    run_batch(three, tmp_path / "runs", Pretended(cup=fails))
    browser = Chromium(tmp_path / "profile")
    try:
        browser.open(tmp_path / "runs" / "index.html")
        assert browser.complaints() == []
    finally:
        browser.close()
