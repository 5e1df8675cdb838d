"""`get`: bodies to standard output or to files, one URL after the other."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

import penstock
from penstock.cli.asking import asking, client_of, failure, without_password
from penstock.cli.common import (
    Command,
    Failure,
    json_option,
    limited,
    line_writable,
    print_json,
    quiet_option,
    run,
    said,
    tell,
    tunables_of,
    write,
)
from penstock.cli.files import FILE
from penstock.cli.progress import Progress
from penstock.errors import PenstockError
from penstock.headers import brief

if TYPE_CHECKING:
    from penstock.http.stream import StreamedResponse

__all__ = ["get"]

PATIENCE = 0.05
"""Seconds from one look whether a pipe has a reader to the next."""


@click.command(
    cls=Command,
    examples="""\
penstock get https://example.com/ | less
penstock get -o page.html https://example.com/
penstock get -o downloads/ https://example.com/one.tar https://example.com/two.tar""",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR",
    type=FILE,
    help="A file, - for standard output, or a directory, in which files are named by the end of their URL.",
)
@click.option("-f", "--force", is_flag=True, help="Replace files that are there; devices and pipes are written to.")
@asking
@limited
@json_option
@quiet_option
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
def get(
    urls: tuple[str, ...],
    output: str | None,
    force: bool,
    max_body: str,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """GET bodies, to standard output or to files.

    Redirects are followed and codings removed. A status of 400 or more is an error, and so is a body that ends early:
    no file is made of it, but standard output has what came. The other URLs are fetched anyway.
    """
    if output == "":
        raise click.BadParameter("the name of a file or directory isn't empty", param_hint="--output")
    if output == "-":
        output = None
    if as_json and output is None:
        raise click.UsageError("--json needs --output: standard output is for the bodies")
    tunables = tunables_of(max_body)
    client = client_of(**asked, tunables=tunables)
    folder = output is not None and (len(urls) > 1 or output.endswith("/") or Path(output).is_dir())
    if folder and output is not None:
        try:
            Path(output).mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            # Which --force wouldn't replace.
            raise Failure(
                f"{output}: no directory, which {'several URLs take' if len(urls) > 1 else 'its name says'}"
            ) from None
    # Two of them on one terminal would be a muddle.
    quiet = quiet or (output is None and sys.stdout.isatty())
    total = None if len(urls) == 1 else len(urls)
    with Progress("file", total, by_size=total is None, quiet=quiet) as progress:
        place = Place(output, folder, force)
        return run(Fetched(client, place, tunables, progress).all(urls, as_json))


def _name(url: str) -> str:
    """The last part of a URL's path, which can't lead out of a directory."""
    last = urllib.parse.urlsplit(url).path.rpartition("/")[2]
    return "index.html" if last in ("", ".", "..") else last


class Target(NamedTuple):
    """A file to be."""

    name: Path
    path: Path
    """What is replaced: behind symbolic links."""
    special: bool
    """A device or a pipe: written to, and never replaced."""


class Place:
    """Where bodies go: to standard output, to one file, or to files in a directory."""

    def __init__(self, output: str | None, folder: bool, force: bool) -> None:
        self.output = output
        self.folder = folder
        self.force = force
        self._taken: dict[Path, str] = {}
        """The files that were made, and of which URL each is."""

    def of(self, url: str) -> Target | None:
        if self.output is None:
            return None
        name = Path(self.output, _name(url)) if self.folder else Path(self.output)
        if name.exists() and not name.is_file() and not name.is_dir():
            # By this name: what /dev/stdout leads to may have no other.
            return Target(name, name, True)
        path = Path(os.path.realpath(name))
        if (other := self._taken.get(path, url)) != url:
            raise FileExistsError(f"{name} is what {without_password(other)} is")
        if not self.force and path.exists():
            raise FileExistsError(f"{name} is there: --force replaces it")
        return Target(name, path, False)

    def take(self, target: Target, url: str) -> None:
        """The body of a URL is there; no other's replaces it."""
        self._taken[target.path] = url


class Fetched:
    """What is common to the URLs of a command line."""

    def __init__(self, client: penstock.Client, place: Place, tunables: penstock.Tunables, progress: Progress) -> None:
        self._client = client
        self._place = place
        self._tunables = tunables
        self._progress = progress

    async def all(self, urls: Iterable[str], as_json: bool) -> int:
        status = 0
        async with self._client:
            for url in urls:
                before = self._progress.size
                try:
                    target = await penstock.run_blocking(self._place.of, url)
                    await self._one(url, target)
                except BrokenPipeError:
                    raise
                except (Failure, PenstockError, OSError, ValueError) as error:
                    status = 2
                    self._progress.skip()
                    # Here, not in the call, is Ctrl-C heard.
                    await line_writable(sys.stderr)
                    tell(failure(url, error))
                    if as_json:
                        await line_writable(sys.stdout)
                        print_json(url=url, error=said(error))
                else:
                    self._progress.add(1)
                    if as_json:
                        await line_writable(sys.stdout)
                        print_json(url=url, file=target and str(target.name), size=self._progress.size - before)
        return status

    async def _one(self, url: str, target: Target | None) -> None:
        async with self._client.stream("GET", url) as response:
            if response.status >= 400:
                raise Failure(f"{response.status} {brief(response.reason)}")
            if "content-encoding" not in response.headers:
                # The client reads more than a number there; the bar does without.
                with contextlib.suppress(ValueError):
                    self._progress.expect_size(int(response.headers.get("content-length", 0)))
            if target is None:
                async for piece in self._pieces(response):
                    # On the loop's thread: nobody else waits for it.
                    await write(sys.stdout.fileno(), piece)
                return
            if target.special:
                fd = await _open(target.path)
                try:
                    async for piece in self._pieces(response):
                        await write(fd, piece)
                finally:
                    os.close(fd)
                return
            # Unnamed and in that directory until all of it is there.
            tunables = self._tunables.replace(temp_dir=target.path.parent)
            image = await penstock.collect(self._pieces(response), tunables)
            await image.save(target.path, overwrite=self._place.force)
            self._place.take(target, url)

    async def _pieces(self, response: StreamedResponse) -> AsyncIterator[memoryview]:
        async for piece in response.stream(1 << 18):
            yield piece
            self._progress.add(size=len(piece))


async def _open(path: Path) -> int:
    """A device, or a pipe once somebody reads it."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():  # noqa: ASYNC240, no disk is asked
                raise
        await asyncio.sleep(PATIENCE)
