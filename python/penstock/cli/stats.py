"""`stats`: what an archive holds, in figures."""

from __future__ import annotations

import collections
import heapq
import statistics
import urllib.parse
from collections.abc import Mapping
from typing import Any

import click

from penstock import barc
from penstock.cli.common import (
    Command,
    counted,
    human,
    json_option,
    limited,
    print_json,
    quiet_option,
    shown,
    tell,
    tunables_of,
)
from penstock.cli.files import each, extent, opened, reading, several
from penstock.headers import Headers

__all__ = ["stats"]

HEAD = 54
"""Bytes of a record's head."""

MOST = 1 << 20
"""Keys that are counted at a time."""

LONGEST = 256
"""Characters of a key; a host has fewer."""

PORTS = {"http": 80, "https": 443}


class Counts:
    """How often keys were added. Where there are too many to remember, the rare ones are forgotten."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.lacking = 0
        """By so much, at most, a count is too low."""

    def add(self, key: str) -> None:
        if len(key) > LONGEST:
            key = f"{key[:LONGEST]}…"
        self.counts[key] = self.counts.get(key, 0) + 1
        if len(self.counts) > MOST:
            middle = statistics.median_low(self.counts.values())
            self.lacking += middle
            self.counts = {key: count for key, count in self.counts.items() if count > middle}

    def most(self, top: int) -> dict[str, int]:
        return dict(collections.Counter(self.counts).most_common(top))


class Figures:
    """Of all records that were added."""

    def __init__(self, top: int) -> None:
        self.records = 0
        self.stored = 0
        self.plain = 0
        """Bytes that the same records would take uncompressed."""
        self.req_bodies = 0
        self.res_bodies = 0
        self.storage: collections.Counter[str] = collections.Counter()
        self.codings = Counts()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.hosts = Counts()
        self.biggest: list[tuple[int, int, str]] = []
        """Size of the response's body, offset and URL; a heap."""
        self._top = top

    def add(self, record: barc.Record) -> None:
        assert record.offset is not None  # as it was read from an archive
        url = record.meta.get("url", "-")
        req_body, res_body = len(record.req_body), len(record.res_body)
        self.records += 1
        self.stored += extent(record)
        heads = sum(map(_length, (record.meta, record.req_headers, record.res_headers)))
        self.plain += HEAD + heads + sum(size + 2 for size in (req_body, res_body) if size)
        self.req_bodies += req_body
        self.res_bodies += res_body
        self.storage[record.compression] += 1
        self.codings.add(", ".join(record.res_headers.get_all("content-encoding")).lower() or "none")
        self.statuses[record.meta.get("response-status", "-")[:3]] += 1
        self.hosts.add(_host(url))
        entry = (res_body, record.offset, url)
        if len(self.biggest) < self._top:
            heapq.heappush(self.biggest, entry)
        elif self.biggest:
            heapq.heappushpop(self.biggest, entry)

    def as_dict(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "stored": self.stored,
            "plain": self.plain,
            "req_bodies": self.req_bodies,
            "res_bodies": self.res_bodies,
            "storage": dict(self.storage),
            "codings": self.codings.most(self._top),
            "statuses": dict(sorted(self.statuses.items())),
            "hosts": self.hosts.most(self._top),
            "biggest": [
                {"offset": offset, "res_body": size, "url": url}
                for size, offset, url in sorted(self.biggest, key=lambda entry: (-entry[0], entry[1]))
            ],
        }


def _host(url: str) -> str:
    """With its port, if that isn't the scheme's; `-` of what is no URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "-", parts.port
    except ValueError:
        return "-"
    return host if port is None or port == PORTS.get(parts.scheme) else f"{host}:{port}"


def _length(block: Headers) -> int:
    """In a plain record, with the blank line."""
    return sum(len(name) + len(value) + 4 for name, value in block.raw) + 2 if block else 0


def _show(name: str, figures: Mapping[str, Any]) -> None:
    ratio = f" ({figures['stored'] / figures['plain']:.0%})" if figures["plain"] else ""
    print(f"{name}: {counted(figures['records'], 'record')}")
    print(f"  size      {human(figures['stored'])}, uncompressed {human(figures['plain'])}{ratio}")
    print(f"  bodies    {human(figures['req_bodies'])} sent, {human(figures['res_bodies'])} received")
    for title in ("storage", "codings", "statuses", "hosts"):
        for number, (key, count) in enumerate(figures[title].items()):
            print(f"  {title if number == 0 else '':9} {count:>7,} {shown(key)}")
    for number, entry in enumerate(figures["biggest"]):
        title = "biggest" if number == 0 else ""
        print(f"  {title:9} 0x{entry['offset']:010x} {human(entry['res_body']):>9} {shown(entry['url'])}")


@click.command(
    cls=Command, examples="penstock stats crawl.barc\npenstock stats --json --top 100 crawl.barc | jq .hosts"
)
@click.option(
    "--top", metavar="N", type=click.IntRange(0), default=10, show_default=True, help="How many of each kind to list."
)
@limited
@json_option
@quiet_option
@several
def stats(files: tuple[str, ...], top: int, max_body: str, as_json: bool, quiet: bool) -> int:
    """Tell what archives hold: sizes, storage, codings, statuses, hosts, and the biggest bodies."""
    tunables = tunables_of(max_body)
    with reading(files, quiet) as progress:
        for name in files:
            figures = Figures(top)
            with opened(name, tunables) as archive:
                for record in each(archive, archive.records()):
                    figures.add(record)
                    progress.add(1, extent(record))
            for kind, counts in (("codings", figures.codings), ("hosts", figures.hosts)):
                if counts.lacking:
                    lacking = f"counts of them are {counts.lacking:,} too low at most"
                    tell(f"penstock: {name}: more than {MOST:,} {kind}: {lacking}")
            if as_json:
                print_json(file=name, **figures.as_dict())
            else:
                _show(name, figures.as_dict())
    return 0
