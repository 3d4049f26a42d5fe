"""Damaged and hostile files of every kind that asic3d reads: each is answered, or refused in a sentence.

python benchmarks/mutations.py [--count 1000] [--seed 0] [--only TEXT] [--jobs 1]

Processes of their own read them, with 2 GiB of memory beyond what they start with and 20 seconds of the processor for
each file. Lost is what ends in another error than an Asic3dError, in an answer that is not finite, in a crash or
a standstill, in a file that was written where it does not belong, or in a message that would steer a terminal.

Exits with 1 where something was lost. ``--trial N`` reads the N-th file alone and shows what is raised.
"""

import argparse
import contextlib
import hashlib
import json
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asic3d.errors import Asic3dError

MEMORY = 2 * 2**30
"""Bytes that a reader may take beyond what its process starts with."""
SECONDS = 20
"""Of the processor, for one file."""
PATIENCE = 300
"""Seconds of the clock, on a machine that does other things too."""
CLASSES = ("answered", "refused", "lost")
_WRITTEN = ("again", "added.db", "csv", "cache", "fit.safetensors", "training.safetensors")
"""What readers may write in their world."""


def attempt(kind: Any, world: Path, chance: random.Random, *, shown: bool = False) -> tuple[str, str]:
    """Mutates the example of a kind, and reads it: one of CLASSES, and why."""
    path = world / kind.file
    content = kind.mutate(path.read_bytes(), chance)
    path.write_bytes(content)
    kind.prepare(world)
    before = _listed(world.parent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(world)
        found, why = "answered", ""
    except Asic3dError as error:
        found, why = "refused", str(error)
        if any(not letter.isprintable() and letter != "\n" for letter in why) or not why:
            found, why = "lost", f"its message can't be printed: {why!r}"
    except BaseException as error:
        found, why = "lost", "".join(traceback.format_exception(error)[-3:])
        if shown:
            traceback.print_exc()
    stray = sorted(name for name in _listed(world.parent) ^ before if not name.startswith(_WRITTEN))
    return ("lost", f"written where it does not belong: {stray[:5]}") if stray else (found, why)


def _listed(place: Path) -> set[str]:
    """Every file of a world and around it; those in the world by their path in it."""
    return {path.relative_to(place).as_posix().removeprefix("world/") for path in place.rglob("*") if path.is_file()}


def _restore(world: Path, pristine: Path, hashes: dict[str, str]) -> None:
    """Makes a world as it was."""
    for path in list(world.rglob("*")):
        name = path.relative_to(world).as_posix()
        if path.is_symlink() or (path.is_file() and name not in hashes):
            path.unlink()
    for name, digest in hashes.items():
        if not (world / name).is_file() or hashlib.sha256((world / name).read_bytes()).hexdigest() != digest:
            (world / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pristine / name, world / name)


def work(pristine: Path, seed: int, only: str, numbers: Iterator[int], *, shown: bool = False) -> None:
    """A worker: reads mutated files one after the other, and writes a line of JSON before and after each."""
    import torch
    from readers import kinds

    torch.set_num_threads(1)
    hashes = {
        path.relative_to(pristine).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pristine.rglob("*")
        if path.is_file()
    }
    chosen = [kind for kind in kinds(pristine) if only in kind.name]
    with tempfile.TemporaryDirectory() as place:
        world = Path(place) / "world"
        shutil.copytree(pristine, world)
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        _check_examples(chosen, world)
        _restore(world, pristine, hashes)
        for number in numbers:
            kind = chosen[number % len(chosen)]
            print(json.dumps([number, kind.name]), flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process
            found = attempt(kind, world, random.Random(f"{seed} {number}"), shown=shown)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps([number, kind.name, *found]), flush=True)
            _restore(world, pristine, hashes)


def _check_examples(chosen: list, world: Path) -> None:
    """Raises where an example is refused as it is: then nothing is learned from what is made of it."""
    for kind in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(world)


def watch(pristine: Path, seed: int, only: str, numbers: list[int]) -> Iterator[tuple[int, str, str, str]]:
    """Starts workers, a new one after each that died: number, kind, class, why."""
    while numbers:
        words = [sys.executable, __file__, "--world", str(pristine), "--seed", str(seed), "--only", only, "--numbers"]
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen([*words, *map(str, numbers)], stdout=subprocess.PIPE, stderr=said) as worker,
        ):
            begun = None
            for line in _lines(worker):
                if len(line) == 2:
                    begun = line
                else:
                    begun = None
                    numbers = numbers[1:]
                    yield tuple(line)  # type: ignore[misc]
            worker.kill()
            code = worker.wait()
            said.seek(0)
            words_said = said.read()[-2000:].decode(errors="replace")
        if begun:
            numbers = numbers[1:]
            yield begun[0], begun[1], "lost", f"the process ended with {code}: {words_said}"
        elif numbers:
            sys.exit(f"The worker can't work: {words_said}")


def _lines(worker: subprocess.Popen) -> Iterator[list]:
    """What a worker writes, until it ends or stands still."""
    assert worker.stdout is not None
    while select.select([worker.stdout], [], [], PATIENCE)[0]:
        line = worker.stdout.readline()
        if not line:
            return
        yield json.loads(line)


def mutations(pristine: Path, count: int, seed: int, only: str = "") -> dict[str, dict[str, int]]:
    """Tries so many files: kind -> class -> how many. What is lost is printed."""
    table: dict[str, dict[str, int]] = {}
    for number, name, found, why in watch(pristine, seed, only, list(range(count))):
        row = table.setdefault(name, dict.fromkeys(CLASSES, 0))
        row[found] += 1
        if found == "lost":
            print(f"LOST {number}, {name}: {why}", flush=True)
    return table


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="kinds with this text in their names")
    parser.add_argument("--trial", type=int, metavar="N")
    parser.add_argument("--world", type=Path, metavar="DIR", help="keep the examples here, or take those that are here")
    parser.add_argument("--numbers", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.numbers:
        work(arguments.world, arguments.seed, arguments.only, iter(arguments.numbers))
        return
    with contextlib.ExitStack() as stack:
        world = arguments.world or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "examples"
        if not world.exists():
            from readers import make_world

            make_world(world)
        if arguments.trial is not None:
            work(world, arguments.seed, arguments.only, iter([arguments.trial]), shown=True)
            return
        table = mutations(world, arguments.count, arguments.seed, arguments.only)
    total = {name: sum(row[name] for row in table.values()) for name in CLASSES}
    print(f"| file | tried | {' | '.join(CLASSES)} |\n|" + "---|" * 5)
    for name, row in {**table, "all": total}.items():
        print(f"| {name} | {sum(row.values())} | {' | '.join(str(row[one]) for one in CLASSES)} |")
    sys.exit(total["lost"] > 0)


if __name__ == "__main__":
    main()
