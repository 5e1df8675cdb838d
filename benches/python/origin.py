"""The server that the client's benchmarks load from and send to: `python -m benches.python.origin`.

It prints one line of JSON, its addresses and the file of its certificate, and ends with its stdin. Bodies are made once
and answered by one `sendall`, so that the server never is what is measured:

- `GET /SIZE/CHUNK` → as `penstock.bench.server` has it, whose bodies these are;
- `GET /gzip/SIZE` → `text(SIZE)`, compressed by gzip at level 6;
- `POST /` → the length and the greatest byte of what was sent.
"""

import contextlib
import functools
import gzip
import itertools
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.bench import server
from penstock.bench.machine import raise_descriptor_limit
from penstock.bench.reading import Summary

HOST = "127.0.0.1"
SEED = 7
MIB = 1 << 20
STACK_SIZE = 256 * 1024
RECEIVED = MIB


@functools.cache
def text(size: int) -> bytes:
    """What services send: lines of JSON with names that come again, numbers and words, to a quarter by gzip.

    Each MiB is the same, which gzip's window of 32 KiB can't see. The last byte is 0xFF, and no other, as the readers
    want to see it.
    """
    source = random.Random(SEED)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(2000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    block = ""
    while len(block) < MIB:
        said = " ".join(source.choices(words, cum_weights=weights, k=12))
        entry = {"id": source.getrandbits(32), "level": source.choice(("info", "warning")), "text": said, "ok": True}
        block += json.dumps(entry) + "\n"
    return (block[:MIB] * (size // MIB + 1))[: size - 1].encode() + b"\xff"


@functools.cache
def response(path: str) -> memoryview:
    match path.strip("/").split("/"):
        case ["gzip", size]:
            packed = gzip.compress(text(int(size)), 6)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            return memoryview(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(packed), packed))
        case [size, chunk]:
            return memoryview(server.response(int(size), int(chunk)))
        case _:
            return memoryview(server.plain("404 Not Found", "try /SIZE/CHUNK"))


def converse(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    """Answers what comes over one connection."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.enter_context(connection)
        if context is not None:
            connection = stack.enter_context(context.wrap_socket(connection, server_side=True))
        received = bytearray()
        while head := server.read_head(connection, received):
            method, path, _ = head.decode("latin-1").split(" ", 2)
            if method == "POST":
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                summary = take_in(connection, received, int(fields[b"content-length"]))
                connection.sendall(server.plain("200 OK", f"{summary.length} {summary.greatest}"))
            else:
                connection.sendall(response(path))


def take_in(connection: socket.socket, received: bytearray, length: int) -> Summary:
    """Of a body that is sent, of which some has come already."""
    summary = Summary()
    summary.add(bytes(received))
    received.clear()
    buffer = memoryview(bytearray(RECEIVED))
    while summary.length < length:
        count = connection.recv_into(buffer)
        if not count:
            break
        summary.add(buffer[:count])
    return summary


def accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    threading.stack_size(STACK_SIZE)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection, context), daemon=True).start()


def serve() -> None:
    raise_descriptor_limit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory) / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", certificate, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]  # type: ignore[list-item]
        command += [
            "-addext",
            f"subjectAltName=DNS:localhost,IP:{HOST}",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        addresses = {"certificate": str(certificate)}
        for scheme, security in (("http", None), ("https", context)):
            listener = socket.create_server((HOST, 0), backlog=1024)
            addresses[scheme] = f"{scheme}://{HOST}:{listener.getsockname()[1]}"
            threading.Thread(target=accept, args=(listener, security), daemon=True).start()
        print(json.dumps(addresses), flush=True)
        # A pipe on stdin is the parent's hand: when it is closed, nobody needs this server.
        while os.read(0, 4096):
            pass


@dataclass(frozen=True)
class Origin:
    """Where it listens, and what its certificate is."""

    http: str
    https: str
    certificate: str
    pid: int


@contextlib.contextmanager
def running(cpus: frozenset[int] | None = None) -> Iterator[Origin]:
    """Run the server as a process of its own on `cpus`."""
    with server.spawned([sys.executable, "-m", "benches.python.origin"], cpus) as (addresses, pid):
        yield Origin(**json.loads(addresses), pid=pid)


if __name__ == "__main__":
    serve()
