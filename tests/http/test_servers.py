"""The client against servers that others wrote."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import penstock
import pytest

from tests.http.conftest import STORINGS, Storing

BODY = bytes(i * 31 >> 2 & 255 for i in range(3 << 20))
DIGEST = hashlib.sha256(BODY).hexdigest()

AIOHTTP = """
import asyncio
from aiohttp import web

BODY = bytes(i * 31 >> 2 & 255 for i in range(3 << 20))

async def length(request):
    return web.Response(body=BODY)

async def chunked(request):
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(BODY), 10_000):
        await response.write(BODY[start : start + 10_000])
    await response.write_eof()
    return response

async def small(request):
    return web.json_response({"path": request.path, "agent": request.headers["User-Agent"]})

async def abort(request):
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
    await response.prepare(request)
    await response.write(BODY[:100_000])
    request.transport.abort()
    return response

app = web.Application()
app.router.add_get("/length", length)
app.router.add_get("/chunked", chunked)
app.router.add_get("/small", small)
app.router.add_get("/abort", abort)

async def main():
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def aiohttp_server() -> Iterator[str]:
    pytest.importorskip("aiohttp")
    with subprocess.Popen([sys.executable, "-c", AIOHTTP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


NGINX = """
daemon off;
pid {directory}/pid;
error_log {directory}/error.log;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/b; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/www;
        keepalive_timeout 1s;
        location /empty {{ return 204; }}
        location /chunked {{ ssi on; ssi_types *; alias {directory}/www/body; }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no nginx")
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    www = directory / "www"
    www.mkdir()
    (www / "body").write_bytes(BODY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = directory / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(user + NGINX.format(directory=directory, port=port))
    with subprocess.Popen([program, "-c", config, "-p", directory], stderr=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(500):
                try:
                    urllib.request.urlopen(f"{url}empty").close()
                    break
                except urllib.error.URLError:
                    assert process.poll() is None, process.stderr and process.stderr.read()
                    time.sleep(0.01)
            yield url
        finally:
            process.terminate()


def digesting(storing: Storing) -> penstock.Tunables:
    return storing.tunables.replace(digests=("sha256",))


@pytest.mark.asyncio
async def test_aiohttp(storing_by: Callable[[str], Storing], aiohttp_server: str) -> None:
    for name in STORINGS:
        await by_aiohttp(storing_by(name), aiohttp_server)


async def by_aiohttp(storing: Storing, url: str) -> None:
    async with storing.client(tunables=digesting(storing)) as client:
        for path in ("length", "chunked", "length"):
            answers = await asyncio.gather(*[client.get(url + path) for _ in range(3)])
            assert {answer.body.digests["sha256"] for answer in answers} == {DIGEST}
        assert client.stats()["connected"] == 3
        answer = await client.get(f"{url}small")
        assert await answer.json() == {"path": "/small", "agent": "penstock/0.1"}
        assert (await client.head(f"{url}length")).headers["content-length"] == str(len(BODY))
        assert (await client.get(f"{url}nowhere")).status == 404
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(f"{url}abort")
        partial = await caught.value.partial.read()
        assert partial == BODY[: len(partial)]
        assert client.stats()["connected"] == 3


@pytest.mark.asyncio
async def test_nginx(storing_by: Callable[[str], Storing], nginx: str) -> None:
    for name in STORINGS:
        await by_nginx(storing_by(name), nginx)


async def by_nginx(storing: Storing, url: str) -> None:
    async with storing.client(tunables=digesting(storing)) as client:
        for path in ("body", "chunked", "body"):
            answers = await asyncio.gather(*[client.get(url + path) for _ in range(3)])
            assert {answer.body.digests["sha256"] for answer in answers} == {DIGEST}
        assert client.stats()["connected"] == 3
        assert (await client.get(f"{url}empty")).status == 204
        etag = answers[0].headers["etag"]
        assert (await client.get(f"{url}body", headers={"if-none-match": etag})).status == 304
        assert (await client.get(f"{url}nowhere")).status == 404
        assert len((await client.head(f"{url}body")).body) == 0
        part = await client.get(f"{url}body", headers={"range": "bytes=1000-1999"})
        assert (part.status, await part.read()) == (206, BODY[1000:2000])
        assert client.stats()["connected"] == 3
