"""What commands share: how they end, what their help ends with, and options that several have."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TextIO, TypeVar

import click

from penstock._native import Tunables

__all__ = [
    "Command",
    "Failure",
    "counted",
    "exclusive",
    "human",
    "is_writable",
    "json_option",
    "limited",
    "line_writable",
    "print_json",
    "quiet_option",
    "readable",
    "run",
    "said",
    "shown",
    "tell",
    "tunables_of",
    "write",
]

T = TypeVar("T")

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

SETTING = re.compile(r" \(((?:Budget|Limits|Timeouts|Tunables)\.\w+|decode=False [^)]*)\)| as (auth=)")
"""By what errors of the library tell how it can be changed."""

OPTIONS = {
    "Tunables.max_body": " (--max-body)",
    "Timeouts.total": " (--timeout)",
    "auth=": ' by -H "Authorization: ..."',
}
"""What commands have in place of it."""

STATUSES = "0 done, 1 wrong usage, 2 an error or damage, 130 interrupted"


class Failure(Exception):
    """Ends a command with exit status 2; its text is what the user gets."""


def _debug(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    # It may stand before the command and behind it.
    if given and not ctx.meta.get("penstock.debug"):
        ctx.meta["penstock.debug"] = True
        ctx.find_root().with_resource(_logged())


DEBUG = click.Option(
    ["-d", "--debug"],
    is_flag=True,
    expose_value=False,
    callback=_debug,
    help="Tell on standard error what the client does.",
)
"""Upstream's, which takes up to four; all commands have it."""


class Command(click.Command):
    """With examples, one a line, and the exit statuses at the end of its help."""

    def __init__(self, *args: Any, examples: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params.append(DEBUG)
        self.examples = examples.splitlines()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, lines in (("Examples", self.examples), ("Exit status", [STATUSES])):
            with formatter.section(title):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class _Lines(logging.Handler):
    """What is logged, as lines of standard error in upstream's form."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(threadName)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    log = logging.getLogger("penstock")
    level, lines = log.level, _Lines()
    log.addHandler(lines)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(lines)


def exclusive(options: Mapping[str, object]) -> None:
    """Refuses more than one of several options, given with their values.

    Raises:
        click.UsageError: Two were given.
    """
    given = [name for name, value in options.items() if value not in (None, False)]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} can't be given together with {given[1]}")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, even on a terminal.")
limited = click.option(
    "--max-body", metavar="SIZE", default="1GiB", show_default=True, help="The longest body that is taken."
)


def tunables_of(max_body: str) -> Tunables:
    """With that limit.

    Raises:
        click.UsageError: It is no size.
    """
    try:
        return Tunables(max_body=max_body)
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("max_body="), param_hint="--max-body") from None


def said(error: object) -> str:
    """The text of an error; where it names a setting of the library, with the option in its place, if there is one."""
    return SETTING.sub(lambda found: OPTIONS.get(found[1] or found[2], ""), str(error))


def shown(text: str) -> str:
    """What others have written, for a terminal: control characters, to which that would listen, are escaped."""
    return CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def tell(text: str) -> None:
    """A line of standard error on something that goes wrong while others go on: also when nobody can be told."""
    with contextlib.suppress(OSError):
        print(shown(text), file=sys.stderr, flush=True)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, but a second Ctrl-C ends the process, by the signal. asyncio would raise it in whatever runs:
    what was to wake a task can be lost by that, and the task is then waited for for ever."""

    async def interruptible() -> T:
        first = signal.getsignal(signal.SIGINT)
        # It isn't where the shell has it ignored.
        if not callable(first):
            return await main

        def interrupt(*arguments: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            first(*arguments)

        signal.signal(signal.SIGINT, interrupt)
        try:
            return await main
        finally:
            if signal.getsignal(signal.SIGINT) is interrupt:
                signal.signal(signal.SIGINT, first)

    return asyncio.run(interruptible())


async def readable(file: Any) -> None:
    """Waits until a pipe, a socket or a terminal has more: without a thread, which Ctrl-C couldn't end."""
    loop = asyncio.get_running_loop()
    await _called(file, loop.add_reader, loop.remove_reader)


def is_writable(out: TextIO | int) -> bool:
    return bool(select.select([], [out], [], 0)[1])


async def line_writable(out: TextIO | int) -> None:
    """Waits until it takes a line: only a pipe, a socket or a terminal has one wait."""
    loop = asyncio.get_running_loop()
    while not is_writable(out):
        await _called(out, loop.add_writer, loop.remove_writer)


async def write(fd: int, piece: memoryview) -> None:
    """All of it. A write that has begun and waits for a reader gives up by a signal, and Ctrl-C is heard here then."""
    while piece:
        await line_writable(fd)
        with contextlib.suppress(BlockingIOError):
            piece = piece[os.write(fd, piece) :]


async def _called(file: Any, add: Callable[..., None], remove: Callable[..., bool]) -> None:
    ready = asyncio.Event()
    add(file, ready.set)
    try:
        await ready.wait()
    finally:
        remove(file)


def counted(count: int, unit: str) -> str:
    """So many of them."""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def human(size: float) -> str:
    """A number of bytes with a unit, in three or four digits."""
    if size == 1:
        return "1 byte"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"


def print_json(**fields: Any) -> None:
    """A line of standard output, there at once."""
    print(json.dumps(fields), flush=True)
