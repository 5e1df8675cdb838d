"""Where a response says to ask, what goes with the request there, and what stays behind."""

from __future__ import annotations

import asyncio
import base64
import pickle
import socket
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import penstock
import pytest
from penstock.http.url import join

from tests.http.serving import Script, Server, response, serve
from tests.http.test_upload import fields

pytestmark = pytest.mark.asyncio


def redirect(status: int, location: str, body: bytes = b"") -> Script:
    return [response(body, f"Location: {location}", status=f"{status} Elsewhere")]


def first_lines(server: Server) -> list[str]:
    return [request.split(b" HTTP/")[0].decode() for request in server.requests]


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "GET", "GET"),
        (302, "HEAD", "HEAD"),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (301, "PUT", "PUT"),
        (302, "DELETE", "DELETE"),
        (307, "POST", "POST"),
        (308, "PATCH", "PATCH"),
    ],
)
async def test_the_method_and_the_body_that_are_sent_on(status: int, method: str, then: str) -> None:
    content = None if method in ("GET", "HEAD", "DELETE") else b"body"
    script = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
    async with serve(redirect(status, "/there?a=b"), script) as server, penstock.Client() as client:
        answer = await client.request(method, server.url, content=content, headers={"x-own": "1"})
        assert first_lines(server) == [f"{method} /", f"{then} /there?a=b"]
        again = content is not None and then == method
        assert server.bodies == ([b"body"] * (2 if again else 1) if content is not None else [])
        sent = fields(server.requests[1])
        assert sent["x-own"] == "1"
        assert ("content-length" in sent) == again
        assert (answer.status, answer.url) == (200, f"{server.url}there?a=b")
        assert [old.status for old in answer.history] == [status]
        assert answer.history[0].url == server.url
        assert client.stats()["redirects"] == 1
        assert server.connections == 1


LOCATIONS = {
    "/a/../b": "/b",
    "next": "/dir/next",
    "?q=1": "/dir/page?q=1",
    "//127.0.0.1:{port}/x": "/x",
    "//127.0.0.1:{port}/a/../x": "/x",
    "http://127.0.0.1:{port}/a/./b/..": "/a/",
    "http://127.0.0.1:{port}/../x?y=/../z": "/x?y=/../z",
    "http://127.0.0.1:{port}/y#part": "/y",
    "/sp ace/\xe4": "/sp%20ace/%E4",
    "/already%20so": "/already%20so",
    "http://127.0.0.1:{port}/y?": "/y?",
    "next?": "/dir/next?",
    "next;": "/dir/next;",
}


@pytest.mark.parametrize("location", LOCATIONS)
async def test_where_a_location_leads(location: str) -> None:
    async with serve([response(b"")]) as server, penstock.Client() as client:
        server._scripts.clear()
        server._scripts.extend([redirect(302, location.format(port=server.port)), [response(b"")]])
        await client.get(f"{server.url}dir/page")
        assert first_lines(server)[1] == f"GET {LOCATIONS[location]}"


@pytest.mark.parametrize(
    ("location", "then"),
    [("?", "/dir/page?"), ("?#t", "/dir/page?"), ("", "/dir/page?q=1"), ("#t", "/dir/page?q=1"), ("?r", "/dir/page?r")],
)
async def test_an_empty_query_of_a_location_takes_the_place_of_the_old_one(location: str, then: str) -> None:
    async with serve(redirect(302, location), [response(b"")]) as server, penstock.Client() as client:
        await client.get(f"{server.url}dir/page?q=1")
        assert first_lines(server)[1] == f"GET {then}"


@pytest.mark.parametrize(
    ("location", "then"),
    [("/there", "there#part"), ("/there#own", "there#own"), ("/there#", "there"), ("", "#part"), ("/a?#b", "a?#b")],
)
async def test_a_fragment_holds_for_where_a_redirect_leads_unless_that_has_its_own(location: str, then: str) -> None:
    async with serve(redirect(302, location), redirect(307, ""), [response(b"")]) as server:
        async with penstock.Client() as client:
            answer = await client.get(f"{server.url}#part")
        assert answer.url == server.url + then
        assert not any(b"#" in request.split(b"\r\n")[0] for request in server.requests)


@pytest.mark.parametrize(
    ("location", "then"),
    [
        ("next", "/of//a.test/next"),
        ("./", "/of//a.test/"),
        ("..", "/of//"),
        ("../../..", "/"),
        ("../x//../y/.", "/of//x/y/"),
        ("next//http://b", "/of//a.test/next//http://b"),
        ("/x//y/../?q=/../z", "/x//?q=/../z"),
        ("?r", "/of//a.test/page?r"),
    ],
)
async def test_a_location_in_a_path_with_empty_segments_keeps_them(location: str, then: str) -> None:
    async with serve(redirect(302, location), [response(b"")]) as server, penstock.Client() as client:
        await client.get(f"{server.url}of//a.test/page?q=1")
        assert first_lines(server)[1] == f"GET {then}"


@pytest.mark.parametrize("base", ["http://a.test", "http://a.test?q", "HTTP://a.test/"])
async def test_a_location_leads_on_from_an_origin_without_a_path(base: str) -> None:
    origin = base[: len("http://a.test")]
    assert [join(base, location) for location in ("x", "../x", "/x", "//b.test/x", "HTTP://b.test", "http:x")] == [
        f"{origin}/x",
        f"{origin}/x",
        f"{origin}/x",
        "http://b.test/x",
        "http://b.test",
        f"http{origin[4:]}/x",
    ]


async def test_a_long_location_is_encoded_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def quote(*args: Any, **options: Any) -> str:
        nonlocal calls
        calls += 1
        return quoted(*args, **options)

    quoted = urllib.parse.quote
    monkeypatch.setattr(urllib.parse, "quote", quote)
    assert join("http://a.test/", "/%41~" + "\xe4" * 60_000) == "http://a.test/%41~" + "%E4" * 60_000
    assert calls == 1


@pytest.mark.parametrize("location", ["ftp://example.com/", "http://[::x]/", "http://user@example.com/", "http://h:0/"])
async def test_a_location_that_cannot_be_followed_is_an_error_about_the_request(location: str) -> None:
    async with serve(redirect(302, location)) as server, penstock.Client() as client:
        # By itself it would be about the URL that was asked for.
        with pytest.raises(penstock.InvalidURL, match=r"^302 to '.*': ") as caught:
            await client.get(server.url)
        assert caught.value.request == "GET"
        assert caught.value.url == server.url
        assert client.stats()["open"] == client.stats()["idle"] == 1


@pytest.mark.parametrize(
    ("location", "fault"), [("ftp://h/", "InvalidURL"), ("/", "TooManyRedirects"), ("/b", "RequestError")]
)
async def test_an_error_about_a_long_location_has_only_its_beginning(location: str, fault: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"body"

    location += "x" * 60_000
    async with serve(redirect(307, location)) as server, penstock.Client(max_redirects=0) as client:
        with pytest.raises(getattr(penstock, fault), match=f"{location[:1000]}x*[.]{{3}}") as caught:
            await client.post(server.url, content=body() if location[1] == "b" else None)
        assert len(str(caught.value)) < 1300


@pytest.mark.parametrize(("location", "fault"), [("ftp://x/", "InvalidURL"), ("/again", "TooManyRedirects")])
async def test_an_error_names_the_method_that_was_asked_with_in_the_end(location: str, fault: str) -> None:
    async with serve(redirect(303, "/there"), redirect(302, location)) as server:
        async with penstock.Client(max_redirects=1) as client:
            with pytest.raises(getattr(penstock, fault)) as caught:
                await client.post(server.url, content=b"body")
        assert (caught.value.request, caught.value.url) == ("GET", f"{server.url}there")


async def test_an_error_on_the_way_to_where_a_redirect_leads_is_not_about_the_post() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        there = f"http://127.0.0.1:{free.getsockname()[1]}/"
    async with serve(redirect(303, there)) as server, penstock.Client() as client:
        with pytest.raises(penstock.ConnectError) as caught:
            await client.post(server.url, content=b"body")
        assert (caught.value.request, caught.value.url) == ("GET", there)


@pytest.mark.parametrize("status", [300, 304, 305, 399])
async def test_other_statuses_are_not_followed(status: int) -> None:
    async with serve(redirect(status, "/there")) as server, penstock.Client() as client:
        assert (await client.get(server.url)).status == status


async def test_a_redirect_without_a_location_is_the_response() -> None:
    async with serve([response(b"", status="302 Found")]) as server, penstock.Client() as client:
        answer = await client.get(server.url)
        assert (answer.status, answer.history) == (302, ())


async def test_they_are_not_followed_where_that_was_not_wanted() -> None:
    async with serve(redirect(302, "/there")) as server:
        async with penstock.Client(follow_redirects=False) as client:
            assert (await client.get(server.url)).status == 302
        async with penstock.Client(max_redirects=1) as client:
            assert (await client.get(server.url, follow_redirects=False)).headers["location"] == "/there"


async def test_too_many_are_an_error_that_pickles_with_what_came() -> None:
    async with serve(redirect(302, "/again")) as server, penstock.Client(max_redirects=3) as client:
        with pytest.raises(penstock.TooManyRedirects, match="beyond max_redirects=3") as caught:
            await client.get(server.url)
        assert len(server.requests) == 4
        assert (caught.value.request, caught.value.url) == ("GET", f"{server.url}again")
        assert not caught.value.retryable
        copy = pickle.loads(pickle.dumps(caught.value))
        assert [answer.status for answer in copy.history] == [302] * 4
        with pytest.raises(penstock.TooManyRedirects):
            await client.get(server.url, max_redirects=0)
        assert len(server.requests) == 5


async def test_secrets_stay_with_the_origin_that_they_are_for() -> None:
    secrets = {"Cookie": "a=b", "Authorization": "own", "Proxy-Authorization": "p", "X-Other": "1"}
    async with serve([response(b"")]) as there, serve(redirect(302, there.url)) as here:
        async with penstock.Client(auth=("user", "secret")) as client:
            await client.get(here.url)
            await client.get(here.url, headers=secrets)
            await client.get(here.url, auth=penstock.BearerAuth("token"))
        first = [fields(request) for request in here.requests]
        assert first[0]["authorization"] == f"basic {base64.b64encode(b'user:secret').decode().lower()}"
        assert (first[1]["authorization"], first[2]["authorization"]) == ("own", "bearer token")
        for request in there.requests:
            sent = fields(request)
            assert not {"cookie", "authorization", "proxy-authorization"} & sent.keys()
            assert sent["host"] == f"127.0.0.1:{there.port}"
        assert fields(there.requests[1])["x-other"] == "1"


async def test_a_clients_own_key_goes_along_to_another_origin_unless_it_is_sent_as_authorization() -> None:
    headers = {"x-api-key": "k", "Authorization": "token"}
    async with (
        serve([response(b"")]) as there,
        serve(redirect(302, there.url)) as here,
        penstock.Client(headers=headers) as client,
    ):
        await client.get(here.url)
        sent = fields(there.requests[0])
        assert (sent.get("x-api-key"), sent.get("authorization")) == ("k", None)
        assert (await client.get(here.url, follow_redirects=False)).status == 302
        assert len(there.requests) == 1


async def test_secrets_go_along_within_an_origin() -> None:
    async with serve(redirect(302, "/there"), [response(b"")]) as server, penstock.Client(auth=("u", "p")) as client:
        await client.get(server.url)
        assert "authorization" in fields(server.requests[1])


class Redirecting:
    """Redirects the first request; a transport, for URLs of any host and port."""

    def __init__(self, location: str) -> None:
        self.asked: list[penstock.Prolog] = []
        self._location = location

    async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
        self.asked.append(prolog)
        status = 302 if len(self.asked) == 1 else 200
        epilog = penstock.Epilog(version="HTTP/1.1", status=status, res_headers={"location": self._location})
        return penstock.Dialog(prolog, epilog)


@pytest.mark.parametrize(
    ("here", "there", "trusted"),
    [
        ("http://a.test/", "https://a.test/", True),
        ("https://a.test/", "https://a.test:443/there", True),
        ("https://a.test/", "http://a.test/", False),
        ("http://a.test:443/", "https://a.test/", False),
        ("http://a.test/", "https://a.test:8443/", False),
        ("http://a.test/", "https://b.test/", False),
        ("https://a.test/", "https://sub.a.test/", False),
    ],
)
async def test_secrets_go_along_from_http_to_https_of_the_same_host_and_never_back(
    here: str, there: str, trusted: bool
) -> None:
    secrets = {"cookie": "a=b", "authorization": "own", "proxy-authorization": "p"}
    redirecting = Redirecting(there)
    async with penstock.Client(transport=redirecting) as client:
        assert (await client.get(here, headers={**secrets, "x-other": "1"})).url == there
    first, second = (dict(prolog.req_headers) for prolog in redirecting.asked)
    assert secrets.items() <= first.items()
    # What a proxy was told isn't for who is behind its tunnel.
    kept = secrets.keys() if here.startswith("https") else secrets.keys() - {"proxy-authorization"}
    assert secrets.keys() & second.keys() == (kept if trusted else set())
    assert second["x-other"] == "1"


async def test_an_iterator_cannot_be_sent_to_the_next_but_an_iterable_can() -> None:
    class Pieces:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await asyncio.sleep(0)
            yield b"body"

    async with serve(redirect(307, "/there"), [response(b"")]) as server, penstock.Client() as client:
        await client.post(server.url, content=Pieces())
        assert server.bodies == [b"body"] * 2
    async with serve(redirect(307, "/there"), [response(b"")]) as server, penstock.Client() as client:
        with pytest.raises(penstock.RequestError, match="only once") as caught:
            await client.post(server.url, content=aiter(Pieces()))
        assert caught.value.request == "POST"
        assert len(server.requests) == 1


async def test_a_file_or_a_stream_is_not_sent_to_the_next_from_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"body")
    async with serve(redirect(307, "/there"), [response(b"")]) as server, penstock.Client() as client:
        async with await anyio.open_file(path, "rb") as file:
            with pytest.raises(penstock.RequestError, match="only once"):
                await client.put(server.url, content=file)
        assert server.bodies == [b"body"]


async def test_an_image_is_sent_again_from_its_start() -> None:
    image = await penstock.collect(Large(), penstock.Tunables(max_body_ram=0))
    assert image.state == "file"
    async with serve(redirect(308, "/there"), [response(b"")]) as server, penstock.Client() as client:
        await client.put(server.url, content=image)
        assert server.bodies == [bytes(3_000_000)] * 2


class Large:
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(1_000_000)


async def test_the_total_time_holds_for_all_of_them() -> None:
    script = [0.15, *redirect(302, "/again")]
    timeout = penstock.Timeouts(total=0.4)
    async with serve(script) as server, penstock.Client(timeout=timeout, max_redirects=100) as client:
        with pytest.raises(penstock.TotalTimeout):
            await client.get(server.url)
        assert 2 <= len(server.requests) <= 3
