"""The server that the benchmarks load from, and the context manager that runs it as a process of its own.

It answers `GET /SIZE/CHUNK` with a body of SIZE bytes in chunks of CHUNK (0: one piece, with a Content-Length) from an
image of the whole response made once, with one `sendall` a request, so that it never is what is measured. The body is
pseudo-random without 0xFF, except for its last byte, which is always 0xFF: a reader that finds 0xFF as the maximum has
seen the end. `/` answers with the size and chunk it was started with; `/hold/SIZE/CHUNK` stops half-way until somebody
asks for `/release`; `/connections` and `/held` count what is open. The driver starts it, `penstock bench server` too.
"""

import contextlib
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.bench.machine import pinned, raise_descriptor_limit

MAX_HEAD = 64 * 1024
STACK_SIZE = 256 * 1024


def body(size: int) -> bytes:
    """The body of that size: the same one in every process, 0xFF at its end and nowhere else."""
    if size == 0:
        return b""
    return random.Random(size).randbytes(size - 1).replace(b"\xff", b"\xfe") + b"\xff"


def response(size: int, chunk: int) -> bytes:
    """The bytes on the wire for a body of `size`, chunked by `chunk` or, if that is 0, with a Content-Length."""
    content = body(size)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    if chunk == 0:
        return b"%sContent-Length: %d\r\n\r\n%s" % (head, size, content)
    pieces: list[bytes | memoryview] = [head, b"Transfer-Encoding: chunked\r\n\r\n"]
    view = memoryview(content)
    for start in range(0, size, chunk):
        piece = view[start : start + chunk]
        pieces += (b"%x\r\n" % len(piece), piece, b"\r\n")
    pieces.append(b"0\r\n\r\n")
    return b"".join(pieces)


def plain(status: str, text: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def read_head(connection: socket.socket, received: bytearray) -> bytes:
    """The head of the next request, taken from the front of what was received, which more is added to; nothing at the
    connection's end, or if it is too long."""
    while (end := received.find(b"\r\n\r\n")) < 0:
        data = connection.recv(16 * 1024)
        if not data or len(received) > MAX_HEAD:
            return b""
        received += data
    head = bytes(received[:end])
    del received[: end + 4]
    return head


class BenchServer:
    """Accepts on a socket and answers each connection on a thread of its own, until the process ends."""

    def __init__(self, listener: socket.socket, size: int, chunk: int) -> None:
        self._listener = listener
        self._default = (size, chunk)
        self._images: dict[tuple[int, int], memoryview] = {}
        # Guards all that follows, and wakes the held when the generation moves on.
        self._changed = threading.Condition()
        self._generation = 0
        self._held = 0
        self._open = 0

    def serve(self) -> None:
        self._image(*self._default)
        threading.stack_size(STACK_SIZE)
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with self._changed:
            self._open += 1
        try:
            with connection, contextlib.suppress(ConnectionError):
                received = bytearray()
                while head := read_head(connection, received):
                    _, _, rest = head.partition(b" ")
                    self._answer(connection, rest.partition(b" ")[0].decode("ascii", "replace"))
                    if b"\r\nconnection: close" in head.lower():
                        return
        finally:
            with self._changed:
                self._open -= 1

    def _answer(self, connection: socket.socket, path: str) -> None:
        match path.strip("/").split("/"):
            case [""]:
                connection.sendall(self._image(*self._default))
            case ["connections"]:
                # The connection that asks is not one that is meant.
                connection.sendall(plain("200 OK", str(self._open - 1)))
            case ["held"]:
                connection.sendall(plain("200 OK", str(self._held)))
            case ["release"]:
                with self._changed:
                    self._generation += 1
                    self._changed.notify_all()
                connection.sendall(plain("200 OK", "released"))
            case ["hold", size, chunk] if size.isdecimal() and chunk.isdecimal():
                self._hold(connection, self._image(int(size), int(chunk)))
            case [size, chunk] if size.isdecimal() and chunk.isdecimal():
                connection.sendall(self._image(int(size), int(chunk)))
            case _:
                connection.sendall(plain("404 Not Found", "try /SIZE/CHUNK"))

    def _hold(self, connection: socket.socket, image: memoryview) -> None:
        half = len(image) // 2
        with self._changed:
            generation = self._generation
        connection.sendall(image[:half])
        with self._changed:
            self._held += 1
            self._changed.wait_for(lambda: self._generation != generation)
            self._held -= 1
        connection.sendall(image[half:])

    def _image(self, size: int, chunk: int) -> memoryview:
        image = self._images.get((size, chunk))
        if image is None:
            image = self._images.setdefault((size, chunk), memoryview(response(size, chunk)))
        return image


def serve(bind: str, size: int, chunk: int) -> None:
    """Serve on `bind` ("HOST:PORT", 0 for any port), print the address, end on SIGTERM, SIGINT or a closed stdin."""
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    host, _, port = bind.rpartition(":")
    with socket.create_server((host, int(port)), backlog=1024) as listener, contextlib.suppress(KeyboardInterrupt):
        server = BenchServer(listener, size, chunk)
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}", flush=True)
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            threading.Thread(target=_end_with_stdin, daemon=True).start()
        server.serve()


def _end_with_stdin() -> None:
    """A pipe on stdin is the parent's hand: when it is closed, or the parent has died, nobody needs this server."""
    while os.read(0, 4096):
        pass
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGTERM)


@dataclass(frozen=True)
class Address:
    """Where a server listens; `pid` is None for one that somebody else started."""

    url: str
    pid: int | None


@contextlib.contextmanager
def running(
    size: int, chunk: int, cpus: frozenset[int] | None = None, elsewhere: str | None = None
) -> Iterator[Address]:
    """Run a server process on `cpus`, unless `elsewhere` or the environment's BENCH_SERVER_URL names one."""
    elsewhere = elsewhere or os.environ.get("BENCH_SERVER_URL")
    if elsewhere:
        yield Address(elsewhere.rstrip("/"), None)
        return
    command = [sys.executable, "-m", "penstock.bench", "server", "--size", str(size), "--chunk", str(chunk)]
    with spawned(command, cpus) as (url, pid):
        yield Address(url, pid)


@contextlib.contextmanager
def spawned(command: list[str], cpus: frozenset[int] | None) -> Iterator[tuple[str, int]]:
    """Run a server's process on `cpus`, which ends with its stdin; gives the line that it prints when it listens, and
    its number."""
    with pinned(cpus):
        # A terminal's Ctrl-C is for this process: one that still starts would have a traceback of it.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            if not line:
                raise RuntimeError(f"the benchmark server ended with status {process.wait()} before it listened")
            yield line, process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
