"""`replay`: what was recorded, served again."""

from __future__ import annotations

import asyncio
import sys

import click

from penstock._native import Tunables
from penstock.cli.common import Command, json_option, limited, print_json, run, tunables_of
from penstock.cli.files import FILE, told_of

__all__ = ["replay"]


@click.command(
    cls=Command,
    examples="""\
penstock replay crawl.barc
penstock replay --bind 127.0.0.1:8080 --quiet crawl.barc &
http_proxy=http://127.0.0.1:8080 curl http://example.com/""",
)
@click.option("--bind", metavar="HOST:PORT", default="127.0.0.1:0", show_default=True, help="Port 0 is a free one.")
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

    over = asyncio.get_running_loop().create_future()

    def tell(method: str, url: str, status: int) -> None:
        try:
            if as_json:
                print_json(method=method, url=url, status=status)
            elif not quiet:
                print(f"{status} {method} {url}", file=sys.stderr, flush=True)
        except OSError as error:
            # The reader has gone, which isn't the matter of whoever asked.
            if not over.done():
                over.set_exception(error)

    async with ReplayServer(file, host=host, port=port, tunables=tunables, on_answer=tell) as server:
        if as_json:
            print_json(url=server.url, file=file, records=server.recorded)
        else:
            print(server.url, flush=True)
        await over
