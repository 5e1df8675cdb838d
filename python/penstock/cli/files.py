"""What commands on archives share: the files that they are given, how these are read, and how records are stored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from penstock import barc
from penstock._native import Tunables
from penstock.cli.common import Failure, exclusive
from penstock.cli.progress import Progress
from penstock.errors import ArchiveError, BodyTooLong, HeadTooLong, Truncated

__all__ = [
    "FILE",
    "Unread",
    "compressed",
    "each",
    "extent",
    "opened",
    "reading",
    "several",
    "strategy_of",
    "told_of",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

FILE = click.Path(readable=False)
"""A name that shells complete; whether there is such a file, and may be read, is found out when it is opened."""

several = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=FILE)


def compressed(command: F) -> F:
    """Adds the options that choose how records are stored."""
    command = click.option("-b", "--brotli", is_flag=True, help="The same by brotli.")(command)
    return click.option("-z", "--gzip", is_flag=True, help="Compress by gzip what is worth it; plain by default.")(
        command
    )


def strategy_of(gzip: bool, brotli: bool) -> barc.Strategy:
    exclusive({"--gzip": gzip, "--brotli": brotli})
    if gzip or brotli:
        return barc.Strategy.gzip() if gzip else barc.Strategy.brotli()
    return barc.Strategy.plain()


def reading(files: tuple[str, ...], quiet: bool) -> Progress:
    """For a command that reads all of these; one that can't be read is told of when it is its turn."""
    total = 0
    for name in files:
        with contextlib.suppress(OSError):
            total += Path(name).stat().st_size
    return Progress("record", total, by_size=True, quiet=quiet)


@contextlib.contextmanager
def opened(name: str, tunables: Tunables, *, keep_going: bool = False) -> Iterator[barc.Archive]:
    """An archive to read, of whose errors one can tell in which file they are."""
    with barc.open(name, tunables=tunables, keep_going=keep_going) as archive, told_of(name):
        yield archive


@contextlib.contextmanager
def told_of(
    name: str, record: barc.Record | None = None, *, to: str | None = None, mended: bool = False
) -> Iterator[None]:
    """Says of what is wrong with an archive in which file it is, and of what is wrong with a record of which; of one
    that is on its way `to` another file, what fails may be either's. One that is to be appended to has to be `mended`
    first."""
    try:
        yield
    except (ArchiveError, BodyTooLong) as error:
        mends = mended and isinstance(error, ArchiveError) and _is_archive(name)
        how = "; penstock repair mends archives" if mends else ""
        raise Failure(f"{name}: {error}{how}") from error
    except (HeadTooLong, Truncated) as error:
        if record is None:
            raise
        raise Failure(f"{_at(name, record.offset)}: {error}") from error
    except OSError as error:
        if record is None or to is None:
            raise
        raise Failure(f"{_at(name, record.offset)}, to {to}: {error}") from error


def _is_archive(name: str) -> bool:
    """Whether a file has at least begun as one: another, or one that is gone, is nothing to be mended."""
    with contextlib.suppress(OSError), open(name, "rb") as file:
        return file.read(len(b"BARC2 ")) == b"BARC2 "
    return False


def each(archive: barc.Archive, items: barc.Records[T]) -> Iterator[T]:
    """What is read from an archive. Where that fails, it is said in which file and where; what is done with it
    has errors of its own."""
    try:
        yield from items
    except BodyTooLong as error:
        raise Failure(f"{_at(os.fspath(archive.path), items.offset)}: {error}") from error
    except OSError as error:
        raise Unread(archive, items.offset, error) from error


class Unread(Failure):
    """An archive can't be read on."""

    def __init__(self, archive: barc.Archive, offset: int, error: OSError) -> None:
        super().__init__(f"{os.fspath(archive.path)}: at byte {offset} of the archive: {error.strerror or error}")


def _at(name: str, offset: int | None) -> str:
    return f"{name}: record at byte {offset} of the archive"


def extent(record: barc.Record | barc.Entry) -> int:
    """Bytes of the archive that a record, read from there, takes."""
    assert record.offset is not None
    assert record.end is not None
    return record.end - record.offset
