"""A sample of benchmarks/mutations.py, and that it and benchmarks/faults.py see what is lost."""

import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import mutated
from mutations import attempt
from readers import Kind, kinds, make_world
from wholeness import leftovers, snapshot, why_not_whole

from asic3d.errors import CollectionError


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    world = tmp_path_factory.mktemp("examples") / "world"
    make_world(world)
    return world


SLOW = ("checkpoint", "cached")  # a whole alignment each


@pytest.mark.filterwarnings("ignore")
def test_no_file_of_a_sample_is_lost(examples, tmp_path):
    chosen = [kind for kind in kinds(examples) if not kind.name.startswith(SLOW)]
    lost = []
    for number, kind in enumerate(chosen):
        shutil.copytree(examples, tmp_path / str(number) / "world")
        found = attempt(kind, tmp_path / str(number) / "world", random.Random(f"0 {number}"))
        lost += [(number, kind.name, *found)] if found[0] == "lost" else []
        shutil.rmtree(tmp_path / str(number))
    assert lost == []
    assert len(chosen) > 30


def harmless(content: bytes, chance: random.Random) -> bytes:
    return content


def crash(world: Path) -> None:
    raise ValueError("a bug")


def stray(world: Path) -> None:
    (world.parent / "outside").write_text("")


def wordless(world: Path) -> None:
    raise CollectionError


def refuse(world: Path) -> None:
    raise CollectionError("No.")


@pytest.mark.parametrize(
    ("read", "found"),
    [(crash, "lost"), (stray, "lost"), (wordless, "lost"), (refuse, "refused"), (lambda world: None, "answered")],
)
def test_what_is_lost_is_told_from_what_is_refused(tmp_path, read, found):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "file").write_bytes(b"x")
    assert attempt(Kind("a file", "file", harmless, read), tmp_path / "world", random.Random(0))[0] == found


@pytest.mark.parametrize("how", [mutated.bytes_of, mutated.text])
def test_the_same_seed_makes_the_same_file(how):
    content = b"name = 1\n" * 50
    made = [how(content, random.Random(f"{seed}")) for seed in (0, 0, 1, 2, 3)]
    assert made[0] == made[1]
    assert len(set(made)) > 2


def test_files_that_are_half_written_are_not_taken_for_whole(examples):
    for path in [path for path in snapshot(examples) if Path(path).suffix in (".json", ".html", ".npz", ".db", ".png")]:
        whole = examples / path
        assert why_not_whole(whole) == "", path
        half = examples / f"half{whole.suffix}"
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert why_not_whole(half), path
        half.unlink()


def test_leftovers_are_seen(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db")) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("CREATE TABLE images (x)")
        (tmp_path / ".asic3d-0123456789ab.tmp").touch()
        assert leftovers(tmp_path) == [".asic3d-0123456789ab.tmp", "a.db-shm", "a.db-wal"]
