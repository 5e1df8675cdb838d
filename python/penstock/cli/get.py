"""`get`: bodies to standard output or to files, one URL after the other."""

from __future__ import annotations

import asyncio
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

import penstock
from penstock.cli.archives import FILE
from penstock.cli.common import (
    Command,
    Failure,
    json_option,
    limited,
    print_json,
    quiet_option,
    tell,
    tunables_of,
)
from penstock.cli.progress import Progress
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.http.stream import StreamedResponse

__all__ = ["get"]


@click.command(
    cls=Command,
    examples="""\
penstock get https://example.com/ | less
penstock get -o page.html https://example.com/
penstock get -o downloads/ https://example.com/one.tar https://example.com/two.tar""",
)
@click.option("-o", "--output", metavar="FILE|DIR", type=FILE, help="A file, or a directory: names are the URLs' last.")
@click.option("-f", "--force", is_flag=True, help="Replace files that are there.")
@limited
@json_option
@quiet_option
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
def get(urls: tuple[str, ...], output: str | None, force: bool, max_body: str, as_json: bool, quiet: bool) -> int:
    """GET bodies, to standard output or to files.

    Redirects are followed and codings removed. A status of 400 or more is an error; so is a body that ends early, of
    which nothing is in a file, and what came of it in standard output. The other URLs are fetched anyway.
    """
    if as_json and output is None:
        raise click.UsageError("--json needs --output: standard output is for the bodies")
    tunables = tunables_of(max_body)
    folder = output is not None and (len(urls) > 1 or output.endswith("/") or Path(output).is_dir())
    if folder and output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    # Two of them on one terminal would be a muddle.
    quiet = quiet or (output is None and sys.stdout.isatty())
    total = None if len(urls) == 1 else len(urls)
    with Progress("file", total, by_size=total is None, quiet=quiet) as progress:
        place = Place(output, folder, force)
        return asyncio.run(Fetched(place, tunables, progress).all(urls, as_json))


def _name(url: str) -> str:
    """The last part of a URL's path, which can't lead out of a directory."""
    last = urllib.parse.urlsplit(url).path.rpartition("/")[2]
    return "index.html" if last in ("", ".", "..") else last


class Place(NamedTuple):
    """Where bodies go: to standard output, to one file, or to files in a directory."""

    output: str | None
    folder: bool
    force: bool

    def of(self, url: str) -> Path | None:
        if self.output is None:
            return None
        path = Path(self.output, _name(url)) if self.folder else Path(self.output)
        if not self.force and path.exists():
            raise FileExistsError(f"{path} is there: --force replaces it")
        return path


class Fetched:
    """What is common to the URLs of a command line."""

    def __init__(self, place: Place, tunables: penstock.Tunables, progress: Progress) -> None:
        self._place = place
        self._tunables = tunables
        self._progress = progress

    async def all(self, urls: Iterable[str], as_json: bool) -> int:
        status = 0
        async with penstock.Client(tunables=self._tunables) as client:
            for url in urls:
                before = self._progress.size
                try:
                    target = await penstock.run_blocking(self._place.of, url)
                    await self._one(client, url, target)
                except BrokenPipeError:
                    raise
                except (Failure, PenstockError, OSError, ValueError) as error:
                    status = 2
                    tell(url, error)
                    if as_json:
                        print_json(url=url, error=str(error))
                else:
                    self._progress.add(1)
                    if as_json:
                        print_json(url=url, file=str(target), size=self._progress.size - before)
        return status

    async def _one(self, client: penstock.Client, url: str, target: Path | None) -> None:
        async with client.stream("GET", url) as response:
            if response.status >= 400:
                raise Failure(f"{response.status} {response.reason}")
            if "content-encoding" not in response.headers:
                self._progress.expect_size(int(response.headers.get("content-length", 0)))
            if target is None:
                async for piece in self._pieces(response):
                    # On the loop's thread: nobody else waits for it, and Ctrl-C gets through.
                    sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
                return
            # Unnamed and in that directory until all of it is there.
            tunables = self._tunables.replace(temp_dir=target.parent)
            image = await penstock.collect(self._pieces(response), tunables)
            await image.save(target, overwrite=self._place.force)

    async def _pieces(self, response: StreamedResponse) -> AsyncIterator[memoryview]:
        async for piece in response.stream(1 << 18):
            yield piece
            self._progress.add(size=len(piece))
