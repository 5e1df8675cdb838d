"""The benchmarks' server, as a process on a real socket."""

import http.client
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from penstock.bench import server

SIZE = 100_000


@pytest.fixture(scope="module")
def address() -> Iterator[server.Address]:
    with server.running(SIZE, 8192) as address:
        yield address


@pytest.fixture
def connect(address: server.Address) -> Iterator[Callable[[], http.client.HTTPConnection]]:
    opened: list[http.client.HTTPConnection] = []

    def make() -> http.client.HTTPConnection:
        parts = urlsplit(address.url)
        assert parts.hostname is not None
        opened.append(http.client.HTTPConnection(parts.hostname, parts.port, timeout=10))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


def get(connection: http.client.HTTPConnection, path: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request("GET", path)
    response = connection.getresponse()
    return response, response.read()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_body_has_its_greatest_byte_at_the_end_and_nowhere_else() -> None:
    body = server.body(SIZE)
    assert len(body) == SIZE
    assert body.find(b"\xff") == SIZE - 1
    assert len(set(body)) == 256
    assert server.body(0) == b""


@pytest.mark.parametrize("chunk", [1, 1000, 8192, SIZE, SIZE + 1])
def test_chunked_images_say_each_chunks_size(chunk: int) -> None:
    image = server.response(SIZE, chunk)
    head, _, chunks = image.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    wire, sizes = io.BytesIO(chunks), []
    while size := int(wire.readline().removesuffix(b"\r\n"), 16):
        sizes.append(size)
        assert wire.read(size + 2)[size:] == b"\r\n"
    assert wire.read() == b"\r\n"
    assert sum(sizes) == SIZE
    assert set(sizes[:-1]) <= {chunk}


def test_one_connection_serves_both_framings_and_the_default(
    connect: Callable[[], http.client.HTTPConnection],
) -> None:
    connection = connect()
    response, body = get(connection, "/")
    assert response.headers["transfer-encoding"] == "chunked"
    assert body == server.body(SIZE)
    sock = connection.sock
    response, body = get(connection, f"/{SIZE}/0")
    assert response.headers["content-length"] == str(SIZE)
    assert body == server.body(SIZE)
    response, body = get(connection, "/7/3")
    assert body == server.body(7)
    assert connection.sock is sock


def test_requests_may_come_together(address: server.Address, connect: Callable[[], http.client.HTTPConnection]) -> None:
    connection = connect()
    connection.connect()
    connection.sock.sendall(b"GET /5/0 HTTP/1.1\r\n\r\n" * 3)
    wanted = server.response(5, 0) * 3
    received = b""
    while len(received) < len(wanted):
        received += connection.sock.recv(4096)
    assert received == wanted


def test_unknown_paths_are_not_found_and_close_is_obeyed(connect: Callable[[], http.client.HTTPConnection]) -> None:
    connection = connect()
    assert get(connection, "/nothing")[0].status == 404
    assert get(connection, "/-1/5")[0].status == 404
    connection.request("GET", "/5/0", headers={"Connection": "close"})
    assert connection.getresponse().read() == server.body(5)
    until(lambda: connection.sock is None or connection.sock.recv(1) == b"")


def test_held_bodies_stop_half_way_until_released(connect: Callable[[], http.client.HTTPConnection]) -> None:
    control = connect()

    def count(path: str) -> int:
        return int(get(control, path)[1])

    bodies: dict[int, bytes] = {}

    def hold(number: int, connection: http.client.HTTPConnection) -> None:
        bodies[number] = get(connection, f"/hold/{SIZE}/{number * 1000}")[1]

    threads = [threading.Thread(target=hold, args=(number, connect())) for number in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: count("/held") == 3)
    assert count("/connections") >= 3
    assert bodies == {}
    get(control, "/release")
    for thread in threads:
        thread.join()
    assert set(bodies.values()) == {server.body(SIZE)}
    assert count("/held") == 0


def test_connections_leaves_out_the_one_that_asks(connect: Callable[[], http.client.HTTPConnection]) -> None:
    control = connect()
    until(lambda: get(control, "/connections")[1] == b"0")
    other = connect()
    other.connect()
    until(lambda: get(control, "/connections")[1] == b"1")
    other.close()
    until(lambda: get(control, "/connections")[1] == b"0")


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penstock.bench", "server", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_first_line_is_the_address_and_signals_end_it_in_order(end: signal.Signals) -> None:
    with start("--bind", "127.0.0.1:0", "--size", "1KiB", "--framing", "length") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+\n", line)
        process.send_signal(end)
        assert process.wait(timeout=10) == 0


def test_it_ends_when_its_parents_pipe_closes() -> None:
    with start() as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def test_a_terminals_ctrl_c_does_not_reach_it(address: server.Address) -> None:
    assert address.pid is not None
    assert os.getpgid(address.pid) == address.pid


def test_a_server_elsewhere_is_used_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "BENCH_SERVER_URL", "http://192.0.2.1:8080/")
    with server.running(SIZE, 0) as address:
        assert address == server.Address("http://192.0.2.1:8080", None)
