"""Archives exchanged with upstream's `barc`, in both directions: `make interop` installs it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import penstock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock import barc
from penstock.cli import main

from tests.barc.conftest import DATA, STRATEGIES, make_dialog
from tests.barc.test_archive import blocks, bodies
from tests.barc.test_warc import dialogs
from tests.cli.site import running
from tests.http.serving import response, serve

ROOT = Path(__file__).parents[2]
TOOL = shutil.which("barc", path=f"{ROOT}/target/interop/bin{os.pathsep}{os.environ.get('PATH', '')}")

pytestmark = pytest.mark.skipif(TOOL is None, reason="upstream's barc is not installed: make interop")

FLAGS: dict[str, list[str]] = {"plain": [], "gzip": ["-z"], "brotli": ["-b"]}


def tool(*arguments: Any) -> bytes:
    assert TOOL is not None
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def ours(*arguments: Any) -> bytes:
    """The output of our own command, run in this process."""
    out = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(out)):
        assert main([str(argument) for argument in arguments]) == 0
        return out.getvalue()


@pytest.mark.asyncio
async def test_what_a_client_recorded_goes_through_with_its_times_and_peer(tmp_path: Path) -> None:
    async with serve([response(b"text" * 2000, "Content-Type: text/plain")]) as server, penstock.Client() as client:
        dialog = await client.record("POST", server.url, content=b"sent")

    def there_and_back() -> penstock.Trace:
        path, copy = tmp_path / "a.barc", tmp_path / "b.barc"
        with barc.open(path, "a") as archive:
            archive.append(dialog)
        exchange(path)
        tool("cp", "-z", path, copy)
        with barc.open(copy) as archive:
            return next(iter(archive)).dialog().trace

    trace = await penstock.run_blocking(there_and_back)
    assert trace == dataclasses.replace(dialog.trace, req_head=b"", res_head=b"")


def contents(path: Path) -> list[tuple[Any, ...]]:
    with barc.open(path) as archive:
        return [
            (
                record.meta.raw,
                record.req_headers.raw,
                bytes(record.req_body),
                record.res_headers.raw,
                bytes(record.res_body),
            )
            for record in archive
        ]


def heads(path: Path) -> list[bytes]:
    """Those of the records, without the length of the payload where that is an encoder's."""
    data = path.read_bytes()
    with barc.open(path) as archive:
        return [
            data[entry.offset + (0 if entry.compression == "plain" else 18) : entry.offset + 54]
            for entry in archive.entries()
        ]


def compressions(path: Path) -> list[str]:
    with barc.open(path) as archive:
        return [entry.compression for entry in archive.entries()]


def exchange(path: Path) -> None:
    """What upstream copies and prints of a file of ours is what we read and print of it, and the other way round."""
    expected = contents(path)
    assert ours("cat", path) == tool("cat", path)
    for kind, flags in FLAGS.items():
        theirs, here, back = (path.with_name(f"{kind}.{name}") for name in ("theirs", "ours", "back"))
        for file in (theirs, here, back):
            file.unlink(missing_ok=True)
        tool("cp", *flags, path, theirs)
        assert contents(theirs) == expected
        strategy = {"plain": barc.Strategy.plain, "gzip": barc.Strategy.gzip, "brotli": barc.Strategy.brotli}[kind]()
        with barc.open(path) as source, barc.open(here, "a", strategy=strategy) as target:
            for record in source:
                target.append(record)
        # The same is compressed, and what isn't is the same byte for byte.
        assert compressions(here) == compressions(theirs)
        if kind == "plain":
            assert here.read_bytes() == theirs.read_bytes()
        tool("cp", here, back)
        assert contents(back) == expected


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_is_written_here_is_read_there_and_the_other_way_round(path: Path) -> None:
    with barc.open(path, "a") as archive:
        for number, strategy in enumerate(list(STRATEGIES.values()) * 4):
            body = penstock.BodyImage.from_bytes(os.urandom(number * 30_000) + b"text " * number * 3000)
            archive.append(make_dialog(number, body, req_body=body, method="POST"), strategy=strategy)
        archive.append(barc.Record())
        archive.append(make_dialog(99, b"\r\n"))
        archive.append(make_dialog(100, res_headers=[(f"x-{line}", "y") for line in range(128)]))
    exchange(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["plain", "plain_post", "gzip", "brotli", "multi", "binary", "nonutf8", "empty_meta"])
def test_the_commands_print_and_copy_byte_for_byte_what_upstreams_do(name: str, tmp_path: Path) -> None:
    sample = DATA / f"{name}.barc"
    last = max(json.loads(line)["offset"] for line in ours("ls", "--json", sample).splitlines())
    for options in (
        [],
        ["--meta"],
        ["--req-head", "--res-body"],
        ["--req-body", "--res-head"],
        ["--offset", "0x0"],
        ["--offset", f"{last}"],
        ["--offset", f"{last:#x}"],
        ["--count", "2"],
    ):
        assert ours("cat", *options, sample) == tool("cat", sample, *options)
    assert ours("cat", sample, DATA / "plain.barc") == tool("cat", sample, DATA / "plain.barc")
    here, theirs = tmp_path / "ours", tmp_path / "theirs"
    for _ in range(2):
        ours("cp", sample, here)
        tool("cp", sample, theirs)
        assert here.read_bytes() == theirs.read_bytes()
    for number, options in enumerate((["--count", "1"], ["--offset", f"{last:#x}"], ["--index", "1"])):
        ours("cp", *options, sample, tmp_path / f"ours.{number}")
        tool("cp", sample, tmp_path / f"theirs.{number}", *options)
        assert (tmp_path / f"ours.{number}").read_bytes() == (tmp_path / f"theirs.{number}").read_bytes()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("flag", ["-z", "-b"])
def test_cp_compresses_the_same_records_as_upstreams_does(flag: str, path: Path) -> None:
    with barc.open(path, "a") as archive:
        for number, size in enumerate((10, 5000, 100_000)):
            for decoded in ((), ("identity",)):
                body = penstock.BodyImage.from_bytes(b"text " * (size // 5))
                archive.append(make_dialog(number, body, req_body=body, method="POST", res_decoded=decoded))
    here, theirs = path.with_suffix(".ours"), path.with_suffix(".theirs")
    for source in (path, DATA / "multi.barc", DATA / "strategy.barc"):
        ours("cp", flag, source, here)
        tool("cp", source, theirs, flag)
    assert len(set(compressions(here))) == 2
    assert heads(here) == heads(theirs)
    assert contents(here) == contents(theirs)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_what_either_records_the_other_reads(tmp_path: Path) -> None:
    here, theirs = tmp_path / "ours", tmp_path / "theirs"
    paths = ["text/1/20000", "status/404", "to/text/1"]
    with running() as site:
        urls = [*(f"{site}/{path}" for path in paths), site, f"{site}/text/2#part"]
        for url in urls:
            ours("record", url, here)
            tool("record", url, theirs)
        before = theirs.read_bytes()
        ours("record", "--resume", *urls, theirs)
    assert theirs.read_bytes() == before
    for file in (here, theirs):
        assert ours("cat", file) == tool("cat", file)
    # Ours says when what happened, too; and requests differ in their order, and in who asks.
    for one, other in zip(contents(here), contents(theirs), strict=True):
        assert (one[0][: len(other[0])], one[3:]) == (other[0], other[3:])
        names = [{name for name, _ in fields} for fields in (one[1], other[1])]
        assert names[0] - names[1] == {b"host"}
        assert names[1] - names[0] == set()


@pytest.mark.slow
@pytest.mark.timeout(120)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(blocks, blocks, bodies, blocks, bodies, st.sampled_from(sorted(STRATEGIES))), max_size=4))
def test_whatever_is_written_is_exchanged(tmp_path_factory: Any, written: list[Any]) -> None:
    path = tmp_path_factory.mktemp("interop") / "x.barc"
    with barc.open(path, "a") as archive:
        for meta, req_headers, req_body, res_headers, res_body, kind in written:
            record = barc.Record(
                meta=meta,
                req_headers=req_headers,
                req_body=penstock.BodyImage.from_bytes(req_body),
                res_headers=res_headers,
                res_body=penstock.BodyImage.from_bytes(res_body),
            )
            archive.append(record, strategy=STRATEGIES[kind])
    exchange(path)


@pytest.mark.slow
@pytest.mark.timeout(120)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(dialogs(), max_size=4))
def test_whatever_dialogs_are_written_are_exchanged(tmp_path_factory: Any, written: list[penstock.Dialog]) -> None:
    path = tmp_path_factory.mktemp("interop") / "x.barc"
    with barc.open(path, "a") as archive:
        for dialog in written:
            archive.append(dialog)
    exchange(path)


# As upstream's writer leaves it, and as ours does, with the lengths of what was to come.
@pytest.mark.parametrize(
    "head",
    [b"BARC2 000000000000 RP 00000 00000 0000000000 00000", b"BARC2 000000100000 RP 00067 00027 0000000000 00064"],
)
def test_what_upstream_wrote_over_an_unfinished_record_can_be_gone_past(head: bytes, path: Path) -> None:
    with barc.open(path, "a") as archive:
        archive.append(make_dialog(1))
    other = path.with_suffix(".other")
    with barc.open(other, "a") as archive:
        archive.append(make_dialog(2))
    with open(path, "ab") as file:
        file.write(head + b"\r\n\r\nurl: http://half")
    tool("cp", other, path)
    with barc.open(path, keep_going=True) as archive:
        assert [record.dialog().url for record in archive] == ["http://sample.test/1", "http://sample.test/2"]
        assert [error.kind for error in archive.damage] == ["unfinished"]
    barc.repair(path)
    # Then upstream gets past it, too.
    assert tool("cat", "--meta", path).count(b"url: http://sample.test/") == 2
