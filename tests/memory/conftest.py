"""Servers on threads of the test's process, for the programs whose memory is measured."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

CONTENT = memoryview(random.Random(3).randbytes(2 << 20))
"""What every body is the beginning of."""

SINGLE = b"1\r\nx\r\n"
"""A chunk of one byte."""


def respond(connection: socket.socket) -> None:
    """Answers `GET /SIZE` with a Content-Length, `GET /SIZE/CHUNK` chunked."""
    with connection, contextlib.suppress(ConnectionError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                if not (data := connection.recv(65536)):
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            size, *chunk = map(int, head.split(b" ", 2)[1].strip(b"/").split(b"/"))
            if not chunk:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + CONTENT[:size])
                continue
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            if chunk == [1]:
                connection.sendall(SINGLE * size)
            else:
                for start in range(0, size, chunk[0]):
                    piece = CONTENT[start : min(start + chunk[0], size)]
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")


@contextlib.contextmanager
def served(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """The URL of a server that has a thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed below
                return
            thread = threading.Thread(target=answer, args=(connection,))
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
        for thread in threads:
            thread.join()
        listener.close()


@pytest.fixture
def bodies_url() -> Iterator[str]:
    with served(respond) as url:
        yield url
