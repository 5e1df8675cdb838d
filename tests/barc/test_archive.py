"""Writing and reading archives on threads: what comes back, limits, locks, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import penstock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock import barc

from tests.barc.conftest import ALWAYS, STRATEGIES, MakeDialog, make_dialog, urls
from tests.conftest import check_traced


def test_an_archive_that_is_not_there_cannot_be_read_and_is_made_by_appending(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        barc.open(path)
    with barc.open(path, "a") as archive:
        assert list(archive) == []
    assert path.read_bytes() == b""
    gone = path.parent / "gone" / "x.barc"
    with pytest.raises(FileNotFoundError, match=re.escape(str(gone))) as raised:
        barc.open(gone, "a")
    assert raised.value.filename == str(gone)
    with pytest.raises(ValueError, match="mode='w'"):
        barc.open(path, "w")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"strategy='gzip': takes a Strategy, as Strategy\.gzip\(\)"):
        barc.open(path, "a", strategy="gzip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^tunables=5: takes Tunables, as "):
        barc.AsyncArchive(path, tunables=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^budget=5: takes a Budget, as "):
        barc.AsyncArchive(path, budget=5)  # type: ignore[arg-type]


def test_a_pipe_is_no_archive_and_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="cannot open as an archive the pipe") as raised:
        barc.open(path)
    assert raised.value.errno == errno.ESPIPE
    # A device would take a record and not have it.
    for name in (path, "/dev/null"):
        with pytest.raises(OSError, match=rf"cannot append to .*{name}.*: it is not a regular file"):
            barc.open(name, "a")


def test_a_directory_is_no_archive_and_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        barc.open(path)
    assert raised.value.filename == str(path)


def test_a_dialog_comes_back_as_it_was_appended(path: Path, dialog: MakeDialog, strategy: barc.Strategy) -> None:
    sent = dialog(7, b"response" * 100, req_body=penstock.BodyImage.from_bytes(b"request"), method="POST", status=201)
    with barc.open(path, "a", strategy=strategy) as archive:
        first, second = archive.append(sent), archive.append(dialog(8))
        assert first == 0
        record = archive.read(first)
        assert record is not None
        assert record.end == second
    assert record.compression == strategy.compression
    again = record.dialog()
    assert (again.method, again.url, again.version, again.status) == ("POST", sent.url, "HTTP/1.1", 201)
    assert again.req_headers.raw == sent.req_headers.raw
    assert again.res_headers.raw == sent.res_headers.raw
    assert again.res_headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert again.res_decoded == ("chunked", "identity")
    assert (bytes(again.req_body), bytes(again.res_body)) == (b"request", b"response" * 100)


def test_records_are_appended_to_those_that_are_there(three: tuple[Path, list[int]], dialog: MakeDialog) -> None:
    path, offsets = three
    with barc.open(path, "a") as archive:
        assert archive.append(dialog(3)) > offsets[-1]
    assert urls(path) == [f"http://sample.test/{number}" for number in range(4)]


def test_iteration_starts_where_it_is_told_and_says_where_it_is(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    with barc.open(path) as archive:
        records = archive.records(offsets[1])
        assert next(records).offset == offsets[1] == records.offset - (offsets[2] - offsets[1])
        assert [record.offset for record in records] == [offsets[2]]
        assert records.offset == path.stat().st_size
        assert [entry.offset for entry in archive.entries()] == offsets
        assert [record.offset for record in archive] == offsets == [record.offset for record in archive]


def test_an_iterator_gives_what_is_written_while_it_waits(path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a") as writer, barc.open(path) as reader:
        seen: list[str] = []
        start = 0
        for number in range(5):
            writer.append(dialog(number, os.urandom(number * 50_000)))
            records = reader.records(start)
            seen += [record.meta["url"] for record in records]
            start = records.offset
    assert seen == [f"http://sample.test/{number}" for number in range(5)]


def test_a_place_without_a_record(three: tuple[Path, list[int]]) -> None:
    path, offsets = three
    size = path.stat().st_size
    with barc.open(path) as archive:
        assert archive.read(size) is None
        assert archive.read(size + 1_000_000) is None
        with pytest.raises(penstock.ArchiveError) as raised:
            archive.read(offsets[1] + 1)
        assert (raised.value.offset, raised.value.kind) == (offsets[1] + 1, "not-a-head")
        with pytest.raises(penstock.ArchiveError) as raised:
            archive.read(size - 5)
        assert raised.value.kind == "incomplete-head"
        assert archive.read(offsets[1]) is not None


@pytest.mark.parametrize("store", ["ram", "file", "mmap", "slice"])
def test_a_body_of_any_store_is_written(
    store: str, path: Path, tmp_path: Path, dialog: MakeDialog, strategy: barc.Strategy
) -> None:
    data = os.urandom(700_001)
    outside = tmp_path / "outside"
    outside.write_bytes(b"before" + data + b"behind")
    image = penstock.BodyImage.from_path(outside, offset=6, length=len(data), trusted=store == "mmap")
    if store == "ram":
        image = penstock.BodyImage.from_bytes(data)
    elif store == "mmap":
        image = image.mmap()
    assert image.state == store.replace("slice", "file")
    with barc.open(path, "a", strategy=strategy) as archive:
        record = archive.read(archive.append(dialog(0, image, req_body=image)))
        assert record is not None
        assert bytes(record.req_body) == bytes(record.res_body) == data


def test_a_large_plain_body_is_a_slice_of_the_archive_and_outlives_it(path: Path, dialog: MakeDialog) -> None:
    data = os.urandom(1_000_000)
    with barc.open(path, "a") as archive:
        archive.append(dialog(0, data))
        archive.append(dialog(1, data[:1000]))
    with barc.open(path) as archive:
        large, small = (record.res_body for record in archive)
    assert (large.state, small.state) == ("file", "ram")
    assert b"".join(large.chunks(70_000)) == data


def test_a_large_compressed_body_goes_to_a_file_of_its_own(path: Path, tmp_path: Path, dialog: MakeDialog) -> None:
    budget = penstock.Budget()
    with barc.open(path, "a") as archive:
        archive.append(dialog(0, bytes(1_000_000)), strategy=STRATEGIES["gzip"])
    with barc.open(path, tunables=penstock.Tunables(temp_dir=tmp_path), budget=budget) as archive:
        (record,) = archive
        assert record.res_body.state == "file"
        assert budget.stats()["files"]["used"] == 1
        assert bytes(record.res_body) == bytes(1_000_000)


def test_large_records_are_read_one_by_one(path: Path, tmp_path: Path, dialog: MakeDialog) -> None:
    budget = penstock.Budget()
    with barc.open(path, "a", strategy=STRATEGIES["gzip"]) as archive:
        bodies = [archive.append(dialog(number, os.urandom(1_100_000))) for number in range(3)]
        lines = [("x", "y" * 600_000)]
        heads = [archive.append(barc.Record(req_headers=lines, res_headers=lines)) for _ in range(3)]
    with barc.open(path, tunables=penstock.Tunables(temp_dir=tmp_path), budget=budget) as archive:
        first = next(archive.records())
        assert (first.res_body.state, budget.stats()["files"]["used"]) == ("file", 1)
        reader = archive._reading()
        assert len(reader.walk("verified", False).batch_op(bodies[0])()) == 1
        assert len(reader.walk("records", False).batch_op(heads[0])()) == 1


@pytest.mark.parametrize("kind", STRATEGIES)
def test_meta_is_read_without_what_stands_behind_it(kind: str, path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a", strategy=STRATEGIES[kind]) as archive:
        offsets = [archive.append(dialog(number, os.urandom(number * 150_000))) for number in range(3)]
    # With which no body could be read.
    with barc.open(path, tunables=penstock.Tunables(max_body=0)) as archive:
        entries = list(archive.entries())
        found = list(archive.metas())
        assert list(archive.metas(offsets[1])) == found[1:]
    assert [entry for entry, _ in found] == entries
    assert [meta["url"] for _, meta in found] == [f"http://sample.test/{number}" for number in range(3)]


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("part", ["req_body", "res_body"])
def test_max_body_holds_for_every_body(kind: str, part: str, path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a", strategy=STRATEGIES[kind]) as archive:
        archive.append(dialog(0, **{part: penstock.BodyImage.from_bytes(bytes(100_001))}))
        archive.append(dialog(1))
    with barc.open(path, tunables=penstock.Tunables(max_body=100_000)) as archive:
        with pytest.raises(penstock.BodyTooLong) as raised:
            list(archive)
        assert raised.value.limit == 100_000
        first = next(archive.entries())
        assert [record.meta["url"] for record in archive.records(first.end)] == ["http://sample.test/1"]


def test_there_is_one_writer_at_a_time(path: Path, script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    other = "import sys; from penstock import barc; barc.open(sys.argv[1], 'a').close()"
    with barc.open(path, "a"):
        with pytest.raises(BlockingIOError, match="another writer") as raised:
            barc.open(path, "a")
        assert raised.value.filename == str(path)
        with pytest.raises(BlockingIOError):
            barc.repair(path)
        assert "BlockingIOError" in script(other, str(path)).stderr
        barc.open(path).close()
    done = script(other, str(path))
    assert done.returncode == 0, done.stderr


def test_a_closed_archive_says_so(three: tuple[Path, list[int]], dialog: MakeDialog) -> None:
    path, _ = three
    archive = barc.open(path, "a")
    records = archive.records()
    archive.close()
    archive.close()
    assert archive.closed
    assert repr(archive) == f"<Archive {str(path)!r} closed>"
    for use in (archive.records, lambda: archive.read(0), lambda: archive.append(dialog()), lambda: next(records)):
        with pytest.raises(ValueError, match="closed"):
            use()
    with barc.open(path) as archive, pytest.raises(ValueError, match="mode 'a' appends"):
        archive.append(dialog())


def test_a_writer_that_is_forgotten_warns(path: Path) -> None:
    with pytest.warns(ResourceWarning, match=r"test\.barc.* was not closed"):
        barc.open(path, "a")
    with barc.open(path, "a"):
        pass


@pytest.mark.asyncio
async def test_on_a_loops_thread_it_refuses_to_wait(three: tuple[Path, list[int]], dialog: MakeDialog) -> None:
    path, _ = three
    with pytest.raises(penstock.BlockingInLoop):
        barc.open(path)
    with pytest.raises(penstock.BlockingInLoop):
        barc.repair(path)
    archive = await asyncio.to_thread(barc.open, path, "a")
    for use in (lambda: list(archive), lambda: archive.read(0), lambda: archive.append(dialog())):
        with pytest.raises(penstock.BlockingInLoop):
            use()
    archive.close()


def test_threads_may_append_at_the_same_time(path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a") as archive, ThreadPoolExecutor(8) as executor:
        offsets = list(executor.map(lambda number: archive.append(dialog(number, bytes(number * 100))), range(200)))
        for number, offset in enumerate(offsets):
            record = archive.read(offset)
            assert record is not None
            assert record.meta["url"].endswith(f"/{number}")
    assert len(set(offsets)) == 200
    assert len(urls(path)) == 200


def test_readers_beside_a_writer_see_every_record_and_no_error(path: Path, dialog: MakeDialog) -> None:
    count = 600
    barc.open(path, "a").close()
    done = threading.Event()

    def read() -> list[str]:
        found: list[str] = []
        with barc.open(path) as archive:
            start = 0
            while True:
                last = done.is_set()
                records = archive.records(start)
                found += [record.meta["url"] for record in records]
                start = records.offset
                if last:
                    return found

    with ThreadPoolExecutor(3) as executor, barc.open(path, "a") as archive:
        readers = [executor.submit(read) for _ in range(3)]
        for number in range(count):
            archive.append(dialog(number, bytes(number * 17 % 9000)), strategy=list(STRATEGIES.values())[number % 3])
        done.set()
        assert [len(reader.result()) for reader in readers] == [count] * 3


# What is refused


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"res_headers": [("x", "y")] * 129}, penstock.HeadTooLong, "129 is over the limit of 128"),
        ({"res_headers": [("x", "y" * (1 << 20))]}, penstock.HeadTooLong, "1048575|1048573"),
        ({"res_headers": [("a b", "y")]}, ValueError, "not a token"),
        ({"res_headers": [("", "y")]}, ValueError, "not a token"),
        ({"res_headers": [("x", "a\r\nb: c")]}, ValueError, "control character"),
        ({"res_headers": [("x", "a\r\n")]}, ValueError, "control character"),
        (
            {"res_headers": [("x", "secret \u20ac")]},
            ValueError,
            "^'\u20ac' at 7 of the value of the header 'x' is not latin-1$",
        ),
        ({"res_headers": [("\u20ac", "secret")]}, ValueError, "^'\u20ac' at 0 of a header's name is not latin-1$"),
        ({"url": "http://a/\n"}, ValueError, "url='http://a/"),
        ({"url": "http://a/b c"}, ValueError, "url='http://a/b c'"),
        ({"url": "http://a/\xe4"}, ValueError, "percent-encode"),
        ({"url": ""}, ValueError, "url=''"),
        ({"method": "G T"}, ValueError, "method='G T'"),
        ({"version": "HTTP/4"}, ValueError, "version='HTTP/4'"),
        ({"status": 99}, ValueError, "status=99"),
        ({"res_decoded": ("rot13",)}, ValueError, "rot13"),
    ],
)
def test_what_a_record_cannot_hold_is_refused_before_anything_is_written(
    changes: dict[str, Any], error: type[Exception], match: str, path: Path, dialog: MakeDialog
) -> None:
    with barc.open(path, "a") as archive:
        with pytest.raises(error, match=match):
            archive.append(dialog(0, **changes))
        assert path.stat().st_size == 0
        assert archive.append(dialog()) == 0


def test_128_lines_are_not_too_many_and_whitespace_around_values_is_taken_off(path: Path, dialog: MakeDialog) -> None:
    with barc.open(path, "a") as archive:
        archive.append(dialog(0, res_headers=[(f"X-{number}", f" \t{number} ") for number in range(128)]))
        (record,) = archive
    assert record.res_headers.raw == tuple((b"x-%d" % number, b"%d" % number) for number in range(128))


def test_bytes_of_a_value_come_through_as_they_are(path: Path, dialog: MakeDialog) -> None:
    value = bytes([9, *range(0x21, 0x7F), *range(0x80, 0x100)]).strip()
    with barc.open(path, "a") as archive:
        archive.append(dialog(0, res_headers=[(b"x-bytes", value), (b"x-empty", b"")]))
        (record,) = archive
    assert record.res_headers.raw == ((b"x-bytes", value), (b"x-empty", b""))


FULL = """
import os, resource, sys, penstock
from penstock import barc
from tests.barc.conftest import STRATEGIES
path, kind, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
dialog = penstock.Dialog(
    penstock.Prolog(method="GET", url="http://a/"), penstock.Epilog(version="HTTP/1.1", status=200))
large = dialog.replace(res_body=penstock.BodyImage.from_bytes(os.urandom(size)))
with barc.open(path, "a", strategy=STRATEGIES[kind]) as archive:
    archive.append(dialog.replace(res_body=penstock.BodyImage.from_bytes(bytes(100))))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    before = os.path.getsize(path)
    for _ in range(2):
        try:
            archive.append(large)
        except OSError as error:
            print(type(error).__name__, error.errno, error.filename == path, os.path.getsize(path) == before)
    archive.append(dialog)
    print(len(list(archive)))
"""


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("size", [6000, 1 << 20])
def test_a_full_disk_is_storage_full_and_leaves_the_archive_as_it_was(
    kind: str, size: int, path: Path, script: Any
) -> None:
    # The limit on a file's size fails a write as a full disk does, without one. The smaller body is written when its
    # stream ends, the larger one before that, too.
    done = script(FULL, str(path), kind, str(size))
    assert done.stdout == "StorageFull 27 True True\n" * 2 + "2\n", done.stderr


def test_a_writer_without_a_lock_is_noticed_and_nothing_is_cut(three: tuple[Path, list[int]]) -> None:
    path, _ = three
    with barc.open(path, "a") as archive:
        with open(path, "ab") as file:
            file.write(path.read_bytes())
        size = path.stat().st_size
        with pytest.raises(OSError, match="takes no lock"):
            archive.append(make_dialog())
    assert path.stat().st_size == size


FORKED = """
import os, sys, penstock
from penstock import barc
dialog = penstock.Dialog(
    penstock.Prolog(method="GET", url="http://a/"), penstock.Epilog(version="HTTP/1.1", status=200))
archive = barc.open(sys.argv[1], "a")
archive.append(dialog)
child = os.fork()
if child == 0:
    try:
        archive.append(dialog)
    except ValueError as error:
        print("refused" if "fork" in str(error) else error, len(list(archive)), flush=True)
    archive.close()
    os._exit(0)
os.waitpid(child, 0)
archive.append(dialog)
try:
    barc.open(sys.argv[1], "a")
except BlockingIOError:
    print("still locked", len(list(archive)))
archive.close()
"""


def test_a_forked_child_may_read_but_not_write_and_leaves_the_lock_alone(path: Path, script: Any) -> None:
    done = script(FORKED, str(path))
    assert done.stdout == "refused 1\nstill locked 2\n", done.stderr


FORKED_MEANWHILE = """
import asyncio, os, sys, threading, time, warnings, penstock
from penstock import barc
from penstock._native import _delay_writes

dialog = penstock.Dialog(
    penstock.Prolog(method="GET", url="http://a/"), penstock.Epilog(version="HTTP/1.1", status=200))
path = sys.argv[1]
# CPython >= 3.12 warns of forks beside threads.
warnings.simplefilter("ignore", DeprecationWarning)

def fork_while_it_writes():
    while not os.path.getsize(path):
        time.sleep(0.001)
    return os.fork()

def refused(error):
    assert "forked" in str(error), error
    print("refused", flush=True)

def in_a_thread():
    with barc.open(path, "a") as archive:
        writer = threading.Thread(target=archive.append, args=(dialog,))
        writer.start()
        if child := fork_while_it_writes():
            writer.join()
            return child
        try:
            archive.append(dialog)
        except ValueError as error:
            refused(error)

async def in_a_task():
    async with barc.AsyncArchive(path, "a") as archive:
        writing = asyncio.create_task(archive.append(dialog))
        await asyncio.sleep(0)
        if child := fork_while_it_writes():
            await writing
            return child
        # For asyncio no loop runs in this process.
        async def use():
            try:
                await archive.append(dialog)
            except ValueError as error:
                refused(error)
            await archive.aclose()
        asyncio.run(use())
        os._exit(0)

_delay_writes(0.5)
child = in_a_thread() if sys.argv[2] == "thread" else asyncio.run(in_a_task())
if child:
    _, status = os.waitpid(child, 0)
    print(status, len(list(barc.open(path))))
os._exit(0)
"""


@pytest.mark.parametrize("where", ["thread", "task"])
def test_a_forked_child_does_not_wait_for_what_its_parent_is_writing(path: Path, where: str, script: Any) -> None:
    done = script(FORKED_MEANWHILE, str(path), where)
    assert done.stdout == "refused\n0 1\n", done.stderr


def test_what_is_to_be_stored_is_stored_before_its_head_says_so(path: Path, tmp_path: Path) -> None:
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    program = (
        "import sys; from tests.barc.conftest import make_dialog; from penstock import barc\n"
        "with barc.open(sys.argv[1], 'a', fsync=True) as archive: archive.append(make_dialog(0, b'x' * 1000))"
    )
    link = tmp_path / "link"
    link.symlink_to(path)
    tracing = [strace, "-f", "-y", "-o", str(trace), "-e", "trace=pwritev,fdatasync,fsync"]
    command = [*tracing, sys.executable, "-c", program, str(link)]

    def calls() -> list[tuple[str, str]]:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        check_traced(done)
        # Their names alone: strace escapes what of a path isn't ASCII.
        return re.findall(r"(pwritev|fdatasync|fsync)\(\d+<[^>]*/([^>]*)>", trace.read_text())

    written = [(call, path.name) for call in ("pwritev", "fdatasync", "pwritev", "fdatasync")]
    # Of a new file the name, too.
    assert calls() == [("fsync", path.parent.name), *written]
    assert calls() == written


# Values


def test_records_and_dialogs_travel_by_value(three: tuple[Path, list[int]]) -> None:
    path, _ = three
    with barc.open(path) as archive:
        record = next(archive.records())
    again = pickle.loads(pickle.dumps(record))
    assert (again.meta.raw, again.res_headers.raw) == (record.meta.raw, record.res_headers.raw)
    assert bytes(again.res_body) == bytes(record.res_body)
    dialog = pickle.loads(pickle.dumps(record.dialog()))
    assert (dialog.url, bytes(dialog.res_body)) == ("http://sample.test/0", b"text 0")
    assert repr(record) == "<Record at 0 GET http://sample.test/0>"
    assert repr(barc.Record()) == "<Record - ->"


def test_a_record_may_be_made_of_anything_and_copied_as_it_is(path: Path) -> None:
    record = barc.Record(meta={"X-App-Note": "one"}, res_body=penstock.BodyImage.from_bytes(b"x"))
    with barc.open(path, "a") as archive:
        copied = archive.read(archive.append(record))
        assert copied is not None
        empty = archive.read(archive.append(barc.Record()))
        assert empty is not None
    assert copied.meta.raw == ((b"x-app-note", b"one"),)
    assert (len(empty.meta), len(empty.res_body)) == (0, 0)


def test_strategies_are_checked_and_say_what_they_are() -> None:
    assert repr(barc.Strategy.plain()) == "Strategy.plain()"
    gzip = barc.Strategy.gzip(min_len="1KiB", level=9)
    assert (gzip.min_len, gzip.level, gzip.check_identity, gzip.non_compressible_coef) == (1024, 9, True, 0.5)
    assert repr(gzip) == "Strategy.gzip(min_len=1024, level=9, check_identity=True, non_compressible_coef=0.5)"
    assert barc.Strategy.brotli().min_len == 1024
    assert barc.Strategy.gzip() == barc.Strategy.gzip(min_len=4096) != barc.Strategy.gzip(level=1)
    for wrong in (
        {"level": 10},
        {"level": -1},
        {"level": 1 << 64},
        {"non_compressible_coef": -1.0},
        {"non_compressible_coef": float("nan")},
        {"non_compressible_coef": 1 << 5000},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            barc.Strategy.gzip(**wrong)
    assert barc.Strategy.brotli(level=11, **ALWAYS).level == 11


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_an_offset_that_no_file_has_is_refused_by_name(path: Path, number: int) -> None:
    with pytest.raises(ValueError, match=f"known_end={number}: not between 0 and"):
        barc.open(path, "a", known_end=number)
    with barc.open(path, "a") as archive:
        with pytest.raises(ValueError, match=f"offset={number}: not between 0 and"):
            archive.read(number)
        with pytest.raises(ValueError, match=f"start={number}: not between 0 and"):
            list(archive.records(number))
        with pytest.raises(ValueError, match=f"start={number}: not between 0 and"):
            list(archive.check(number))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_strategy_is_copied_and_pickled_by_value(copied: Callable[[Any], Any]) -> None:
    gzip = barc.Strategy.gzip(min_len=7, level=1, check_identity=False, non_compressible_coef=0.25)
    for strategy in (barc.Strategy.plain(), gzip, barc.Strategy.brotli()):
        assert copied(strategy) == strategy


names = st.text(st.sampled_from("abcXYZ019-_!"), min_size=1, max_size=12)
values = st.binary(max_size=40).map(lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F))
blocks = st.lists(st.tuples(names.map(str.encode), values), max_size=20)
bodies = st.one_of(st.binary(max_size=200), st.integers(0, 300_000).map(lambda size: b"ab\r\n" * (size // 4)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(blocks, blocks, bodies, blocks, bodies, st.sampled_from(sorted(STRATEGIES))), max_size=4))
def test_whatever_is_written_is_read_again(tmp_path_factory: Any, written: list[Any]) -> None:
    path = tmp_path_factory.mktemp("property") / "x.barc"
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(barc.open(path, "a"))
        for meta, req_headers, req_body, res_headers, res_body, kind in written:
            record = barc.Record(
                meta=meta,
                req_headers=req_headers,
                req_body=penstock.BodyImage.from_bytes(req_body),
                res_headers=res_headers,
                res_body=penstock.BodyImage.from_bytes(res_body),
            )
            archive.append(record, strategy=STRATEGIES[kind])
        found = list(archive)
        assert len(found) == len(written)
        for record, (meta, req_headers, req_body, res_headers, res_body, kind) in zip(found, written, strict=True):
            assert record.compression == kind
            assert (bytes(record.req_body), bytes(record.res_body)) == (req_body, res_body)
            for block, pairs in (
                (record.meta, meta),
                (record.req_headers, req_headers),
                (record.res_headers, res_headers),
            ):
                assert len(block.raw) == len(pairs)
                for name in {name.lower() for name, _ in pairs}:
                    sent = [value.strip(b" \t") for other, value in pairs if other.lower() == name]
                    assert [value for other, value in block.raw if other == name] == sent
