"""What all commands share: help with examples, one place where errors become messages and exit codes."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from asic3d.errors import Asic3dError, Asic3dWarning
from asic3d_cli.console import Console
from asic3d_cli.stopping import INTERRUPTED, Terminated, stoppable

_NO_ROOM = (
    "The graphics card has no room left for this. Take another one or the processor (--device cuda:1, --device cpu); a "
    "training needs less with a smaller batch or working_size."
)

Examples = tuple[tuple[str, str], ...]


class Command(click.Command):
    """A command whose help ends with examples: pairs of a command line and what it does."""

    def __init__(self, *args: Any, examples: Examples, notes: Examples = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples, self.notes = examples, notes

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the notes (settings and their meaning) and the examples below the options."""
        if self.notes:
            with formatter.section("Settings for --set"):
                formatter.write_dl(self.notes)
        write_examples(self.examples, formatter)


class Group(click.Group):
    """A group of commands; without one it shows its help."""

    def __init__(self, *args: Any, examples: Examples, **options: Any) -> None:
        super().__init__(*args, invoke_without_command=True, no_args_is_help=False, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples below the commands."""
        write_examples(self.examples, formatter)


def help_alone(ctx: click.Context) -> None:
    """What a group's callback does: where no command is named, the help is shown."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class RootGroup(Group):
    """The ``asic3d`` command: the only place where errors become messages and exit codes.

    ======================  ====  ===================================================================
    what happened           exit  what is shown
    ======================  ====  ===================================================================
    ``Asic3dError``         1     its sentence on stderr; with ``--json`` ``{"error": ...}`` on stdout
    wrong usage             2     click's message, likewise
    Ctrl-C                  130   a sentence that says how to go on
    SIGTERM, SIGHUP         143,  the same
                            129
    no room on the card     1     a sentence, as for ``Asic3dError``
    the reader went away    0     nothing
    a fault of ours         1     the traceback on stderr, then a sentence as for ``Asic3dError``
    ======================  ====  ===================================================================
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Makes the console before anything can fail, so that errors too come in the form that was asked for."""
        ctx.obj = Console(list(args), quiet="--quiet" in args or "-q" in args, as_json="--json" in args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command and turns what it raises into a message and an exit code."""
        console: Console = ctx.obj
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # no file name, whatever it holds, may stop the output
                stream.reconfigure(errors="backslashreplace")
        try:
            with _shown_warnings(console), stoppable(console.interrupted):
                super().invoke(ctx)
                sys.stdout.flush()
        except Asic3dError as error:
            console.error(str(error))
            ctx.exit(1)
        except click.UsageError as error:
            if not console.as_json:
                raise
            console.error(error.format_message())
            ctx.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort) as error:
            console.interrupted()
            ctx.exit(error.code if isinstance(error, Terminated) else INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has seen enough. Python flushes once more on exit: let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            console.error(_unexpected(error))
            ctx.exit(1)


def _unexpected(error: Exception) -> str:
    """What is said of an error that no module foresaw."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
        return _NO_ROOM
    import traceback

    traceback.print_exc()  # a fault of ours: programs still get their object, people what to send us
    what = ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
    return f"A fault in asic3d stopped it ({what}). Please report it with the lines above."


@contextmanager
def _shown_warnings(console: Console) -> Iterator[None]:
    """Shows asic3d's own warnings as sentences and keeps those of other libraries from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Asic3dWarning)
        warnings.showwarning = lambda message, *_, **__: console.warn(str(message))
        yield


def write_examples(examples: Examples, formatter: click.HelpFormatter) -> None:
    """Writes each example's command line and, below it, what it does."""
    with formatter.section("Examples"):
        for line, meaning in examples:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
            with formatter.indentation():
                formatter.write_text(meaning)
