"""`python -m benches.python.archives`: archives read and written, beside upstream's Rust.

Records of a page each, 1,000 of 16 KiB and 16 of 8 MiB, plain and by gzip at level 6: read with each header line and
each byte of the bodies looked at, and written from memory to a new file. Each row's result is checked before it is
timed: what it reads, and what can be read of what it has written. Beside that, what a record of 200 MB takes of memory.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import penstock
from penstock import barc
from penstock.bench import machine
from penstock.bench.progress import Progress
from penstock.bench.results import Settings
from penstock.bench.rounds import Child, DebugBuildError, Pace, Rounds, RowError, Variant
from penstock.headers import headers_of

from benches import archive_report
from benches.archive_targets import BY_HAND, CORE, PYTHON, UPSTREAM
from benches.python import native, options
from benches.python.archives_worker import STRATEGIES, checksum

HUGE = 200_000_000
SIZES = {"small": (1000, 16 * 1024), "large": (16, 8 * 1024 * 1024), "huge": (1, HUGE)}
# A turn's batches: a few tenths of a second for each row.
BATCHES = {("small", "plain"): 8, ("large", "plain"): 4, ("small", "gzip"): 1, ("large", "gzip"): 1}

# Who maps the archive, and what that row is called.
MAPPED = {UPSTREAM: "upstream mapped", BY_HAND: "by hand, mapped before"}

QUICK = Pace(rounds=1, warmup=0, batches=1)

REQUEST = [
    ("Host", "www.example.com"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, br"),
    ("Connection", "keep-alive"),
    ("Referer", "https://www.example.com/archive/"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef"),
]
RESPONSE = [
    ("Date", "Tue, 02 Jan 2024 03:04:05 GMT"),
    ("Server", "Apache/2.4.57"),
    ("Content-Type", "text/html; charset=utf-8"),
    ("Vary", "Accept-Encoding"),
    ("Cache-Control", "max-age=600"),
    ("ETag", '"5f-0123456789abc"'),
    ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ("Set-Cookie", "a=1; Path=/"),
    ("Set-Cookie", "b=2; Path=/"),
    ("X-Frame-Options", "DENY"),
    ("Strict-Transport-Security", "max-age=63072000"),
]


def page(number: int, body: penstock.BodyImage) -> penstock.Dialog:
    """The dialog that a record is made of."""
    return penstock.Dialog(
        penstock.Prolog(
            method="GET", url=f"https://www.example.com/archive/page-{number}.html", req_headers=headers_of(REQUEST)
        ),
        penstock.Epilog(
            version="HTTP/1.1",
            status=200,
            res_headers=headers_of([*RESPONSE, ("Content-Length", str(len(body)))]),
            res_body=body,
            res_decoded=("chunked", "gzip", "identity"),
        ),
    )


def prose(size: int, seed: int) -> bytes:
    """Words as they are in a text, a few often and many seldom: gzip makes a third of it."""
    source = random.Random(seed)
    words = ["".join(source.choices("etaoinshrdlucmfwyp", k=source.randint(2, 9))) for _ in range(2000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    made = bytearray()
    while len(made) < size:
        made += b"<p>%b</p>\n" % " ".join(source.choices(words, weights, k=2000)).encode()
    return bytes(made[:size])


def fill(path: Path, count: int, size: int, strategy: barc.Strategy) -> None:
    """Makes an archive of so many records with a body of `size` each: pages, no two alike, or zeros if it is huge."""
    with barc.open(path, "a", strategy=strategy) as archive:
        if size == HUGE:
            hole = path.with_suffix(".hole")
            with hole.open("wb") as file:
                file.truncate(size)
            archive.append(page(0, penstock.BodyImage.from_path(hole)))
            hole.unlink()
            return
        text = prose(size + 64 * 1024, seed=1)
        for number in range(count):
            first = number * 61 % (64 * 1024)
            # The greatest byte is the last: whoever looks at all of them finds it.
            body = text[first : first + size - 1] + b"\xff"
            archive.append(page(number, penstock.BodyImage.from_bytes(body)))


def _row(case: str, client: str, command: Sequence[str], action: str, source: Path) -> Variant:
    _, size, kind = case.split()
    store = _store(source.parent)
    row_id = f"{case}/{store}/{client}"
    output = source.with_name(re.sub(r"\W+", "-", row_id) + ".barc")
    return Variant(
        id=row_id,
        scenario=case,
        client=client,
        command=(*command, action, kind, str(source), str(output), str(source.parent)),
        framing=None,
        store=store,
        loop="none",
        kind="memory" if size == "huge" else "batch",
    )


def _store(folder: Path) -> str:
    return machine.file_system(next(parent for parent in folder.absolute().parents if parent.exists()))


def _case(folder: Path, programs: Mapping[str, Sequence[str]], action: str, size: str, kind: str) -> Iterator[Variant]:
    source = folder / f"{size}-{kind if action == 'read' else 'plain'}.barc"
    for client, command in programs.items():
        if client == BY_HAND and (size, kind) != ("large", "plain"):
            continue
        yield _row(f"{action} {size} {kind}", client, command, action, source)
        if (action, size, kind) == ("read", "large", "plain") and client in MAPPED:
            yield _row(f"{action} {size} {kind}", MAPPED[client], command, "map", source)


def sessions(folders: Sequence[Path], programs: Mapping[str, Sequence[str]]) -> Iterator[list[Variant]]:
    """All rows, a case each: what is compared takes turns. gzip doesn't wait for a file system, and is run on one."""
    for folder, action, size, kind in product(folders, ("read", "write"), ("small", "large"), STRATEGIES):
        if kind == "plain" or folder is folders[0]:
            yield list(_case(folder, programs, action, size, kind))
    for action in ("read", "write"):
        yield list(_case(folders[0], programs, action, "huge", "gzip"))


class Archives(Rounds):
    """The rounds of these rows; the records are made before the first."""

    def __init__(self, sessions: Sequence[Sequence[Variant]], pace: Pace, folders: Sequence[Path]) -> None:
        super().__init__(sessions, pace, packages=("penstock",), stores=[each.parent for each in folders])
        self._folders = folders
        self._sums: dict[str, int] = {}

    @contextmanager
    def prepared(self) -> Iterator[None]:
        needed = {Path(variant.command[-3]) for session in self._sessions for variant in session}
        try:
            for folder in self._folders:
                folder.mkdir(parents=True)
            for source in needed:
                size, _, kind = source.stem.partition("-")
                fill(source, *SIZES[size], STRATEGIES[kind])
                self._sums[str(source)] = checksum(str(source))
            yield
        finally:
            for folder in self._folders:
                shutil.rmtree(folder, ignore_errors=True)

    def command(self, variant: Variant) -> list[str]:
        return list(variant.command)

    def cpus(self, variant: Variant) -> frozenset[int] | None:
        return machine.processors()[1]

    def settings(self) -> Settings:
        cpus = machine.processors()[1]
        return {**super().settings(), "client_cpus": sorted(cpus) if cpus else None}

    def open(self, child: Child) -> None:
        """Checks that it reads or writes what it should."""
        super().open(child)
        action, _, source, output, _ = child.variant.command[-5:]
        found = child.ask("check")["crc32"]
        if action == "write":
            found = checksum(output)
        if found != self._sums[source]:
            raise RowError(f"{action} of {source}: the checksum is {found:08x}, not {self._sums[source]:08x}")

    def measure(self, child: Child) -> dict[str, Any]:
        if child.variant.kind == "memory":
            return child.means("grow")
        _, size, kind = child.variant.scenario.split()
        return child.batches(BATCHES[size, kind] * self._pace.batches)


def programs() -> dict[str, Sequence[str]]:
    """The clients that there are here; a line says why one can't be built."""
    found: dict[str, Sequence[str]] = {}
    for client, folder in ((UPSTREAM, "upstream"), (CORE, "core"), (BY_HAND, "floor")):
        try:
            found[client] = (str(native.build(folder, "archive")),)
        except native.Unavailable as reason:
            print(f"{client} is skipped: {reason}", file=sys.stderr)
    found[PYTHON] = (sys.executable, "-m", "benches.python.archives_worker")
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser("archives", __doc__, rounds=5)
    parser.add_argument(
        "--store",
        type=Path,
        nargs="+",
        default=[options.OUTPUT, Path("/dev/shm")],
        metavar="DIR",
        help="(default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    pace = options.pace(arguments, QUICK)
    folders = [store / f"archives-{os.getpid()}" for store in arguments.store]
    names = dict.fromkeys((UPSTREAM, CORE, BY_HAND, PYTHON), ()) if arguments.list else programs()
    chosen = options.chosen(sessions(folders, names), arguments.rows)
    if arguments.list:
        print(options.listed(chosen))
        return 0
    try:
        results = Archives(chosen, pace, folders).run(Progress())
    except DebugBuildError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    for name, table in archive_report.tables(results).items():
        print(f"\n{name}\n{table}")
    print(f"\nresults: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
