"""The programs in examples/ and the README's, each run whole, in an interpreter of its own, against a real server."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import re
import resource
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from penstock.bench import server

from .conftest import SIZE

ROOT = Path(__file__).resolve().parents[2]
SHA256 = hashlib.sha256(server.body(SIZE)).hexdigest()


def run(
    program: Path, *arguments: str, cwd: Path, stdin: str = "", timeout: float = 25
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(program), *arguments]
    return subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)


Example = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def example(tmp_path: Path) -> Example:
    def started(name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run(ROOT / "examples" / name, *arguments, cwd=tmp_path, **options)

    return started


def readme() -> str:
    return (ROOT / "README.md").read_text()


def code(text: str) -> str:
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1]


def test_every_example_is_run_here() -> None:
    named = set(re.findall(r'(?:example\("|examples/)(\w+\.py)"', Path(__file__).read_text()))
    assert named == {path.name for path in (ROOT / "examples").glob("*.py")}


def test_the_readmes_sample_does_what_it_says(url: str, tmp_path: Path) -> None:
    sample = code(readme())
    assert len(sample.splitlines()) <= 10
    program = tmp_path / "sample.py"
    program.write_text(re.sub(r"https://[^\"]+", f"{url}/8388608/8192", sample))
    done = run(program, cwd=tmp_path)
    assert done.stderr == ""
    said = re.search(r"print\(.*# (.+)$", sample, re.MULTILINE)
    assert said is not None
    assert done.stdout == f"{said[1]}\n"
    assert (tmp_path / "archive.tar").read_bytes() == server.body(8388608)


def test_the_readme_fits_one_screen_and_keeps_its_order() -> None:
    text = readme()
    assert len(text.splitlines()) <= 48
    order = [
        "**asyncio HTTP and blocking calls that can't run you out of memory, threads or time.**",
        "Bodies spill to disk",
        "a bounded pool",
        "the event loop keeps turning",
        "```python",
        "<!-- table:readme -->",
        "make demo",
        "make test",
        "not to use",
        "keep nothing",
        "HTTP/2, Windows",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_collect_aiohttp(example: Example, url: str) -> None:
    done = example("collect_aiohttp.py", url)
    assert (done.stdout, done.stderr) == (f"{SIZE} bytes, in file, sha256 {SHA256}\n", "")


def test_collect_httpx(example: Example, url: str) -> None:
    done = example("collect_httpx.py", url)
    assert (done.stdout, done.stderr) == (f"{SIZE} bytes, in file\n", "")
    done = example("collect_httpx.py", f"{url}/{20 << 20}/8192")
    first, second = done.stdout.splitlines()
    assert first.startswith("cut: body of at least")
    assert first.endswith("over the limit of 16777216 bytes (Tunables.max_body)")
    assert second.endswith(" bytes, in file")


def test_crawl(example: Example, url: str) -> None:
    sizes = [*range(0, 200_000, 5_000), SIZE]
    wrong = ["http://127.0.0.1:1/", "ftp://example.com/", f"{url}/{65 << 20}/0"]
    done = example("crawl.py", stdin="\n".join([f"{url}/{size}/8192" for size in sizes] + wrong))
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    for size in sizes:
        digest = hashlib.sha256(server.body(size)).hexdigest()
        assert found[f"{url}/{size}/8192"] == f"200, {size} bytes, sha256 {digest}"
    assert [found[each].partition(":")[0] for each in wrong] == ["ConnectError", "InvalidURL", "ContentLengthTooLong"]
    assert re.fullmatch(r"\d+ connections\n", done.stderr)


def test_a_body_whose_file_cannot_be_written_ends_no_other_visit_of_the_crawl(tmp_path: Path, url: str) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    urls = [f"{url}/{size}/8192" for size in (SIZE, *range(100))]
    done = subprocess.run(
        # Without -B, the interpreter's own files would be cut, too.
        [sys.executable, "-B", "-W", "error", str(ROOT / "examples/crawl.py"), *urls],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
        preexec_fn=small_files,
    )
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert found.keys() == set(urls), done.stderr
    assert "File too large" in found[urls[0]]
    assert [each for each in urls[1:] if not found[each].startswith("200, ")] == []


SITE = """
import asyncio

BODY = bytes(i * 31 & 255 for i in range(256)) * (1 << 12)

async def answer(reader, writer):
    try:
        while True:
            request = await reader.readuntil(b"\\r\\n\\r\\n")
            _, kind, _, size = request.split(b" ")[1].decode().split("/")
            size = int(size)
            if kind == "missing":
                writer.write(b"HTTP/1.1 404 Not Found\\r\\nContent-Length: 2\\r\\n\\r\\nno")
            elif kind == "broken":
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % (size + 1) + BODY[:size])
                return
            elif size % 3:
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % size + BODY[:size])
            else:
                chunk = b"%x\\r\\n%b\\r\\n" % (size, BODY[:size]) if size else b""
                writer.write(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n" + chunk + b"0\\r\\n\\r\\n")
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

LONG = os.environ.get("CI") or os.environ.get("PENSTOCK_NIGHTLY")
SECONDS = int(os.environ.get("PENSTOCK_EXAMPLE_SECONDS") or (60 if LONG else 5))
"""How long the programs run that watch themselves."""
URLS = 10_000 if SECONDS == 60 else 2000
"""How many the crawler visits at least."""


@pytest.fixture
def site() -> Iterator[str]:
    """A server for the crawler, in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", SITE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


class Idle(threading.Thread):
    """Sleeps beside a program, for `with`: where the machine stands still, it is late, too."""

    def __init__(self) -> None:
        super().__init__(name="idle")
        self._over = threading.Event()
        self._lags = [0.0, 0.0]

    def run(self) -> None:
        while not self._over.is_set():
            due = time.monotonic() + 0.02
            time.sleep(0.02)
            self._lags = sorted([*self._lags, (time.monotonic() - due) * 1000])[-2:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()

    def __str__(self) -> str:
        return f"a thread that only slept was late by {self._lags[0]:.0f} ms, and once by {self._lags[1]:.0f} ms"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(120)
def test_the_crawler_stays_within_its_bounds(example: Example, site: str) -> None:
    with Idle() as idle:
        done = example("crawler.py", site, f"--seconds={SECONDS}", f"--urls={URLS}", timeout=110)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}{idle}"
    lines = [line.split(": ") for line in done.stdout.splitlines() if re.match(r"[\w ]+: \d+$", line)]
    found = {name: int(number) for name, number in lines}
    visited = sum(found.values())
    assert visited >= URLS
    # Of ten bodies one is too large for memory; of a hundred URLs one is missing, and the body of another is cut.
    kinds = {"200 file": 0.1, "200 ram": 0.88, "404 ram": 0.01, "Truncated": 0.01}
    assert found == {kind: pytest.approx(share * visited, abs=3) for kind, share in kinds.items()}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_driver_behind_an_app_stays_on_its_threads(example: Example) -> None:
    with Idle() as idle:
        done = example("driver_behind_fastapi.py", f"--seconds={SECONDS}", timeout=110)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}{idle}"
    queries, rate = re.fullmatch(r"(\d+) queries, (\d+) a second on 4 threads", done.stdout.splitlines()[0]).groups()  # type: ignore[union-attr]
    # Four threads that sleep five milliseconds: no more than that, and not much less.
    assert int(queries) > 0
    assert 100 < int(rate) <= 800


def test_save(example: Example, url: str, tmp_path: Path) -> None:
    done = example("save.py", url, "body")
    assert re.fullmatch(rf"body: {SIZE} bytes in \d+\.\d\d s, sha256 {SHA256}\n", done.stdout), done.stderr
    assert (tmp_path / "body").read_bytes() == server.body(SIZE)
    done = example("save.py", f"{url}/nothing", "other")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("HTTPStatusError: 404 Not Found")
    done = example("save.py", url, "nowhere/body")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("FileNotFoundError: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["body"]


def test_database(example: Example, tmp_path: Path) -> None:
    done = example("database.py", "accounts.db")
    found = re.fullmatch(r"(\d+) transfers, (\d+) refused, 1000 in all\n", done.stdout)
    assert found is not None, done.stderr
    assert int(found[1]) + int(found[2]) == 100
    assert int(found[1]) > 0
    assert int(found[2]) > 0
    with contextlib.closing(sqlite3.connect(tmp_path / "accounts.db")) as connection:
        assert connection.execute("SELECT sum(balance), min(balance) >= 0 FROM accounts").fetchone() == (1000, 1)
    again = example("database.py", "accounts.db")
    assert again.stdout.endswith(" 1000 in all\n"), again.stderr


def test_serve_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("not yours")
    (root / "link").symlink_to(tmp_path / "secret")
    contents = {f"file {size}": server.body(size) for size in (0, 1, 65_536, SIZE)}
    for name, content in contents.items():
        (root / name).write_bytes(content)
    command = [sys.executable, "-W", "error", str(ROOT / "examples/serve_files.py"), str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline().decode().strip()

        def get(name: str) -> bytes:
            with urllib.request.urlopen(f"{url}/{urllib.parse.quote(name)}", timeout=20) as response:
                return response.read()  # type: ignore[no-any-return]

        def refusal(target: str) -> int:
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(target)
            caught.value.close()
            return caught.value.code

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert dict(zip(contents, threads.map(get, contents), strict=True)) == contents
        assert [refusal(target) for target in ("nothing", "link", "../secret")] == [404, 403, 403]
        _, errors = serving.communicate(timeout=20)
    assert (serving.returncode, errors) == (0, b"")


def test_parse(example: Example, tmp_path: Path) -> None:
    for index in range(6):
        rows = [f"{n},x" for n in range(index * 1000)]
        (tmp_path / f"{index}.csv").write_text("\n".join(["amount,name", *rows]))
    done = example("parse.py", *(f"{index}.csv" for index in range(6)))
    expected = [f"{n}.csv: {n * 1000} rows, {sum(range(n * 1000))}" for n in range(6)]
    assert sorted(done.stdout.splitlines()) == expected
    assert re.fullmatch(r"the loop was late by \d+\.\d ms at most\n", done.stderr)
