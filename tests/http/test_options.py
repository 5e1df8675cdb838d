"""The options of requests: query, headers, authentication, hooks, cookies, and that each overrides the client's."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dataclasses
import datetime
import decimal
import encodings
import enum
import functools
import gc
import http.cookiejar
import io
import logging
import pickle
import re
import tracemalloc
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import httpx
import multidict
import penstock
import pytest
from penstock.http.settings import KNOWN
from starlette.datastructures import FormData, QueryParams
from starlette.datastructures import Headers as StarletteHeaders

from tests.http.conftest import Storing
from tests.http.serving import CLOSE, HANG, RESET, chunked, head, response, serve, until
from tests.http.test_redirects import redirect
from tests.http.test_upload import fields

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("path", "params", "target"),
    [
        ("", {"a": "1 2", "b": ["x", "&"]}, "/?a=1+2&b=x&b=%26"),
        ("p?q=1", {"a": 1}, "/p?q=1&a=1"),
        ("p#part", [("ä", "ö"), ("ä", "")], "/p?%C3%A4=%C3%B6&%C3%A4="),
        ("p", {}, "/p"),
        ("p?", {}, "/p?"),
        ("p?#", {"a": 1}, "/p?a=1"),
        ("p?q=1&", {"a": 1}, "/p?q=1&a=1"),
    ],
)
async def test_params_go_into_the_query(path: str, params: Any, target: str) -> None:
    async with serve([response(b"")]) as server, penstock.Client() as client:
        answer = await client.get(f"{server.url}{path}", params=params)
        assert server.requests[0].split(b" ")[1].decode() == target
        assert answer.url.partition("#")[0] == f"{server.url[:-1]}{target}"


class Lists(dict[str, list[str]]):
    """As Django's and Werkzeug's."""

    def items(self) -> Any:
        return [(name, values[-1]) for name, values in super().items()]

    def lists(self) -> Any:
        return super().items()


TEXT = "takes text, a number, what else has a __str__ of its own, or a list of them"


class Attributes(dict[str, str]):
    """With a value for each attribute that is asked for."""

    def __getattr__(self, name: str) -> Attributes:
        return Attributes()


@pytest.mark.parametrize(
    "query",
    [
        httpx.QueryParams("a=1&a=2&b="),
        QueryParams("a=1&a=2&b="),
        FormData([("a", "1"), ("a", "2"), ("b", "")]),
        multidict.MultiDict([("a", "1"), ("a", "2"), ("b", "")]),
        Lists(a=["1", "2"], b=[""]),
    ],
    ids=["httpx", "starlette", "a form", "multidict", "lists"],
)
async def test_a_mapping_with_several_values_of_a_name_is_sent_with_all_of_them(query: Any) -> None:
    async with serve([response(b"")]) as server, penstock.Client() as client:
        await client.post(server.url, params=query, form=query)
        assert server.requests[0].split(b" ")[1] == b"/?a=1&a=2&b="
        assert server.bodies == [b"a=1&a=2&b="]
        await client.get(server.url, headers=httpx.Headers([("cookie", "a=1"), ("cookie", "b=2")]))
        assert fields(server.requests[1])["cookie"] == "a=1; b=2"
        await client.get(server.url, params=Attributes(a="1"))
        assert server.requests[2].split(b" ")[1] == b"/?a=1"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (True, b"True"),
        (0.5, b"0.5"),
        (decimal.Decimal("1.10"), b"1.10"),
        (datetime.date(2026, 11, 29), b"2026-11-29"),
        (uuid.UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
        (Path("a/b"), b"a%2Fb"),
        (http.HTTPMethod.GET, b"GET"),
        (enum.IntFlag("Bits", "LOW HIGH")(3), b"3"),
        (b"\xff", b"%FF"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
    ],
)
async def test_a_value_is_sent_as_the_text_that_it_has(value: Any, sent: bytes) -> None:
    async with serve([response(b"")]) as server, penstock.Client() as client:
        await client.post(server.url, params={"a": [value, value]}, form={"a": value})
        assert server.requests[0].split(b" ")[1] == b"/?a=%b&a=%b" % (sent, sent)
        assert server.bodies == [b"a=%b" % sent]


async def test_a_base_url_is_what_paths_are_appended_to() -> None:
    async with serve([response(b"")]) as server:
        async with penstock.Client(base_url=f"{server.url}api/") as client:
            assert (await client.get("/things", params={"n": 1})).url == f"{server.url}api/things?n=1"
            await client.get(f"{server.url}else")
            with pytest.raises(penstock.InvalidURL, match="with a base_url, a path begins with /"):
                await client.get("things")
        assert [request.split(b" ")[1] for request in server.requests] == [b"/api/things?n=1", b"/else"]
    with pytest.raises(ValueError, match="base_url: has a query"):
        penstock.Client(base_url="http://127.0.0.1/api?key=1")


async def test_a_hook_cannot_change_the_fields_of_a_request_and_of_those_after_it() -> None:
    def meddle(request: Any) -> None:
        request.fields["host"] = "elsewhere.test"

    async with serve([response(b"")]) as server, penstock.Client() as client:
        for options in [{}, {"headers": {"a": "b"}}]:
            with pytest.raises(TypeError):
                await client.get(server.url, hooks=penstock.Hooks(request=meddle), **options)
        await client.get(server.url)
        assert fields(server.requests[0])["host"] == server.url[7:-1]


async def test_a_host_of_ones_own_is_sent_first() -> None:
    async with serve([response(b"")]) as server:
        async with penstock.Client(headers={"x-host": "a"}) as client:
            await client.post(server.url, headers={"accept": "b", "Host": "own.test"}, content=b"c")
        async with penstock.Client(headers={"host": "own.test"}) as client:
            await client.get(server.url)
        for request in server.requests:
            assert request.split(b"\r\n")[1] == b"host: own.test"
            assert request.lower().count(b"\r\nhost:") == 1
        assert fields(server.requests[0])["x-host"] == "a"


async def test_long_urls_are_not_remembered() -> None:
    async with serve([response(b"")]) as server, penstock.Client() as client:
        await client.get(server.url)
        tracemalloc.start()
        try:
            for number in range(100):
                await client.get(f"{server.url}{number}{'a' * 60_000}")
            server.requests.clear()
            # What Python remembers: 128 of them.
            urllib.parse.clear_cache()
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 2_000_000


async def test_headers_of_a_request_are_besides_the_clients_and_in_place_of_them() -> None:
    async with serve([response(b"")]) as server, penstock.Client(headers={"A": "1", "User-Agent": "me"}) as client:
        await client.get(server.url, headers={"a": "2", "B": "3", "Host": "other"})
        sent = fields(server.requests[0])
        assert (sent["a"], sent["b"], sent["user-agent"], sent["host"]) == ("2", "3", "me", "other")
        assert server.requests[0].lower().count(b"host:") == 1


REPEATED = [("Accept", "a/b"), ("Cookie", "a=1"), ("accept", "c/d;q=0.5"), ("X-A", "1"), ("Cookie", "b=2")]
RAW = [(name.lower().encode(), value.encode()) for name, value in REPEATED]


@pytest.mark.parametrize(
    "headers",
    [REPEATED, multidict.CIMultiDict(REPEATED), penstock.Headers(REPEATED), StarletteHeaders(raw=RAW)],
    ids=["pairs", "multidict", "received", "a server's"],
)
async def test_several_values_of_a_header_are_sent_as_one_line_that_says_the_same(headers: Any) -> None:
    async with serve([response(b"")]) as server, penstock.Client() as client:
        await client.get(server.url, headers=headers)
        sent = fields(server.requests[0])
        assert (sent["accept"], sent["cookie"], sent["x-a"]) == ("a/b, c/d;q=0.5", "a=1; b=2", "1")
        assert all(server.requests[0].lower().count(b"\n" + name) == 1 for name in (b"accept:", b"cookie:", b"x-a:"))


@pytest.mark.parametrize("name", ["Host", "Authorization", "content-type"])
async def test_a_header_that_has_one_value_is_refused_several_without_telling_them(name: str) -> None:
    pairs = [(name, "secret-1"), (name.lower(), "secret-2")]
    with pytest.raises(ValueError, match=f"^header {name.lower()}: has one value, and is given more$"):
        penstock.Client(headers=pairs)


async def test_credentials() -> None:
    async with serve([response(b"")]) as server, penstock.Client(auth=penstock.BearerAuth("abc")) as client:
        await client.get(server.url)
        await client.get(server.url, auth=("ä", "b:c"))
        await client.get(server.url, auth=penstock.BasicAuth("u", "p"))
        await client.get(server.url, auth=False)
        await client.get(server.url, auth=False, headers={"Authorization": "mine"})
        assert b"authorization" not in server.requests.pop(3)
        assert server.requests.pop(3).endswith(b"authorization: mine")
        sent = [request.split(b"authorization: ")[1].split(b"\r\n")[0] for request in server.requests]
        assert sent == [b"Bearer abc", b"Basic w6Q6Yjpj", b"Basic dTpw"]
    assert "secret" not in repr((penstock.BasicAuth("u", "secret"), penstock.BearerAuth("secret")))
    with pytest.raises(ValueError, match="colon"):
        penstock.BasicAuth("a:b", "c")
    with pytest.raises(TypeError, match="auth=str: takes a pair"):
        penstock.Client(auth="token")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="line break"):
        penstock.Client(auth=penstock.BearerAuth("a\r\nb: c"))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"params": {"a": "secret\ud800"}}, "params['a']=...: '\\ud800' at 6"),
        ({"form": {"secret\ud800": "b"}}, "form: the name ...: '\\ud800' at 6"),
        ({"form": {"a": ["b", "secret\ud800"]}}, "form['a']=...: '\\ud800' at 6"),
        ({"content": "secret\ud800"}, "content=...: '\\ud800' at 6"),
        ({"files": {"a": "secret\ud800"}}, "files['a']=...: '\\ud800' at 6"),
        ({"auth": ("user", "secret\ud800")}, "BasicAuth.password=...: '\\ud800' at 6"),
        ({"auth": ("secret\ud800", "")}, "BasicAuth.user=...: '\\ud800' at 6"),
    ],
)
async def test_half_of_a_surrogate_pair_is_refused_where_it_stands_without_telling_the_rest(
    options: Any, where: str
) -> None:
    async with penstock.Client() as client:
        with pytest.raises(ValueError, match=f"^{re.escape(where)} isn't UTF-8$") as caught:
            await client.post("http://127.0.0.1:1/", **options)
        assert "secret" not in repr((caught.value, caught.value.__cause__, vars(caught.value)))


@pytest.mark.parametrize("value", [{"session": "secret"}, "session=secret"])
async def test_what_is_no_jar_is_refused_without_telling_it(value: Any) -> None:
    with pytest.raises(TypeError, match="takes a jar") as caught:
        penstock.Client(cookies=value)
    assert "secret" not in repr(caught.value)
    async with penstock.Client() as client:
        with pytest.raises(TypeError, match="takes a jar") as caught:
            await client.get("http://127.0.0.1:1/", cookies=value)
        assert "secret" not in repr(caught.value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((f"secret{control}", "control character") for control in ("\n", "\0", "\b", "\x0b", "\x1c", "\x7f")),
        ("secret\u20ac", "latin-1"),
        (b"secret", "not a str but bytes"),
    ],
)
async def test_what_is_no_value_of_a_header_is_refused_without_telling_it(value: Any, why: str) -> None:
    async with penstock.Client() as client:
        with pytest.raises((TypeError, ValueError), match=f"^header x-key: .*{why}") as caught:
            await client.get("http://127.0.0.1:1/", headers={"X-Key": value})
        assert "secret" not in repr(caught.value)


SECRET = "s3cret"

WITH_SECRETS: dict[str, dict[str, Any]] = {
    "a user with the password": {"auth": (f"user:{SECRET}", "")},
    "proxies by scheme": {"proxy": {"http": f"http://user:{SECRET}@proxy"}},
    "a base with a password": {"base_url": f"http://user:{SECRET}@host/"},
    "a base with a query": {"base_url": f"http://host/?key={SECRET}"},
}


@pytest.mark.parametrize("what", WITH_SECRETS)
async def test_what_is_refused_is_told_without_its_secret(what: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        penstock.Client(**WITH_SECRETS[what])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:{}@host/",
        "http://user:{} @host/",
        "http://us%00er:{}@host/",
        # Not encoded as in a URL.
        "http://user:{}/0@host/",
        "http://user:0{}#?@host/",
        "//user:{}@host/",
    ],
)
async def test_a_url_that_is_refused_is_told_without_its_password(url: str) -> None:
    url = url.format(SECRET)
    async with serve(redirect(302, url)) as server, penstock.Client() as client:
        for asked in (url, server.url):
            with pytest.raises(penstock.InvalidURL, match=r"\.\.\.@host") as caught:
                await client.get(asked)
            assert SECRET not in f"{caught.value} {caught.value.__dict__}"
    async with penstock.Client(base_url="http://host/") as client:
        with pytest.raises(penstock.InvalidURL, match=r"^'\.\.\.@host/': with a base_url, a path begins") as caught:
            await client.get(f"user:{SECRET}@host/")
        assert SECRET not in f"{caught.value} {caught.value.__dict__}"


async def test_a_url_that_is_refused_for_something_else_is_told_whole() -> None:
    async with penstock.Client() as client:
        for url in ("http://host:0/a@b", "http://host:80/ ?mail=a@b", "ftp://host/a:b@c", "http://[::1/a@b"):
            with pytest.raises(penstock.InvalidURL, match=f"^{re.escape(repr(url))}: ") as caught:
                await client.get(url)
            assert caught.value.url == url


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("", "not a token"),
        ("G T", "not a token"),
        ("GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "not a token"),
        ("G\xc4T", "not a token"),
        ("\xdf", "not a token"),
        ("\u0131", "not a token"),
        ("connect", "tunnels are made by proxy="),
    ],
)
async def test_a_method_that_would_be_read_as_something_else_is_refused_and_nothing_is_sent(
    method: str, why: str
) -> None:
    given: tuple[Any, ...] = ({}, {"max_redirects": 1})
    async with serve(response(b"")) as server, penstock.Client() as client:
        for options in given:
            with pytest.raises(ValueError, match=why):
                await client.request(method, server.url, **options)
        assert (server.connections, client.stats()["connected"]) == (0, 0)


@pytest.mark.parametrize("host", ["a|b", "a<b>", 'a"b', "a\\b", "a{b}", "a^b", "[v1.a:b]", "[::g]", "[::1]x"])
async def test_a_host_that_is_no_name_and_no_address_is_refused(host: str) -> None:
    async with penstock.Client() as client:
        for url in (f"http://{host}/", f"https://{host}:8080/x"):
            with pytest.raises(penstock.InvalidURL) as caught:
                await client.get(url)
            assert caught.value.url == url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": {"a": None}}, r"^params\['a'\]=None"),
        ({"params": [("a", ["1", None])]}, r"^params\['a'\]=None"),
        ({"form": {"a": None}}, r"^form\['a'\]=None"),
        ({"auth": ("user", None)}, r"^BasicAuth\.password: takes a str, not NoneType"),
    ],
)
async def test_none_is_not_sent_as_text(options: Any, message: str) -> None:
    async with penstock.Client() as client:
        with pytest.raises(TypeError, match=message):
            await client.post("http://127.0.0.1/", **options)
        assert client.stats()["connecting"] == client.stats()["connected"] == 0
    with pytest.raises(TypeError, match=r"^BearerAuth\.token: takes a str, not NoneType"):
        penstock.BearerAuth(None)  # type: ignore[arg-type]


async def test_proxies_by_scheme_are_no_proxy() -> None:
    wrong: Any = {"http": "http://127.0.0.1"}
    with pytest.raises(TypeError, match=r"^proxy=dict: takes the URL of a proxy"):
        penstock.Client(proxy=wrong)
    async with penstock.Client() as client:
        with pytest.raises(TypeError, match=r"^proxy=dict: takes the URL of a proxy"):
            await client.get("http://127.0.0.1/", proxy=wrong)


@pytest.mark.parametrize("options", [{}, {"decode": False}])
async def test_a_url_is_text(options: Any) -> None:
    async with penstock.Client(base_url="http://127.0.0.1/") as client:
        with pytest.raises(TypeError, match=r"^url: takes a str, not PosixPath"):
            await client.get(Path("/path"), **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^base_url: takes a str, not PosixPath"):
        penstock.Client(base_url=Path("/path"))  # type: ignore[arg-type]


async def test_a_request_overrides_what_the_client_has(storing_by: Any) -> None:
    ram, file = storing_by("ram"), storing_by("windows")
    async with serve([response(bytes(100_000))]) as server, ram.client() as client:
        assert (await client.get(server.url)).body.state == "ram"
        own = await client.get(server.url, tunables=file.tunables, policy=file.policy)
        assert own.body.state == "file"
        assert file.policy.stats()["count"] > 0
        with pytest.raises(penstock.ContentLengthTooLong):
            await client.get(server.url, tunables=penstock.Tunables(max_body=10))
        files = penstock.FilePool(max_bytes="1MiB")
        body = (await client.get(server.url, tunables=file.tunables, file_pool=files)).body
        del body, own
        await until(lambda: files.stats()["files"] == 1)
        files.clear()
        budget = penstock.Budget(ram="1MiB", disk=1000)
        with pytest.raises(penstock.BudgetExceeded):
            await client.get(server.url, tunables=file.tunables, budget=budget, timeout=penstock.Timeouts(budget=0.05))
        with pytest.raises(TypeError, match=r"there is no option tunable: a request takes .*, tunables, uds$"):
            await client.get(server.url, tunable=None)


WRONG: dict[str, tuple[Any, str]] = {
    "timeout": (5, "Timeouts(total=30)"),
    "tunables": ({"max_body": "1GiB"}, "Tunables("),
    "budget": ("1GiB", "Budget("),
    "policy": (penstock.Dispatch, "Dispatch(pool)"),
    "file_pool": (True, "FilePool("),
    "ssl_context": (False, "ssl.create_default_context()"),
    "limits": (20, "Limits(connections=20)"),
    "hooks": ({"failed": print}, "Hooks("),
    "cookies": ({"a": "1"}, "http.cookiejar.CookieJar()"),
    "follow_redirects": ("no", "True or False"),
    "max_redirects": ("3", "a number of redirects, as 10"),
    "trust_env": ("no", "True or False"),
    "resolver": ("8.8.8.8", "an asynchronous function"),
    "allow_address": ("10.0.0.0/8", "a function of an address"),
    "transport": (penstock.Replay, "what has answer(prolog)"),
}
"""By the option: what it doesn't take, and what is said that it takes."""


def refused(option: str) -> Any:
    value, example = WRONG[option]
    told = "dict" if option == "cookies" else repr(value)
    return pytest.raises(TypeError, match=f"^{re.escape(f'{option}={told}: takes ')}.*{re.escape(example)}")


@pytest.mark.parametrize("option", WRONG)
async def test_a_client_refuses_an_option_of_a_type_that_it_does_not_take(option: str) -> None:
    with refused(option):
        penstock.Client(**{option: WRONG[option][0]})


@pytest.mark.parametrize("option", sorted(KNOWN & WRONG.keys()))
async def test_a_request_with_an_option_of_a_wrong_type_is_refused_and_takes_no_connection(option: str) -> None:
    value, _ = WRONG[option]
    async with serve([response(b"ok")]) as server, penstock.Client() as client:
        await client.get(server.url)
        with refused(option):
            await client.get(server.url, **{option: value})
        with refused(option):
            async with client.stream("GET", server.url, **{option: value}):
                pass
        assert client.stats()["open"] == client.stats()["idle"] == 1
        await client.get(server.url)
        assert server.connections == 1


@pytest.mark.parametrize("headers", ["secret", b"secret", 0, False])
async def test_headers_that_are_not_by_name_are_refused_without_telling_them(headers: Any) -> None:
    refused = f"^headers={type(headers).__name__}: takes a mapping or a list of names and values$"
    with pytest.raises(TypeError, match=refused):
        penstock.Client(headers=headers)
    async with penstock.Client() as client:
        with pytest.raises(TypeError, match=refused):
            await client.get("http://127.0.0.1:1/", headers=headers)
        assert client.stats()["active"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": "a=1"}, "params=str: takes a mapping or a list of names and values"),
        ({"form": b"a=1"}, "form=bytes: takes a mapping or a list of names and values"),
        ({"files": "secret"}, "files=str: takes a mapping or a list of names and values"),
        ({"params": ["secret"]}, "params: a str in the list, not a pair of a name and a value"),
        ({"form": [("a", "b", "secret")]}, "form: a tuple in the list, not a pair of a name and a value"),
        ({"form": {"user": {"name": "secret"}}}, f"form['user']=dict: {TEXT}; files= sends files"),
        ({"form": {"a": io.BytesIO(b"secret")}}, f"form['a']=BytesIO: {TEXT}; files= sends files"),
        ({"form": {"a": [penstock.BodyImage.from_bytes(b"")]}}, f"form['a']=BodyImage: {TEXT}; files= sends files"),
        ({"params": {"a": (each for each in "secret")}}, f"params['a']=generator: {TEXT}"),
        ({"params": {"a": [["secret"]]}}, f"params['a']=list: {TEXT}"),
        ({"params": [(("secret",), 1)]}, f"params: the name tuple: {TEXT}"),
        ({"files": [Path("secret")]}, "files: a PosixPath in the list, not a pair of a name and a value"),
        ({"files": {b"a": b"1"}}, "files: a name is a str, not bytes"),
        ({"files": {"a": (Path("a.png"), b"1")}}, "files: a name is a str, not PosixPath"),
        ({"files": {"a": ("a.png", b"1", b"image/png")}}, "files['a']: a content type is a str, not bytes"),
        ({"headers": {b"x-key": "secret"}}, "headers: a name is a str, not bytes; Headers(pairs) takes bytes"),
        ({"headers": ["secret"]}, "headers: a str in the list, not a pair of a name and a value"),
        ({"auth": ("user",)}, "auth=tuple: takes a pair of user and password, BasicAuth or BearerAuth"),
        ({"method": None}, "method: takes a str, not NoneType"),
        ({"method": b"GET"}, "method: takes a str, not bytes"),
    ],
)
async def test_what_is_neither_text_nor_by_name_is_refused_by_the_name_of_the_option(
    options: dict[str, Any], message: str
) -> None:
    async with penstock.Client() as client:
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            await client.request(**{"method": "POST", "url": "http://127.0.0.1:1/", **options})


async def test_a_policy_of_ones_own_is_taken(storing_by: Any) -> None:
    storing, runs = storing_by("windows"), 0

    class Own:
        def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            nonlocal runs
            runs += 1
            return storing.policy.run(fn, *args, **kwargs)

        def stats(self) -> dict[str, Any]:
            return {}

    async with serve([response(b"ok")]) as server, storing.client(policy=Own()) as client:
        assert await (await client.get(server.url)).read() == b"ok"
        assert runs > 0


async def test_status_errors_name_the_response_and_whether_to_try_again() -> None:
    scripts = [response(b"why", status="404 Not Found")], [response(b"", status="503 Busy")]
    async with serve(*scripts) as server, penstock.Client() as client:
        missing = await client.get(server.url)
        with pytest.raises(penstock.HTTPStatusError, match="404 Not Found") as caught:
            missing.raise_for_status()
        assert caught.value.response is missing
        assert (caught.value.url, caught.value.elapsed) == (missing.url, missing.elapsed)
        assert not caught.value.retryable
        busy = await client.get(server.url)
        with pytest.raises(penstock.HTTPStatusError) as caught:
            busy.raise_for_status()
        assert caught.value.retryable


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/plain; charset=iso-8859-1", b"\xe4", "ä"),
        ('text/plain; charset="utf-8"', "ä".encode(), "ä"),
        ("text/plain", "ä\xff".encode("latin-1"), "\ufffd\ufffd"),
        ("text/plain; charset=none-such", "ä".encode(), "ä"),
        ("text/plain; charset=zlib", "ä".encode(), "ä"),
        ("text/plain; charset=utf-16", "ä".encode("utf-16"), "ä"),
        ("text/plain; charset=utf-16", "ä€".encode("utf-16-le"), "ä€"),
        ("text/plain; charset=UTF-32", "ä€".encode("utf-32-le"), "ä€"),
        ("text/plain; charset*=a; charset*0=b", "ä".encode(), "ä"),
        ("text/plain; charset*=utf-8''a%00b", "ä".encode(), "ä"),
        # Whose codecs take the square of the length.
        ("text/plain; charset=punycode", b"ab", "ab"),
        ("text/plain; charset=UTF7", b"+AOQ-", "+AOQ-"),
        ("text/plain; charset=unicode_escape", rb"\N{BULLET}", r"\N{BULLET}"),
    ],
)
async def test_text_is_decoded_by_its_charset(kind: str, body: bytes, text: str) -> None:
    async with serve([response(body, f"Content-Type: {kind}")]) as server, penstock.Client() as client:
        assert await (await client.get(server.url)).text() == text


async def test_a_long_reason_is_cut_where_it_is_shown() -> None:
    async with serve([response(b"", status=f"404 {'x' * 50_000}")]) as server, penstock.Client() as client:
        missing = await client.get(server.url)
        with pytest.raises(penstock.HTTPStatusError, match=r"^404 x{1024}\.\.\. for http") as caught:
            missing.raise_for_status()
        assert (len(missing.reason), len(repr(missing)) < 2000, len(str(caught.value)) < 2000) == (50_000, True, True)


async def test_charsets_that_servers_make_up_are_not_remembered() -> None:
    kinds = [f"text/plain; charset{charset}" for n in range(20) for charset in (f"=made-up.{n}", f"*=made.up{n}''x")]
    answers = [response(b"a", f"Content-Type: {kind}") for kind in kinds]
    async with serve(answers) as server, penstock.Client() as client:
        for _ in kinds:
            assert await (await client.get(server.url)).text() == "a"
    assert not [name for name in encodings._cache if name.startswith("made")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("charset", ["utf-16", "iso-2022-jp", "iso-2022-jp-2004", "iso-2022-kr"])
@pytest.mark.parametrize("bad", [b"\x1b$", b"\0\xd8a", b"\xff\x1b"])
async def test_text_replaces_what_its_charset_has_no_meaning_for(charset: str, bad: bytes) -> None:
    body = bad * 200_000
    answer = response(body, f"Content-Type: text/plain; charset={charset}")
    async with serve([answer]) as server, penstock.Client() as client:
        assert len(await (await client.get(server.url)).text()) >= len(body) // 4


async def test_text_without_a_mark_of_its_order_goes_on_in_the_middle_of_a_letter() -> None:
    text = "aä€😀" * 20_000
    kind = "Content-Type: text/plain; charset=utf-16"
    chunks = [b"1\r\n%c\r\n" % byte for byte in text[:3].encode("utf-16-le")]
    rest = text[3:].encode("utf-16-le")
    body = b"".join([*chunks, b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)])
    head = f"HTTP/1.1 200 OK\r\n{kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with (
        serve([head + body]) as server,
        penstock.Client() as client,
        client.stream("GET", server.url) as streamed,
    ):
        assert await streamed.text() == text


async def test_a_charset_is_not_looked_for_in_all_of_a_long_content_type() -> None:
    # Whose quoted semicolons take the square of their number.
    kind = f'Content-Type: text/plain; charset=iso-8859-1; a="{";" * 60_000}'
    late = f'Content-Type: text/plain; a="{";" * 1000}"; charset=iso-8859-1'
    async with serve([response(b"\xe4", kind)], [response(b"\xe4", late)]) as server, penstock.Client() as client:
        assert await (await client.get(server.url)).text() == "ä"
        assert await (await client.get(server.url)).text() == "\ufffd"


async def test_the_loop_turns_while_a_long_text_is_decoded() -> None:
    text = "aä€😀" * 200_000
    async with serve([response(text.encode())]) as server, penstock.Client() as client:
        answer = await client.get(server.url, tunables=penstock.Tunables(max_body_ram="8MiB"))
        decoding = asyncio.create_task(answer.text())
        turns = 0
        while not decoding.done():
            await asyncio.sleep(0)
            turns += 1
        assert await decoding == text
        assert turns > len(text.encode()) >> 18


async def test_json_is_told_apart_by_its_encoding() -> None:
    async with serve([response('{"a": "ä"}'.encode("utf-16"))]) as server, penstock.Client() as client:
        assert await (await client.get(server.url)).json() == {"a": "ä"}


async def test_cookies_are_kept_and_given_back_where_a_jar_is_given() -> None:
    jar = http.cookiejar.CookieJar()
    cookies = ("Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; Path=/only", "Set-Cookie: c=3; Domain=example.com")
    async with serve([response(b"", *cookies)], [response(b"")]) as server, penstock.Client(cookies=jar) as client:
        await client.get(server.url)
        await client.get(server.url)
        await client.get(f"{server.url}only/here")
        await client.get(server.url, headers={"cookie": "own=1"})
        sent = [fields(request).get("cookie") for request in server.requests]
        assert sent[:2] == [None, "a=1"]
        assert sorted((sent[2] or "").split("; ")) == ["a=1", "b=2"]
        assert sent[3] == "own=1"
        assert sorted(cookie.name for cookie in jar) == ["a", "b"]


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\x0bb", "\u20ac"])
async def test_a_cookie_that_no_server_could_have_set_is_not_sent(value: str) -> None:
    jar = http.cookiejar.CookieJar()
    async with serve([response(b"", "Set-Cookie: a=1")]) as server, penstock.Client(cookies=jar) as client:
        await client.get(server.url)
        next(iter(jar)).value = value
        await client.get(server.url)
        assert "cookie" not in fields(server.requests[1])


@pytest.mark.parametrize("value", ["a\r\nb: c", "\u20ac"])
async def test_cookies_are_sent_without_one_that_no_server_could_have_set(value: str) -> None:
    jar = http.cookiejar.CookieJar()
    cookies = ("Set-Cookie: a=1", "Set-Cookie: b=2", "Set-Cookie: c=\u00e9")
    async with serve([response(b"", *cookies)], [response(b"")]) as server, penstock.Client(cookies=jar) as client:
        await client.get(server.url)
        next(cookie for cookie in jar if cookie.name == "a").value = value
        await client.get(server.url)
        assert sorted(fields(server.requests[1])["cookie"].split("; ")) == ["b=2", "c=\u00e9"]


@pytest.mark.parametrize(
    ("strict", "below"), [(0, "own=1; all=1"), (http.cookiejar.DefaultCookiePolicy.DomainStrictNonDomain, "all=1")]
)
async def test_a_cookie_that_a_host_has_set_for_itself_stays_there_if_the_jars_policy_says_so(
    strict: int, below: str
) -> None:
    async def anywhere(host: str) -> list[str]:
        return ["127.0.0.1"]

    jar = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(strict_ns_domain=strict))
    set_both = response(b"", "Set-Cookie: own=1", "Set-Cookie: all=1; Domain=a.test")
    async with serve([set_both], [response(b"")]) as server:
        async with penstock.Client(cookies=jar, resolver=anywhere) as client:
            await client.get(f"http://a.test:{server.port}/")
            await client.get(f"http://b.a.test:{server.port}/")
        sent = fields(server.requests[1]).get("cookie", "")
    assert sorted(sent.split("; ")) == sorted(below.split("; "))


async def test_cookies_of_a_redirect_are_sent_to_where_it_leads() -> None:
    moved = [response(b"", "Location: /there", "Set-Cookie: a=1", status="302 Found")]
    async with serve(moved, [response(b"")]) as server:
        async with penstock.Client(cookies=http.cookiejar.CookieJar()) as client:
            await client.get(server.url)
        assert fields(server.requests[1])["cookie"] == "a=1"


async def test_without_a_jar_cookies_are_ignored() -> None:
    async with serve([response(b"", "Set-Cookie: a=1")]) as server, penstock.Client() as client:
        await client.get(server.url)
        await client.get(server.url)
        assert "cookie" not in fields(server.requests[1])


def telling(told: list[Any]) -> penstock.Hooks:
    return penstock.Hooks(
        request=lambda request: told.append(("request", request.method, request.url)),
        connected=lambda to, seconds: told.append(("connected", to, seconds >= 0)),
        head=lambda request, status: told.append(("head", request.url, status)),
        spilled=lambda request, size: told.append(("spilled", size)),
        done=lambda answer: told.append(("done", answer.status, len(answer.history))),
        failed=lambda request, error: told.append(("failed", request.url, type(error))),
    )


@pytest.mark.parametrize("whose", ["client", "request"])
async def test_hooks_are_called_at_each_stage(storing: Storing, whose: str) -> None:
    told: list[Any] = []
    body = bytes(300_000)
    given: dict[str, Any] = {"client": {}, "request": {}}
    given[whose]["hooks"] = telling(told)
    async with serve(redirect(302, "/there"), [response(body)]) as server:
        async with storing.client(**given["client"]) as client:
            await client.get(server.url, **given["request"])
        there = f"{server.url}there"
        spilled = [("spilled", len(body))] if storing.in_file else []
        assert told == [
            ("request", "GET", server.url),
            ("connected", server.url[:-1], True),
            ("head", server.url, 302),
            ("request", "GET", there),
            ("head", there, 200),
            *spilled,
            ("done", 200, 1),
        ]


async def test_hooks_and_policies_have_the_context_of_their_request_whoever_made_the_connection(
    storing_by: Any,
) -> None:
    asked: contextvars.ContextVar[str] = contextvars.ContextVar("asked", default="nobody")
    told: list[tuple[str, str]] = []

    class Policy:
        def run(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            told.append(("policy", asked.get()))
            return penstock.run_blocking(fn, *args, **kwargs)

        def stats(self) -> dict[str, Any]:
            return {}

    async def get(client: penstock.Client, url: str, by: str) -> None:
        asked.set(by)
        await client.get(url)

    def note(stage: str) -> Any:
        return lambda *_: told.append((stage, asked.get()))

    hooks = penstock.Hooks(**{field.name: note(field.name) for field in dataclasses.fields(penstock.Hooks)})
    storing = storing_by("windows")
    async with (
        serve([response(bytes(300_000))], [response(bytes(300_000))]) as server,
        storing.client(hooks=hooks, policy=Policy()) as client,
    ):
        for by in ("first", "second"):
            told.clear()
            await asyncio.create_task(get(client, server.url, by))
            assert {who for _, who in told} == {by}
            assert {"request", "head", "spilled", "done", "policy"} <= {stage for stage, _ in told}
        assert client.stats()["connected"] == 1


async def test_a_request_that_a_hook_prints_shows_no_secret() -> None:
    printed: list[str] = []
    hooks = penstock.Hooks(request=lambda request: printed.append(repr(request)))
    async with serve([response(b"")]) as server:
        async with penstock.Client(hooks=hooks, auth=penstock.BearerAuth("secret")) as client:
            await client.get(server.url)
        assert b"authorization: Bearer secret" in server.requests[0]
        assert f"method='GET', url='{server.url}'" in printed[0]
        assert "secret" not in printed[0]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([CLOSE], penstock.ConnectionLost),
        ([head("Content-Length: 5"), b"abc", RESET], penstock.Truncated),
        ([HANG], penstock.FirstByteTimeout),
    ],
)
async def test_a_failure_is_told(script: Any, error: type[Exception]) -> None:
    told: list[Any] = []
    timeout = penstock.Timeouts(first_byte=0.1)
    async with serve(script) as server, penstock.Client(hooks=telling(told), timeout=timeout) as client:
        with pytest.raises(error):
            await client.get(server.url)
        assert told[-1] == ("failed", server.url, error)


async def test_a_cancelled_request_is_told() -> None:
    told: list[Any] = []
    async with serve([HANG]) as server, penstock.Client(hooks=telling(told)) as client:
        asking = asyncio.create_task(client.get(server.url))
        await until(lambda: len(server.requests) == 1)
        asking.cancel()
        await asyncio.wait([asking])
        assert told[-1] == ("failed", server.url, asyncio.CancelledError)


async def test_a_stream_that_fails_before_its_head_is_told() -> None:
    told: list[Any] = []
    async with serve([CLOSE]) as server, penstock.Client(hooks=telling(told)) as client:
        with pytest.raises(penstock.ConnectionLost):
            async with client.stream("GET", server.url):
                pass
        assert told[2:] == [("failed", server.url, penstock.ConnectionLost)]


async def test_a_stream_whose_body_fails_is_told_once_when_that_is_read() -> None:
    told: list[Any] = []
    script = [head("Content-Length: 5"), b"abc", CLOSE]
    async with serve(script, [response(b"whole")]) as server, penstock.Client(hooks=telling(told)) as client:
        async with client.stream("GET", server.url) as answer:
            with pytest.raises(penstock.Truncated):
                await answer.read()
            with pytest.raises(penstock.RequestError, match="nothing more can be read"):
                await answer.read()
        assert told[2:] == [("head", server.url, 200), ("done", 200, 0), ("failed", server.url, penstock.Truncated)]
        told.clear()
        async with client.stream("GET", server.url) as answer:
            assert await answer.read() == b"whole"
        assert told[-1] == ("done", 200, 0)


UNSENDABLE: tuple[dict[str, Any], ...] = (
    {"content": 5},
    {"content": Path("/nowhere/at/all")},
    {"headers": {"transfer-encoding": "chunked"}},
    {"proxy": "socks5://127.0.0.1"},
)


async def test_what_no_request_can_be_made_of_is_told_to_no_hook() -> None:
    told: list[Any] = []
    async with penstock.Client(hooks=telling(told)) as client:
        with pytest.raises(penstock.InvalidURL):
            await client.get("ftp://127.0.0.1/")
        with pytest.raises(TypeError):
            await client.get("http://127.0.0.1/", tunable=None)  # type: ignore[call-arg]
        for options in UNSENDABLE:
            with pytest.raises((TypeError, ValueError, FileNotFoundError)):
                await client.post("http://127.0.0.1/", **options)
    assert told == []


async def awaited(answer: object) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("wrong", [awaited, functools.partial(awaited), "print"])
async def test_a_hook_that_is_not_called_or_would_have_to_be_awaited_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^Hooks\.done=.*: takes a function that is called, and not awaited"):
        penstock.Hooks(done=wrong)


@pytest.mark.parametrize("stage", ["request", "connected", "head", "spilled", "done"])
async def test_what_a_hook_raises_is_the_requests_error(stage: str, storing_by: Any) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError(stage)

    hooks = penstock.Hooks(**{stage: fail})
    async with serve([response(b"body")]) as server, storing_by("windows").client(hooks=hooks) as client:
        with pytest.raises(ZeroDivisionError, match=stage):
            await client.get(server.url)
        assert client.stats()["active"] == client.stats()["connecting"] == 0
        assert client.stats()["open"] == client.stats()["idle"]


@pytest.mark.parametrize("stage", ["request", "connected", "head", "done"])
@pytest.mark.parametrize("error", [pytest.fail.Exception, asyncio.CancelledError, StopIteration])
async def test_what_a_hook_raises_ends_the_request_also_if_it_is_no_exception_or_none_for_a_future(
    stage: str, error: type[BaseException]
) -> None:
    def fail(*args: object) -> None:
        raise error(stage)

    told = RuntimeError if error is StopIteration else error
    async with serve([response(b"body")]) as server, penstock.Client(hooks=penstock.Hooks(**{stage: fail})) as client:
        for ask in (client.get, functools.partial(client.record, "GET")):
            asking = asyncio.ensure_future(ask(server.url))
            await asyncio.wait([asking], timeout=10)
            with pytest.raises(told, match="StopIteration" if error is StopIteration else stage):
                asking.result()
        with pytest.raises(told):
            async with asyncio.timeout(10), client.stream("GET", server.url):
                pass
        assert client.stats()["active"] == client.stats()["connecting"] == 0
        assert client.stats()["open"] == client.stats()["idle"]


@pytest.mark.parametrize("error", [ZeroDivisionError, pytest.fail.Exception, asyncio.CancelledError, StopIteration])
async def test_what_a_hook_raises_of_the_head_of_a_body_that_has_failed_by_then_counts_less(
    error: type[BaseException],
) -> None:
    def fail(*args: object) -> None:
        raise error

    options: dict[str, Any] = {"hooks": penstock.Hooks(head=fail), "tunables": penstock.Tunables(max_body=2)}
    async with (
        serve([head("Transfer-Encoding: chunked") + chunked(b"body", 4)]) as server,
        penstock.Client(**options) as client,
    ):
        with pytest.raises(penstock.BodyTooLong):
            async with asyncio.timeout(10):
                await client.get(server.url)
        assert client.stats()["active"] == 0


async def test_a_hook_that_fails_on_connecting_leaves_no_connection() -> None:
    hooks = penstock.Hooks(connected=lambda to, seconds: 1 / 0)
    async with serve([response(b"")]) as server, penstock.Client(hooks=hooks) as client:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await client.get(server.url)
        await until(lambda: server.closed == 5)


async def test_loggers_are_named_by_module(caplog: pytest.LogCaptureFixture) -> None:
    async with serve(redirect(302, "/there"), [response(b"")], [CLOSE]) as server, penstock.Client() as client:
        with caplog.at_level(logging.DEBUG, "penstock"):
            await client.get(server.url)
            with pytest.raises(penstock.ConnectionLost):
                await client.post(server.url)
        names = {record.name for record in caplog.records}
        assert names == {"penstock.http.connect", "penstock.http.client"}
        text = caplog.text
        assert "connected to" in text
        assert "/there" in text
        assert "failed: ConnectionLost" in text


@pytest.mark.parametrize("settings", [penstock.Timeouts(total=3, min_rate=None), penstock.Limits(headers=30)])
async def test_timeouts_and_limits_can_be_made_of_their_fields_and_are_copied_whole(
    settings: penstock.Timeouts | penstock.Limits,
) -> None:
    again = type(settings)(**dataclasses.asdict(settings))
    pickled = [pickle.loads(pickle.dumps(settings, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    async with serve([response(b"")]) as server, penstock.Client() as client:
        for same in (again, *pickled, copy.copy(settings), copy.deepcopy(settings)):
            assert same == settings
            kind = "timeout" if isinstance(same, penstock.Timeouts) else "limits"
            assert (await client.get(server.url, **{kind: same})).status == 200
