"""Batches of hostile names and damaged records: nothing leaves the runs' folder, and nothing acts in a page."""

import os
import sys
from pathlib import Path

import cv2
import pytest
import torch
from batch_jobs import SETTINGS, Pretended, finishing, job_of, states, three_jobs
from cli_runner import run as asic3d

from asic3d.errors import CollectionError, StorageError
from asic3d.storage import read_json, write_json
from asic3d_integrations.batch.batch import run_batch
from asic3d_integrations.batch.index import index_page
from asic3d_integrations.batch.plan import find_collections

HOSTILE = [
    "<script>window.harmed=1</script>".replace("/", "\u2215"),
    '"><img src=x onerror=window.harmed=1>',
    "a\nb",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp.exe",
    "x" * 255,
    "--overwrite",
    "%2e%2e",
    "a:b",
    os.fsdecode(b"not \xff\xfe text"),
]


@pytest.fixture
def three(tmp_path):
    return three_jobs(tmp_path)


def everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path):
    """Collections of hostile names."""
    for name in HOSTILE:
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.jpg").write_bytes(b"1")
    (tmp_path / "photos" / "out").symlink_to("/")  # holds the runs, as every folder around them does
    return [job_of(folder, tmp_path / "runs") for folder in find_collections(tmp_path / "photos", tmp_path).values()]


def finishing_with_report(job) -> dict:
    (job.run / "figures").mkdir(parents=True)
    (job.run / "report.html").write_text("")
    return finishing(job)


@pytest.mark.skipif(sys.platform != "linux", reason="has no such names")
def test_hostile_names_stay_in_the_runs_and_do_nothing_in_the_page(hostile, browser, tmp_path):
    assert {job.name for job in hostile} == set(HOSTILE)
    before = everything_below(tmp_path)
    records = run_batch(hostile, tmp_path / "runs", finishing_batch())
    assert set(states(records).values()) == {"finished"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {*HOSTILE, "batch.json", "index.html"}
    assert {name for name in everything_below(tmp_path) - before if not name.startswith("runs")} == set()
    assert set(read_json(tmp_path / "runs" / "batch.json")["collections"]) == set(HOSTILE)
    browser.open(tmp_path / "runs" / "index.html")
    assert browser.evaluate("window.harmed") is None
    assert browser.evaluate("document.querySelectorAll('script, [onerror], img[src=x]').length") == 0
    shown = browser.evaluate("[...document.querySelectorAll('th[scope=row]')].map(one => one.textContent)")
    assert r"'a\nb'" in shown and r"'\x1b[31mred\x1b]0;title\x07'" in shown and r"'\u202egnp.exe'" in shown
    links = browser.evaluate("[...document.querySelectorAll('th a')].map(one => one.href)")
    assert len(links) == len(HOSTILE)
    folder = (tmp_path / "runs").as_uri() + "/"
    assert all(link.startswith(folder) and "/" not in link[len(folder) : -len("/report.html")] for link in links)


def finishing_batch() -> Pretended:
    class Reporting(Pretended):
        def __call__(self, jobs):
            for job in jobs:
                yield job, None
                yield job, finishing_with_report(job)

    return Reporting()


@pytest.mark.skipif(sys.platform != "linux", reason="has no such names")
def test_no_control_character_of_a_name_reaches_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("\x1b[31mred", "a\nb"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    said = asic3d("batch", "photos", "-o", "runs", "--jobs", "1", *SETTINGS)
    assert said.exit_code == 1 and "\x1b" not in said.output
    lines = said.stdout.splitlines() + said.stderr.splitlines()
    assert any(line.startswith(r"'\x1b[31mred': failed. There is no photo in") for line in lines)
    assert any(line.startswith(r"'a\nb'  ") for line in lines)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("list.txt", "photos/..\n", r"^A collection can't be called '\.\.'"),
        ("list.txt", "photos/.\x00\n", r"^A collection can't be called '\.\\x00'"),
        ("list.txt", "pho\x00tos/mug\n", r"^No folder can be called .*pho\\x00tos.* Mend that line\.$"),
        ("list.csv", "name,folder\nmug,pho\x00tos\n", r"^No folder can be called .* Mend that line\.$"),
        ("list.csv", f"name,folder\n{'x' * 256},photos\n", "^A collection can't be called 'x"),
        ("list.csv", "name,folder\n" + "\u00e9" * 128 + ",photos\n", "^A collection can't be called"),
        ("list.csv", f"name,folder\nmug,{'x' * 200_000}\n", r"^What follows line 1 of .* is no table \(field larger"),
        ("list.csv", 'name,folder\n" ",photos\n', "^A collection can't be called ''"),
    ],
)
def test_lines_that_name_no_folder_are_refused(file, content, message, tmp_path):
    (tmp_path / file).write_text(content, "utf-8")
    with pytest.raises(CollectionError, match=message):
        find_collections(tmp_path / file, tmp_path / "runs")


@pytest.mark.parametrize("line", ["a\x85b", "a\u2028b", "a\x0cb", "a\x1cb"])
def test_a_line_of_a_list_ends_where_editors_end_it(line, tmp_path):
    (tmp_path / "list.txt").write_text(f"{line}\r\nmug\n", "utf-8")
    assert list(find_collections(tmp_path / "list.txt", tmp_path / "runs")) == [line, "mug"]


def test_a_run_that_is_a_link_out_of_the_runs_is_not_written(three, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "mug").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CollectionError, match=r"^A collection can't be called 'mug'"):
        find_collections(tmp_path / "photos", tmp_path / "runs")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ---- records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"state": "else"},
        {"state": ["finished"]},
        {"state": "finished", "run": 3},
        {"state": "finished", "photos": "3"},
        {"state": "finished", "seconds": {}},
        {"state": "finished", "warnings": 4},
        {"state": "finished", "left_out": ["a.jpg"]},
        {"state": "finished", "verdict": "good"},
        {"state": "finished", "verdict": {"level": []}},
        {"state": "finished", "quality": {"confidence": "0.5"}},
        {"state": "failed", "error": 1},
    ],
)
def test_records_of_other_kinds_are_refused_in_a_sentence(record, three, tmp_path):
    write_json(tmp_path / "runs" / "batch.json", {"format_version": 1, "collections": {"jug": record}})
    with pytest.raises(StorageError, match=r"is no record of a batch\. Delete it; finished runs are found"):
        run_batch(three, tmp_path / "runs", Pretended())


def test_a_record_that_is_nested_too_deeply_is_refused(three, tmp_path):
    (tmp_path / "runs").mkdir()
    text = '{"collections": {"jug": {"state": "failed", "more": ' + "[" * 900 + "]" * 900 + "}}}"
    (tmp_path / "runs" / "batch.json").write_text(text)
    with pytest.raises(StorageError, match=r"is nested too deeply for the record of a batch\. Delete it"):
        run_batch(three, tmp_path / "runs", Pretended())
    assert (tmp_path / "runs" / "batch.json").read_text() == text


def test_a_record_leads_to_nothing_outside_the_runs(tmp_path):
    outside = tmp_path / "outside"
    (outside / "figures").mkdir(parents=True)
    (outside / "report.html").write_text("secret")
    torch_blue = cv2.imencode(".png", torch.full((9, 9, 3), 200, dtype=torch.uint8).numpy())[1]
    (outside / "figures" / "canonical.png").write_bytes(torch_blue.tobytes())
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "link").symlink_to(outside)
    records = {name: {"state": "finished", "run": name} for name in ("../outside", str(outside), "link", "\ud800", "")}
    page = index_page(records, runs).decode()
    assert "<a " not in page and "<img" not in page and page.count("<tr>") == len(records) + 1
    (runs / "link").unlink()
    outside.rename(runs / "link")  # the same in its place is shown
    page = index_page({"link": records["link"]}, runs).decode()
    assert page.count('<a href="link/report.html">') == 1 and page.count("<img") == 1


@pytest.mark.parametrize("facts", [{"seconds": 3}, {"seconds": {"all": "long"}}, {"quality": 4}, {"warnings": "no"}])
def test_odd_facts_of_a_finished_run_are_not_taken_over(facts, three, tmp_path):
    finishing(three[0])
    write_json(three[0].run / "run.json", read_json(three[0].run / "run.json") | facts)
    others = Pretended()
    records = run_batch(three, tmp_path / "runs", others)
    assert records["cup"]["state"] == "finished" and others.asked == ["mug", "vase"]
    assert not facts.items() & records["cup"].items()
    assert b"cup" in (tmp_path / "runs" / "index.html").read_bytes()
