"""How a file gets into a socket, as the kernel is asked for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import check_traced
from tests.faults.conftest import namespace

pytestmark = [pytest.mark.needs_net, pytest.mark.usefixtures("networks")]

BODY = bytes(range(251)) * 8000

SENDING = """
import asyncio, pathlib, re, ssl, sys
import penstock

async def answer(reader, writer):
    try:
        while True:
            request = await reader.readuntil(b"\\r\\n\\r\\n")
            await reader.readexactly(int(re.search(rb"content-length: (\\d+)", request)[1]))
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()

async def main(path, host, certificate):
    context = trusting = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        trusting = ssl.create_default_context(cafile=certificate)
        trusting.check_hostname = False
    async with await asyncio.start_server(answer, host, 0, ssl=context) as server:
        url = f"{'https' if certificate else 'http'}://{host}:{server.sockets[0].getsockname()[1]}/"
        async with penstock.Client(ssl_context=trusting) as client:
            await client.put(url, content=path)
            await client.post(url, files={"text": "x", "file": path})
            await client.put(url, content=path.read_bytes())

asyncio.run(main(pathlib.Path(sys.argv[1]), *sys.argv[2:]))
"""

# A network of two addresses that are both this machine's, and of which neither is loopback's.
TWO = """
ip link set lo up && ip addr add 192.0.2.1/32 dev lo && ip addr add 192.0.2.2/32 dev lo &&
ip route replace local 192.0.2.1 dev lo src 192.0.2.2 table local && exec "$@"
"""


@pytest.mark.parametrize(
    ("host", "secure", "times"), [("192.0.2.1", False, 2), ("192.0.2.1", True, 0), ("127.0.0.1", False, 0)]
)
def test_files_go_by_sendfile_to_plain_sockets_of_other_machines(
    tmp_path: Path, certificate: Path, host: str, secure: bool, times: int
) -> None:
    if (strace := shutil.which("strace")) is None:
        pytest.skip("strace is not installed")
    path, trace = tmp_path / "body", tmp_path / "trace"
    path.write_bytes(BODY)
    traced = (strace, "-f", "-e", "trace=sendfile", "-o", str(trace))
    program = (sys.executable, "-W", "error", "-c", SENDING, str(path), host, str(certificate) if secure else "")
    done: subprocess.CompletedProcess[str] = namespace("--net", "sh", "-c", TWO, "sh", *traced, *program)
    check_traced(done)
    sent = sum(map(int, re.findall(r"sendfile.* = (\d+)$", trace.read_text(), re.MULTILINE)))
    # By itself, and as a part of a form; what is in memory isn't in a file.
    assert sent == times * len(BODY)
