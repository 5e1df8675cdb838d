"""`penstock record`: URLs into an archive, what is said of those that fail, and what an interruption leaves."""

from __future__ import annotations

import fcntl
import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from penstock import barc

from tests.barc.conftest import urls as urls_of
from tests.cli.conftest import asked, full_disk, in_terminal, needs_proc, start, until, watched
from tests.cli.site import ZIPPED, text

MANY = 10_000


@pytest.fixture
def listed(site: str, tmp_path: Path) -> Path:
    """A list of many URLs."""
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"{site}/text/{number}/{number % 5000}\n" for number in range(MANY)))
    return path


def test_requests_and_answers_are_appended(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    assert run("record", f"{site}/text/1", f"{site}/gzip", file) == (0, "", "")
    assert run("record", f"{site}/status/404", f"{site}/to/text/1", file) == (0, "", "")
    with barc.open(file) as archive:
        records = {record.meta["url"].removeprefix(site): record for record in archive}
    assert sorted(records) == ["/gzip", "/status/404", "/text/1", "/to/text/1"]
    assert [records[path].meta["response-status"] for path in sorted(records)] == [
        "200 OK",
        "404 Not Found",
        "200 OK",
        "302 Found",
    ]
    assert bytes(records["/text/1"].res_body) == text(1)
    zipped = records["/gzip"]
    assert (bytes(zipped.res_body), zipped.meta["response-decoded"]) == (ZIPPED, "gzip, identity")
    assert zipped.res_headers["content-encoding"] == "gzip"
    sent = zipped.req_headers
    assert sent["accept"] == "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8"
    assert sent["accept-language"] == "en"
    assert sent["accept-encoding"] == "gzip, deflate, br, zstd"
    assert sent["user-agent"].startswith("penstock/")


def test_headers_take_the_place_of_those_that_are_sent_anyway_and_are_recorded(
    run: Any, site: str, tmp_path: Path
) -> None:
    given = ("-H", "Accept-Language: de", "-H", "authorization: mine", "-H", "accept: a/b")
    assert run("record", *given, f"{site}/text/1", tmp_path / "a.barc") == (0, "", "")
    with barc.open(tmp_path / "a.barc") as archive:
        (record,) = archive
    sent = record.req_headers
    assert (sent["accept-language"], sent["authorization"], sent["accept"]) == ("de", "mine", "a/b")
    assert sent["accept-encoding"] == "gzip, deflate, br, zstd"


def test_a_url_that_takes_longer_than_the_timeout_fails_and_the_others_are_recorded(
    run: Any, site: str, tmp_path: Path
) -> None:
    done = run("record", "--timeout", "0.5", f"{site}/held", f"{site}/text/1", tmp_path / "a.barc")
    assert (done.status, done.out) == (2, "")
    assert f"penstock: {site}/held: " in done.err
    assert "within 0.5 s (--timeout)" in done.err
    assert urls_of(tmp_path / "a.barc") == [f"{site}/text/1"]


def test_bodies_can_be_left_coded_and_something_else_accepted(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    assert run("record", "--no-decode", "--accept", "text/x", f"{site}/gzip", file).status == 0
    with barc.open(file) as archive:
        (record,) = archive
    assert record.req_headers["accept"] == "text/x"
    assert record.req_headers["accept-encoding"] == "gzip, deflate, br, zstd"
    assert "response-decoded" not in record.meta
    assert bytes(record.res_body)[:2] == b"\x1f\x8b"


@pytest.mark.parametrize(
    ("hard", "told"), [(64, "16 URLs at a time: --concurrency 200 takes 616 open files"), (None, "")]
)
def test_a_limit_on_open_files_is_raised_or_fewer_are_asked_for_at_a_time(
    hard: int | None, told: str, listed: Path, tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard or resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    urls, file = tmp_path / "some.txt", tmp_path / "a.barc"
    urls.write_text("".join(f"{url}\n" for url in listed.read_text().splitlines()[:400]))
    arguments = ["record", "--concurrency", 200, "--from", urls, file]
    with start(*arguments, stderr=subprocess.PIPE, text=True, preexec_fn=limit) as process:
        _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (0, bool(told))
    assert told in err
    assert len(urls_of(file)) == 400


@pytest.mark.parametrize(("flag", "kind"), [("-z", "gzip"), ("-b", "brotli")])
def test_what_is_worth_it_is_compressed(flag: str, kind: str, run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    assert run("record", flag, f"{site}/text/1/20000", f"{site}/text/1", file).status == 0
    with barc.open(file) as archive:
        assert sorted(entry.compression for entry in archive.entries()) == sorted([kind, "plain"])


def test_a_url_that_fails_is_told_of_and_the_others_are_recorded(
    run: Any, site: str, tmp_path: Path, snapshot: Any
) -> None:
    file = tmp_path / "a.barc"
    bad = [f"{site}/cut", "/relative", f"{site}/compress", f"{site}/text/1/65537"]
    done = run("record", "--max-body", "64KiB", "--concurrency", 1, *bad, f"{site}/text/2", f"{site}/text/3", file)
    assert (done.status, done.out) == (2, "")
    snapshot("record-errors", done.err.replace(site, "http://SITE"))
    assert urls_of(file) == [f"{site}/text/2", f"{site}/text/3"]
    done = run("record", "--json", "http://127.0.0.1:1/", f"{site}/text/4/50", file)
    assert done.status == 2
    assert "http://127.0.0.1:1/: cannot connect to " in done.err
    lines = {line["url"]: line for line in map(json.loads, done.out.splitlines())}
    assert lines["http://127.0.0.1:1/"]["error"] in done.err
    with barc.open(file) as archive:
        (last,) = archive.records(lines[f"{site}/text/4/50"].pop("offset"))
    assert lines[f"{site}/text/4/50"] == {"url": f"{site}/text/4/50", "status": 200, "size": 50}
    assert bytes(last.res_body) == text(4, 50)


@full_disk
def test_a_url_that_fails_and_cannot_be_told_of_keeps_no_other_from_being_recorded(site: str, tmp_path: Path) -> None:
    urls = [f"{site}/cut", *(f"{site}/text/{number}" for number in range(5))]
    with (
        open("/dev/full", "wb") as full,
        start("record", "--concurrency", 1, *urls, "a.barc", cwd=tmp_path, stderr=full) as process,
    ):
        pass
    assert process.returncode == 2
    assert urls_of(tmp_path / "a.barc") == urls[1:]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 1, "Missing argument 'FILE'"),
        (["a.barc"], 1, "Missing argument 'URL...', or --from."),
        (["--concurrency", "0", "http://sample.test/", "a.barc"], 1, "0 is not in the range x>=1"),
        (["-z", "-b", "http://sample.test/", "a.barc"], 1, "--gzip can't be given together with --brotli"),
        (["--from", "gone.txt", "a.barc"], 2, "No such file or directory: 'gone.txt'"),
        (["http://sample.test/", "no/such/directory/a.barc"], 2, "No such file or directory"),
    ],
)
def test_what_cannot_be_begun(
    arguments: list[str], status: int, message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("record", *arguments)
    assert (done.status, done.out) == (status, "")
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_an_archive_that_cannot_be_appended_to_is_found_before_anything_is_fetched(
    run: Any, site: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.barc"
    with barc.open(file, "a"):
        busy = run("record", f"{site}/text/1", file)
    assert (busy.status, busy.out) == (2, "")
    assert "another writer" in busy.err
    file.write_bytes(b"something else")
    damaged = run("record", "--resume", f"{site}/text/1", file)
    assert (damaged.status, damaged.out) == (2, "")
    assert damaged.err.startswith(f"penstock: {file}: record at byte 0 of the archive: ")
    assert "repair" not in damaged.err
    assert file.read_bytes() == b"something else"
    assert asked(site) == 0


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from penstock.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_file_that_takes_no_more_ends_the_run_with_whole_records(site: str, listed: Path) -> None:
    command = [sys.executable, "-c", LIMITED, "record", "--from", listed, "a.barc"]
    done = subprocess.run(command, cwd=listed.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"penstock: a\.barc: .*File too large.*\n", done.stderr), done.stderr
    file = listed.with_name("a.barc")
    with barc.open(file) as archive:
        found = list(archive.check())
    assert not [error for error in found if isinstance(error, Exception)]
    assert 90_000 < file.stat().st_size <= 100_000


def test_a_list_may_be_a_file_or_a_pipe_that_goes_on(site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    # As an editor of Windows writes it.
    text = f"{site}/text/1\r\n\r\n# a comment\r\n  {site}/text/2  \r\n \t # another\r\n{site}/text/3"
    (tmp_path / "urls.txt").write_bytes(text.encode("utf-8-sig"))
    with start("record", "--from", "urls.txt", f"{site}/text/0", file, cwd=tmp_path) as process:
        pass
    assert process.returncode == 0
    assert sorted(urls_of(file)) == [f"{site}/text/{number}" for number in range(4)]
    with start("record", "--from", "-", file, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        for number in (4, 5):
            process.stdin.write(f"{site}/text/{number}\n{site}/te".encode())
            # What is there is recorded before the rest comes.
            until(lambda number=number: f"{site}/text/{number}" in urls_of(file))  # type: ignore[misc]
            process.stdin.write(f"xt/{number + 10}\n".encode())
        process.stdin.close()
    assert process.returncode == 0
    assert sorted(urls_of(file)[4:]) == sorted(f"{site}/text/{number}" for number in (4, 5, 14, 15))


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(b"x" * (2 << 20))
    with start("record", "--from", "endless", "a.barc", cwd=tmp_path, stderr=subprocess.PIPE) as process:
        _, err = process.communicate()
    assert (process.returncode, err) == (2, b"penstock: --from: a line of more than 1,048,576 bytes is no URL\n")


@needs_proc
def test_a_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(400 << 20)
    with start("record", "--from", "endless", "a.barc", cwd=tmp_path, stderr=subprocess.PIPE) as process:
        peak = watched(process)
    assert process.returncode == 2
    assert peak < 200 << 20


def test_resume_skips_what_is_recorded(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    assert run("record", f"{site}/text/1", file).status == 0
    urls = [f"{site}/text/{number}" for number in (1, 2, 2, 1, 3)]
    assert run("record", "--resume", *urls, file) == (0, "", "")
    assert sorted(urls_of(file)) == sorted(set(urls))
    assert asked(site) == 3
    assert run("record", *urls, file).status == 0
    assert len(urls_of(file)) == 8


def test_resume_knows_a_url_without_its_fragment_or_its_path(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    assert run("record", site, f"{site}/text/1#a", file).status == 0
    assert sorted(urls_of(file)) == [f"{site}/", f"{site}/text/1"]
    again = [site, f"{site}/", f"{site}#a", f"{site}/text/1", f"{site}/text/1#b", f"{site}/text/2#a", f"{site}/text/2"]
    assert run("record", "--resume", *again, file) == (0, "", "")
    assert sorted(urls_of(file)) == [f"{site}/", f"{site}/text/1", f"{site}/text/2"]
    assert asked(site) == 3


def test_resume_knows_a_host_that_is_spelt_otherwise(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    urls = [f"{site}/text/1".replace("127.", spelt) for spelt in ("127%2E", "%31%32%37.", "127\u3002")]
    assert run("record", urls[0], file).status == 0
    assert run("record", "--resume", *urls, file) == (0, "", "")
    assert urls_of(file) == [f"{site}/text/1"]
    assert asked(site) == 1
    failed = run("record", "--resume", "http://b%FC.test/", file)
    assert failed.status == 2
    assert "is not a name" in failed.err


def test_resume_goes_past_bodies_longer_than_this_run_takes(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a.barc"
    urls = [f"{site}/text/1/200000", f"{site}/text/2"]
    assert run("record", urls[0], file).status == 0
    assert run("record", "--resume", "--max-body", "64KiB", *urls, file) == (0, "", "")
    assert urls_of(file) == urls


def test_a_directory_is_no_list_and_nothing_is_made_for_it(run: Any, tmp_path: Path) -> None:
    done = run("record", "--from", tmp_path, tmp_path / "a.barc")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"penstock: [Errno 21] Is a directory: '{tmp_path}'\n"
    assert not list(tmp_path.iterdir())


def test_interrupted_it_finishes_what_is_in_hand_and_goes_on_by_resume(site: str, tmp_path: Path) -> None:
    urls = [f"{site}/text/1", f"{site}/held", f"{site}/half/1000", f"{site}/text/2"]
    with start("record", *urls, "a.barc", cwd=tmp_path, stderr=subprocess.PIPE) as process:
        until(lambda: asked(site) == 4 and len(urls_of(tmp_path / "a.barc")) == 2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, b"penstock: interrupted after 2 records; --resume goes on\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.barc"]
    with barc.open(tmp_path / "a.barc") as archive:
        assert not [found for found in archive.check() if isinstance(found, Exception)]
    with start("record", "--resume", *urls[::3], f"{site}/text/3", "a.barc", cwd=tmp_path) as process:
        pass
    assert sorted(urls_of(tmp_path / "a.barc")) == [f"{site}/text/{number}" for number in (1, 2, 3)]


def test_interrupted_together_with_who_reads_its_messages_it_ends_as_interrupted(site: str, tmp_path: Path) -> None:
    with start("record", f"{site}/held", "a.barc", cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        until(lambda: asked(site, "held") == 1)
        process.stderr.close()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_interrupted_while_it_writes_it_finishes_that_record_and_tells_of_it(site: str, tmp_path: Path) -> None:
    file, size = tmp_path / "a.barc", 48 << 20
    command = ["record", "--brotli", "--json", f"{site}/text/1/{size}", f"{site}/held", file]
    with start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # A head that reserves the place, and not all of what follows.
        until(lambda: file.exists() and file.stat().st_size > 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, err) == (130, b"penstock: interrupted after 1 record; --resume goes on\n")
    told = json.loads(out)
    with barc.open(file) as archive:
        (record,) = archive
        assert (record.offset, len(record.res_body)) == (told["offset"], told["size"]) == (0, size)


def test_ctrl_c_is_of_no_account_where_the_shell_has_it_ignored(site: str, tmp_path: Path) -> None:
    command = ["sh", "-c", 'trap "" INT; exec "$0" -m penstock.cli "$@"', sys.executable, "record"]
    with subprocess.Popen([*command, f"{site}/text/1", f"{site}/half/10", tmp_path / "a.barc"]) as process:
        until(lambda: asked(site) == 2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        still = process.poll()
        process.kill()
    assert still is None


def test_interrupted_at_any_time_it_leaves_whole_records(site: str, listed: Path) -> None:
    file = listed.with_name("a.barc")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with start("record", "--from", listed, "--json", file, **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    # Each one that was told of is there, and the other way round.
    told = [json.loads(line) for line in out.splitlines()]
    with barc.open(file) as archive:
        found = list(archive.check())
    assert not [error for error in found if isinstance(error, Exception)]
    assert len(found) == len(told) + 1 < MANY
    assert err.decode() == f"penstock: interrupted after {len(found):,} records; --resume goes on\n"


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_at_any_time_resume_ends_with_each_url_once_in_little_memory(site: str, listed: Path) -> None:
    file = listed.with_name("a.barc")
    command = ["record", "--from", listed, "--concurrency", "200", "--resume", file]
    size = 0
    for _ in range(2):
        least = size + random.randrange(2 << 20)
        with start(*command) as process:
            until(lambda least=least: file.exists() and file.stat().st_size > least)  # type: ignore[misc]
            process.kill()
        size = file.stat().st_size
        assert process.returncode == -signal.SIGKILL
    with start(*command) as process:
        peak = watched(process)
    assert process.returncode == 0
    assert peak < 150 << 20
    with barc.open(file) as archive:
        bodies = [(record.meta["url"], bytes(record.res_body)) for record in archive]
    expected = ((url, text(number, number % 5000)) for number, url in enumerate(listed.read_text().split()))
    assert Counter(bodies) == Counter(expected), f"killed at {least} bytes"


def test_a_terminal_shows_how_far_it_is(site: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text(f"{site}/text/1/5000\n{site}/text/2/5000\n")
    status, sent = in_terminal("record", "--from", "urls.txt", f"{site}/cut", "a.barc", cwd=tmp_path)
    assert status == 2
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)
    assert re.search(r"2 records, 9\.8 KiB, [\d.]+ .*/s, ETA 0:00:00", plain), plain
    # Above the bar.
    assert f"penstock: {site}/cut: body ended after 4 bytes of 8" in [
        line.split("\r")[-1].strip() for line in plain.replace("\r\n", "\n").split("\n")
    ]


def test_a_reader_of_its_report_that_goes_ends_it(site: str, listed: Path) -> None:
    command = ["record", "--json", "--from", listed, "a.barc"]
    with start(*command, cwd=listed.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 2
    assert 0 < len(urls_of(listed.with_name("a.barc"))) < MANY


def test_a_report_that_nobody_reads_keeps_nobody_from_interrupting(site: str, listed: Path) -> None:
    file = listed.with_name("a.barc")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with start("record", "--from", listed, "--concurrency", 4, "--json", file, **pipes) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        until(lambda: file.exists() and len(urls_of(file)) >= 4)
        still = None
        while still != (still := len(urls_of(file))):
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
        told = process.stdout.read().count(b"\n")
    with barc.open(file) as archive:
        found = list(archive.check())
    assert not [each for each in found if isinstance(each, Exception)]
    assert 0 < told <= len(found) < MANY


def test_failures_that_nobody_reads_keep_nobody_from_interrupting(site: str, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("".join(f"{site}/cut?{number}\n" for number in range(2000)))
    command = ["record", "--from", "urls.txt", "--concurrency", 4, f"{site}/text/1", "a.barc"]
    with start(*command, cwd=tmp_path, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        fcntl.fcntl(process.stderr.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        until(lambda: asked(site, "cut") >= 4)
        still = None
        while still != (still := asked(site)):
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    assert still < 2000
    assert urls_of(tmp_path / "a.barc") == [f"{site}/text/1"]
