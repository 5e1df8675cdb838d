"""Requests through a proxy: in absolute form for http, in a tunnel for https; whose credentials go where."""

from __future__ import annotations

import asyncio
import base64
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import penstock
import penstock.http.client
import pytest
from penstock.http import settings
from penstock.http.proxy import EnvironmentProxies, Proxy, parse_proxy
from penstock.http.url import Origin

from tests.http.conftest import NOTHING, Storing, at_hand
from tests.http.serving import CLOSE, HANG, RESET, TURN, head, response, serve
from tests.http.test_redirects import redirect
from tests.http.test_tls import serve_tls, trusting
from tests.http.test_upload import fields

pytestmark = pytest.mark.asyncio

BODY = (bytes(i * 7 & 255 for i in range(256)) * 3907)[:1_000_000]


class Tunneller:
    """A proxy that knows CONNECT only."""

    def __init__(self, before: bytes = b"") -> None:
        self._before = before
        self.asked: list[bytes] = []
        self.url = ""

    async def __aenter__(self) -> Tunneller:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(request)
        port = request.split(b" ")[1].decode().rpartition(":")[2]
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(self._before + b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def test_http_is_asked_for_in_absolute_form_over_connections_of_its_own() -> None:
    async with serve([response(b"x")]) as proxy:
        async with penstock.Client(proxy=f"http://u%40:p%3A@127.0.0.1:{proxy.port}") as client:
            await client.get("http://one.test/path?q=1")
            await client.post("http://one.test:81/", content=b"body")
            await client.get("http://one.test/path")
        sent = [fields(request) for request in proxy.requests]
        assert [request.split(b" ")[1] for request in proxy.requests] == [
            b"http://one.test/path?q=1",
            b"http://one.test:81/",
            b"http://one.test/path",
        ]
        assert [field["host"] for field in sent] == ["one.test", "one.test:81", "one.test"]
        credentials = base64.b64encode(b"u@:p:").decode().lower()
        assert {field["proxy-authorization"] for field in sent} == {f"basic {credentials}"}
        assert proxy.bodies == [b"body"]
        assert proxy.connections == 2


async def test_https_goes_through_a_tunnel(storing: Storing, certificate: Path) -> None:
    async with serve_tls(certificate, response(BODY)) as url, Tunneller() as proxy:
        address = proxy.url.replace("http://", "http://user:secret@")
        async with storing.client(proxy=address, ssl_context=trusting(certificate)) as client:
            for _ in range(2):
                assert await (await client.get(f"{url}0")).read() == BODY
            assert client.stats()["connected"] == 1
        port = url.split(":")[2].rstrip("/")
        lines = proxy.asked[0].decode().split("\r\n")
        credentials = base64.b64encode(b"user:secret").decode()
        assert lines[:3] == [
            f"CONNECT localhost:{port} HTTP/1.1",
            f"host: localhost:{port}",
            f"proxy-authorization: Basic {credentials}",
        ]
        assert len(proxy.asked) == 1


INFORMATIONAL = head("A: b", status="102 Processing")


async def test_informational_answers_of_a_proxy_are_passed_over(certificate: Path) -> None:
    async with (
        serve_tls(certificate, response(b"x")) as url,
        Tunneller(INFORMATIONAL * 2) as proxy,
        penstock.Client(proxy=proxy.url, ssl_context=trusting(certificate)) as client,
    ):
        assert await (await client.get(f"{url}0")).read() == b"x"


@pytest.mark.parametrize("within", [True, False])
async def test_a_proxys_answer_that_comes_in_pieces_is_bounded_as_a_head_is(within: bool) -> None:
    answer = INFORMATIONAL + head("C: d", status="407 Credentials")
    most = len(answer) if within else len(answer) - 1
    script = [step for byte in answer for step in (bytes([byte]), TURN)]
    limits = penstock.Limits(head_bytes=most)
    async with serve(script) as proxy, penstock.Client(proxy=f"127.0.0.1:{proxy.port}", limits=limits) as client:
        expected = "answered 407 Credentials" if within else rf"more than {most} bytes .*\(Limits\.head_bytes\)"
        with pytest.raises(penstock.ProxyError, match=expected):
            await client.get("https://example.test/")


REFUSALS: dict[str, tuple[list[Any], str]] = {
    "credentials wanted": ([response(b"", status="407 Proxy Authentication Required")], "answered 407 Proxy Auth"),
    "not allowed": ([response(b"no", status="403 Forbidden")], "answered 403 Forbidden"),
    "it closes": ([CLOSE], "closed the connection"),
    "not http": ([b"SSH-2.0-x\r\n\r\n"], "answered CONNECT: not valid HTTP"),
    "bytes in the tunnel": ([b"HTTP/1.1 200 OK\r\n\r\nx"], "into the tunnel"),
    "an endless head": ([b"HTTP/1.1 200 OK\r\nA: ", *[b"b" * 4096] * 20, HANG], r"65536 bytes .*Limits\.head_bytes"),
    "too many headers": ([head(*["A: b"] * 257)], r"256 headers .*Limits\.headers"),
    "too many informational answers": ([INFORMATIONAL * 17], r"16 informational .*Limits\.informational"),
    "a switch of protocols": ([head(status="101 Switching Protocols")], "answered 101 Switching"),
    "a bare LF": ([b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n"], "ends with LF alone"),
    "bare LFs only": ([b"HTTP/1.1 200 OK\n\n", HANG], "ends with LF alone"),
    "a reset": ([RESET], "cannot connect"),
}


REFUSED_WITH = {"credentials wanted": 407, "not allowed": 403, "a switch of protocols": 101}


@pytest.mark.parametrize("how", REFUSALS)
async def test_a_proxy_that_makes_no_tunnel_is_an_error_of_its_own_with_the_status_that_it_gave(how: str) -> None:
    script, message = REFUSALS[how]
    async with serve(script) as proxy, penstock.Client(proxy=f"127.0.0.1:{proxy.port}") as client:
        expected = penstock.ConnectError if how == "a reset" else penstock.ProxyError
        with pytest.raises(expected, match=message) as caught:
            await client.get("https://example.test/")
        assert caught.value.url == "https://example.test/"
        if isinstance(caught.value, penstock.ProxyError):
            assert caught.value.status == REFUSED_WITH.get(how)
        assert caught.value.retryable == (how not in REFUSED_WITH)
        assert at_hand(client) == NOTHING


async def test_a_proxy_that_says_nothing_times_out() -> None:
    timeout = penstock.Timeouts(connect=0.1)
    async with serve([HANG]) as proxy, penstock.Client(proxy=f"127.0.0.1:{proxy.port}", timeout=timeout) as client:
        with pytest.raises(penstock.ConnectTimeout):
            await client.get("https://example.test/")
        assert at_hand(client) == NOTHING


async def test_a_request_chooses_its_proxy_or_none() -> None:
    async with serve([response(b"p")]) as proxy, serve([response(b"d")]) as direct:
        async with penstock.Client(proxy=f"127.0.0.1:{proxy.port}") as client:
            assert await (await client.get(direct.url)).read() == b"p"
            assert await (await client.get(direct.url, proxy="")).read() == b"d"
        async with penstock.Client() as client:
            assert await (await client.get(direct.url, proxy=f"127.0.0.1:{proxy.port}")).read() == b"p"
            assert await (await client.get(direct.url)).read() == b"d"


async def test_the_url_of_a_proxy_is_read_where_it_is_given_and_not_for_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    def counted(url: str) -> Proxy:
        read.append(url)
        return parse_proxy(url)

    for module in (settings, penstock.http.client):
        monkeypatch.setattr(module, "parse_proxy", counted)
    async with serve(redirect(302, "/on"), [response(b"p")], [response(b"p")]) as proxy:
        async with penstock.Client(proxy=proxy.url) as client:
            assert await (await client.get("http://one.test/", headers={"a": "b"}, max_redirects=3)).read() == b"p"
        assert read == [proxy.url]
        async with penstock.Client() as client:
            await client.get("http://one.test/", proxy=proxy.url)
        assert read == [proxy.url] * 2


async def test_a_redirect_keeps_the_proxys_credentials_to_the_proxy() -> None:
    async with serve(redirect(302, "http://two.test/"), [response(b"")]) as proxy:
        async with penstock.Client(proxy=f"http://u:p@127.0.0.1:{proxy.port}") as client:
            await client.get("http://one.test/")
        assert all("proxy-authorization" in fields(request) for request in proxy.requests)


async def test_a_requests_own_credentials_for_the_proxy_are_sent_in_place_of_its_urls() -> None:
    async with serve([response(b"")]) as proxy:
        async with penstock.Client(proxy=f"http://u:p@127.0.0.1:{proxy.port}") as client:
            await client.get("http://one.test/", headers={"Proxy-Authorization": "own"})
        lines = proxy.requests[0].split(b"\r\n")
        assert [line for line in lines if line.startswith(b"proxy-authorization:")] == [b"proxy-authorization: own"]


async def test_the_environment_chooses_where_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([response(b"p")]) as proxy, serve([response(b"d")]) as direct:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "direct.test, 127.0.0.2")
        async with penstock.Client() as client:
            assert await (await client.get(direct.url)).read() == b"d"
        async with penstock.Client(trust_env=True) as client:
            assert await (await client.get(direct.url)).read() == b"p"
            assert await (await client.get(direct.url, proxy="")).read() == b"d"


async def test_a_redirect_past_the_proxy_asks_in_origin_form(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([response(b"d")]) as direct, serve(redirect(302, f"{direct.url}there")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with penstock.Client(trust_env=True) as client:
            await client.get("http://one.test/")
        assert proxy.requests[0].startswith(b"GET http://one.test/ HTTP/1.1\r\n")
        assert direct.requests[0].startswith(b"GET /there HTTP/1.1\r\n")


async def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://secure:3128")
    monkeypatch.setenv("ALL_PROXY", "other:8080")
    monkeypatch.setenv("NO_PROXY", "internal.test,.sub.test, 10.0.0.1:81,2001:db8::1")
    proxies = EnvironmentProxies()

    def chosen(scheme: str, host: str, port: int = 80) -> str | None:
        proxy = proxies.for_origin(Origin(scheme, host, port))
        return proxy and proxy.host

    assert chosen("https", "example.test") == "secure"
    assert chosen("http", "example.test") == "other"
    assert chosen("http", "internal.test") is None
    assert chosen("https", "x.internal.test") is None
    assert chosen("https", "x.internal.test.") is None
    assert chosen("https", "x.sub.test") is None
    assert chosen("http", "10.0.0.1", 81) is None
    assert chosen("http", "10.0.0.1", 80) == "other"
    assert chosen("http", "notinternal.test") == "other"
    assert chosen("http", "2001:db8::1", 8080) is None
    monkeypatch.setenv(
        "NO_PROXY", "2001:0DB8:0::1, [::2], ::ffff:10.0.0.1, .b\u00fccher.test, caf\u00e9.test:81, \u00df.test,."
    )
    proxies = EnvironmentProxies()
    assert chosen("http", "2001:db8::1") is chosen("http", "2001:db8:0:0::1") is None
    assert chosen("http", "::2") is chosen("http", "0::2") is None
    assert chosen("http", "10.0.0.1") is chosen("http", "::ffff:a00:1") is None
    assert chosen("http", "xn--bcher-kva.test") is chosen("http", "x.xn--bcher-kva.test") is None
    assert chosen("http", "xn--caf-dma.test", 81) is None
    assert chosen("http", "xn--caf-dma.test") == chosen("http", "ss.test") == chosen("http", "::3") == "other"
    for everything in ("*", "internal.test, *"):
        monkeypatch.setenv("NO_PROXY", everything)
        proxies = EnvironmentProxies()
        assert chosen("https", "example.test") is None


async def test_an_environment_that_names_no_proxy_is_an_error_about_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("all_proxy", "socks5://one.test")
    monkeypatch.setenv("HTTPS_PROXY", "http://host:port")
    async with penstock.Client(trust_env=True) as client:
        with pytest.raises(ValueError, match=r"^ALL_PROXY: 'socks5' is not spoken"):
            await client.get("http://two.test/")
        with pytest.raises(ValueError, match=r"^HTTPS_PROXY: isn't http://"):
            await client.get("https://two.test/")


NO_PROXIES = ["socks5://host:1", "https://host:1", "http://", "http://host:port"]
# What is special cuts the URL within the password.
NO_PROXIES += [f"http://user:77{special}88@host:1" for special in ("/", "?", "#", "[", "a/")]


@pytest.mark.parametrize("url", NO_PROXIES)
async def test_what_is_no_proxy_is_refused_without_telling_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy: [^78]+$") as caught:
        penstock.Client(proxy=url)
    assert url not in str(caught.value)
    assert "secret" not in repr(parse_proxy("http://user:secret@host:1"))


CONFIG = """
Port {port}
Listen 127.0.0.1
Timeout 30
MaxClients 20
BasicAuth user secret
LogFile "{directory}/log"
PidFile "{directory}/pid"
"""


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[int]:
    program = shutil.which("tinyproxy") or shutil.which("tinyproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no tinyproxy")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "tinyproxy.conf"
    config.write_text(CONFIG.format(port=port, directory=tmp_path))
    with subprocess.Popen([program, "-d", "-c", config], stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(500):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.01)
            yield port
        finally:
            process.terminate()


async def test_tinyproxy(storing: Storing, certificate: Path, tinyproxy: int) -> None:
    proxy = f"http://user:secret@127.0.0.1:{tinyproxy}"
    async with serve_tls(certificate, response(BODY)) as secure, serve([response(BODY)]) as plain:
        async with storing.client(proxy=proxy, ssl_context=trusting(certificate)) as client:
            for _ in range(2):
                assert await (await client.get(f"{secure}0")).read() == BODY
                assert await (await client.get(plain.url)).read() == BODY
                # It closes connections without saying so: what may not be sent twice can be lost here.
                await client.put(plain.url, content=BODY)
            assert plain.bodies == [BODY] * 2
            assert "proxy-authorization" not in fields(plain.requests[0])
        async with storing.client(proxy=f"127.0.0.1:{tinyproxy}", ssl_context=trusting(certificate)) as client:
            with pytest.raises(penstock.ProxyError, match="407"):
                await client.get(f"{secure}0")
            assert (await client.get(plain.url)).status == 407
