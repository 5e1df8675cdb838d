"""Archives exchanged with upstream's `barc`, in both directions: `make interop` installs it."""

from __future__ import annotations

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

from tests.barc.conftest import STRATEGIES, make_dialog
from tests.barc.test_archive import blocks, bodies

ROOT = Path(__file__).parents[2]
TOOL = shutil.which("barc", path=f"{ROOT}/target/interop/bin{os.pathsep}{os.environ.get('PATH', '')}")

pytestmark = pytest.mark.skipif(TOOL is None, reason="upstream's barc is not installed: make interop")

FLAGS: dict[str, list[str]] = {"plain": [], "gzip": ["-z"], "brotli": ["-b"]}


def tool(*arguments: Any) -> bytes:
    assert TOOL is not None
    done = subprocess.run([TOOL, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def cat(path: Path) -> bytes:
    """What `barc cat` prints of a file, made of what is read here."""
    out = []
    with barc.open(path) as archive:
        for record in archive:
            name = f"{path} ".ljust(39, "-")
            out.append(f"====== file {name} offset 0x{record.offset:010x} ======\n".encode())
            for block, body in ((record.meta, None), (record.req_headers, record.req_body)):
                out += head(block) + ([bytes(body) + b"\r\n"] if body else [])
            out += head(record.res_headers) + ([bytes(record.res_body) + b"\r\n"] if record.res_body else [])
    return b"".join(out)


def head(block: penstock.Headers) -> list[bytes]:
    lines = [name + b": " + value + b"\r\n" for name, value in block.raw]
    return [*lines, b"\r\n"] if lines else []


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


def compressions(path: Path) -> list[str]:
    with barc.open(path) as archive:
        return [entry.compression for entry in archive.entries()]


def exchange(path: Path) -> None:
    """Everything that upstream reads of a file of ours, and we of its copies."""
    assert parts(tool("cat", path)) == parts(cat(path))
    expected = contents(path)
    for kind, flags in FLAGS.items():
        theirs, ours = path.with_suffix(f".{kind}.theirs"), path.with_suffix(f".{kind}.ours")
        theirs.unlink(missing_ok=True)
        ours.unlink(missing_ok=True)
        tool("cp", *flags, path, theirs)
        assert contents(theirs) == expected
        strategy = {"plain": barc.Strategy.plain, "gzip": barc.Strategy.gzip, "brotli": barc.Strategy.brotli}[kind]()
        with barc.open(path) as source, barc.open(ours, "a", strategy=strategy) as target:
            for record in source:
                target.append(record)
        # The same is compressed, and what isn't is the same byte for byte.
        assert compressions(ours) == compressions(theirs)
        if kind == "plain":
            assert ours.read_bytes() == theirs.read_bytes()
        back = path.with_suffix(f".{kind}.back")
        back.unlink(missing_ok=True)
        tool("cp", ours, back)
        assert contents(back) == expected


def parts(printed: bytes) -> bytes:
    """Without the separators, whose names are padded by a rule of their own."""
    lines = printed.split(b"\n")
    return b"\n".join(line.rsplit(b" offset ", 1)[-1] if line.startswith(b"====== file ") else line for line in lines)


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


def test_what_upstream_wrote_over_an_unfinished_record_can_be_gone_past(path: Path) -> None:
    with barc.open(path, "a") as archive:
        archive.append(make_dialog(1))
    other = path.with_suffix(".other")
    with barc.open(other, "a") as archive:
        archive.append(make_dialog(2))
    with open(path, "ab") as file:
        file.write(b"BARC2 000000000000 RP 00000 00000 0000000000 00000\r\n\r\nurl: http://half")
    tool("cp", other, path)
    with barc.open(path, keep_going=True) as archive:
        assert [record.dialog().url for record in archive] == ["http://sample.test/1", "http://sample.test/2"]
        assert [error.kind for error in archive.damage] == ["unfinished"]
    barc.repair(path)
    # Then upstream gets past it, too.
    assert tool("cat", "--meta", path).count(b"url: http://sample.test/") == 2
