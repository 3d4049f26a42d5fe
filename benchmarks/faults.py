"""Commands that are killed, or that meet a full disk, at random moments: nothing may be lost or taken for whole.

python benchmarks/faults.py [--kills 50] [--errors 25] [--seed 0] [--only NAME ...]

Each command runs in a small world of rendered photos. Half of the kills (SIGKILL) come after a random time, half just
before a random change of the disk, because most time passes between those changes. The errors (full disk, read-only, no
permission, a photo that vanishes) begin at a random change and last. Where a command has processes of its own, the
command, one of them or all may be hit. All dates of files are changed then, as by a clock that was put back or forward.
Afterwards

* every file is absent, as it was, or whole, and none is where the command does not write;
* what was there before and is not replaced is as it was; the run can be loaded, and answers as before or as after;
* an error was told in a sentence;
* the command can be given again, as it was, with --resume or with --overwrite; then nothing is left over, and the
  answers are those of an undisturbed run.

Exits with 1 where something was lost. A command more is a line in ``commands``.
"""

import argparse
import contextlib
import importlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from strikes import ALL, COMMAND, ERRORS, KILLED, PROCESS, VANISHED, Ended, run, strike_inside
from wholeness import answers, leftovers, snapshot, states, why_not_whole

from asic3d.backbones import import_timm
from asic3d.rendering import render_collection

ALIGN = ["align", "photos", "-o", "run", "--backbone", "efficientnet-lite0", "--set", "grid=20"]
TRAIN = ["--set", "refine_steps=24", "--set", "checkpoint_every=4", "--set", "working_size=64"]
_IMPORTED = ("asic3d.run_folder", "asic3d_integrations.colmap.export", "asic3d_integrations.report")


@dataclass(frozen=True)
class Command:
    """One command line, and what is there before it.

    Attributes:
        name: how it is called in the table.
        words: its arguments, in the world's folder.
        before: command lines that have run.
        again: what is added to the words to give the command again; the first that works is enough.
        runs: the run folders that it makes or changes.
    """

    name: str
    words: list[str]
    before: list[list[str]] = field(default_factory=list)
    again: tuple[tuple[str, ...], ...] = ((), ("--overwrite",))
    runs: tuple[str, ...] = ("run",)


def commands() -> list[Command]:
    """All that write."""
    paint = ["propagate", "run", "--source", "photo_01.jpg", "--edit", "edit.png", "--layers"]
    export, resumed = ["export-colmap", "run", "--tracks", "canonical"], (("--resume",), (), ("--overwrite",))
    csv, batch = ["export", "csv", "run"], ["batch", "list.csv", "-o", "runs", "--jobs", "2", *ALIGN[4:]]
    demo = ["demo", "-o", "run", "--photos", "3", *ALIGN[4:]]
    coarse, many = [*batch[:-1], "grid=16"], {"again": ((), ("--retry",)), "runs": ("runs/mug", "runs/vase")}
    return [
        Command("align", ALIGN, again=resumed),
        Command("align, refined", [*ALIGN, *TRAIN], again=resumed),
        Command("align --overwrite", [*ALIGN, *TRAIN, "--overwrite"], [ALIGN, csv, paint], (("--resume",), ())),
        Command("batch", batch, **many),
        Command("batch, again", coarse, [batch, ["export", "csv", "runs/mug"]], **many),
        Command("demo", demo),
        Command("add", ["add", "run", "new.jpg"], [ALIGN], ((),)),
        Command("propagate", paint, [ALIGN]),
        Command("propagate --overwrite", [*paint, "--overwrite"], [ALIGN, paint], ((),)),
        Command("export csv --overwrite", [*csv, "--overwrite"], [ALIGN, csv]),
        Command("export-colmap", export, [ALIGN]),
        Command("export-colmap --overwrite", [*export, "--masks", "--overwrite"], [ALIGN, export], ((),)),
        Command("export-colmap --map", ["export-colmap", "run", "--map", "--force"], [ALIGN]),
        Command("view -o", ["view", "run", "-o", "page.html"], [ALIGN]),
    ]


def make_world(folder: Path) -> None:
    """Photos, one more, an edit, and a list of two collections."""
    from PIL import Image

    rendered = render_collection(4, seed=0, size=(160, 120))
    rendered.save(folder / "rendered")
    (folder / "photos").mkdir()
    for name in rendered.names[:3]:
        shutil.copy(folder / "rendered" / "images" / name, folder / "photos" / name)
    shutil.copy(folder / "rendered" / "images" / rendered.names[3], folder / "new.jpg")
    shutil.rmtree(folder / "rendered")
    render_collection(3, seed=1, size=(160, 120)).save(folder / "rendered")
    (folder / "rendered" / "images").rename(folder / "others")
    shutil.rmtree(folder / "rendered")
    (folder / "list.csv").write_text("name,folder\nmug,photos\nvase,others\n")
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
        self.answers = [self._answers(self.start)]
        self.world = place / "world"
        self._fresh()
        self.undisturbed = run(command.words, self.world)
        if self.undisturbed.code:
            raise SystemExit(f"'{' '.join(command.words)}' fails undisturbed: {self.undisturbed.said}")
        self.after = snapshot(self.world)
        self.answers.append(self._answers(self.world))
        self.states = states(self.world / "runs")
        self._without_a_photo: list = []

    def _answers(self, world: Path) -> list:
        return [answers(world / run) for run in self.command.runs]

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
        if fault == VANISHED and not self._without_a_photo:
            self._without_a_photo = self._of_fewer()
        self._fresh()
        hit = chance.choice((COMMAND, PROCESS, ALL)) if self.undisturbed.below else COMMAND
        if fault == KILLED and chance.random() < 0.5:
            after = chance.uniform(0, self.undisturbed.seconds)
            moment, ended = f"{hit} after {after:.2f} s", run(self.command.words, self.world, after=after, hit=hit)
        else:
            most = self.undisturbed.changes if hit == COMMAND else self.undisturbed.below // len(self.command.runs)
            at = chance.randint(1, most)
            moment, ended = f"{hit} at change {at}", run(self.command.words, self.world, at=at, fault=fault, hit=hit)
        self._put_clock(chance.choice((-1, 1)) * 10 ** chance.uniform(3, 9))
        lost = [*self._untold(fault, ended), *self._not_whole(fault)]
        if fault == VANISHED:
            shutil.copy(self.start / "photos/photo_02.jpg", self.world / "photos/photo_02.jpg")
        lost += [*self._run_lost(), *self._not_again()]
        return [f"{self.command.name}, {fault} {moment}: {one}" for one in lost]

    def _of_fewer(self) -> list:
        """The answers where a photo had vanished before the command began."""
        self._fresh()
        (self.world / "photos/photo_02.jpg").unlink()
        run(self.command.words, self.world)
        shutil.copy(self.start / "photos/photo_02.jpg", self.world / "photos/photo_02.jpg")
        return self._answers(self.world)

    def _put_clock(self, seconds: float) -> None:
        """What a clock that was put back or forward has left: dates that are earlier or later than they should be."""
        for path in self.world.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                now = path.stat().st_mtime
                os.utime(path, (now + seconds, now + seconds))

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
        for name, before, after in zip(self.command.runs, *self.answers, strict=True):
            found = answers(self.world / name)
            if found in (before, after) or found in self._without_a_photo:
                continue
            if before is not None:
                yield f"'{name}' answers neither as before nor as after: {str(found)[:300]}"
            elif found is not None:
                yield f"'{name}' is not whole: {str(found)[:300]}"

    def _not_again(self) -> Iterator[str]:
        """Gives the command again."""
        if self._answers(self.world) == self.answers[1] and self.command.name == "add":
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
        if self._answers(self.world) != self.answers[1] or states(self.world / "runs") != self.states:
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
        others = [*ERRORS, VANISHED]
        share += [others[(k // len(chosen) + number) % len(others)] for k in range(number, errors, len(chosen))]
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
elif __name__ == "__mp_main__":
    strike_inside()
