"""Responses that would become 10 GiB stop at the limit, and take little memory on their way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory import bombs

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = 64 << 20


@pytest.fixture
def bombs_url() -> Iterator[str]:
    made = {coding: make() for coding, make in bombs.BOMBS.items()}
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed below
                return
            thread = threading.Thread(target=bombs.send, args=(connection, made))
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    acceptor.join()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("decode", ["arriving", "after"])
@pytest.mark.parametrize("store", bombs.STORES)
def test_a_bomb_of_10_gib_stops_at_the_limit_and_takes_64_mib_at_most(bombs_url: str, store: str, decode: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.memory.bombs", bombs_url, store, decode]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=80, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    cap = report["cap"]
    asked = [[coding, framing] for coding in bombs.CODINGS for framing in bombs.FRAMINGS]
    assert [entry[:2] for entry in report["found"]] == asked
    for _, _, seen, reached in report["found"]:
        assert seen == cap + 1
        if decode == "arriving":
            assert reached == cap
    assert report["grown"] <= ALLOWED, report
