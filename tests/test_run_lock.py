"""One process at a time in a run folder; what dies leaves nothing locked."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_runner import run

from asic3d.errors import StorageError
from asic3d.run_lock import LOCK, hold_run
from asic3d.storage import MARKER, RUN_FILE

ROOT = Path(__file__).parents[1]
HOLD = (
    "import sys\nfrom asic3d.run_lock import hold_run\n"
    "with hold_run(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path until its standard input is closed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_refused_and_named(tmp_path, other):
    with pytest.raises(StorageError) as caught, hold_run(tmp_path):
        pytest.fail("two at once")
    assert str(caught.value).startswith(f"Another asic3d is writing to '{tmp_path}' (process {other.pid} on ")
    assert str(caught.value).endswith("nothing was changed. Wait until it is done, or choose another folder.")


@pytest.mark.parametrize("words", [("export-colmap",), ("propagate", "--source", "a.jpg", "--edit", "edit.png")])
def test_commands_that_write_into_a_run_hold_it(tmp_path, other, words):
    (tmp_path / MARKER).touch()
    result = run(words[0], tmp_path, *words[1:])
    assert result.exit_code == 1
    assert f"Another asic3d is writing to '{tmp_path}' (process {other.pid} on " in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, LOCK]
    # Elsewhere the run is only read, which here finds that it is none.
    assert "did not finish" in run(words[0], tmp_path, *words[1:], "-o", tmp_path.with_name("elsewhere")).output


@pytest.mark.parametrize(
    "words",
    [
        ("align", "photos", "-o", "run"),
        ("align", "photos", "-o", "run", "--resume"),
        ("align", "photos", "-o", "run", "--overwrite"),
        ("demo", "-o", "run", "--photos", "2"),
        ("add", "run", "new.jpg"),
        ("export", "csv", "run"),
        ("batch", "collections", "-o", "run"),
    ],
)
def test_commands_refuse_a_folder_that_another_is_at(tmp_path, other, words, monkeypatch):
    folder = tmp_path.with_name(f"{tmp_path.name} beside")
    for name in ("photos", "collections/mug"):
        (folder / name).mkdir(parents=True)
    (folder / "run").symlink_to(tmp_path)
    monkeypatch.chdir(folder)
    if words[0] in ("add", "export"):  # which take finished runs
        (tmp_path / RUN_FILE).write_text('{"format_version": 1}')
    before = {path.name for path in tmp_path.iterdir()}
    result = run(*words)
    assert result.exit_code == 1
    assert f"Another asic3d is writing to 'run' (process {other.pid} on " in result.output
    assert {path.name for path in tmp_path.iterdir()} <= {*before, MARKER}


@pytest.mark.parametrize("words", [("export-colmap",), ("propagate", "--source", "a.jpg", "--edit", "edit.png")])
def test_commands_leave_no_lock(tmp_path, words):
    assert "is no run folder" in run(words[0], tmp_path, *words[1:]).output
    assert not list(tmp_path.iterdir())
    (tmp_path / MARKER).touch()
    assert "did not finish" in run(words[0], tmp_path, *words[1:]).output
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_when_the_other_is_done_its_lock_is_gone(tmp_path, other):
    other.communicate()
    assert other.returncode == 0
    assert not list(tmp_path.iterdir())
    with hold_run(tmp_path):
        assert (tmp_path / LOCK).is_file()


def test_what_a_killed_process_left_is_taken_over(tmp_path, other):
    other.kill()
    other.wait()
    assert (tmp_path / LOCK).is_file()
    with hold_run(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not list(tmp_path.iterdir())


def test_the_same_thread_may_enter_again_and_others_may_not(tmp_path):
    refused = []

    def elsewhere():
        try:
            with hold_run(tmp_path):
                pass
        except StorageError as error:
            refused.append(str(error))

    def run():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return len(refused)

    with hold_run(tmp_path):
        with hold_run(tmp_path):
            assert run() == 1
        assert run() == 2
    assert run() == 2
    assert not list(tmp_path.iterdir())


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), hold_run(tmp_path):
        raise ZeroDivisionError
    with hold_run(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="can't be written"), hold_run(tmp_path / "missing"):
        pytest.fail("nothing to hold")


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="has no such flag")
def test_a_link_in_the_locks_place_is_not_followed(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(mine)
    with pytest.raises(StorageError, match="can't be written"), hold_run(tmp_path / "run"):
        pytest.fail("held through a link")
    assert mine.read_text() == "mine"


def test_who_waits_gets_it_when_the_other_is_done(tmp_path, other):
    timer = threading.Timer(0.5, other.stdin.close)
    timer.start()
    with hold_run(tmp_path, patience=60):
        assert other.wait(60) == 0
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("date", [4_000_000_000, -86_400])
def test_dates_decide_nothing_about_what_is_left(tmp_path, other, date):
    for name in (f".asic3d-{'0' * 12}.tmp", LOCK):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (date, date))
    with pytest.raises(StorageError, match=f"process {other.pid} on "), hold_run(tmp_path):
        pytest.fail("two at once")
    other.kill()
    other.wait()
    with hold_run(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_without_locks_work_goes_on(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unknown(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with hold_run(tmp_path):
        pass
