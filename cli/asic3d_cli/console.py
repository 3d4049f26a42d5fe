"""All output of the command line: progress, messages and tables for people, or one JSON object for programs."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType

    from asic3d.config import Progress

_SILENCE = 20.0  # seconds without a line, at most, where steps are reported
_PLAIN_WIDTH = 110  # columns where the output is no terminal


class Console:
    """Results go to stdout, progress and warnings to stderr.

    Attributes:
        arguments: the command line's words after ``asic3d``.
        quiet: show errors alone (and what was asked for, where a command's purpose is to print it).
        as_json: one JSON object on stdout and nothing else.
        after_interrupt: makes the sentence to show after Ctrl-C; commands that can go on say how.
    """

    def __init__(self, arguments: list[str], quiet: bool = False, as_json: bool = False) -> None:
        self.arguments, self.quiet, self.as_json = arguments, quiet, as_json
        self.after_interrupt: Callable[[], str] = lambda: "Stopped."
        self.warned: list[str] = []
        self._began = time.perf_counter()
        self._stopped = False
        self._live: RichConsole | None = None

    @property
    def silent(self) -> bool:
        """Whether nothing but the result or an error is wanted."""
        return self.quiet or self.as_json

    @property
    def elapsed(self) -> float:
        """Seconds since the command began: the one clock that progress and summaries show."""
        return time.perf_counter() - self._began

    def error(self, sentence: str) -> None:
        """Shows one sentence on stderr, or as JSON on stdout."""
        if self.as_json:
            self.emit({"error": sentence})
        else:
            click.secho(f"Error: {sentence}", fg="red", err=True)

    def interrupted(self) -> None:
        """Says once on stderr what Ctrl-C has left; the same as JSON on stdout. Nobody may be there to read it."""
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(OSError):
            if self.as_json:
                self.emit({"error": self.after_interrupt()})
            else:
                click.secho(self.after_interrupt(), fg="red", err=True)

    def warn(self, sentence: str) -> None:
        """Shows one sentence on stderr, above a progress bar where there is one, and remembers it."""
        self.warned.append(sentence)
        self.note(f"Warning: {sentence}", "yellow")

    def note(self, sentence: str, colour: str | None = None) -> None:
        """Shows a line on stderr, above a progress bar where there is one."""
        if self.silent:
            return
        if self._live is not None:
            self._live.print(sentence, style=colour, markup=False, highlight=False, soft_wrap=True)
        else:
            click.secho(sentence, fg=colour, err=True)

    def show(self, *renderables: "RenderableType") -> None:
        """Prints tables and texts of rich to stdout; nothing when silent."""
        if not self.silent:
            self.result(*renderables)

    def result(self, *renderables: "RenderableType") -> None:
        """Prints what the command is for, even when quiet."""
        out = rich_console(sys.stdout)
        with out.capture() as printed:
            for renderable in renderables:
                whole = getattr(renderable, "no_wrap", None)  # rich forgets it when it joins texts
                out.print(renderable, highlight=False, crop=False, no_wrap=whole, overflow="ignore" if whole else None)
        click.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))

    def emit(self, value: dict[str, Any]) -> None:
        """Prints one JSON object."""
        import json

        click.echo(json.dumps(plain(value), ensure_ascii=True))

    @contextmanager
    def progress(self, labels: dict[str, str]) -> Iterator[Callable[["Progress"], None]]:
        """A function that shows progress: bars on a terminal, a line for each finished stage elsewhere.

        Args:
            labels: name of a stage -> what people read.
        """
        if self.silent:
            yield lambda _: None
        elif sys.stderr.isatty():
            with self._bars(labels) as report:
                yield report
        else:
            yield _Lines(labels, self)

    @contextmanager
    def _bars(self, labels: dict[str, str]) -> Iterator[Callable[["Progress"], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._live = rich_console(sys.stderr)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._live, transient=True) as bars:
            tasks: dict[str, Any] = {}

            def report(progress: "Progress") -> None:
                if progress.stage not in tasks:
                    label = labels.get(progress.stage, progress.stage)
                    tasks[progress.stage] = bars.add_task(label, total=progress.total)
                bars.update(tasks[progress.stage], completed=progress.done, total=progress.total)

            try:
                yield report
            finally:
                self._live = None


class _Lines:
    """Progress as plain lines on stderr: of a stage that says so its beginning, of all now and then, and their end."""

    def __init__(self, labels: dict[str, str], console: Console) -> None:
        self._labels, self._begun, self._finished, self._console = labels, set[str](), set[str](), console
        self._last = console.elapsed

    def __call__(self, progress: "Progress") -> None:
        now, done = self._console.elapsed, progress.done >= progress.total
        begins = progress.done == 0 and progress.stage not in self._begun
        self._begun.add(progress.stage)
        if progress.stage in self._finished or not (done or begins or now - self._last >= _SILENCE):
            return
        self._last = now
        label = self._labels.get(progress.stage, progress.stage)
        if done:
            self._finished.add(progress.stage)
            click.echo(f"{label}: done after {now:.1f} s", err=True)
        elif begins:
            click.echo(f"{label}: begun after {now:.1f} s", err=True)
        else:
            click.echo(f"{label}: {progress.done} of {progress.total} after {now:.0f} s", err=True)


def rich_console(stream: Any) -> "RichConsole":
    """A rich console on a stream, of a fixed width where the stream is no terminal."""
    from rich.console import Console as RichConsole

    return RichConsole(file=stream, width=None if stream.isatty() else _PLAIN_WIDTH, highlight=False)


def plain(value: Any) -> Any:
    """Values of Python, numpy and torch as JSON can hold them; what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
