"""`replay`: what was recorded, served again."""

from __future__ import annotations

import asyncio
import collections
import json
import sys
from typing import TextIO

import click

from penstock._native import Tunables
from penstock.cli.common import (
    Command,
    counted,
    is_writable,
    json_option,
    limited,
    line_writable,
    print_json,
    run,
    tell,
    tunables_of,
)
from penstock.cli.files import FILE, told_of

__all__ = ["replay"]

WAITING = 10_000
"""Lines on answers that wait to be read."""


@click.command(
    cls=Command,
    examples="""\
penstock replay crawl.barc
penstock replay --bind 127.0.0.1:8080 --quiet crawl.barc &
http_proxy=http://127.0.0.1:8080 curl http://example.com/""",
)
@click.option(
    "--bind",
    metavar="HOST:PORT",
    default="127.0.0.1:0",
    show_default=True,
    help="Where to listen; port 0 takes any that is free.",
)
@limited
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No line for each answer.")
@click.argument("file", type=FILE)
def replay(file: str, bind: str, max_body: str, as_json: bool, quiet: bool) -> int:
    """Serve the answers of an archive until Ctrl-C.

    A path is answered with what was recorded for it on the host that is asked for, or else on any; a whole URL, as a
    proxy is asked for it, with what was recorded for that. What isn't recorded is a 404. The server's URL is the first
    line on standard output; each answer is a line on standard error.
    """
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    # Without a host it would be all of the machine's addresses.
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{bind!r} is not HOST:PORT", param_hint="--bind")

    with told_of(file):
        run(_serve(file, host, int(port), tunables_of(max_body), as_json, quiet))
    return 0


async def _serve(file: str, host: str, port: int, tunables: Tunables, as_json: bool, quiet: bool) -> None:
    """Never returns; ends when it is cancelled, or can't tell of answers any more."""
    from penstock.replay import ReplayServer

    lines = Lines(sys.stdout if as_json else sys.stderr)

    def answered(method: str, url: str, status: int) -> None:
        if as_json:
            lines.add(json.dumps({"method": method, "url": url, "status": status}))
        elif not quiet:
            lines.add(f"{status} {method} {url}")

    async with ReplayServer(file, host=host, port=port, tunables=tunables, on_answer=answered) as server:
        if as_json:
            print_json(url=server.url, file=file, records=server.recorded)
        else:
            print(server.url, flush=True)
        await lines.write()


class Lines:
    """Lines for a reader who may be slow, or not there: whoever asks the server doesn't wait for that."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._waiting: collections.deque[str] = collections.deque()
        self._some = asyncio.Event()
        self._lost = 0

    def add(self, line: str) -> None:
        if len(self._waiting) < WAITING:
            self._waiting.append(line)
            self._some.set()
        else:
            self._lost += 1

    async def write(self) -> None:
        """Never returns; ends when it is cancelled, and then with the lines that are taken at once, or nobody reads any
        more."""
        try:
            while True:
                await self._some.wait()
                while self._waiting:
                    await line_writable(self._out)
                    self._print()
                self._some.clear()
                if self._lost and is_writable(sys.stderr):
                    tell(f"penstock: {counted(self._lost, 'answer')} not told of: too many lines waited to be read")
                    self._lost = 0
        except asyncio.CancelledError:
            while self._waiting and is_writable(self._out):
                self._print()
            raise

    def _print(self) -> None:
        print(self._waiting.popleft(), file=self._out, flush=True)
