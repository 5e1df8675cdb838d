"""The commands on archives, as their users see them: output to the byte, messages, exit status."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock import barc
from penstock.cli.archives import Span
from penstock.cli.common import Failure, tell
from penstock.cli.files import told_of

from tests.barc.conftest import DATA, make_dialog
from tests.cli.conftest import Done, full_disk, needs_proc, start, until
from tests.conftest import ELSEWHERE


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """With archives under short names, for output that doesn't depend on where it is."""
    for name in ("plain", "multi", "bad_hex", "truncated_body", "reserved_middle"):
        (tmp_path / f"{name}.barc").write_bytes((DATA / f"{name}.barc").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


PLAIN = (
    "====== file plain.barc---------------------------- offset 0x0000000000 ======\n"
    "url: http://sample.test/hello?x=1\r\nmethod: GET\r\nresponse-version: HTTP/1.1\r\nresponse-status: 200 OK\r\n\r\n"
    "accept: */*\r\nuser-agent: sample/1.0\r\n\r\n"
    "content-type: text/plain; charset=utf-8\r\ncontent-length: 14\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"
    "Hello, sample.\r\n"
)


def separators(done: Done) -> list[int]:
    return [int(line.split()[-2], 16) for line in done.out.splitlines() if line.startswith("====== file ")]


OFFSETS = [0, 312, 580, 778, 3027]


def test_cat_prints_records_as_upstream_does(run: Any) -> None:
    assert len((DATA / "plain.barc").read_bytes()) == 312
    done = run("cat", "plain.barc")
    assert (done.status, done.err) == (0, "")
    head, body = done.out.rsplit("\r\n\r\n", 1)
    assert head == PLAIN.rsplit("\r\n\r\n", 1)[0]
    assert len(body) == 16


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        ([], OFFSETS),
        (["-i", "1"], OFFSETS[1:]),
        (["--index", "1", "--count", "2"], OFFSETS[1:3]),
        (["-c", "2"], OFFSETS[:2]),
        (["-c", "0"], []),
        (["-i", "5"], []),
        (["-i", "99"], []),
        (["-o", "580"], OFFSETS[2:]),
        (["--offset", "0x244", "-c", "1"], OFFSETS[2:3]),
        (["-o", "99999"], []),
        (["-o", str(sys.maxsize)], []),
    ],
)
@pytest.mark.parametrize("options_first", [True, False])
def test_cat_and_cp_take_the_records_that_are_asked_for(
    options: list[str], offsets: list[int], options_first: bool, run: Any
) -> None:
    order = [*options, "multi.barc"] if options_first else ["multi.barc", *options]
    done = run("cat", *order)
    assert (done.status, separators(done)) == (0, offsets)
    order = [*options, "multi.barc", "out.barc"] if options_first else ["multi.barc", "out.barc", *options]
    assert run("cp", *order) == (0, "", "")
    with barc.open("out.barc") as copy, barc.open("multi.barc") as archive:
        copied = [record.meta.raw for record in copy]
        assert copied == [record.meta.raw for record in archive if record.offset in offsets]


def test_the_records_before_an_index_are_counted_and_not_kept() -> None:
    Path("many.barc").write_bytes(b"BARC2 000000000000 DP 00000 00000 0000000000 00000\r\n\r\n" * 50_000)
    with barc.open("many.barc") as archive:
        tracemalloc.start()
        try:
            (last,) = Span(offset=None, index=49_999, count=None).of(archive)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert last.offset == 49_999 * 54
    assert peak < 1 << 20


def test_cat_prints_only_the_parts_that_are_asked_for(run: Any) -> None:
    done = run("cat", "--req-head", "--res-head", "plain.barc")
    separator, rest = done.out.split("\n", 1)
    assert separator.startswith("======")
    assert rest.startswith("accept: */*\r\n")
    assert rest.endswith("00:00:00 GMT\r\n\r\n")
    assert "url:" not in rest
    assert len(run("cat", "--res-body", "plain.barc").out.split("\n", 1)[1]) == 16
    assert run("cat", "--req-body", "plain.barc").out.count("\n") == 1
    # What upstream's tool called it once, and takes still.
    assert run("cat", "--meta-head", "plain.barc") == run("cat", "--meta", "plain.barc")
    assert run("cat", "--meta-head", "plain.barc").out.split("\n", 1)[1].startswith("url: ")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["cat", "gone.barc"], 2, "penstock: [Errno 2] cannot open the archive gone.barc: No such file or directory"),
        (["cat", "-c", "1", "plain.barc", "multi.barc"], 2, "--count flag can't be applied to more than one input"),
        (["cp", "-i", "1", "plain.barc", "multi.barc", "out.barc"], 2, "--index flag can't be applied to more than"),
        (["cat", "-o", "0X10", "plain.barc"], 2, "penstock: --offset 0X10: not a number\n"),
        (["cat", "-c", "x", "plain.barc"], 2, "penstock: --count x: not a number\n"),
        (["cat", "-o", "99999999999999999999", "plain.barc"], 2, "penstock: --offset 99999999999999999999: too large"),
        (["cat", "-i", "0x1", "plain.barc"], 2, "penstock: --index 0x1: not a number\n"),
        (["cat", "-i", "1", "-o", "1", "plain.barc"], 1, "Error: --offset can't be given together with --index"),
        (["cp", "-z", "-b", "plain.barc", "out.barc"], 1, "Error: --gzip can't be given together with --brotli"),
        (["cat"], 1, "Error: Missing argument 'FILE...'."),
        (["cat", "--fish", "plain.barc"], 1, "Error: No such option '--fish'."),
        (["fish"], 1, "Error: No such command 'fish'."),
        ([], 1, "Usage: penstock [OPTIONS] COMMAND [ARGS]..."),
        (["cp", "plain.barc", "plain.barc"], 2, "penstock: BARC input and output file are the same: plain.barc\n"),
        (["cp", "plain.barc", "./plain.barc"], 2, "penstock: BARC input and output file are the same: plain.barc\n"),
        (["cp", "gone.barc", "out.barc"], 2, "No such file"),
        (["cp", "plain.barc", "gone.barc", "out.barc"], 2, "No such file"),
        (["cat", "-o", "1", "plain.barc"], 2, "penstock: plain.barc: record at byte 1 of the archive: no record"),
        (["repair", "gone.barc"], 2, "No such file"),
        (["repair", "nothing.barc"], 2, "penstock: nothing.barc: record at byte 0 of the archive: no record"),
        (["ls", "gone.barc"], 2, "cannot open the archive gone.barc: No such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_has_one_line_and_a_status(
    arguments: list[str], status: int, message: str, run: Any
) -> None:
    Path("nothing.barc").write_bytes(b"something else")
    done = run(*arguments)
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert status == 1 or done.err.count("\n") == 1
    assert not Path("out.barc").exists()
    assert not Path("gone.barc").exists()


def test_what_comes_before_damage_is_done(run: Any) -> None:
    with open("both.barc", "wb") as file:
        file.write((DATA / "plain.barc").read_bytes() + (DATA / "bad_hex.barc").read_bytes())
    done = run("cat", "both.barc")
    assert (done.status, separators(done)) == (2, [0])
    assert done.err == (
        "penstock: both.barc: record at byte 312 of the archive: "
        '"A" in a length of the head is no lower-case hexadecimal digit\n'
    )
    done = run("cp", "both.barc", "out.barc")
    assert done.status == 2
    assert Path("out.barc").read_bytes() == (DATA / "plain.barc").read_bytes()


def test_cp_appends_in_order_and_compresses_as_it_is_told(run: Any) -> None:
    assert run("cp", "plain.barc", "multi.barc", "out.barc") == (0, "", "")
    assert run("cp", "plain.barc", "out.barc") == (0, "", "")
    with barc.open("out.barc") as archive:
        entries = list(archive.entries())
    assert len(entries) == 7
    assert {entry.compression for entry in entries} == {"plain"}
    with barc.open("text.barc", "a") as archive:
        for decoded in (("identity",), ()):
            body = penstock.BodyImage.from_bytes(b"text " * 2000)
            archive.append(make_dialog(0, body, res_decoded=decoded))
    for flag, kind in (("-z", "gzip"), ("--brotli", "brotli")):
        assert run("cp", flag, "text.barc", f"{kind}.barc").status == 0
        with barc.open(f"{kind}.barc") as archive:
            # Without the mark that all codings are removed it isn't worth it.
            assert [entry.compression for entry in archive.entries()] == [kind, "plain"]


def test_cp_goes_past_damage_if_it_is_told_and_says_so(run: Any) -> None:
    done = run("cp", "--keep-going", "reserved_middle.barc", "out.barc")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("reserved_middle.barc: 0x0000000138: unfinished: ")
    assert Path("out.barc").read_bytes() == (DATA / "plain.barc").read_bytes() * 2


def test_cp_names_the_archive_that_it_cannot_append_to(run: Any) -> None:
    Path("out.barc").write_bytes((DATA / "bad_hex.barc").read_bytes())
    done = run("cp", "plain.barc", "out.barc")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("penstock: out.barc: record at byte 0 of the archive: ")


def test_cp_names_the_record_that_it_cannot_append_and_where() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))

    with start("cp", "plain.barc", "multi.barc", "out.barc", stderr=subprocess.PIPE, preexec_fn=limit) as process:
        _, err = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(
        rb"penstock: multi\.barc: record at byte 0 of the archive, to out\.barc: .*File too large.*\n", err
    )
    assert Path("out.barc").read_bytes() == Path("plain.barc").read_bytes()


def test_cp_names_the_record_that_has_more_lines_than_can_be_written(run: Any) -> None:
    block = b"x-number: 7\r\n" * 129 + b"\r\n"
    with open("plain.barc", "ab") as file:
        offset = file.tell()
        file.write(b"BARC2 %012x DP 00000 00000 0000000000 %05x\r\n\r\n" % (len(block), len(block)) + block)
    done = run("cp", "plain.barc", "out.barc")
    assert done.status == 2
    assert done.err.startswith(f"penstock: plain.barc: record at byte {offset} of the archive: lines in a header")


def test_cp_to_a_damaged_archive_says_what_mends_it(run: Any) -> None:
    Path("out.barc").write_bytes(b"BARC2 nonsense" * 10)
    done = run("cp", "plain.barc", "out.barc")
    assert (done.status, done.err.startswith("penstock: out.barc: record at byte 0 of the archive: ")) == (2, True)
    assert done.err.endswith("; penstock repair mends archives\n")


def test_of_a_damaged_archive_that_is_gone_by_then_the_damage_is_told_and_no_cure(tmp_path: Path) -> None:
    damage = penstock.ArchiveError("it is cut", offset=7, kind="cut")
    with pytest.raises(Failure, match=r"gone\.barc: it is cut$"), told_of(str(tmp_path / "gone.barc"), mended=True):
        raise damage


def test_cp_that_keeps_going_goes_past_a_record_that_cannot_be_written(run: Any) -> None:
    good = Path("plain.barc").read_bytes()
    block = b"x-number: 7\r\n" * 129 + b"\r\n"
    record = b"BARC2 %012x DP 00000 00000 0000000000 %05x\r\n\r\n" % (len(block), len(block)) + block
    Path("lines.barc").write_bytes(good + record + good)
    done = run("cp", "--keep-going", "lines.barc", "out.barc")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith(
        f"lines.barc: 0x{len(good):010x}: too-long: record at byte {len(good)} of the archive: lines"
    )
    assert Path("out.barc").read_bytes() == good * 2
    problem, end = map(json.loads, run("cp", "--json", "--keep-going", "lines.barc", "out.barc").out.splitlines())
    assert (problem["offset"], problem["end"], problem["kind"]) == (len(good), len(good + record), "too-long")
    assert end == {"file": "lines.barc", "copied": 2, "damaged": 1}


@full_disk
def test_cp_goes_on_if_damage_cannot_be_told_of() -> None:
    with open("/dev/full", "wb") as full:
        command = ["cp", "--keep-going", "reserved_middle.barc", "multi.barc", "out.barc"]
        with start(*command, stderr=full) as process:
            pass
    assert process.returncode == 2
    with barc.open("out.barc") as archive:
        assert len(list(archive)) == 2 + 5


def test_cp_tells_what_it_went_past_if_something_ends_it(run: Any) -> None:
    with barc.open("large.barc", "a") as archive:
        archive.append(make_dialog(0, bytes(70_000)))
    with open("both.barc", "wb") as file:
        file.write((DATA / "reserved_middle.barc").read_bytes() + Path("large.barc").read_bytes())
    done = run("cp", "--keep-going", "--max-body", "64KiB", "both.barc", "out.barc")
    assert (done.status, done.err.count("\n")) == (2, 2)
    assert done.err.startswith("both.barc: 0x0000000138: unfinished: ")
    assert "penstock: " in done.err
    assert Path("out.barc").read_bytes() == (DATA / "plain.barc").read_bytes() * 2


def test_cp_tells_machines_what_it_copied_and_went_past(run: Any) -> None:
    done = run("cp", "--json", "--keep-going", "reserved_middle.barc", "multi.barc", "out.barc")
    problem, first, second = map(json.loads, done.out.splitlines())
    assert (done.status, done.err) == (2, "")
    assert problem.pop("error").startswith("record at byte 312 of the archive: a writer never finished")
    assert problem == {"file": "reserved_middle.barc", "offset": 312, "end": 406, "kind": "unfinished"}
    assert first == {"file": "reserved_middle.barc", "copied": 2, "damaged": 1}
    assert second == {"file": "multi.barc", "copied": 5, "damaged": 0}


def test_cp_tells_of_all_that_it_went_past(run: Any) -> None:
    good = Path("plain.barc").read_bytes()
    Path("bad.barc").write_bytes((good * 10 + good.replace(b" DP ", b" DQ ", 1)) * 1100 + good)
    done = run("cp", "--json", "--keep-going", "bad.barc", "out.barc")
    *problems, end = map(json.loads, done.out.splitlines())
    assert (done.status, done.err, len(problems)) == (2, "", 1100)
    assert end == {"file": "bad.barc", "copied": 11001, "damaged": 1100}


@pytest.mark.parametrize("command", ["cat", "ls", "check --json"])
def test_output_that_nobody_reads_keeps_nobody_from_interrupting(command: str) -> None:
    good = Path("plain.barc").read_bytes()
    Path("long.barc").write_bytes((good * 10 + good.replace(b" DP ", b" DQ ", 1)) * 1100)
    if not command.startswith("check"):
        Path("long.barc").write_bytes(good * 2000)
    with start(*command.split(), "long.barc", stdout=subprocess.PIPE) as process:
        out = process.stdout
        assert out is not None
        # As much as a pipe holds, or nearly.
        until(lambda: struct.unpack("i", fcntl.ioctl(out, termios.FIONREAD, bytes(4)))[0] > 50_000)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_an_interrupted_cp_finishes_the_record_in_hand(folder: Path) -> None:
    count = 60
    body = penstock.BodyImage.from_bytes(b"".join(b"line %d\n" % number for number in range(100_000)))
    with barc.open("many.barc", "a") as archive:
        for number in range(count):
            archive.append(make_dialog(number, body))
    out = folder / "out.barc"
    with start("cp", "--brotli", "many.barc", out, stderr=subprocess.PIPE) as process:
        until(lambda: out.exists() and out.stat().st_size > 0)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, b"")
    with barc.open(out) as archive:
        found = list(archive.check())
    assert not [error for error in found if isinstance(error, Exception)]
    assert 0 < len(found) < count
    assert {entry.compression for entry in found if isinstance(entry, barc.Entry)} == {"brotli"}


def test_cat_as_json_has_the_same_parts(run: Any) -> None:
    lines = [json.loads(line) for line in run("cat", "--json", "multi.barc", "plain.barc").out.splitlines()]
    assert [(line["file"], line["offset"]) for line in lines] == [
        *(("multi.barc", offset) for offset in OFFSETS),
        ("plain.barc", 0),
    ]
    with barc.open("multi.barc") as archive:
        for line, record in zip(lines, archive, strict=False):
            for name, block in (
                ("meta", record.meta),
                ("req_head", record.req_headers),
                ("res_head", record.res_headers),
            ):
                assert [tuple(field.encode("latin-1") for field in pair) for pair in line[name]] == list(block.raw)
            assert base64.b64decode(line["req_body"]) == bytes(record.req_body)
            assert base64.b64decode(line["res_body"]) == bytes(record.res_body)
    (chosen,) = run("cat", "--json", "--res-body", "plain.barc").out.splitlines()
    assert json.loads(chosen) == {"file": "plain.barc", "offset": 0, "res_body": lines[-1]["res_body"]}


@pytest.mark.parametrize("size", [0, 1, 2, 3 << 14, (3 << 14) + 1, 200_000])
def test_cat_as_json_gives_bodies_of_any_size_in_one_piece_of_base64(size: int, run: Any) -> None:
    body = os.urandom(size)
    with barc.open("one.barc", "a") as archive:
        archive.append(make_dialog(0, body))
    assert base64.b64decode(json.loads(run("cat", "--json", "one.barc").out)["res_body"], validate=True) == body


def test_ls_has_a_line_for_each_record(run: Any) -> None:
    assert run("ls", "multi.barc") == (
        0,
        "0x0000000000 plain  200         0          14 GET  http://sample.test/hello?x=1\n"
        "0x0000000138 gzip   201        16          12 POST https://sample.test:8443/submit\n"
        "0x0000000244 plain  204         0           0 DELETE http://sample.test/item/7\n"
        "0x000000030a plain  200       256        1768 PUT  http://sample.test/blob\n"
        "0x0000000bd3 brotli 302         0           0 GET  http://sample.test/dup\n",
        "",
    )
    one, several = run("ls", "plain.barc").out, run("ls", "plain.barc", "./plain.barc").out
    assert several == f"plain.barc: {one}./plain.barc: {one}"
    lines = [json.loads(line) for line in run("ls", "--json", "plain.barc", "multi.barc").out.splitlines()]
    assert len(lines) == 6
    assert lines[0] == {
        "file": "plain.barc",
        "offset": 0,
        "end": 312,
        "compression": "plain",
        "coding": None,
        "status": 200,
        "method": "GET",
        "url": "http://sample.test/hello?x=1",
        "req_body": 0,
        "res_body": 14,
    }


def test_ls_tells_the_codings_that_a_body_came_in(run: Any) -> None:
    with barc.open("coded.barc", "a") as archive:
        archive.append(make_dialog(0, res_headers=[("Content-Encoding", "GZIP"), ("Content-Encoding", "br")]))
    assert json.loads(run("ls", "--json", "coded.barc").out)["coding"] == "gzip, br"


def test_ls_tells_machines_of_no_status_that_is_no_number(run: Any) -> None:
    with barc.open("odd.barc", "a") as archive:
        for status in ("200 OK", "\xb200 OK", ""):
            archive.append(barc.Record(meta=[("response-status", status)]))
    lines = run("ls", "--json", "odd.barc").out.splitlines()
    assert [json.loads(line)["status"] for line in lines] == [200, None, None]


def test_check_tells_of_each_problem_with_its_offset(run: Any) -> None:
    assert run("check", "plain.barc", "multi.barc") == (
        0,
        "plain.barc: 1 good record, 0 damaged places\nmulti.barc: 5 good records, 0 damaged places\n",
        "",
    )
    assert run("check", "truncated_body.barc", "plain.barc") == (
        2,
        "truncated_body.barc: 0x0000000000: short: record at byte 0 of the archive: the record needs 258 bytes and the "
        "file has 252 more\n"
        "truncated_body.barc: 0 good records, 1 damaged place\n"
        "plain.barc: 1 good record, 0 damaged places\n",
        "",
    )


def test_check_goes_on_behind_a_file_that_cannot_be_opened(run: Any) -> None:
    done = run("check", "plain.barc", "gone.barc", ".", "bad_hex.barc")
    assert done.status == 2
    assert [line.partition(":")[0] for line in done.out.splitlines()] == ["plain.barc", "bad_hex.barc", "bad_hex.barc"]
    assert [line.partition(" the archive ")[2].partition(":")[0] for line in done.err.splitlines()] == [
        "gone.barc",
        ".",
    ]
    done = run("check", "--json", "gone.barc", "plain.barc")
    gone, good = map(json.loads, done.out.splitlines())
    assert (done.status, good) == (2, {"file": "plain.barc", "good": 1, "damaged": 0})
    assert gone == {"file": "gone.barc", "error": done.err.removeprefix("penstock: ").rstrip()}


@pytest.mark.parametrize(
    "line",
    [
        "ls plain.barc",
        "cat plain.barc",
        "cp plain.barc multi.barc",
        "check plain.barc",
        "repair plain.barc",
        "stats plain.barc",
        "record --from urls.txt plain.barc",
        "get --force --output plain.barc http://127.0.0.1:1/",
    ],
)
def test_a_file_is_refused_by_who_opens_it_and_not_as_wrong_usage(
    line: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("urls.txt").touch()
    # Root may read every file, and some are only written to or replaced.
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    done = run(*line.split())
    assert done.status == (2 if line.startswith("get") else 0), done.err


def test_check_and_repair_tell_machines_the_same(run: Any) -> None:
    done = run("check", "--json", "truncated_body.barc", "plain.barc")
    problem, first, second = map(json.loads, done.out.splitlines())
    assert done.status == 2
    assert (problem["file"], problem["offset"], problem["end"], problem["kind"]) == (
        "truncated_body.barc",
        0,
        306,
        "short",
    )
    assert first == {"file": "truncated_body.barc", "good": 0, "damaged": 1}
    assert second == {"file": "plain.barc", "good": 1, "damaged": 0}
    done = run("repair", "--json", "truncated_body.barc")
    place, end = map(json.loads, done.out.splitlines())
    assert place == {"file": "truncated_body.barc", "offset": 0, "end": 306, "cut": True, "error": problem["error"]}
    assert end == {"file": "truncated_body.barc", "mended": 1}


def test_repair_tells_what_it_did_and_then_check_is_content(run: Any) -> None:
    assert run("repair", "reserved_middle.barc") == (
        0,
        "reserved_middle.barc: 0x0000000138: 94 bytes covered: record at byte 312 of the archive: a writer never "
        "finished this record, and there are others behind it\n"
        "reserved_middle.barc: 1 place mended\n",
        "",
    )
    assert run("check", "reserved_middle.barc").status == 0
    assert "306 bytes cut off" in run("repair", "truncated_body.barc").out
    assert Path("truncated_body.barc").stat().st_size == 0
    assert run("repair", "plain.barc").out == "plain.barc: 0 places mended\n"


@pytest.mark.parametrize("command", ["cat", "cp", "ls", "stats"])
def test_a_body_over_the_limit_ends_it(command: str, run: Any) -> None:
    with barc.open("large.barc", "a") as archive:
        archive.append(make_dialog(0, b""))
        offset = archive.append(make_dialog(1, bytes(70_000)))
    rest = ["out.barc"] if command == "cp" else []
    done = run(command, "--max-body", "64KiB", "large.barc", *rest)
    assert done.status == 2
    assert done.err.startswith(f"penstock: large.barc: record at byte {offset} of the archive: ")
    assert "over the limit of 65536 bytes (--max-body)" in done.err
    assert run(command, "--max-body", "70000B", "large.barc", *rest).status == 0


def test_stats_forgets_rare_hosts_where_there_are_too_many(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.cli.stats.MOST", 10)
    with barc.open("hosts.barc", "a") as archive:
        for number in range(100):
            archive.append(make_dialog(number, url=f"http://host-{number}.test/"))
            archive.append(make_dialog(number, url="http://often.test/"))
    done = run("stats", "--json", "hosts.barc")
    hosts = json.loads(done.out)["hosts"]
    assert (done.status, len(hosts) <= 10, next(iter(hosts))) == (0, True, "often.test")
    said = re.fullmatch(
        r"penstock: hosts.barc: more than 10 hosts: counts of them are (\d+) too low at most\n", done.err
    )
    assert said is not None
    assert 100 - int(said[1]) <= hosts["often.test"] <= 100


def test_stats_keeps_no_more_of_a_coding_than_a_line(run: Any) -> None:
    with barc.open("coding.barc", "a") as archive:
        archive.append(make_dialog(0, res_headers=[("Content-Encoding", "x" * 5000)]))
    assert list(json.loads(run("stats", "--json", "coding.barc").out)["codings"]) == [f"{'x' * 256}…"]


def test_stats_has_figures_for_people_and_machines(run: Any, snapshot: Callable[[str, str], None]) -> None:
    with barc.open("coded.barc", "a") as archive:
        for number in range(12):
            coding = [("Content-Type", "text/plain"), *([("Content-Encoding", "gzip")] if number % 3 == 0 else [])]
            changes: dict[str, Any] = {"res_headers": coding, "status": 200 if number % 4 else 503}
            body = b"text " * 1000 * number
            archive.append(make_dialog(number, body, url=f"http://host-{number % 5}.test/{number}", **changes))
    done = run("stats", "--top", "4", "multi.barc", "coded.barc")
    assert (done.status, done.err) == (0, "")
    snapshot("stats", done.out)
    (line,) = run("stats", "--json", "multi.barc").out.splitlines()
    figures = json.loads(line)
    assert (figures["records"], figures["stored"]) == (5, 3223)
    assert figures["statuses"] == {"200": 2, "201": 1, "204": 1, "302": 1}
    # What they take when they are copied without compression.
    assert run("cp", "multi.barc", "plain-multi.barc").status == 0
    assert figures["plain"] == Path("plain-multi.barc").stat().st_size
    assert run("stats", "truncated_body.barc").status == 2


def test_stats_counts_hosts_by_name_and_what_is_no_url_too(run: Any, tmp_path: Path) -> None:
    urls = ["http://[::1/x", "http://user:secret@One.test:80/", "http://one.test/", "https://one.test:8443/"]
    with barc.open(tmp_path / "a.barc", "a") as archive:
        for url in urls:
            archive.append(barc.Record(meta=[("url", url)]))
    (line,) = run("stats", "--json", tmp_path / "a.barc").out.splitlines()
    assert json.loads(line)["hosts"] == {"one.test": 2, "-": 1, "one.test:8443": 1}


@pytest.mark.parametrize("command", ["ls", "stats"])
def test_what_a_terminal_would_listen_to_is_escaped(command: str, run: Any, tmp_path: Path) -> None:
    with barc.open(tmp_path / "a.barc", "a") as archive:
        meta = [("url", b"http://a.test/\x9b31m"), ("method", "GET"), ("response-status", b"2\x9b0")]
        archive.append(barc.Record(meta=meta, res_headers=[("content-encoding", b"\x9b31m")]))
    done = run(command, tmp_path / "a.barc")
    assert (done.status, done.err) == (0, "")
    assert "http://a.test/\\x9b31m\n" in done.out
    assert "\x9b" not in done.out


def test_an_answers_reason_is_no_word_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell("penstock: http://a.test/: 404 \x9b31m\r\x1b[2J")
    assert capsys.readouterr().err == "penstock: http://a.test/: 404 \\x9b31m\\r\\x1b[2J\n"


def test_a_closed_pipe_ends_it_without_a_word() -> None:
    with barc.open("large.barc", "a") as archive:
        for number in range(50):
            archive.append(make_dialog(number, bytes(100_000)))
    command = [sys.executable, "-m", "penstock.cli", "cat", "large.barc"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 2


@pytest.mark.parametrize("size", [1000, 300_000])
def test_an_archive_that_is_emptied_while_it_is_printed_is_an_error_that_names_it(size: int, folder: Path) -> None:
    with barc.open("large.barc", "a") as archive:
        for number in range(5_000_000 // size):
            archive.append(make_dialog(number, bytes(size)))
    with start("cat", "large.barc", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        os.truncate("large.barc", 0)
        _, err = process.communicate()
    assert process.returncode == 2
    assert re.fullmatch(rb"penstock: large\.barc: record at byte \d+ of the archive: .+\n", err)


def test_cp_names_the_record_whose_body_was_cut(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("large.barc", "other.barc"):
        with barc.open(name, "a") as archive:
            offsets = [archive.append(make_dialog(number, bytes(300_000))) for number in range(3)]
    append = barc.Archive.append

    def cutting(archive: barc.Archive, record: Any, **options: Any) -> int:
        os.truncate("large.barc", offsets[1] + 1000)
        return append(archive, record, **options)

    monkeypatch.setattr(barc.Archive, "append", cutting)
    done = run("cp", "large.barc", "out.barc")
    assert (done.status, done.out) == (2, "")
    where = f"penstock: large.barc: record at byte {offsets[1]} of the archive: body ended after "
    assert done.err.startswith(where)
    with barc.open("out.barc") as archive:
        assert len(list(archive)) == 1


@needs_proc
@pytest.mark.parametrize("command", ["cat", "ls", "stats", "check"])
def test_a_file_that_cannot_be_read_is_named(command: str, run: Any) -> None:
    # The system has nothing at address 0.
    done = run(command, "/proc/self/mem", "plain.barc")
    assert done.status == 2
    assert done.err.startswith("penstock: /proc/self/mem: at byte 0 of the archive: ")
    # `check` goes on.
    assert done.out == ("plain.barc: 1 good record, 0 damaged places\n" if command == "check" else "")


@needs_proc
def test_cp_that_keeps_going_goes_on_behind_a_file_that_cannot_be_read(run: Any) -> None:
    where = "/proc/self/mem: at byte 0 of the archive: "
    done = run("cp", "/proc/self/mem", "plain.barc", "out.barc")
    assert (done.status, done.err.startswith(f"penstock: {where}")) == (2, True)
    assert not Path("out.barc").read_bytes()
    done = run("cp", "--keep-going", "--json", "/proc/self/mem", "plain.barc", "out.barc")
    unread, first, second = map(json.loads, done.out.splitlines())
    assert (done.status, done.err) == (2, f"penstock: {unread['error']}\n")
    assert unread["error"].startswith(where)
    assert first == {"file": "/proc/self/mem", "copied": 0, "damaged": 0}
    assert second == {"file": "plain.barc", "copied": 1, "damaged": 0}
    assert Path("out.barc").read_bytes() == Path("plain.barc").read_bytes()


def buffered(*arguments: str, stdout: Any) -> tuple[int, str]:
    """Runs a command line whose standard output is written to when it ends; gives its status and standard error."""
    command = [sys.executable, "-m", "penstock.cli", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@full_disk
@pytest.mark.parametrize(
    "line", ["ls plain.barc", "--help", "--version", "ls --help", "bench --help", "completion zsh"]
)
def test_a_full_disk_behind_standard_output_is_one_line_and_a_status(line: str) -> None:
    with open("/dev/full", "wb") as full:
        assert buffered(*line.split(), stdout=full) == (2, "penstock: [Errno 28] No space left on device\n")


LIMITED = """
import resource, sys
size = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
from penstock.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("line", ["ls", "cat", "cat --json", "stats"])
def test_a_disk_that_takes_all_but_the_last_byte_is_an_error_also_unbuffered(line: str, run: Any) -> None:
    arguments = [*line.split(), "plain.barc"]
    size = len(run(*arguments).out) - 1
    command = [sys.executable, "-c", LIMITED, str(size), *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with open("out", "wb") as out:
        done = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "penstock: [Errno 27] File too large\n")
    assert os.path.getsize("out") == size


def test_damage_is_one_line_and_a_status_if_the_outputs_reader_has_gone_too() -> None:
    with open("both.barc", "wb") as file:
        file.write((DATA / "plain.barc").read_bytes() + (DATA / "bad_hex.barc").read_bytes())
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        status, error = buffered("ls", "both.barc", stdout=pipe)
    assert (status, error.count("\n")) == (2, 1), error
    assert "lower-case hexadecimal digit" in error


@pytest.mark.parametrize("arguments", [["--help"], ["ls", "--help"], ["bench", "--help"]])
def test_help_that_nobody_reads_ends_without_a_word(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        assert buffered(*arguments, stdout=pipe) == (2, "")


@full_disk
@pytest.mark.parametrize("arguments", [[], ["nosuch"], ["bench", "--nosuch"]])
def test_wrong_usage_that_nobody_can_be_told_of_has_its_status_all_the_same(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "penstock.cli", *arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("arguments", [["ls", "gone.barc"], ["get", "http://127.0.0.1:1/"]])
def test_an_error_that_nobody_reads_has_its_status_all_the_same(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "penstock.cli", *arguments]
    with open(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=pipe, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", ["check", "ls"])
def test_closed_standard_streams_are_as_dev_null(command: str, closed: str) -> None:
    line = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-X", "dev", "-m", "penstock.cli", command]
    done = subprocess.run([*line, "plain.barc"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("plain.barc" in done.stdout or "sample.test" in done.stdout) == (">&-" not in closed.split())
    done = subprocess.run([*line, "gone.barc"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert ("No such file" in done.stderr) == ("2>&-" not in closed)


@pytest.mark.skipif(sys.platform != "linux", reason=f"{ELSEWHERE}: names of files are UTF-8")
@pytest.mark.parametrize("command", ["check", "ls", "repair", "stats"])
def test_a_name_that_is_not_utf_8_is_a_name(command: str) -> None:
    os.rename("plain.barc", b"\xff.barc")
    # As it is in most locales.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    line = [sys.executable, "-m", "penstock.cli", command, b"\xff.barc"]
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\xff.barc: " if command != "ls" else b"0x0000000000 ")


@pytest.mark.parametrize("command", ["ls", "stats"])
def test_a_url_that_the_encoding_of_the_output_has_not_is_escaped(command: str) -> None:
    name = os.fsdecode(b"\xff.barc")
    with barc.open("a.barc", "a") as archive:
        archive.append(barc.Record(meta=[("url", b"http://a.test/\xe9"), ("method", "GET")]))
    if sys.platform == "linux":
        os.rename("a.barc", name)
    else:
        name = "a.barc"
    for errors in ("strict", "surrogateescape"):
        environment = {**os.environ, "PYTHONIOENCODING": f"ascii:{errors}"}
        line = [sys.executable, "-m", "penstock.cli", command, name, name]
        done = subprocess.run(line, env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b" http://a.test/\\xe9\n") == 2
        assert done.stdout.count(os.fsencode(name) + b": ") == 2


@pytest.mark.parametrize("command", ["cat", "cat --json", "ls", "stats --top 5000"])
def test_a_pipe_that_takes_no_more_for_now_gets_all_of_the_output(command: str) -> None:
    with barc.open("long.barc", "a") as archive:
        for number in range(3000):
            archive.append(make_dialog(number))
    line = [sys.executable, "-m", "penstock.cli", *command.split(), "long.barc"]
    expected = subprocess.run(line, capture_output=True, check=True).stdout
    assert len(expected) > 1 << 17
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb") as pipe, start(*line[3:], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        time.sleep(0.5)
        assert pipe.read() == expected
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
