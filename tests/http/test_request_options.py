"""What a client has for all of its requests, given for one of them: it holds for that one and its redirects alone."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock.http.settings import KNOWN

from tests.http.serving import HANG, head, response, serve
from tests.http.test_connect import Book
from tests.http.test_options import telling
from tests.http.test_redirects import redirect
from tests.http.test_tls import trusting
from tests.http.test_upload import fields

pytestmark = pytest.mark.asyncio


async def test_each_option_of_a_client_can_be_given_for_a_request() -> None:
    options = inspect.signature(penstock.Client).parameters.keys()
    assert options - KNOWN == set()
    assert KNOWN - options == {"params", "content", "json", "form", "files"}


async def test_a_base_url_of_a_request_is_in_place_of_the_clients() -> None:
    async with serve([response(b"")]) as server, penstock.Client(base_url="http://127.0.0.9/not") as client:
        answer = await client.get("/things", base_url=f"{server.url}api/", params={"n": 1})
        assert answer.url == f"{server.url}api/things?n=1"
        with pytest.raises(ValueError, match="base_url: has a query"):
            await client.get("/things", base_url="http://127.0.0.1/api?key=1")


LONG = response(b"x", "X: " + "y" * 1000)


async def test_limits_of_a_request_hold_for_it_alone_on_a_connection_that_others_use() -> None:
    async with serve([response(b"x")], [LONG], [response(b"x")], [LONG]) as server, penstock.Client() as client:
        for _ in range(2):
            await client.get(server.url, limits=penstock.Limits(head_bytes=1000))
            # The client's own again.
            assert (await client.get(server.url)).status == 200
        assert server.connections == 1


@pytest.mark.parametrize("name", ["head_bytes", "headers"])
async def test_a_response_beyond_the_limits_of_its_request_is_refused_and_not_the_next(name: str) -> None:
    lines = [f"X-{n}: y" for n in range(100)]
    least: Any = {name: 80}
    async with serve([response(b"x", *lines)]) as server, penstock.Client() as client:
        with pytest.raises(penstock.HeadTooLong, match=rf"Limits\.{name}"):
            await client.get(server.url, limits=penstock.Limits(**least))
        with pytest.raises(penstock.HeadTooLong, match=rf"Limits\.{name}"):
            async with client.stream("GET", server.url, limits=penstock.Limits(**least)):
                pass
        assert (await client.get(server.url)).status == 200


async def test_limits_of_a_request_may_be_wider_than_the_clients_and_bound_trailers_too() -> None:
    wire = [head("Transfer-Encoding: chunked"), b"1;abc\r\nx\r\n0\r\n" + b"A: b\r\n" * 5 + b"\r\n"]
    client = penstock.Client(limits=penstock.Limits(trailers=2, chunk_extension_bytes=2, connections=3))
    async with serve(wire) as server, client:
        for given, setting in [(None, "chunk_extension_bytes"), (penstock.Limits(trailers=4), "trailers")]:
            with pytest.raises(penstock.PenstockError, match=rf"Limits\.{setting}"):
                await client.get(server.url, limits=given)
        answer = await client.get(server.url, limits=penstock.Limits())
        assert len(answer.trailers) == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [("connections", 5), ("per_host", 1), ("idle_seconds", 1), ("dns_seconds", 1), ("dns_failed_seconds", 1)],
)
async def test_a_limit_that_requests_share_is_refused_unless_it_is_the_clients(name: str, value: int) -> None:
    given: Any = {name: value}
    async with serve([response(b"x")]) as server:
        async with penstock.Client() as client:
            why = rf"^Limits\.{name}={value}: is for a Client, which has .* here, and not for one request$"
            with pytest.raises(ValueError, match=why):
                await client.get(server.url, limits=penstock.Limits(**given))
        async with penstock.Client(limits=penstock.Limits(**given)) as client:
            assert (await client.get(server.url, limits=penstock.Limits(**given))).status == 200
            assert (await client.get(server.url, limits=penstock.Limits())).status == 200


async def test_limits_of_a_request_hold_for_the_proxy_that_makes_its_tunnel(certificate: Path) -> None:
    async with serve([head("X: " + "y" * 1000)]) as proxy, penstock.Client(proxy=proxy.url) as client:
        options: Any = {"ssl_context": trusting(certificate), "limits": penstock.Limits(head_bytes=500)}
        with pytest.raises(penstock.ProxyError, match=r"more than 500 bytes to CONNECT \(Limits\.head_bytes\)"):
            await client.get("https://localhost/", **options)


async def test_a_request_may_ask_the_environment_for_a_proxy_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve([response(b"direct")]) as server, serve([response(b"proxy")]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "")
        for own in (False, True):
            async with penstock.Client(trust_env=own) as client:
                assert await (await client.get(server.url, trust_env=True)).read() == b"proxy"
                assert await (await client.get(server.url, trust_env=False)).read() == b"direct"
                assert await (await client.get(server.url)).read() == (b"proxy" if own else b"direct")


@contextlib.asynccontextmanager
async def listening(path: Path, body: bytes) -> AsyncIterator[None]:
    """A server at a Unix socket."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(response(body))
        writer.close()

    server = await asyncio.start_unix_server(answer, str(path))
    try:
        yield
    finally:
        server.close()


async def test_a_request_may_go_to_a_socket_of_its_own_or_past_the_clients(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    async with listening(one, b"one"), listening(other, b"other"), serve([response(b"network")]) as server:
        async with penstock.Client(uds=one) as client:
            for _ in range(2):
                for given, body in [(other, b"other"), ("", b"network"), (None, b"one"), (one, b"one")]:
                    assert await (await client.get(server.url, uds=given)).read() == body
            assert client.stats()["connected"] == 3
        with pytest.raises(ValueError, match="is no path of a socket"):
            await penstock.fetch(server.url, uds="a\0b")
        assert await (await penstock.fetch(server.url, uds=one)).read() == b"one"


async def test_a_socket_of_a_request_is_not_taken_for_the_clients_proxy(tmp_path: Path) -> None:
    path, heads = tmp_path / "socket", []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(response(b"x"))
        writer.close()

    server = await asyncio.start_unix_server(answer, str(path))
    proxy = "http://user:secret@127.0.0.1:1"
    async with penstock.Client(proxy=proxy) as client:
        await client.get("http://docker/info", uds=path)
        # Both given, the proxy listens there.
        await client.get("http://docker/info", uds=path, proxy=proxy)
    async with penstock.Client(proxy=proxy, uds=path) as client:
        await client.get("http://docker/info", uds=path)
    server.close()
    told = [(head.split()[1], b"proxy-authorization" in head) for head in heads]
    assert told == [(b"/info", False), (b"http://docker/info", True), (b"http://docker/info", True)]


@pytest.mark.parametrize("option", ["auth", "proxy", "uds"])
@pytest.mark.parametrize("value", [0, b"", ()])
async def test_an_empty_value_of_another_type_is_refused_and_not_taken_for_none(option: str, value: object) -> None:
    given: Any = {option: value}
    with pytest.raises(TypeError, match=f"^{option}=.*: takes "):
        penstock.Client(**given)
    async with penstock.Client(auth=("user", "secret")) as client:
        with pytest.raises(TypeError, match=f"^{option}=.*: takes "):
            await client.get("http://127.0.0.1:1/", **given)


async def test_a_resolver_of_a_request_shares_neither_what_it_found_nor_connections() -> None:
    own, other = Book(a=["127.0.0.9"]), Book(a=["127.0.0.1"])
    async with serve([response(b"x")]) as server:
        url = server.url.replace("127.0.0.1", "a.test")
        async with penstock.Client(resolver=own) as client:
            for _ in range(2):
                assert (await client.get(url, resolver=other)).status == 200
                with pytest.raises(penstock.ConnectError):
                    await client.get(url)
        assert (own.asked, other.asked) == (["a.test"], ["a.test"])
        assert server.connections == 1


async def test_an_address_that_a_request_refuses_is_not_reached_by_a_connection_that_is_open() -> None:
    def nowhere(address: str) -> bool:
        return False

    async with serve(redirect(302, "/there"), [response(b"x")]) as server, penstock.Client() as client:
        await client.get(server.url)
        assert client.stats()["idle"] == 1
        for _ in range(2):
            with pytest.raises(penstock.ConnectError, match="which allow_address= refuses"):
                await client.get(server.url, allow_address=nowhere)
        assert len(server.requests) == 2


async def test_requests_with_one_function_share_connections_and_with_another_do_not() -> None:
    asked: list[tuple[str, str]] = []

    class Allows:
        def __init__(self, name: str) -> None:
            self.name = name

        def allow(self, address: str) -> bool:
            asked.append((self.name, address))
            return True

    one, other = Allows("one"), Allows("other")
    async with serve(redirect(302, "/there"), [response(b"x")]) as server, penstock.Client() as client:
        for _ in range(3):
            await client.get(server.url, allow_address=one.allow)
            await client.get(server.url, allow_address=other.allow)
        assert asked == [("one", "127.0.0.1"), ("other", "127.0.0.1")]
        assert server.connections == 2
        async with penstock.Client(allow_address=one.allow) as same:
            await same.get(server.url)
            await same.get(server.url, allow_address=one.allow)
            assert same.stats()["connected"] == 1


@pytest.mark.parametrize("option", ["resolver", "allow_address"])
async def test_a_function_that_connections_cannot_be_told_apart_by_is_refused(option: str) -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, given: str) -> bool:
            raise NotImplementedError

    given: Any = {option: Unhashable()}
    async with penstock.Client(**given) as client:
        with pytest.raises(TypeError, match=f"^{option}=.*: of a single request it has to be hashable"):
            await client.get("http://127.0.0.1:1/", **given)
        assert client.stats()["open"] == client.stats()["connecting"] == 0


async def test_a_jar_of_a_request_is_in_place_of_the_clients() -> None:
    own, other = http.cookiejar.CookieJar(), http.cookiejar.CookieJar()
    answers = [[response(b"", f"Set-Cookie: a={n}", *more, status=status)] for n, (status, *more) in enumerate(STEPS)]
    async with serve(*answers) as server, penstock.Client(cookies=own) as client:
        await client.get(server.url)
        await client.get(server.url, cookies=other)
        async with client.stream("GET", server.url, cookies=other) as answer:
            await answer.read()
        await client.get(server.url, cookies=False)
        await client.get(server.url)
        assert [fields(request).get("cookie") for request in server.requests] == [None, None, "a=1", "a=2", None, "a=0"]
        assert [cookie.value for jar in (own, other) for cookie in jar] == ["5", "3"]


STEPS = [("200 OK",), ("302 Found", "Location: /there"), ("200 OK",), ("200 OK",), ("200 OK",), ("200 OK",)]


async def test_hooks_of_a_request_are_in_place_of_the_clients() -> None:
    own: list[Any] = []
    told: list[Any] = []
    client = penstock.Client(hooks=telling(own))
    async with serve(redirect(302, "/there"), [response(b"x")]) as server, client:
        await client.get(server.url, hooks=telling(told))
        assert told[-1] == ("done", 200, 1)
        assert own == []
        await client.get(server.url, hooks=penstock.Hooks())
        assert own == []
        await client.get(server.url)
        assert own == [("request", "GET", server.url), ("head", server.url, 200), ("done", 200, 0)]


async def test_hooks_of_a_stream_are_told_when_its_body_fails() -> None:
    told: list[Any] = []
    async with serve([head("Content-Length: 5"), b"abc", HANG]) as server, penstock.Client() as client:
        options: Any = {"hooks": telling(told), "timeout": penstock.Timeouts(idle=0.05)}
        async with client.stream("GET", server.url, **options) as answer:
            with pytest.raises(penstock.IdleTimeout):
                await answer.read()
        assert told[-2:] == [("done", 200, 0), ("failed", server.url, penstock.IdleTimeout)]


async def test_a_transport_of_a_request_answers_it_in_place_of_the_network() -> None:
    class Stored:
        async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
            return dialog

    async with serve([response(b"network")]) as server, penstock.Client() as client:
        dialog = (await client.record("GET", server.url)).replace(res_body=penstock.BodyImage.from_bytes(b"stored"))
        assert await (await client.get(server.url, transport=Stored())).read() == b"stored"
        async with client.stream("GET", server.url, transport=Stored()) as answer:
            assert await answer.read() == b"stored"
        assert await (await client.get(server.url)).read() == b"network"
        assert len(server.requests) == 2
