"""`penstock` itself: its commands put together, and how errors become exit statuses.

It is loaded each time that somebody presses the tab key: what makes requests is imported by the commands that do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

import penstock
from penstock.cli import archives
from penstock.cli.common import Command, Failure, is_writable, said, tell
from penstock.cli.get import get
from penstock.cli.record import record
from penstock.cli.replay import replay
from penstock.cli.stats import stats
from penstock.errors import PenstockError

__all__ = ["run"]

COMPLETE = "_PENSTOCK_COMPLETE"
"""The variable by which a shell asks for candidates."""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever goes wrong in use is a line on standard error and status 2; upstream's `barc` has the same statuses."""
    try:
        yield
        return
    except BrokenPipeError:
        status = 2
    except KeyboardInterrupt:
        status = 130
    except (Failure, PenstockError, OSError, ValueError) as error:
        tell(f"penstock: {said(error)}")
        status = 2
    raise click.exceptions.Exit(status)


class Commands(Command, click.Group):
    """Its errors, also those of printing help, are told of as those of all commands."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with _told():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            status = super().invoke(ctx)
            sys.stdout.flush()
            return status


@click.group(
    "penstock",
    cls=Commands,
    examples="""\
penstock get -o page.html https://example.com/
penstock record -z https://example.com/ https://example.org/ pages.barc
penstock ls pages.barc
penstock replay pages.barc""",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(penstock.__version__, "-V", "--version", message="%(prog)s %(version)s")
def commands() -> None:
    """Fetch bodies, record HTTP exchanges in archives, read these and replay them."""


def _named(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Commands, for the tab key."""
    return [name for name in sorted(commands.commands) if name.startswith(incomplete)]


for command in (*archives.COMMANDS, get, record, replay, stats):
    commands.add_command(command)


@commands.command("help", cls=Command, examples="penstock help get")
@click.argument("command", metavar="[COMMAND]", nargs=-1, shell_complete=_named)
def help_of(command: tuple[str, ...]) -> Any:
    """Show the help of a command, or of all."""
    return commands.main([*command, "--help"], "penstock", standalone_mode=False)


@commands.command(cls=Command, examples='eval "$(penstock completion bash)"  # in ~/.bashrc')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes a shell complete this command."""
    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three
    print(kind(commands, {}, "penstock", COMPLETE).source())
    return 0


class Bench(click.Command):
    """Its words are those of `penstock.bench`, which knows what completes them."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from penstock.bench import command

        return [CompletionItem(word, type=kind) for kind, word in command.candidates(ctx.args, incomplete)]


@commands.command(
    cls=Bench,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.pass_context
def bench(ctx: click.Context) -> int:
    """Measure on this machine: python -m penstock.bench."""
    from penstock.bench import command

    try:
        return command.main(ctx.args, "penstock bench")
    except SystemExit as ended:
        # It was help, or wrong usage; whether that could be written is seen later, as with other commands.
        return int(ended.code or 0)


def run(argv: Sequence[str] | None) -> int:
    status: int
    try:
        status = commands.main(argv, "penstock", COMPLETE, standalone_mode=False)
    except click.UsageError as error:
        with contextlib.suppress(OSError):
            error.show()
        status = 1
    except click.Abort:
        status = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            if status == 130 and not is_writable(stream):
                raise BlockingIOError
            stream.flush()
        except OSError:
            # The interpreter would fail once more when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status
