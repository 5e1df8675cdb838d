"""The client against servers that others wrote."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import penstock
import pytest

from tests.http.conftest import STORINGS, Storing
from tests.http.test_tls import trusting

BODY = bytes(i * 31 >> 2 & 255 for i in range(1024)) * (3 << 10)
DIGEST = hashlib.sha256(BODY).hexdigest()

AIOHTTP = """
import asyncio, hashlib
from aiohttp import web

BODY = bytes(i * 31 >> 2 & 255 for i in range(1024)) * (3 << 10)

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

async def echo(request):
    digest = hashlib.sha256(await request.read()).hexdigest()
    return web.json_response({"digest": digest, "chunked": request.headers.get("Transfer-Encoding")})

async def form(request):
    fields = {}
    async for part in await request.multipart():
        fields[part.name] = [part.filename, hashlib.sha256(await part.read()).hexdigest()]
    return web.json_response(fields)

async def small_only(request):
    raise web.HTTPRequestEntityTooLarge(max_size=10, actual_size=11)

async def moved(request):
    raise web.HTTPTemporaryRedirect("/echo")

async def abort(request):
    response = web.StreamResponse(headers={"Content-Length": str(len(BODY))})
    await response.prepare(request)
    await response.write(BODY[:100_000])
    request.transport.abort()
    return response

app = web.Application(client_max_size=64 << 20)
app.router.add_put("/echo", echo)
app.router.add_put("/moved", moved)
app.router.add_post("/form", form)
app.router.add_put("/refused", small_only)
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


async def pieces() -> AsyncIterator[bytes]:
    for start in range(0, len(BODY), 50_000):
        yield BODY[start : start + 50_000]


async def upload(client: penstock.Client, url: str, image: penstock.BodyImage) -> None:
    for content in (BODY, image, await image.to_ram()):
        assert (await (await client.put(f"{url}echo", content=content)).json())["digest"] == DIGEST
    chunked = await (await client.put(f"{url}echo", content=pieces())).json()
    assert (chunked["digest"], chunked["chunked"]) == (DIGEST, "chunked")
    moved = await client.put(f"{url}moved", content=image, headers={"Expect": "100-continue"})
    assert ((await moved.json())["digest"], len(moved.history)) == (DIGEST, 1)
    answer = await client.post(f"{url}form", files={"image": ("a.bin", image), "text": "x"})
    assert await answer.json() == {"image": ["a.bin", DIGEST], "text": [None, hashlib.sha256(b"x").hexdigest()]}
    refused = await client.put(f"{url}refused", content=image)
    assert refused.status == 413


ASGI = """
import hashlib, json, socket, sys

BODY = bytes(i * 31 >> 2 & 255 for i in range(1024)) * (3 << 10)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["path"]
    if path == "/length":
        answer, headers = BODY, [(b"content-length", str(len(BODY)).encode())]
    elif path == "/chunked":
        answer, headers = BODY, []
    else:
        answer = json.dumps({"digest": hashlib.sha256(body).hexdigest(), "method": scope["method"]}).encode()
        headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(answer), 100_000):
        more = start + 100_000 < len(answer)
        await send({"type": "http.response.body", "body": answer[start : start + 100_000], "more_body": more})

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
if sys.argv[1] == "uvicorn":
    import uvicorn
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])
else:
    import asyncio, hypercorn.asyncio, hypercorn.config
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.errorlog = None
    asyncio.run(hypercorn.asyncio.serve(app, config))
"""


@pytest.fixture(params=["uvicorn", "hypercorn"])
def asgi_server(request: pytest.FixtureRequest) -> Iterator[str]:
    pytest.importorskip(request.param)
    command = [sys.executable, "-c", ASGI, request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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
        listen 127.0.0.1:{secure} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        client_max_body_size 1k;
        location /empty {{ return 204; }}
        location /old {{ return 308 /body; }}
        location /chunked {{ ssi on; ssi_types *; alias {directory}/www/body; }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[tuple[str, str]]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no nginx")
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    www = directory / "www"
    www.mkdir()
    (www / "body").write_bytes(BODY)
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
        port, secure = free.getsockname()[1], other.getsockname()[1]
    config = directory / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(user + NGINX.format(directory=directory, port=port, secure=secure, certificate=certificate))
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
            yield url, f"https://localhost:{secure}/"
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
        await upload(client, url, answers[0].body)
        with pytest.raises(penstock.Truncated) as caught:
            await client.get(f"{url}abort")
        partial = await caught.value.partial.read()
        assert partial == BODY[: len(partial)]


@pytest.mark.asyncio
async def test_nginx(storing_by: Callable[[str], Storing], nginx: tuple[str, str], certificate: Path) -> None:
    for name in STORINGS:
        for url in nginx:
            await by_nginx(storing_by(name), url, trusting(certificate))


async def by_nginx(storing: Storing, url: str, context: ssl.SSLContext) -> None:
    async with storing.client(tunables=digesting(storing), ssl_context=context) as client:
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
        moved = await client.get(f"{url}old")
        assert (len(moved.body), moved.url, len(moved.history)) == (len(BODY), f"{url}body", 1)
        assert client.stats()["connected"] == 3
        # It answers before it has the body, and closes.
        assert (await client.put(f"{url}body", content=answers[0].body)).status == 413


@pytest.mark.asyncio
async def test_asgi_servers(storing_by: Callable[[str], Storing], asgi_server: str) -> None:
    for name in STORINGS:
        storing = storing_by(name)
        async with storing.client(tunables=digesting(storing)) as client:
            for path in ("length", "chunked", "length"):
                answers = await asyncio.gather(*[client.get(asgi_server + path) for _ in range(3)])
                assert {answer.body.digests["sha256"] for answer in answers} == {DIGEST}
            for content in (BODY, answers[0].body, pieces()):
                answer = await client.post(f"{asgi_server}echo", content=content)
                assert await answer.json() == {"digest": DIGEST, "method": "POST"}
            assert client.stats()["connected"] == 3
