"""Commands that are killed, or that meet a full disk, at random moments: nothing may be lost or taken for whole.

python benchmarks/faults.py [--kills 50] [--errors 25] [--seed 0] [--only NAME ...]

Each command runs in a small world of rendered photos. Half of the kills (SIGKILL) come after a random time, half just
before a random change of the disk, because most time passes between those changes. The errors (full disk, read-only, no
permission, a photo that vanishes) begin at a random change and last. Afterwards

* every file is absent, as it was, or whole, and none is where the command does not write;
* what was there before and is not replaced is as it was; the run can be loaded, and answers as before or as after;
* an error was told in a sentence;
* the command can be given again, as it was, with --resume or with --overwrite; then nothing is left over, and the
  answers are those of an undisturbed run.

Exits with 1 where something was lost. A command more is a line in ``commands``.
"""

import argparse
import errno
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from wholeness import answers, leftovers, snapshot, why_not_whole

from asic3d.backbones import import_timm
from asic3d.rendering import render_collection

ALIGN = ["align", "photos", "-o", "run", "--backbone", "efficientnet-lite0", "--set", "grid=20"]
TRAIN = ["--set", "refine_steps=24", "--set", "checkpoint_every=4", "--set", "working_size=64"]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ERRORS = {"full disk": errno.ENOSPC, "read-only": errno.EROFS, "no permission": errno.EACCES}
_IMPORTED = ("asic3d.run_folder", "asic3d_integrations.colmap.export", "asic3d_integrations.report")
VANISHED = "a photo vanishes"
KILLED = "killed"


@dataclass(frozen=True)
class Command:
    """One command line, and what is there before it.

    Attributes:
        name: how it is called in the table.
        words: its arguments, in the world's folder.
        before: command lines that have run.
        again: what is added to the words to give the command again; the first that works is enough.
    """

    name: str
    words: list[str]
    before: list[list[str]] = field(default_factory=list)
    again: tuple[tuple[str, ...], ...] = ((), ("--overwrite",))


def commands() -> list[Command]:
    """All that write."""
    paint = ["propagate", "run", "--source", "photo_01.jpg", "--edit", "edit.png", "--layers"]
    export, resumed = ["export-colmap", "run", "--tracks", "canonical"], (("--resume",), (), ("--overwrite",))
    return [
        Command("align", ALIGN, again=resumed),
        Command("align, refined", [*ALIGN, *TRAIN], again=resumed),
        Command("align --overwrite", [*ALIGN, *TRAIN, "--overwrite"], [ALIGN], (("--resume",), ())),
        Command("add", ["add", "run", "new.jpg"], [ALIGN], ((),)),
        Command("propagate", paint, [ALIGN]),
        Command("propagate --overwrite", [*paint, "--overwrite"], [ALIGN, paint], ((),)),
        Command("export csv --overwrite", ["export", "csv", "run", "--overwrite"], [ALIGN, ["export", "csv", "run"]]),
        Command("export-colmap", export, [ALIGN]),
        Command("export-colmap --overwrite", [*export, "--masks", "--overwrite"], [ALIGN, export], ((),)),
        Command("export-colmap --map", ["export-colmap", "run", "--map", "--force"], [ALIGN]),
        Command("view -o", ["view", "run", "-o", "page.html"], [ALIGN]),
    ]


class Hook:
    """Counts what a process does to the disk, and strikes at one number; installed for the rest of the process."""

    def __init__(self, strike_at: int, fault: str) -> None:
        self.count, self._at, self._fault = 0, strike_at, fault
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        """Called by Python before it does something."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str) or not flags & _WRITING or path.startswith(("/dev/", "/proc/")):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
            return
        self.count += 1
        removing = event in ("os.remove", "os.rmdir")
        if self.count >= self._at and not (removing and self._fault in _ERRORS):  # a full disk lets files be removed
            _strike(self._fault)


def _strike(fault: str) -> None:
    """What happens from the moment on that was drawn."""
    if fault == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == VANISHED:
        Path("photos/photo_02.jpg").unlink(missing_ok=True)
    else:
        raise OSError(_ERRORS[fault], os.strerror(_ERRORS[fault]))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), its changes of the disk, its seconds, its words."""

    code: int
    changes: int
    seconds: float
    said: str


def run(words: list[str], world: Path, *, at: int = sys.maxsize, fault: str = "", after: float = 0.0) -> Ended:
    """Runs a command in a process of its own, and kills it ``after`` seconds or at its change of the disk ``at``."""
    count, said = world.parent / "count", world.parent / "said"
    count.write_text("0")
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _become(words, world, at, fault, said, count)
    if after:
        waiting = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while time.perf_counter() - start < after and os.waitid(os.P_PID, child, waiting) is None:
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code, int(count.read_text()), time.perf_counter() - start, said.read_text(errors="replace"))


def _become(words: list[str], world: Path, at: int, fault: str, said: Path, count: Path) -> None:
    """The child: never returns."""
    code = 70
    try:
        counter, output = count.open("r+b", buffering=0), said.open("wb", buffering=0)
        os.chdir(world)
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        from asic3d_cli.main import main

        hook = Hook(at, fault)
        try:
            main(words, prog_name="asic3d")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        counter.write(str(hook.count).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def make_world(folder: Path) -> None:
    """Photos, one more, and an edit."""
    from PIL import Image

    rendered = render_collection(4, seed=0, size=(160, 120))
    rendered.save(folder / "rendered")
    (folder / "photos").mkdir()
    for name in rendered.names[:3]:
        shutil.copy(folder / "rendered" / "images" / name, folder / "photos" / name)
    shutil.copy(folder / "rendered" / "images" / rendered.names[3], folder / "new.jpg")
    shutil.rmtree(folder / "rendered")
    Image.new("RGBA", (160, 120), (255, 0, 0, 90)).save(folder / "edit.png")


class Trials:
    """One command, disturbed again and again.

    Args:
        command: what runs.
        worlds: one finished world for each list of commands that have run; made when they are missing.
        place: a folder for the trials.
    """

    def __init__(self, command: Command, worlds: Path, place: Path) -> None:
        self.command, self.place = command, place
        self.start = self._world_after(command.before, worlds)
        self.before = snapshot(self.start)
        self.answers = [answers(self.start / "run")]
        self.world = place / "world"
        self._fresh()
        self.undisturbed = run(command.words, self.world)
        if self.undisturbed.code:
            raise SystemExit(f"'{' '.join(command.words)}' fails undisturbed: {self.undisturbed.said}")
        self.after = snapshot(self.world)
        self.answers.append(answers(self.world / "run"))

    def _world_after(self, lines: list[list[str]], worlds: Path) -> Path:
        folder = worlds / str(len(lines)) / str(abs(hash(str(lines))))
        if not folder.exists():
            folder.mkdir(parents=True)
            world = folder / "world"  # all worlds have the same path length, but not the same path
            if lines:
                shutil.copytree(self._world_after(lines[:-1], worlds), world)
                ended = run(lines[-1], world)
                if ended.code:
                    raise SystemExit(f"'{' '.join(lines[-1])}' fails undisturbed: {ended.said}")
            else:
                make_world(world)
        return folder / "world"

    def _fresh(self) -> None:
        shutil.rmtree(self.world, ignore_errors=True)
        shutil.copytree(self.start, self.world)

    def trial(self, fault: str, chance: random.Random) -> list[str]:
        """What was lost in one trial: sentences; none where all is well."""
        self._fresh()
        if fault == KILLED and chance.random() < 0.5:
            after = chance.uniform(0, self.undisturbed.seconds)
            moment, ended = f"after {after:.2f} s", run(self.command.words, self.world, after=after)
        else:
            at = chance.randint(1, self.undisturbed.changes)
            moment, ended = f"at change {at}", run(self.command.words, self.world, at=at, fault=fault)
        lost = [*self._untold(fault, ended), *self._not_whole(fault)]
        if fault == VANISHED:
            shutil.copy(self.start / "photos/photo_02.jpg", self.world / "photos/photo_02.jpg")
        lost += [*self._run_lost(), *self._not_again()]
        return [f"{self.command.name}, {fault} {moment}: {one}" for one in lost]

    def _untold(self, fault: str, ended: Ended) -> Iterator[str]:
        if fault == KILLED:
            return
        if ended.code not in (0, 1) or "Traceback" in ended.said or "fault in asic3d" in ended.said:
            yield f"exit {ended.code} and {ended.said[-400:]!r}"
        if ended.code == 1 and not any("Error:" in line for line in ended.said.splitlines()):
            yield f"nothing was said but {ended.said[-200:]!r}"

    def _not_whole(self, fault: str) -> Iterator[str]:
        """Files that are neither absent, as before, nor whole."""
        now = snapshot(self.world)
        for name in sorted(self.before.keys() - now.keys()):
            if name in self.after and not (fault == VANISHED and name.startswith("photos/")):
                yield f"'{name}' is gone"
        for name, content in now.items():
            old, new = self.before.get(name), self.after.get(name)
            if content in (old, new):
                continue
            if old is None and new is None and "/cache/" not in name and "checkpoint" not in name:
                yield f"'{name}' is a file that the command does not write"
            elif old is not None and old == new:
                yield f"'{name}' changed"
            elif why := why_not_whole(self.world / name):
                yield f"'{name}' is not whole: {why}"

    def _run_lost(self) -> Iterator[str]:
        found = answers(self.world / "run")
        if self.answers[0] is not None and found not in self.answers:
            yield f"the run answers neither as before nor as after: {str(found)[:300]}"
        if self.answers[0] is None and found is not None and found != self.answers[1]:
            yield f"a run that is not whole is there: {str(found)[:300]}"

    def _not_again(self) -> Iterator[str]:
        """Gives the command again."""
        if answers(self.world / "run") == self.answers[1] and self.command.name == "add":
            words: tuple[list[str], ...] = (["view", "run", "-o", "page.html", "--overwrite"],)  # it was there in time
        else:
            words = tuple([*self.command.words, *more] for more in self.command.again)
        said = []
        for line in words:
            ended = run(line, self.world)
            said.append(ended.said[-300:])
            if ended.code == 0:
                break
        else:
            yield f"it can't be given again: {said}"
            return
        if answers(self.world / "run") != self.answers[1]:
            yield "given again, it answers otherwise than undisturbed"
        left = [name for name in leftovers(self.world) if name not in leftovers(self.start)]
        if left:
            yield f"given again, it leaves {left}"
        if missing := sorted(self.after.keys() - snapshot(self.world).keys()):
            yield f"given again, it lacks {missing[:5]}"


def faults(kills: int, errors: int, seed: int, only: list[str], place: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Tries all commands: name -> [tried, survived, lost], and what was lost."""
    table: dict[str, list[int]] = {}
    lost: list[str] = []
    chosen = [command for command in commands() if not only or command.name in only]
    for number, command in enumerate(chosen):
        trials = Trials(command, place / "worlds", place)
        chance = random.Random(f"{seed} {command.name}")
        share = [KILLED] * len(range(number, kills, len(chosen)))
        others = [*_ERRORS, VANISHED]
        share += [others[k // len(chosen) % len(others)] for k in range(number, errors, len(chosen))]
        for fault in share:
            found = trials.trial(fault, chance)
            row = table.setdefault(command.name, [0, 0, 0])
            row[0], row[1], row[2] = row[0] + 1, row[1] + (not found), row[2] + bool(found)
            lost += found
            for one in found:
                print(f"LOST {one}", flush=True)
        print(f"| {command.name} | {' | '.join(map(str, table.get(command.name, [0, 0, 0])))} |", flush=True)
    return table, lost


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--errors", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    arguments = parser.parse_args()
    for module in _IMPORTED:  # before the commands begin, so that the moments fall into their work
        importlib.import_module(module)
    import_timm()
    torch.set_num_threads(1)  # a process that is forked has none of its parent's threads, and would wait for them
    cv2.setNumThreads(1)
    print("| command | tried | survived | lost |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        table, _ = faults(arguments.kills, arguments.errors, arguments.seed, arguments.only, Path(place))
    print(f"| all | {' | '.join(str(sum(column)) for column in zip(*table.values(), strict=True))} |")
    sys.exit(any(row[2] for row in table.values()))


if __name__ == "__main__":
    main()
