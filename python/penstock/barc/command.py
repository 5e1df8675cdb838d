"""The commands on archives: `cat`, `cp`, `ls`, `check` and `repair`. `cat` and `cp` have the options and the output of
upstream's `barc`."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from penstock import barc
from penstock.errors import ArchiveError, PenstockError

__all__ = ["configure"]

PARTS = ("meta", "req-head", "req-body", "res-head", "res-body")

EXAMPLES = {
    "cat": "examples:\n  penstock cat crawl.barc\n  penstock cat --meta --index 10 --count 2 crawl.barc\n"
    "  penstock cat --res-body --offset 0x1a0 --count 1 crawl.barc",
    "cp": "examples:\n  penstock cp -z crawl.barc small.barc\n  penstock cp monday.barc tuesday.barc week.barc\n"
    "  penstock cp --keep-going damaged.barc good.barc",
    "ls": "examples:\n  penstock ls crawl.barc\n  penstock ls --json crawl.barc | jq .url",
    "check": "examples:\n  penstock check crawl.barc && echo good",
    "repair": "examples:\n  penstock repair crawl.barc",
}


class Failure(Exception):
    """Ends a command with exit status 2; its text is what the user gets."""


def configure(commands: Any) -> None:
    """Adds the commands to the parser of `penstock`."""

    def command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text[:1].upper() + text[1:] + ".",
            epilog=EXAMPLES[name] + "\n\nexit status: 0 done, 1 wrong usage, 2 an error or damage, 130 interrupted",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=lambda arguments: _status(run, arguments))
        return parser

    def positions(parser: argparse.ArgumentParser) -> None:
        start = parser.add_mutually_exclusive_group()
        start.add_argument("-o", "--offset", metavar="N", help="start at this byte, in decimal or as 0x…")
        start.add_argument("-i", "--index", metavar="N", help="start at this record, counted from 0")
        parser.add_argument("-c", "--count", metavar="N", help="so many records")

    cat = command("cat", _cat, "print records of archives")
    positions(cat)
    for part in PARTS:
        cat.add_argument(f"--{part}", action="store_true", help="only this part, and others that are asked for")
    cat.add_argument("files", nargs="+", metavar="FILE")

    cp = command("cp", _cp, "append the records of archives to another one")
    positions(cp)
    kind = cp.add_mutually_exclusive_group()
    kind.add_argument("-z", "--gzip", action="store_true", help="compress what is worth it; plain by default")
    kind.add_argument("-b", "--brotli", action="store_true", help="the same with brotli")
    cp.add_argument("--keep-going", action="store_true", help="go past damage, and tell of it")
    cp.add_argument("files", nargs="+", metavar="FILE")
    cp.add_argument("out", metavar="OUT")

    ls = command("ls", _ls, "list the records of archives: offset, storage, status, sizes of both bodies, method, URL")
    ls.add_argument("--json", action="store_true", help="an object a line")
    ls.add_argument("files", nargs="+", metavar="FILE")

    check = command("check", _check, "read all of each archive, and tell what is wrong and where")
    check.add_argument("files", nargs="+", metavar="FILE")

    repair = command("repair", _repair, "mend an archive in place: no good record is moved")
    repair.add_argument("file", metavar="FILE")


def _status(run: Callable[[Any], int], arguments: Any) -> int:
    try:
        status = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    except KeyboardInterrupt:
        return 130
    except (Failure, PenstockError, OSError, ValueError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    return status


def _number(arguments: Any, name: str) -> int | None:
    text = getattr(arguments, name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]+|0x[0-9a-fA-F]+" if name == "offset" else r"[0-9]+", text):
        raise Failure(f"--{name} {text}: not a number")
    return int(text, 0) if text.startswith("0x") else int(text)


def _chosen(archive: barc.Archive, arguments: Any) -> Iterator[barc.Record]:
    """The records that the options ask for."""
    start, index, count = (_number(arguments, name) for name in ("offset", "index", "count"))
    if index:
        before = list(itertools.islice(archive.entries(), index))
        if len(before) < index:
            return iter(())
        start = before[-1].end
    return itertools.islice(archive.records(start or 0), count)


def _check_positions(arguments: Any) -> None:
    for name in ("offset", "index", "count"):
        if _number(arguments, name) is not None and len(arguments.files) > 1:
            raise Failure(f"--{name} flag can't be applied to more than one input file")


def _cat(arguments: Any) -> int:
    _check_positions(arguments)
    asked = {part for part in PARTS if getattr(arguments, part.replace("-", "_"))} or set(PARTS)
    out = sys.stdout.buffer
    for name in arguments.files:
        with barc.open(name) as archive:
            for record in _chosen(archive, arguments):
                out.write(f"====== file {name:-<38} offset 0x{record.offset:010x} ======\n".encode())
                _print(record, asked, out)
    return 0


def _print(record: barc.Record, asked: set[str], out: BinaryIO) -> None:
    for part, block in (("meta", record.meta), ("req-head", record.req_headers), ("res-head", record.res_headers)):
        if part in asked and block:
            out.writelines(b"%b: %b\r\n" % line for line in block.raw)
            out.write(b"\r\n")
        # Bodies follow their heads.
        body = {"req-head": record.req_body, "res-head": record.res_body}.get(part)
        if body and part.replace("head", "body") in asked:
            body.write_to(out)
            out.write(b"\r\n")


def _cp(arguments: Any) -> int:
    _check_positions(arguments)
    for name in arguments.files:
        if Path(arguments.out).exists() and Path(name).samefile(arguments.out):
            raise Failure(f"BARC input and output file are the same: {name}")
        # A missing one makes no output.
        barc.open(name).close()
    strategy = barc.Strategy.plain()
    if arguments.gzip or arguments.brotli:
        strategy = barc.Strategy.gzip() if arguments.gzip else barc.Strategy.brotli()
    damaged = False
    with barc.open(arguments.out, "a", strategy=strategy) as out:
        for name in arguments.files:
            with barc.open(name, keep_going=arguments.keep_going) as archive:
                for record in _chosen(archive, arguments):
                    out.append(record)
                damaged |= _tell(name, archive.damage)
    return 2 if damaged else 0


def _tell(name: str, damage: Iterable[ArchiveError]) -> bool:
    told = False
    for error in damage:
        print(f"{name}: 0x{error.offset:010x}: {error.kind}: {error}", file=sys.stderr)
        told = True
    return told


def _ls(arguments: Any) -> int:
    for name in arguments.files:
        with barc.open(name) as archive:
            for record in archive:
                status = record.meta.get("response-status", "")[:3]
                method, url = record.meta.get("method", ""), record.meta.get("url", "")
                sizes = len(record.req_body), len(record.res_body)
                if arguments.json:
                    fields = {
                        "file": name,
                        "offset": record.offset,
                        "end": record.end,
                        "compression": record.compression,
                        "status": int(status) if status.isdigit() else None,
                        "method": method or None,
                        "url": url or None,
                        "req_body": sizes[0],
                        "res_body": sizes[1],
                    }
                    print(json.dumps(fields))
                else:
                    place = f"0x{record.offset:010x} {record.compression:6}"
                    print(f"{place} {status or '-':>3} {sizes[0]:>9} {sizes[1]:>11} {method or '-':4} {url or '-'}")
    return 0


def _check(arguments: Any) -> int:
    damaged = False
    for name in arguments.files:
        good = bad = 0
        with barc.open(name) as archive:
            for found in archive.check():
                if isinstance(found, ArchiveError):
                    bad += 1
                    print(f"{name}: 0x{found.offset:010x}: {found.kind}: {found}")
                else:
                    good += 1
        print(f"{name}: {good} good records, {bad} damaged places")
        damaged |= bad > 0
    return 2 if damaged else 0


def _repair(arguments: Any) -> int:
    name = arguments.file
    mended = barc.repair(name)
    for place in mended:
        what = "cut off" if place.cut else "covered"
        print(f"{name}: 0x{place.offset:010x}: {place.end - place.offset} bytes {what}: {place.error}")
    print(f"{name}: {len(mended)} places mended")
    return 0
