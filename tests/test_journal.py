"""Files that change together, and folders that change places, where the process dies in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asic3d.errors import StorageError
from asic3d.journal import finish_journal, write_together
from asic3d.run_lock import hold_run, settle_run
from asic3d.storage import write_json
from asic3d.temporaries import JOURNAL, clear_left, move_folder, temporary_folder

ROOT = Path(__file__).parents[1]
KILLED = """
import os, signal, sys
from pathlib import Path
count, wanted = 0, int(sys.argv[2])
def hook(event, arguments):
    global count
    if event in ("os.rename", "os.remove"):
        count += 1
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
from asic3d.journal import write_together
from asic3d.temporaries import move_folder, temporary_folder
folder = Path(sys.argv[1])
sys.addaudithook(hook)
"""
TOGETHER = """
files = {folder / "masks" / "a.png": b"new a", folder / "b": b"new b", folder / "c": b"new c"}
aside = {folder / "made": folder / "earlier" / "1" / "made"}
write_together(files, folder=folder, without=[folder / "old"], aside=aside)
"""
REPLACE = """
from asic3d import temporaries
if not int(sys.argv[3]):
    temporaries._exchange = lambda *_: False
with temporary_folder(folder / "export") as new:
    (new / "report").write_bytes(b"new")
    move_folder(new, folder / "export")
"""


def killed_at(number: int, what: str, folder: Path, exchange: int = 0) -> bool:
    """Runs a piece of code that is killed at its n-th renaming or removal; whether it came that far."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED + what, folder, str(number), str(exchange)]
    return subprocess.run(command, env=environment).returncode == -signal.SIGKILL


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
def test_who_is_killed_at_any_moment_leaves_all_files_or_none(tmp_path):
    before = {"masks/a.png": b"1", "b": b"2", "old": b"3", "made/of": b"4"}
    after = {"masks/a.png": b"new a", "b": b"new b", "c": b"new c", "earlier/1/made/of": b"4"}
    found = []
    for number in range(1, 50):
        folder = tmp_path / str(number)
        for name in ("masks", "made"):
            (folder / name).mkdir(parents=True)
        for name, text in before.items():
            (folder / name).write_bytes(text)
        if not killed_at(number, TOGETHER, folder):
            break
        settle_run(folder)
        with hold_run(folder):  # also what was not begun is cleared
            pass
        assert content(folder) in (before, after), number
        found.append(content(folder) == after)
    assert found == sorted(found)
    assert found.count(True) > 3  # the moments between the renamings were among them


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
@pytest.mark.parametrize("exchange", [0, 1])
def test_who_is_killed_while_two_folders_change_places_leaves_one_of_them(tmp_path, exchange):
    found = []
    for number in range(1, 20):
        folder = tmp_path / str(number)
        (folder / "export").mkdir(parents=True)
        (folder / "export" / "report").write_bytes(b"old")
        if not killed_at(number, REPLACE, folder, exchange):
            break
        assert not exchange or (folder / "export" / "report").exists()  # never gone
        clear_left(folder)
        found.append(content(folder)["export/report"])
        assert list(content(folder)) == ["export/report"], number
    # Before the first renaming, and before the second; or while what was there is removed.
    assert found[:2] == ([b"new"] * 2 if exchange else [b"old", b"new"])


@pytest.mark.parametrize(
    "journal",
    [
        {"move": [[".asic3d-0123456789ab.tmp", "../outside"]]},
        {"move": [["b", "c"]]},
        {"move": [["../secret", "c"]]},
        {"remove": ["../secret"]},
        {"remove": ["/etc/hostname"]},
        {"move": 3},
        {"move": [[]], "remove": {}},
        {"move": [[".asic3d-0123456789ab.tmp", "linked/c"]]},
    ],
)
def test_a_hostile_journal_reaches_nothing_outside(tmp_path, journal):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "secret", folder / "b", folder / ".asic3d-0123456789ab.tmp", tmp_path / "elsewhere" / "d"):
        path.write_bytes(b"kept")
    (tmp_path / "elsewhere" / ".asic3d-0123456789ab.tmp").write_bytes(b"kept")
    before = content(tmp_path)
    write_json(folder / JOURNAL, journal)
    finish_journal(folder)
    assert content(tmp_path) == before


def test_a_run_that_another_process_is_replacing_is_left_to_it(tmp_path):
    (tmp_path / ".asic3d-0123456789ab.tmp").write_bytes(b"new")
    write_json(tmp_path / JOURNAL, {"move": [[".asic3d-0123456789ab.tmp", "b"]], "remove": []})
    hold = "import sys\nfrom asic3d.run_lock import _locked, LOCK\nfrom pathlib import Path\n"
    hold += "file = _locked(Path(sys.argv[1]) / LOCK, Path(sys.argv[1]))\nprint('held', flush=True)\nsys.stdin.read()\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", hold, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        settle_run(tmp_path)
        assert not (tmp_path / "b").exists()
        other.kill()
    settle_run(tmp_path)
    assert (tmp_path / "b").read_bytes() == b"new"
    assert not (tmp_path / JOURNAL).exists()


def test_a_failure_leaves_no_journal(tmp_path, monkeypatch):
    def fails(self, target):
        raise OSError(13, "Permission denied") if target.name == "b" else AssertionError(target)

    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: fails(self, to) if to.name == "b" else real(self, to))
    with pytest.raises(StorageError):
        write_together({tmp_path / "b": b"x"}, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_is_gone_on_with(tmp_path, monkeypatch, error):
    """A renaming can fail too, where a folder has to grow for the longer name."""
    real = Path.replace

    def replace(self, to):
        if to.name == "b":
            raise error
        return real(self, to)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        write_together({tmp_path / name: name.encode() for name in "abc"}, folder=tmp_path)
    monkeypatch.undo()
    clear_left(tmp_path)
    settle_run(tmp_path)
    assert content(tmp_path) == {"a": b"a", "b": b"b", "c": b"c"}


def test_moving_a_folder_where_none_was(tmp_path):
    with temporary_folder(tmp_path / "export") as new:
        (new / "a").write_bytes(b"x")
        move_folder(new, tmp_path / "export")
    assert content(tmp_path) == {"export/a": b"x"}
