"""SIGTERM and SIGHUP, as clusters and closed terminals send them; what killed processes leave is cleared."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asic3d import temporaries
from asic3d.errors import StorageError
from asic3d.run_lock import hold_run
from asic3d.storage import atomic_write
from asic3d.temporaries import clear_left, temporary_file, temporary_folder
from asic3d_integrations.colmap.export import replaced_together

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join(str(ROOT / name) for name in (".", "cli", "integrations", "tests"))
COMMAND = "from asic3d_cli.main import main; main(prog_name='asic3d')"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and locks")


def started(script: str, *arguments: str | Path, place: Path, temporary: Path | None = None) -> subprocess.Popen[str]:
    """Another Python in a folder."""
    environment = {**os.environ, "PYTHONPATH": PATHS, "TMPDIR": str(temporary or place)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env=environment,
    )


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".asic3d*") if path.name != ".asic3d")


def wait_for(ready, process: subprocess.Popen[str]) -> None:
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.fixture(scope="module")
def toy_run(toy, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("stopped") / "run"
    toy.alignment.save(run)
    return run


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, ".asic3d.lock"),
        (signal.SIGTERM, ".asic3d-*.new"),
        (signal.SIGTERM, "system/.asic3d-*.new/sift.db"),
        (signal.SIGHUP, "system/.asic3d-*.new/models"),
    ],
)
def test_an_export_that_is_told_to_end_leaves_nothing(toy_run, number, moment):
    system = toy_run / "system"
    system.mkdir(exist_ok=True)
    for _ in range(4):
        process = started(COMMAND, "export-colmap", toy_run, "--map", place=toy_run.parent, temporary=system)
        while process.poll() is None and not any(toy_run.glob(moment)):
            time.sleep(0.002)
        process.send_signal(number)
        printed, said = process.communicate(timeout=120)
        if process.returncode:
            break
        shutil.rmtree(toy_run / "colmap")  # the moment was over before this process had its turn to look
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"Stopped. Nothing was written, and what was in '{toy_run}/colmap' is as it was."
    assert not [line for line in said.splitlines()[:-1] if not line.endswith(" s")]  # of progress, and no crash's
    assert printed == "" and left(toy_run) == []
    assert not (toy_run / "colmap").exists()


STUCK = """
import hashlib, sys
from pathlib import Path
from asic3d.run_lock import hold_run
from asic3d.temporaries import temporary_folder
from asic3d_cli import stopping
from asic3d_cli.console import Console
stopping.PATIENCE = 0.1
console = Console([], as_json=True)
with stopping.stoppable(console.interrupted), hold_run("."), temporary_folder(Path("x").resolve()) as new:
    (new / "file").write_text("half")
    print("now", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_compiled_code_is_not_waited_for(tmp_path):
    process = started(STUCK, place=tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    time.sleep(0.2)
    assert len(left(tmp_path)) == 2
    process.send_signal(signal.SIGTERM)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed, said) == (143, '{"error": "Stopped."}\n', "")
    assert left(tmp_path) == []


IGNORING = """
import os, signal
from asic3d_cli.stopping import stoppable
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stoppable(lambda: None):
    os.kill(os.getpid(), signal.SIGHUP)
print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


def test_what_is_ignored_stays_ignored_and_all_is_as_before_afterwards(tmp_path):
    process = started(IGNORING, place=tmp_path)
    assert process.communicate(timeout=60) == ("True True\n", "") and process.returncode == 0


def test_pycolmap_takes_no_signal_over(tmp_path):
    script = "import os\nfrom asic3d_integrations.colmap.database import quiet_pycolmap\nquiet_pycolmap()\n"
    process = started(script + "os.kill(os.getpid(), 15)", place=tmp_path)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == -signal.SIGTERM


def test_pycolmap_is_imported_in_one_place():
    found = []
    for path in [file for folder in ("asic3d", "cli", "integrations") for file in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [path.name for name in names if name.split(".")[0] == "pycolmap"]
    assert found == ["database.py"]


# What dead processes leave


MAKING = """
import sys, time
from pathlib import Path
from asic3d.temporaries import temporary_file, temporary_folder
with temporary_folder(Path("x").resolve()) as new, temporary_file(Path("y").resolve()):
    (new / "file").write_text("half")
    print("made", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def maker(tmp_path):
    with started(MAKING, place=tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "made\n"
        yield process
        process.kill()


def test_what_a_living_process_makes_stays_and_a_dead_one_s_goes(tmp_path, maker):
    (tmp_path / ".asic3d-notes.new").mkdir()  # not one of our names
    made = left(tmp_path)
    assert len(made) == 3
    clear_left(tmp_path)
    assert left(tmp_path) == made
    maker.kill()
    maker.wait()
    assert left(tmp_path) == made
    clear_left(tmp_path)
    assert left(tmp_path) == [".asic3d-notes.new"]


def test_the_next_command_clears_it(tmp_path, maker):
    maker.kill()
    maker.wait()
    (tmp_path / "run").mkdir()
    for path in list(tmp_path.glob(".asic3d-*.tmp")):
        path.rename(tmp_path / "run" / path.name)
    with replaced_together(tmp_path / "out") as new:
        assert left(tmp_path) == [new.name, f"run/{next((tmp_path / 'run').iterdir()).name}"]
    with hold_run(tmp_path / "run"):
        assert left(tmp_path) == ["run/.asic3d.lock"]
    assert left(tmp_path) == []


def test_what_this_process_makes_stays_until_it_is_done(tmp_path):
    with temporary_folder(tmp_path / "x") as folder, temporary_file(tmp_path / "y") as file:
        clear_left(tmp_path)
        assert folder.is_dir() and file.is_file()
        file.rename(tmp_path / "y")
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_two_complete_folders_are_never_cleared(tmp_path):
    """A process was killed between the two renamings that put a folder into another's place."""
    for ending in ("new", "old"):
        (tmp_path / f".asic3d-0123456789ab.{ending}").mkdir()
    clear_left(tmp_path)
    assert len(left(tmp_path)) == 2
    (tmp_path / ".asic3d-0123456789ab.new").rename(tmp_path / "out")
    clear_left(tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("fails", [1, 2])
def test_the_earlier_folder_stays_whenever_the_exchange_is_stopped(tmp_path, monkeypatch, error, fails):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("earlier")
    rename, calls = Path.rename, []

    def stopped(self, target):
        calls.append(target)
        if len(calls) == fails:
            raise error
        return rename(self, target)

    monkeypatch.setattr(temporaries, "_exchange", lambda one, other: False)  # where two renamings are needed
    monkeypatch.setattr(Path, "rename", stopped)
    wanted = StorageError if error is OSError else KeyboardInterrupt
    with pytest.raises(wanted), replaced_together(tmp_path / "out") as new:
        (new / "file").write_text("new")
    assert (tmp_path / "out" / "file").read_text() == "earlier"
    assert left(tmp_path) == []


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    import asic3d.temporaries as temporaries

    hold, names = temporaries._hold, []

    def swept(made):
        names.append(made)
        if len(names) == 1:
            made.unlink()
            made.write_text("somebody else's")  # the same name and another file
            made.unlink()
            return False
        return hold(made)

    monkeypatch.setattr(temporaries, "_hold", swept)
    atomic_write(tmp_path / "notes.txt", lambda file: file.write(b"hello"))
    assert (tmp_path / "notes.txt").read_bytes() == b"hello" and len(set(names)) == 2
    assert left(tmp_path) == []
