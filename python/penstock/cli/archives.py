"""The commands on archives: `cat`, `cp`, `ls`, `check` and `repair`. `cat` and `cp` have the options and the output of
upstream's `barc`."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from penstock import barc
from penstock.body.image import BodyImage
from penstock.cli.common import (
    Command,
    Failure,
    counted,
    exclusive,
    json_option,
    limited,
    print_json,
    quiet_option,
    shown,
    tell,
    tunables_of,
)
from penstock.cli.files import (
    FILE,
    Unread,
    compressed,
    each,
    extent,
    opened,
    reading,
    several,
    strategy_of,
    told_of,
)
from penstock.errors import ArchiveError, HeadTooLong, PenstockError

__all__ = ["COMMANDS", "Span"]

F = TypeVar("F", bound=Callable[..., Any])

PIECE = 3 << 14
"""Bytes of a body that are made into base64 at a time: a multiple of three, so that no padding comes between."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Which records of an archive are asked for."""

    offset: int | None
    index: int | None
    count: int | None

    def of(self, archive: barc.Archive) -> Iterator[barc.Record]:
        start = self.offset or 0
        if self.index:
            entries = archive.entries()
            if sum(1 for _ in itertools.islice(each(archive, entries), self.index)) < self.index:
                return iter(())
            start = entries.offset
        return itertools.islice(each(archive, archive.records(start)), self.count)


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if re.fullmatch("[0-9]+", text):
        number = int(text)
    elif name == "offset" and re.fullmatch("0x[0-9a-fA-F]+", text):
        number = int(text, 16)
    else:
        raise Failure(f"--{name} {text}: not a number")
    if number > sys.maxsize:
        raise Failure(f"--{name} {text}: too large a number")
    return number


def spanned(command: F) -> F:
    """Adds the options that choose records of a single file."""
    for option in (
        click.option("-c", "--count", metavar="N", help="How many records to take."),
        click.option("-i", "--index", metavar="N", help="Start at this record, counted from 0."),
        click.option("-o", "--offset", metavar="N", help="Start at this byte, in decimal or as 0x…"),
    ):
        command = option(command)
    return command


def _span(files: tuple[str, ...], texts: dict[str, str | None]) -> Span:
    exclusive({"--offset": texts["offset"], "--index": texts["index"]})
    span = Span(**{name: _number(name, text) for name, text in texts.items()})
    for name, number in dataclasses.asdict(span).items():
        if number is not None and len(files) > 1:
            raise Failure(f"--{name} flag can't be applied to more than one input file")
    return span


@click.command(
    cls=Command,
    examples="""\
penstock cat crawl.barc
penstock cat --meta --index 10 --count 2 crawl.barc
penstock cat --res-body --offset 0x1a0 --count 1 crawl.barc""",
)
@spanned
@click.option("--meta-head", "meta", is_flag=True, hidden=True)
@click.option("--meta", is_flag=True, help="Only the lines on the dialog, and other parts asked for.")
@click.option("--req-head", is_flag=True, help="Only the request's headers, and other parts asked for.")
@click.option("--req-body", is_flag=True, help="Only the request's body, and other parts asked for.")
@click.option("--res-head", is_flag=True, help="Only the response's headers, and other parts asked for.")
@click.option("--res-body", is_flag=True, help="Only the response's body, and other parts asked for.")
@limited
@json_option
@several
def cat(
    files: tuple[str, ...],
    offset: str | None,
    index: str | None,
    count: str | None,
    max_body: str,
    as_json: bool,
    **parts: bool,
) -> int:
    """Print records of archives."""
    span = _span(files, {"offset": offset, "index": index, "count": count})
    asked = {part for part, given in parts.items() if given} or set(parts)
    show = _show_as_json if as_json else _show
    tunables = tunables_of(max_body)
    for name in files:
        with opened(name, tunables) as archive:
            for record in span.of(archive):
                with told_of(name, record):
                    show(name, record, asked, sys.stdout.buffer)
    return 0


def _parts(record: barc.Record, asked: set[str]) -> Iterator[tuple[str, Any]]:
    """Those that were asked for, in the order of the file: lines of headers, or a body."""
    parts = {
        "meta": record.meta.raw,
        "req_head": record.req_headers.raw,
        "req_body": record.req_body,
        "res_head": record.res_headers.raw,
        "res_body": record.res_body,
    }
    return ((name, part) for name, part in parts.items() if name in asked)


def _show(name: str, record: barc.Record, asked: set[str], out: BinaryIO) -> None:
    out.write(f"====== file {name:-<38} offset 0x{record.offset:010x} ======\n".encode(errors="surrogateescape"))
    for _, part in _parts(record, asked):
        if not part:
            continue
        if isinstance(part, BodyImage):
            part.write_to(out)
        else:
            out.writelines(b"%b: %b\r\n" % line for line in part)
        out.write(b"\r\n")


def _show_as_json(name: str, record: barc.Record, asked: set[str], out: BinaryIO) -> None:
    """Headers as pairs of text (latin-1), bodies in base64, a piece at a time."""
    out.write(json.dumps({"file": name, "offset": record.offset}).removesuffix("}").encode())
    for key, part in _parts(record, asked):
        out.write(f', "{key}": '.encode())
        if isinstance(part, BodyImage):
            out.write(b'"')
            with part.open(PIECE) as body:
                while piece := body.read(PIECE):
                    out.write(base64.b64encode(piece))
            out.write(b'"')
        else:
            out.write(json.dumps([[field.decode("latin-1") for field in line] for line in part]).encode())
    out.write(b"}\n")


@click.command(
    cls=Command,
    examples="""\
penstock cp -z crawl.barc small.barc
penstock cp monday.barc tuesday.barc week.barc
penstock cp --keep-going damaged.barc good.barc""",
)
@spanned
@compressed
@click.option("--keep-going", is_flag=True, help="Pass over damage and what can't be written, and report it.")
@limited
@json_option
@quiet_option
@several
@click.argument("out", type=FILE)
def cp(
    files: tuple[str, ...],
    out: str,
    offset: str | None,
    index: str | None,
    count: str | None,
    gzip: bool,
    brotli: bool,
    keep_going: bool,
    max_body: str,
    as_json: bool,
    quiet: bool,
) -> int:
    """Append the records of archives to another one."""
    span = _span(files, {"offset": offset, "index": index, "count": count})
    strategy = strategy_of(gzip, brotli)
    tunables = tunables_of(max_body)
    for name in files:
        if Path(out).exists() and Path(name).samefile(out):
            raise Failure(f"BARC input and output file are the same: {name}")
        # A missing one makes no output.
        barc.open(name).close()
    damaged = False
    with told_of(out, mended=True):
        target = barc.open(out, "a", strategy=strategy)
    with target, reading(files, quiet) as progress:
        for name in files:
            with opened(name, tunables, keep_going=keep_going) as archive:
                copied = bad = 0
                try:
                    for record in span.of(archive):
                        bad += _tell_damage(name, archive, as_json)
                        with told_of(name, record, to=out):
                            try:
                                target.append(record)
                            except HeadTooLong as error:
                                if not keep_going:
                                    raise
                                archive.damage.append(_unwritable(record, error))
                                continue
                        copied += 1
                        progress.add(1, extent(record))
                except Unread as failure:
                    # There may be no space for a body, either, nor for the next.
                    if not keep_going or isinstance(failure.__cause__, PenstockError):
                        raise
                    damaged = True
                    _tell_failure(name, failure, as_json)
                finally:
                    # Also of what it had gone past when something ends it.
                    bad += _tell_damage(name, archive, as_json)
                if as_json:
                    print_json(file=name, copied=copied, damaged=bad)
                damaged |= bad > 0
    return 2 if damaged else 0


def _unwritable(record: barc.Record, error: HeadTooLong) -> ArchiveError:
    message = f"record at byte {record.offset} of the archive: {error}"
    return ArchiveError(message, offset=record.offset, kind="too-long", end=record.end)


def _tell_damage(name: str, archive: barc.Archive, as_json: bool) -> int:
    """Tells of what was gone past since the last time, of which the archive keeps the latest only; how many places."""
    count = 0
    while archive.damage:
        error = archive.damage.popleft()
        count += 1
        if as_json:
            _print_problem(name, error)
        else:
            tell(_place(name, error))
    return count


def _tell_failure(name: str, failure: Failure, as_json: bool) -> None:
    """Tells of an archive that can't be read, or not on."""
    tell(f"penstock: {failure}")
    if as_json:
        print_json(file=name, error=str(failure))


def _checked(name: str) -> Iterator[barc.Entry | ArchiveError | Failure]:
    """What is found in an archive; a failure comes last, where it can't be read."""
    at: int | None = None
    try:
        with barc.open(name) as archive:
            at = 0
            for found in archive.check():
                yield found
                at = found.end or at
    except OSError as error:
        yield Failure(str(error)) if at is None else Unread(archive, at, error)


def _place(name: str, error: ArchiveError) -> str:
    return f"{name}: 0x{error.offset:010x}: {error.kind}: {error}"


def _print_problem(name: str, error: ArchiveError) -> None:
    print_json(file=name, offset=error.offset, end=error.end, kind=error.kind, error=str(error))


@click.command(cls=Command, examples="penstock ls crawl.barc\npenstock ls --json crawl.barc | jq .url")
@limited
@json_option
@several
def ls(files: tuple[str, ...], max_body: str, as_json: bool) -> int:
    """List the records of archives.

    A line has offset, storage, status, sizes of the request's and the response's body, method and URL; of several files
    it begins with the file.
    """
    tunables = tunables_of(max_body)
    for name in files:
        file = f"{name}: " if len(files) > 1 else ""
        with opened(name, tunables) as archive:
            for record in each(archive, archive.records()):
                status = record.meta.get("response-status", "")[:3]
                method, url = record.meta.get("method", ""), record.meta.get("url", "")
                sizes = len(record.req_body), len(record.res_body)
                if as_json:
                    codings = record.res_headers.get_all("content-encoding")
                    print_json(
                        file=name,
                        offset=record.offset,
                        end=record.end,
                        compression=record.compression,
                        coding=", ".join(codings).lower() or None,
                        status=int(status) if status.isdecimal() else None,
                        method=method or None,
                        url=url or None,
                        req_body=sizes[0],
                        res_body=sizes[1],
                    )
                else:
                    place = f"{file}0x{record.offset:010x} {record.compression:6}"
                    line = f"{place} {status or '-':>3} {sizes[0]:>9} {sizes[1]:>11} {method or '-':4} {url or '-'}"
                    print(shown(line))
    return 0


@click.command(cls=Command, examples="penstock check crawl.barc && echo good")
@json_option
@quiet_option
@several
def check(files: tuple[str, ...], as_json: bool, quiet: bool) -> int:
    """Read all of each archive, and tell what is wrong and where."""
    damaged = False
    with reading(files, quiet) as progress:
        for name in files:
            good = bad = 0
            for found in _checked(name):
                if isinstance(found, barc.Entry):
                    good += 1
                    progress.add(1, extent(found))
                elif isinstance(found, Failure):
                    damaged = True
                    _tell_failure(name, found, as_json)
                    break
                else:
                    bad += 1
                    if as_json:
                        _print_problem(name, found)
                    else:
                        print(_place(name, found))
            else:
                if as_json:
                    print_json(file=name, good=good, damaged=bad)
                else:
                    print(f"{name}: {counted(good, 'good record')}, {counted(bad, 'damaged place')}")
            damaged |= bad > 0
    return 2 if damaged else 0


@click.command(cls=Command, examples="penstock repair crawl.barc")
@json_option
@quiet_option
@click.argument("file", type=FILE)
def repair(file: str, as_json: bool, quiet: bool) -> int:
    """Mend an archive in place: no good record is moved."""
    with reading((file,), quiet) as progress, told_of(file):
        mended = barc.repair(file, progress=progress.add)
    for offset, end, cut, error in mended:
        if as_json:
            print_json(file=file, offset=offset, end=end, cut=cut, error=str(error))
        else:
            done = f"{counted(end - offset, 'byte')} {'cut off' if cut else 'covered'}"
            print(f"{file}: 0x{offset:010x}: {done}: {error}")
    if as_json:
        print_json(file=file, mended=len(mended))
    else:
        print(f"{file}: {counted(len(mended), 'place')} mended")
    return 0


COMMANDS = (cat, cp, ls, check, repair)
