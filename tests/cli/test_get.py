"""`penstock get`: bodies to standard output and to files, and what is said of those that don't come."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.conftest import asked, heads_of, needs_proc, start, until, watched
from tests.cli.site import ZIPPED, text


def test_bodies_go_to_standard_output_one_after_the_other(run: Any, site: str) -> None:
    assert run("get", f"{site}/text/1", f"{site}/to/text/2", f"{site}/gzip") == (
        0,
        (text(1) + text(2) + ZIPPED).decode(),
        "",
    )


def test_an_output_is_a_file_or_a_directory(run: Any, site: str, tmp_path: Path) -> None:
    assert run("get", "-o", tmp_path / "a", f"{site}/text/1") == (0, "", "")
    assert run("get", "-o", tmp_path, f"{site}/text/2") == (0, "", "")
    assert run("get", "-o", tmp_path / "made/here", f"{site}/text/3?x=/y", f"{site}/gzip", f"{site}/to/text/4") == (
        0,
        "",
        "",
    )
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "a": text(1),
        "2": text(2),
        "made/here/3": text(3),
        "made/here/gzip": ZIPPED,
        "made/here/4": text(4),
    }


def test_a_file_is_no_directory_for_several_urls_whatever_is_forced(run: Any, site: str, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"before")
    for force in ([], ["--force"]):
        done = run("get", *force, "-o", file, f"{site}/text/1", f"{site}/text/2")
        assert done == (2, "", f"penstock: {file}: no directory, which several URLs take\n")
    assert (
        run("get", "-o", f"{file}/", f"{site}/text/1").err == f"penstock: {file}/: no directory, which its name says\n"
    )
    assert file.read_bytes() == b"before"


@pytest.mark.parametrize("path", ["", "/", "/text/", "/text/..", "/."])
def test_a_url_without_a_name_gives_an_index_in_the_directory(path: str, run: Any, site: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert run("get", "-o", folder, f"{site}{path}", f"{site}/text/1") == (0, "", "")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"index.html": b"index", "1": text(1)}
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_headers_are_sent_with_each_request(run: Any, site: str) -> None:
    given = ("-H", "X-One: 1", "--header", "user-agent:me", "-H", "Accept: a/b", "-H", "accept: c/d", "-H", "empty:")
    assert run("get", *given, f"{site}/to/text/1", f"{site}/text/2").status == 0
    heads = heads_of(site)
    assert len(heads) == 3
    for head in heads:
        sent = dict(line.split(": ", 1) for line in head.splitlines()[1:])
        assert (sent["x-one"], sent["user-agent"], sent["accept"], sent["empty"]) == ("1", "me", "a/b, c/d", "")


def test_a_url_takes_no_longer_than_the_timeout(run: Any, site: str, tmp_path: Path) -> None:
    done = run("get", "--timeout", "0.5", "-o", tmp_path, f"{site}/half/2000", f"{site}/held", f"{site}/text/1")
    assert (done.status, done.out) == (2, "")
    assert done.err.count("within 0.5 s (--timeout)") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_proxy_is_asked(run: Any, site: str) -> None:
    assert run("get", "--proxy", site, "http://elsewhere.invalid/text/1").status == 2
    assert [head.splitlines()[0] for head in heads_of(site)] == ["GET http://elsewhere.invalid/text/1 HTTP/1.1"]
    assert run("get", "--proxy", "", f"{site}/text/1") == (0, text(1).decode(), "")


@pytest.mark.parametrize("command", ["get", "record"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("-H", "secret"), "takes a name, a colon and a value"),
        (("-H", "a b: secret"), "not a token"),
        (("-H", "a: secret\n1"), "line break"),
        (("-H", "host: secret", "-H", "Host: secret"), "has one value, and is given more"),
        (("--timeout", "0"), "--timeout: 0.0: must be above 0"),
        (("--timeout", "nan"), "--timeout: nan: must be above 0"),
        (("--timeout", "soon"), "'soon' is not a valid float"),
        (("--proxy", "ftp://user:secret@there"), "proxy"),
    ],
)
def test_what_requests_cannot_have_is_wrong_usage_and_no_secret_is_told(
    command: str, given: tuple[str, str], why: str, run: Any, tmp_path: Path
) -> None:
    done = run(command, *given, "http://127.0.0.1:1/", tmp_path / "file" if command == "record" else "http://[::1]:1/")
    assert (done.status, done.out) == (1, "")
    assert why in done.err
    assert "secret" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_two_urls_of_one_name_do_not_replace_each_other(run: Any, site: str, tmp_path: Path) -> None:
    done = run("get", "-f", "-o", tmp_path, f"{site}/text/1", f"{site}/text/2/1", f"{site}/text/1")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"penstock: {site}/text/2/1: {tmp_path / '1'} is what {site}/text/1 is\n"
    assert (tmp_path / "1").read_bytes() == text(1)


def test_a_url_that_fails_leaves_its_name_to_the_next(run: Any, site: str, tmp_path: Path) -> None:
    done = run("get", "-o", tmp_path, f"{site}/status/404", f"{site}/text/404")
    assert (done.status, done.out, done.err) == (2, "", f"penstock: {site}/status/404: 404 Sorry\n")
    assert (tmp_path / "404").read_bytes() == text(404)


def test_a_dash_is_standard_output(run: Any, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("get", "-o", "-", f"{site}/text/1", f"{site}/text/2") == (0, (text(1) + text(2)).decode(), "")
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_written_to_and_never_replaced(site: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with start("get", "-f", "-o", pipe, f"{site}/text/1/300000", stderr=subprocess.PIPE, text=True) as process:
        assert pipe.read_bytes() == text(1, 300_000)
        assert process.communicate(timeout=20) == (None, "")
    assert (process.returncode, pipe.is_fifo()) == (0, True)


def test_a_pipe_may_be_named_by_its_descriptor(site: str) -> None:
    reader, writer = os.pipe()
    command = ["get", "-o", f"/dev/fd/{writer}", f"{site}/text/1/300000"]
    with open(reader, "rb") as pipe, start(*command, pass_fds=[writer], stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert pipe.read() == text(1, 300_000)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("opened", [False, True])
def test_a_pipe_that_nobody_reads_can_be_interrupted(opened: bool, site: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if opened else None
    try:
        with start("get", "-o", pipe, f"{site}/text/1/{1 << 20}", stderr=subprocess.PIPE) as process:
            until(lambda: asked(site, "text") == 1)
            # It waits for a reader, or for what is in the pipe to be read.
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
    finally:
        if reader is not None:
            os.close(reader)
    assert (process.returncode, err) == (130, b"")


def test_a_link_stays_a_link(run: Any, site: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_bytes(b"before")
    (tmp_path / "link").symlink_to("elsewhere/file")
    assert run("get", "-f", "-o", tmp_path / "link", f"{site}/text/1") == (0, "", "")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere/file").read_bytes() == text(1)


def test_a_length_told_twice_is_what_the_client_says_it_is(run: Any, site: str, tmp_path: Path) -> None:
    assert run("get", "-o", tmp_path / "a", f"{site}/twice") == (0, "", "")
    assert (tmp_path / "a").read_bytes() == b"hello"


def test_what_fails_is_named_and_the_others_come_anyway(run: Any, site: str, tmp_path: Path, snapshot: Any) -> None:
    (tmp_path / "6").write_bytes(b"mine")
    urls = [
        f"{site}/status/404",
        f"{site}/cut",
        "ftp://sample.test/",
        f"{site}/text/5",
        f"{site}/text/6",
        "http://127.0.0.1:1/x",
    ]
    done = run("get", "-o", tmp_path, "--max-body", "64KiB", *urls, f"{site}/text/7/65537", f"{site}/text/8/65536")
    assert (done.status, done.out) == (2, "")
    snapshot("get-errors", done.err.replace(site, "http://SITE").replace(str(tmp_path), "DIR"))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {"5": text(5), "6": b"mine", "65536": text(8, 65536)}


def test_a_line_on_a_url_is_without_its_password(run: Any, tmp_path: Path) -> None:
    url = "http://user:secret@127.0.0.1:1/a"
    again = "http://user:secret@127.0.0.1:1/b/a"
    got = run("get", "-o", f"{tmp_path}/", url, again)
    recorded = run("record", url, tmp_path / "a.barc")
    assert (got.status, recorded.status) == (2, 2)
    for line in (got.err + recorded.err).splitlines():
        assert line.startswith("penstock: http://...@127.0.0.1:1/")
        assert "secret" not in line


def test_it_tells_machines_what_became_of_each(run: Any, site: str, tmp_path: Path) -> None:
    done = run("get", "--json", "-o", tmp_path, f"{site}/text/5", f"{site}/status/500", f"{site}/gzip")
    assert done.status == 2
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"url": f"{site}/text/5", "file": str(tmp_path / "5"), "size": len(text(5))},
        {"url": f"{site}/status/500", "error": "500 Sorry"},
        {"url": f"{site}/gzip", "file": str(tmp_path / "gzip"), "size": len(ZIPPED)},
    ]


def test_a_file_is_replaced_only_by_force(run: Any, site: str, tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"mine")
    assert run("get", "-o", target, f"{site}/text/1").status == 2
    assert target.read_bytes() == b"mine"
    assert run("get", "--force", "-o", target, f"{site}/text/1").status == 0
    assert target.read_bytes() == text(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get"], "Missing argument 'URL...'"),
        (["get", "--json", "http://sample.test/"], "--json needs --output: standard output is for the bodies"),
        (["get", "--json", "-o", "-", "http://sample.test/"], "--json needs --output: standard output"),
        (["get", "-o", "", "http://sample.test/"], "Invalid value for --output: the name of a file or directory"),
        (["get", "--max-body", "much", "http://sample.test/"], "Invalid value for --max-body"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, run: Any) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (1, "")
    assert message in done.err


@needs_proc
@pytest.mark.parametrize("output", [[], ["-o", "large"]])
def test_a_large_body_takes_little_memory(output: list[str], site: str, tmp_path: Path) -> None:
    size = 96 << 20
    with (
        open(tmp_path / "out", "wb") as out,
        start("get", *output, f"{site}/text/1/{size}", cwd=tmp_path, stdout=out) as process,
    ):
        peak = watched(process)
    assert process.returncode == 0
    assert sorted((path.name, path.stat().st_size) for path in tmp_path.iterdir()) == (
        [("large", size), ("out", 0)] if output else [("out", size)]
    )
    assert 0 < peak < 100 << 20


def test_interrupted_it_leaves_no_half_file(site: str, tmp_path: Path) -> None:
    with start("get", "-o", "half", f"{site}/half/{1 << 20}", cwd=tmp_path, stderr=subprocess.PIPE) as process:
        until(lambda: asked(site, "half"))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_ends_it_without_a_word(site: str) -> None:
    urls = [f"{site}/text/1/{1 << 20}"] * 3
    with start("get", *urls, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 2


def interrupt_when_stuck(process: subprocess.Popen[bytes], pipe: IO[bytes], site: str) -> int:
    """Fills a pipe that nobody reads, until nothing more is asked for; how much was."""
    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    still = 0
    while still == 0 or still != asked(site):
        still = asked(site)
        time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 130
    return still


@pytest.mark.parametrize("lines", [False, True], ids=["bodies", "--json"])
def test_output_that_nobody_reads_keeps_nobody_from_interrupting(lines: bool, site: str, tmp_path: Path) -> None:
    json_lines = ["--json", "-o", tmp_path, *(f"{site}/text/{number}" for number in range(200))]
    command = json_lines if lines else [f"{site}/text/1/{1 << 20}"]
    # Standard output as it is in a shell.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with start("get", *command, **pipes) as process:
        assert process.stdout is not None
        interrupt_when_stuck(process, process.stdout, site)
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_pipe_that_takes_no_more_for_now_gets_all_of_a_body(site: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb") as pipe, start("get", f"{site}/text/1/{1 << 20}", stdout=writer) as process:
        os.close(writer)
        assert pipe.read() == text(1, 1 << 20)
    assert process.returncode == 0


def test_failures_that_nobody_reads_keep_nobody_from_interrupting(site: str, tmp_path: Path) -> None:
    urls = [f"{site}/gone?{number}" for number in range(2000)]
    with start("get", *urls, cwd=tmp_path, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        still = interrupt_when_stuck(process, process.stderr, site)
    assert still < 2000
