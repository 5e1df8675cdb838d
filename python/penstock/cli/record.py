"""`record`: requests and their answers into an archive, many at a time, and on with it after an interruption."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import os
import resource
import stat
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, TextIO

import click

import penstock
from penstock import barc
from penstock.barc.record import archived_url
from penstock.cli.asking import asking, client_of, failure
from penstock.cli.common import (
    Command,
    Failure,
    counted,
    is_writable,
    json_option,
    limited,
    line_writable,
    print_json,
    quiet_option,
    readable,
    run,
    said,
    tell,
    tunables_of,
)
from penstock.cli.files import FILE, compressed, strategy_of, told_of
from penstock.cli.progress import Progress
from penstock.errors import HeadTooLong, InvalidURL, PenstockError, UnsupportedEncoding

__all__ = ["record"]

ACCEPT = "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8"

PIECE = 1 << 16
"""Bytes of a list of URLs that are read at once."""

LONGEST = 1 << 20
"""Bytes that a line of it may have."""

DESCRIPTORS = 3
"""That a URL has: of its connection, which is watched by a second one, and of a long body's file."""

OTHERS = 16
"""Descriptors besides."""


@click.command(
    cls=Command,
    examples="""\
penstock record https://example.com/ https://example.org/ pages.barc
penstock record -z --concurrency 50 --from urls.txt crawl.barc
penstock record -z --concurrency 50 --from urls.txt --resume crawl.barc
generate | penstock record --json --from - crawl.barc""",
)
@click.option(
    "--from",
    "source",
    metavar="URLS",
    type=click.Path(readable=False, allow_dash=True),
    help="A list of URLs, one a line; - is standard input.",
)
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="How many to GET at a time.",
)
@click.option("--accept", metavar="VALUE", default=ACCEPT, help="The Accept header, instead of a browser's.")
@click.option("--no-decode", is_flag=True, help="Leave bodies in the coding in which they come.")
@compressed
@click.option("--resume", is_flag=True, help="Skip URLs that FILE has a record of, even if that is damaged.")
@asking
@limited
@json_option
@quiet_option
@click.argument("urls", metavar="[URL...]", nargs=-1)
@click.argument("file", type=FILE)
def record(
    urls: tuple[str, ...],
    file: str,
    source: str | None,
    concurrency: int,
    accept: str,
    no_decode: bool,
    gzip: bool,
    brotli: bool,
    resume: bool,
    max_body: str,
    as_json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """GET URLs, and append requests with their answers to an archive.

    An answer is recorded whatever its status; redirects are not followed. A URL that fails is reported, and the others
    are recorded anyway. Ctrl-C writes the answers that are complete, and ends. What a kill leaves unfinished in FILE is
    cut off when FILE is opened again.
    """
    from penstock.http.prepare import ACCEPT_ENCODING

    if not urls and source is None:
        raise click.UsageError("Missing argument 'URL...', or --from.")
    strategy = strategy_of(gzip, brotli)
    tunables = tunables_of(max_body)
    concurrency = _affordable(concurrency)
    client = client_of(
        **asked,
        besides={"accept": accept, "accept-language": "en", "accept-encoding": ACCEPT_ENCODING},
        tunables=tunables,
        decode=not no_decode,
        follow_redirects=False,
        limits=penstock.Limits(connections=concurrency),
    )
    archive = barc.AsyncArchive(file, "a", strategy=strategy, tunables=tunables)
    with contextlib.ExitStack() as stack:
        listed = None
        if source is not None:
            listed = 0 if source == "-" else os.open(source, os.O_RDONLY)
        if listed:
            stack.callback(os.close, listed)
            if stat.S_ISDIR(os.fstat(listed).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), source)
        progress = stack.enter_context(Progress("record", _count(urls, listed), quiet=quiet))
        recording = Recording(client, file, archive, progress, as_json)
        try:
            with told_of(file, mended=True):
                run(recording.run(_wanted(urls, listed), concurrency, resume))
        except KeyboardInterrupt:
            done = counted(progress.count, "record")
            if is_writable(sys.stderr):
                tell(f"penstock: interrupted after {done}; --resume goes on")
            raise
    return 2 if recording.failed else 0


def _affordable(concurrency: int) -> int:
    """How many URLs at a time the limit on open files allows, which is raised as far as it may be."""
    wanted = OTHERS + DESCRIPTORS * concurrency
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return concurrency
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    if wanted <= soft:
        return concurrency
    fewer = max((soft - OTHERS) // DESCRIPTORS, 1)
    tell(
        f"penstock: {counted(fewer, 'URL')} at a time: --concurrency {concurrency} takes {wanted:,} open files, and "
        f"the system allows {soft:,}"
    )
    return fewer


def _count(urls: tuple[str, ...], listed: int | None) -> int | None:
    """How many there will be; `None` if that can't be known."""
    if listed is None:
        return len(urls)
    if not stat.S_ISREG(os.fstat(listed).st_mode):
        return None
    here = os.lseek(listed, 0, os.SEEK_CUR)
    with open(listed, "rb", closefd=False) as lines:
        # What is longer is refused when it is its turn: here it would be memory.
        count = sum(map(bool, map(_url, iter(lambda: lines.readline(LONGEST), b""))))
    os.lseek(listed, here, os.SEEK_SET)
    return len(urls) + count


def _url(line: bytes) -> str:
    """The URL of a line; empty for a blank one and a comment. Some editors begin a file with a mark."""
    url = line.removeprefix(codecs.BOM_UTF8).strip()
    return "" if url.startswith(b"#") else url.decode(errors="replace")


async def _wanted(urls: tuple[str, ...], listed: int | None) -> AsyncIterator[str]:
    """URLs of the command line, then those of a list, as they come."""
    for url in urls:
        yield url
    if listed is None:
        return
    rest = b""
    while data := await _read(listed):
        *lines, rest = (rest + data).split(b"\n")
        for url in filter(None, map(_url, lines)):
            yield url
        if len(rest) > LONGEST:
            raise Failure(f"--from: a line of more than {LONGEST:,} bytes is no URL")
    if url := _url(rest):
        yield url


def _archived(url: str) -> str:
    """What a record has of it when it was asked for; of one that can't be, itself."""
    from penstock.http.url import to_ascii

    with contextlib.suppress(InvalidURL):
        url = to_ascii(url)
    return archived_url(url)


async def _read(fd: int) -> bytes:
    """What comes next; a pipe is waited for without a thread, which Ctrl-C couldn't end."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)):
        return await penstock.run_blocking(os.read, fd, PIECE)
    await readable(fd)
    return os.read(fd, PIECE)


class Recording:
    """A run: the answers to many URLs on their way to one archive."""

    def __init__(
        self, client: penstock.Client, file: str, archive: barc.AsyncArchive, progress: Progress, as_json: bool
    ) -> None:
        self.failed = 0
        self._client = client
        self._file = file
        self._archive = archive
        self._progress = progress
        self._as_json = as_json
        self._saying = asyncio.Lock()

    async def run(self, urls: AsyncIterator[str], concurrency: int, resume: bool) -> None:
        """Records all of them, so many at a time; those of which there is a record are skipped by `resume`."""
        slots = penstock.Semaphore(concurrency)
        async with self._client, self._archive:
            recorded = set()
            if resume:
                async for _, meta in self._archive.metas():
                    recorded.add(archived_url(meta.get("url", "")))
            try:
                async with asyncio.TaskGroup() as group:
                    async for url in urls:
                        archived = _archived(url)
                        if archived in recorded:
                            self._progress.skip()
                            continue
                        if resume:
                            # A list may have it twice.
                            recorded.add(archived)
                        await slots.acquire()
                        group.create_task(self._one(url)).add_done_callback(lambda _: slots.release())
            except BaseExceptionGroup as errors:
                # The first one ended the others: the disk is full, or whoever read standard output has gone.
                raise errors.exceptions[0] from None

    async def _one(self, url: str) -> None:
        try:
            dialog = await self._client.record("GET", url)
        except UnsupportedEncoding as error:
            await self._fail(url, f"{error}; --no-decode records it as it comes")
            return
        except (PenstockError, OSError, ValueError) as error:
            await self._fail(url, error)
            return
        # What is complete is written, whatever happens meanwhile.
        writing = asyncio.create_task(self._archive.append(dialog))
        cancelled = None
        try:
            await asyncio.wait([writing])
        except asyncio.CancelledError as error:
            await asyncio.wait([writing])
            cancelled = error
        try:
            offset = writing.result()
        except (HeadTooLong, ValueError) as error:
            await self._fail(url, error)
        except OSError as error:
            raise Failure(f"{self._file}: {error}") from error
        else:
            self._progress.add(1, len(dialog.res_body))
            await self._report(
                cancelled is not None, url=url, offset=offset, status=dialog.status, size=len(dialog.res_body)
            )
        if cancelled is not None:
            raise cancelled

    async def _fail(self, url: str, error: object) -> None:
        self.failed += 1
        self._progress.skip()
        await self._say(sys.stderr, False, lambda: tell(failure(url, error)))
        await self._report(False, url=url, error=said(error))

    async def _report(self, now: bool, **members: Any) -> None:
        """A line for machines."""
        if self._as_json:
            await self._say(sys.stdout, now, lambda: print_json(**members))

    async def _say(self, out: TextIO, now: bool, line: Callable[[], None]) -> None:
        """A line. Whoever reads it is waited for without keeping the loop; at the end, or `now`, a line that is not
        taken at once is lost."""
        try:
            if not now and not is_writable(out):
                async with self._saying:
                    await line_writable(out)
        finally:
            if is_writable(out):
                line()
