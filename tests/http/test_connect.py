"""How connections come about: names, addresses in parallel, what may be connected to, Unix sockets, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import http.cookiejar
import os
import select
import socket
import ssl
import subprocess
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import penstock
import pytest
from penstock.http import connect
from penstock.http.resolve import FORSAKEN, Names, as_address
from penstock.http.url import parse

from tests.conftest import uncollected
from tests.http.conftest import NOTHING, Storing, at_hand
from tests.http.serving import HANG, response, serve, until
from tests.http.test_redirects import redirect
from tests.http.test_tls import serve_tls, trusting

pytestmark = pytest.mark.asyncio


class Book:
    """A resolver that counts, and takes its time if told to."""

    def __init__(self, **names: Sequence[str] | Exception) -> None:
        self.names = names
        self.asked: list[str] = []
        self.wait = asyncio.Event()
        self.wait.set()

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        await self.wait.wait()
        found = self.names.get(host.partition(".")[0], ())
        if isinstance(found, Exception):
            raise found
        return found


async def test_a_name_is_looked_up_once_and_remembered() -> None:
    book = Book(a=["127.0.0.1"])
    limits = penstock.Limits(per_host=2)
    async with serve([response(b"x")]) as server, penstock.Client(resolver=book, limits=limits) as client:
        url = server.url.replace("127.0.0.1", "a.test")
        book.wait.clear()
        asking = [asyncio.create_task(client.get(url)) for _ in range(5)]
        await until(lambda: len(book.asked) == 1)
        await asyncio.sleep(0.02)
        book.wait.set()
        await asyncio.gather(*asking)
        assert book.asked == ["a.test"]
        assert client.stats()["lookups"] == 1
        assert b"host: a.test:" in server.requests[0]


async def test_what_is_remembered_is_forgotten_in_time() -> None:
    book = Book(a=["192.0.2.1"], b=OSError("none"))
    names = Names(book, 0.05, 0.05)
    for _ in range(3):
        assert await names.addresses("a") == ["192.0.2.1"]
        with pytest.raises(penstock.DNSError, match="no address for b: none"):
            await names.addresses("b")
    assert book.asked == ["a", "b"]
    await asyncio.sleep(0.06)
    assert await names.addresses("a") == ["192.0.2.1"]
    assert book.asked == ["a", "b", "a"]


async def test_a_resolver_whose_answer_is_out_of_date_goes_with_the_next_lookup() -> None:
    names = Names(None, 0.01, 60)
    book = Book(a=["192.0.2.1"])
    gone = weakref.ref(book)
    await names.addresses("a", book)
    del book
    await asyncio.sleep(0.02)
    with uncollected():
        await names.addresses("b", Book(b=["192.0.2.2"]))
        assert gone() is None


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        # The shortest is over in the moment in which it begins.
        (penstock.Limits(dns_failed_seconds=5e-324), ["a.test", "b.test", "b.test"]),
        (penstock.Limits(dns_seconds=5e-324), ["a.test", "b.test", "a.test"]),
    ],
)
async def test_how_long_names_are_remembered_is_the_clients(limits: penstock.Limits, asked: list[str]) -> None:
    book = Book(a=["127.0.0.1"], b=OSError("none"))
    script = [response(b"x", "Connection: close")]
    async with serve(script) as server, penstock.Client(resolver=book, limits=limits) as client:
        for _ in range(2):
            await client.get(server.url.replace("127.0.0.1", "a.test"))
            with pytest.raises(penstock.DNSError):
                await client.get("http://b.test/")
        assert book.asked == asked


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN])
async def test_what_keeps_a_name_from_being_looked_up_is_not_remembered_of_it(number: int) -> None:
    lacks = [OSError(number, os.strerror(number))]

    async def resolver(host: str) -> list[str]:
        for lack in lacks:
            raise lack
        return ["127.0.0.1"]

    async with serve([response(b"x")]) as server, penstock.Client(resolver=resolver) as client:
        with pytest.raises(penstock.DNSError, match=os.strerror(number)):
            await client.get(f"http://a.test:{server.port}/")
        lacks.clear()
        assert (await client.get(f"http://a.test:{server.port}/")).status == 200


class OwnError(Exception):
    """A program's own."""


class Particular(OSError):
    """Can't be copied."""

    def __init__(self, host: str, *, server: str) -> None:
        super().__init__(f"{server} has no {host}")


@pytest.mark.parametrize("fails", [OSError, functools.partial(Particular, server="ns.test")])
async def test_of_a_failed_lookup_nothing_is_kept_that_its_resolver_had(fails: Callable[[str], OSError]) -> None:
    held: list[weakref.ref[Book]] = []

    async def resolver(host: str) -> list[str]:
        answer = Book()
        held.append(weakref.ref(answer))
        raise fails(host)

    async def fail(client: penstock.Client) -> tuple[str, str]:
        # `pytest.raises` would be in a cycle with the error itself.
        try:
            await client.get("http://a.test/")
        except penstock.DNSError as error:
            return str(error), str(error.__cause__)
        raise AssertionError("nothing was wrong")

    async with penstock.Client(resolver=resolver) as client:
        with uncollected():
            first = await fail(client)
            assert first == (f"no address for a.test: {fails('a.test')}", str(fails("a.test")))
            [had] = held
            await until(lambda: had() is None)
        assert await fail(client) == (first if fails is OSError else (first[0], "None"))
        assert len(held) == 1


async def test_what_fails_in_a_context_of_its_own_is_in_no_cycle() -> None:
    async def fail() -> None:
        future = asyncio.get_running_loop().create_future()
        future.get_loop().call_soon(future.set_exception, OwnError())
        try:
            await future
        finally:
            del future

    async def wait() -> weakref.ref[OwnError]:
        try:
            await connect._Apart(fail())
        except OwnError as error:
            return weakref.ref(error)
        raise AssertionError("nothing was wrong")

    with uncollected():
        failure = await wait()
        await until(lambda: failure() is None)


async def test_why_no_address_of_a_name_answers_is_in_no_cycle() -> None:
    def refusals() -> int:
        return sum(isinstance(each, ConnectionRefusedError) for each in gc.get_objects())

    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://a.test:{unheard.getsockname()[1]}/"
        async with penstock.Client(resolver=Book(a=["127.0.0.1", "127.0.0.2"])) as client:
            with uncollected():
                before = refusals()
                with contextlib.suppress(penstock.ConnectError):
                    await client.get(url)
                await until(lambda: refusals() == before)


async def test_names_are_looked_up_by_the_system_on_the_default_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        threads.append(threading.current_thread().name)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with serve([response(b"x")]) as server, penstock.Client() as client:
        assert (await client.get(server.url.replace("127.0.0.1", "a.test"))).status == 200
    [thread] = threads
    assert thread.startswith(penstock.default_pool().name_prefix)


async def test_a_name_without_an_address_is_an_error_for_each_who_asks() -> None:
    async with penstock.Client(resolver=Book()) as client:
        results = await asyncio.gather(
            *[client.get(f"http://none.test/{number}") for number in range(3)], return_exceptions=True
        )
        assert {type(error) for error in results} == {penstock.DNSError}
        assert {error.url for error in results if isinstance(error, penstock.DNSError)} == {
            f"http://none.test/{number}" for number in range(3)
        }
        assert len({id(error) for error in results}) == 3
        assert at_hand(client) == NOTHING


BEYOND_ASCII = [
    "b\u00fccher.example",
    "b%C3%BCcher.example",
    "B%c3%9cCHER.ex%61mple",
    "bu\u0308cher\u3002EXAMPLE",
    "b\u00fc\u00adcher.example",
    "xn--bcher-kva.example",
]


def bookshop() -> Book:
    return Book(**{"xn--bcher-kva": ["127.0.0.1"]})


@pytest.mark.parametrize("options", [{}, {"decode": False}], ids=["prepared", "made"])
async def test_a_host_beyond_ascii_is_asked_for_by_its_name_in_ascii(options: Any) -> None:
    book, jar = bookshop(), http.cookiejar.CookieJar()
    script = [response(b"x", "Set-Cookie: a=b; Domain=xn--bcher-kva.example")]
    async with serve(script) as server, penstock.Client(resolver=book, cookies=jar) as client:
        for host in BEYOND_ASCII:
            answer = await client.get(f"http://{host}:{server.port}/p%C3%A4th?q#f", **options)
            assert answer.url.lower() == f"http://xn--bcher-kva.example:{server.port}/p%c3%a4th?q#f"
            assert server.requests[-1].startswith(b"GET /p%C3%A4th?q ")
            assert f"\r\nhost: xn--bcher-kva.example:{server.port}\r\n".encode() in server.requests[-1]
        assert book.asked == ["xn--bcher-kva.example"]
        assert [b"\r\ncookie: a=b\r\n" in request for request in server.requests] == [False] + [True] * 5
        assert server.connections == 1
        async with penstock.Client(resolver=book, base_url=f"http://b%C3%BCcher.example:{server.port}") as client:
            assert (await client.get("/p")).url == f"http://xn--bcher-kva.example:{server.port}/p"


@pytest.mark.parametrize("host", BEYOND_ASCII)
@pytest.mark.parametrize("to", ["http://{}:{}/there", "//{}:{}/there"])
async def test_a_location_with_a_host_beyond_ascii_is_followed(to: str, host: str) -> None:
    async with serve([response(b"x")]) as there, penstock.Client(resolver=bookshop()) as client:
        location = to.format(host, there.port).encode().decode("latin-1")
        async with serve(redirect(302, location)) as here:
            answer = await client.get(here.url)
        assert (answer.status, len(there.requests)) == (200, 1)
        assert answer.url.lower() == f"http://xn--bcher-kva.example:{there.port}/there"


NO_NAMES = {
    "stra\u00dfe.test": "differ about '\u00df' in a host: give its name in ASCII",
    "stra%C3%9Fe.test": "differ about '\u00df'",
    "\u03bf\u03b4\u03bf\u03c2.test": "differ about",
    "a\u200d\u00fc.test": "differ about",
    "b\U000e0100ank.test": "differ about",
    "\u13a0.test": "differ about",
    "bo\u1d4f.test": "differ about a letter of 'bo\u1d4f.test'",
    "\u32cd.test": "differ about a letter",
    "b%FC.test": "is not a name",
    "b\u00fc..test": "is not a name",
    "\u00fc" * 60 + ".test": "is not a name",
    "\u00fc%2F.test": "is not a name",
    "\u00fc%40.test": "is not a name",
    "\u2100.test": "is not a name",
    "%E2%84%80.test": "is not a name",
    "a%3A80": "is not a name",
    "a%25b.test": "is not a name",
    "a%zz.test": "is not a name",
    "a%0D%0Ab.test": "is not a name",
    "a%20b.test": "is not a name",
    "\u00fc b.test": "is not a name",
    "a\ud800.test": "is not a name",
    "%E3%80%82": "is not a name",
    "h:\u0668\u0660": "must be percent-encoded",
    "u@b\u00fc.test": "must be percent-encoded",
    "[::1%25\u00fc]": "must be percent-encoded",
    "a.test..": "is not a name or an address",
    ".": "has no host",
    "[::1]a.test": "nothing but a port is beside them",
    "[::1]a.test:80": "nothing but a port is beside them",
    "a.test[::1]": "nothing but a port is beside them",
    "a.test:80[::1]:80": "nothing but a port is beside them",
    "[v1.a]": "around an IPv6 address",
}


@pytest.mark.parametrize("host", NO_NAMES)
async def test_a_host_that_is_no_name_or_two_is_asked_for_by_none(host: str) -> None:
    book = Book()
    async with penstock.Client(resolver=book) as client:
        with pytest.raises(penstock.InvalidURL, match=NO_NAMES[host]) as caught:
            await client.get(f"http://{host}/")
        assert caught.value.url == f"http://{host.replace('u@', '...@')}/"
        with pytest.raises(penstock.InvalidURL):
            penstock.Client(base_url=f"http://{host}/")
        if host.isascii():
            async with serve(redirect(302, f"http://{host}/")) as server:
                with pytest.raises(penstock.InvalidURL, match=NO_NAMES[host]):
                    await client.get(server.url)
        assert book.asked == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://[fe80::1%eth0]:81/%41", b"[fe80::1]:81"),
        ("https://[fe80::1%1]/", b"[fe80::1]"),
        ("http://[fe80::1%25]/", b"[fe80::1]"),
        ("http://[::1]/", b"[::1]"),
    ],
)
async def test_the_zone_of_an_address_is_connected_to_and_not_told_to_the_server(url: str, host: bytes) -> None:
    target = parse(url)
    assert (target.host, str(target)) == (b"host: %b\r\n" % host, url)


async def test_a_zone_is_found_behind_a_percent_sign_that_is_encoded() -> None:
    # The name of an interface: by its number the address is the same.
    assert parse("http://[fe80::1%25eth0]:81/").origin == ("http", "fe80::1%eth0", 81)
    assert as_address(parse("http://[fe80::1%25eth0]:81/").origin.host) == "fe80::1%eth0"


async def test_a_name_that_ends_with_a_dot_is_looked_up_so_and_told_to_the_server_without() -> None:
    book = Book(a=["127.0.0.1"])
    async with serve([response(b""), response(b"")]) as server:
        async with penstock.Client(resolver=book) as client:
            for host in ("a.test", "a.test."):
                await client.get(f"http://{host}:{server.port}/")
        assert book.asked == ["a.test", "a.test."]
        # The search domains of a resolver may have made another host of the first.
        assert server.connections == 2
        assert all(b"host: a.test:%d\r\n" % server.port in request for request in server.requests)


async def test_a_certificate_is_held_against_a_name_without_the_dot_at_its_end(certificate: Path) -> None:
    book = Book(localhost=["127.0.0.1"])
    async with (
        serve_tls(certificate, response(b"")) as url,
        penstock.Client(resolver=book, ssl_context=trusting(certificate)) as client,
    ):
        await client.get(url.replace("localhost", "localhost.") + "0")
    assert book.asked == ["localhost."]


async def test_an_address_that_ends_with_a_dot_is_no_name() -> None:
    assert parse("http://127.0.0.1./").origin.host == "127.0.0.1"


async def test_a_long_host_is_refused_before_it_is_encoded() -> None:
    # Encoding takes the square of its length.
    host = "".join(map(chr, range(0x4E00, 0x9000)))
    async with penstock.Client() as client:
        with pytest.raises(penstock.InvalidURL, match="more than 253 characters"):
            await client.get(f"http://{host}/")


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".test"])
async def test_a_name_by_which_tls_cannot_ask_is_a_tls_error(host: str) -> None:
    book = Book(**{"a": ["127.0.0.1"], "a" * 64: ["127.0.0.1"]})
    async with serve([HANG]) as there, penstock.Client(resolver=book) as client:
        url = f"https://{host}:{there.port}/"
        async with serve(redirect(302, url)) as here:
            for asked in (url, here.url):
                with pytest.raises(penstock.TLSError, match="no TLS with") as caught:
                    await client.get(asked)
                assert (caught.value.url, caught.value.retryable) == (url, False)
        assert (there.connections, book.asked) == (0, [])
        assert at_hand(client)["connecting"] == 0


async def test_no_more_names_are_remembered_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.http.resolve.MOST", 3)
    book = Book(**{f"n{number}": ["192.0.2.1"] for number in range(5)})
    names = Names(book, 60, 60)
    for number in range(5):
        await names.addresses(f"n{number}")
    await names.addresses("n4")
    await names.addresses("n0")
    assert book.asked == ["n0", "n1", "n2", "n3", "n4", "n0"]


async def test_a_resolver_that_has_the_answer_at_hand_serves_a_loop_whose_tasks_begin_at_once() -> None:
    class Done(asyncio.Future[Any]):
        def set_name(self, name: object) -> None:
            pass  # CPython 3.13 gives one to whatever a factory made.

    def begun(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        # As `asyncio.eager_task_factory` of CPython 3.12, which uvloop can't call, for what doesn't wait.
        done = Done(loop=loop)
        try:
            coroutine.send(None)
        except StopIteration as end:
            done.set_result(end.value)
        except Exception as error:
            done.set_exception(error)
        return done

    asyncio.get_running_loop().set_task_factory(begun)
    names = Names(Book(a=["192.0.2.1"]), 0.001, 0.001)
    try:
        for _ in range(3):
            assert await names.addresses("a.test") == ["192.0.2.1"]
            await asyncio.sleep(0.002)
    finally:
        asyncio.get_running_loop().set_task_factory(None)


async def test_who_gives_up_does_not_end_the_lookup_of_the_others() -> None:
    book = Book(a=["127.0.0.1"])
    book.wait.clear()
    async with serve([response(b"x")]) as server, penstock.Client(resolver=book) as client:
        url = server.url.replace("127.0.0.1", "a.test")
        first, second = (asyncio.create_task(client.get(url)) for _ in range(2))
        await until(lambda: client.stats()["connecting"] == 2)
        first.cancel()
        await asyncio.wait([first])
        book.wait.set()
        assert (await second).status == 200
        assert book.asked == ["a.test"]


@pytest.mark.parametrize("given", ["127.0.0.1", b"127.0.0.1", None])
async def test_a_resolver_that_gives_something_else_than_a_list_is_a_type_error(given: Any) -> None:
    async def wrong(host: str) -> Any:
        return given

    def synchronous(host: str) -> Any:
        return given

    for resolver, what in [(wrong, "not a list of addresses"), (synchronous, "and isn't asynchronous")]:
        async with penstock.Client(resolver=resolver) as client:
            with pytest.raises(TypeError, match=rf"^resolver=.*: gave {given!r} for a\.test, {what}$"):
                await client.get("http://a.test/")
            assert client.stats()["connecting"] == 0


async def test_a_resolver_that_gives_what_getaddrinfo_does_is_a_type_error_and_other_text_is_left_out() -> None:
    given: list[Any] = [("127.0.0.1", 80)]

    async def resolver(host: str) -> Any:
        return given

    async with penstock.Client(resolver=resolver) as client:
        with pytest.raises(
            TypeError, match=r"^resolver=.*: gave \('127.0.0.1', 80\) among those of a\.test, not an address$"
        ):
            await client.get("http://a.test/")
        given[:] = ["nonsense"]
        with pytest.raises(penstock.DNSError, match="the resolver gave none"):
            await client.get("http://a.test/")


async def test_lookups_that_nobody_waits_for_are_bounded() -> None:
    names = Names(None, 60, 60)

    def hanging() -> Book:
        book = Book(a=["127.0.0.1"])
        book.wait.clear()
        return book

    books = [hanging() for _ in range(FORSAKEN + 2)]
    for book in books:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await names.addresses("a.test", book)
    # The first are ended, and asked anew; the last go on for whoever asks next.
    await until(lambda: len(asyncio.all_tasks()) == 1 + FORSAKEN)
    for book, times in (books[0], 2), (books[-1], 1):
        book.wait.set()
        assert await names.addresses("a.test", book) == ["127.0.0.1"]
        assert len(book.asked) == times
    names.close()
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_who_waits_for_a_lookup_that_was_forsaken_is_not_told_of_an_end_that_is_anothers() -> None:
    names = Names(None, 60, 60)
    book, others = Book(a=["127.0.0.1"]), [Book() for _ in range(FORSAKEN + 2)]
    for slow in (book, *others):
        slow.wait.clear()

    async def give_up(slow: Book) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await names.addresses("a.test", slow)

    await give_up(book)
    second = asyncio.create_task(names.addresses("a.test", book))
    await asyncio.sleep(0)
    for slow in others:
        await give_up(slow)
    book.wait.set()
    assert await second == ["127.0.0.1"]
    assert book.asked == ["a.test"]
    names.close()
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_lookup_ends_with_the_client() -> None:
    book = Book()
    book.wait.clear()
    before = asyncio.all_tasks()
    client = penstock.Client(resolver=book)
    asking = [asyncio.create_task(client.get(f"http://{host}.test/")) for host in "ab"]
    await until(lambda: len(book.asked) == 2)
    # The lookup goes on, for nobody.
    asking[1].cancel()
    await asyncio.wait([asking[1]])
    await client.aclose()
    with pytest.raises(penstock.ClientClosed):
        await asking[0]
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("localhost", None), ("1.2.3", None)],
)
async def test_what_is_an_address(host: str, address: str | None) -> None:
    assert as_address(host) == address


async def test_only_what_is_allowed_is_connected_to() -> None:
    asked = []

    def allow(address: str) -> bool:
        asked.append(address)
        return address == "127.0.0.1"

    book = Book(a=["127.0.0.2", "127.0.0.1"], b=["127.0.0.2", "::ffff:127.0.0.3"])
    async with serve([response(b"x")]) as server, penstock.Client(resolver=book, allow_address=allow) as client:
        assert (await client.get(server.url.replace("127.0.0.1", "a.test"))).status == 200
        assert asked == ["127.0.0.2", "127.0.0.1"]
        refused = r"127\.0\.0\.2, 127\.0\.0\.3, which allow_address= refuses"
        with pytest.raises(penstock.ConnectError, match=refused) as caught:
            await client.get("http://b.test/")
        assert not caught.value.retryable
        with pytest.raises(penstock.ConnectError):
            await client.get(server.url.replace("127.0.0.1", "127.0.0.9"))
        assert asked[-1] == "127.0.0.9"
        assert at_hand(client) == NOTHING | {"open": 1, "idle": 1}


@pytest.mark.parametrize("address", ["64:ff9b::a00:1", "64:ff9b::a00:1%lo", "2002:a00:1:2::3"])
async def test_of_an_address_that_a_gateway_makes_an_ipv4_one_of_that_must_be_allowed_too(address: str) -> None:
    asked = []

    def allow(address: str) -> bool:
        asked.append(address)
        return address != "10.0.0.1"

    async with penstock.Client(resolver=Book(a=[address]), allow_address=allow) as client:
        with pytest.raises(penstock.ConnectError, match=f"a.test is at {address}, which allow_address= refuses"):
            await client.get("http://a.test/")
    assert asked == [address, "10.0.0.1"]


async def test_of_a_host_with_many_addresses_the_first_are_remembered_and_an_error_names_a_few() -> None:
    book = Book(a=[f"10.0.{n // 256}.{n % 256}" for n in range(4000)])
    async with penstock.Client(resolver=book, allow_address=lambda address: False) as client:
        with pytest.raises(penstock.ConnectError, match=r"10\.0\.0\.7 and 248 more, which allow_address= refuses"):
            await client.get("http://a.test/")


@pytest.mark.parametrize("answer", [asyncio.Future, lambda: "no", lambda: None])
async def test_what_says_neither_yes_nor_no_of_an_address_allows_none(answer: Callable[[], Any]) -> None:
    async with serve([response(b"x")]) as server, penstock.Client(allow_address=lambda address: answer()) as client:
        with pytest.raises(TypeError, match=r"allow_address= gave .* for 127\.0\.0\.1: takes a function"):
            await client.get(server.url)
        assert server.connections == 0
        assert at_hand(client) == NOTHING


@pytest.mark.parametrize("location", ["http://127.0.0.9/secret", "http://a.test/secret"])
async def test_a_redirect_leads_only_to_what_is_allowed(location: str) -> None:
    options: Any = {"resolver": Book(a=["127.0.0.9"]), "allow_address": lambda address: address == "127.0.0.1"}
    async with serve(redirect(302, location)) as server, penstock.Client(**options) as client:
        with pytest.raises(penstock.ConnectError, match=r"127\.0\.0\.9, which allow_address= refuses") as caught:
            await client.get(server.url)
        assert (caught.value.url, caught.value.retryable) == (location, False)
        assert len(server.requests) == 1


async def test_an_address_that_refuses_is_passed_over() -> None:
    book = Book(a=["127.0.0.2", "127.0.0.3", "127.0.0.1"])
    async with serve([response(b"x")]) as server, penstock.Client(resolver=book) as client:
        # The server listens on one of them only.
        assert (await client.get(server.url.replace("127.0.0.1", "a.test"))).status == 200


async def test_an_address_that_does_not_answer_is_passed_over_after_its_head_start() -> None:
    hanging = asyncio.Event()
    tried = []

    async def reach(address: str) -> socket.socket:
        tried.append(address)
        if address == "slow":
            await hanging.wait()
        return socket.socket()

    winner = await connect._race(["slow", "fast", "spare"], reach)
    assert tried == ["slow", "fast"]
    hanging.set()
    for _ in range(3):
        await asyncio.sleep(0)
    winner.close()


async def test_of_many_addresses_that_do_not_answer_a_few_are_tried_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "HEAD_START", 0.001)
    trying = most = 0

    async def reach(address: str) -> socket.socket:
        nonlocal trying, most
        trying += 1
        most = max(most, trying)
        try:
            if address != "last":
                await asyncio.Event().wait()
            return socket.socket()
        finally:
            trying -= 1

    (await connect._race([*map(str, range(100)), "last"], reach)).close()
    await asyncio.sleep(0)
    # One that is given up goes in the next turn.
    assert (trying, connect.RACING <= most <= connect.RACING + 1) == (0, True)


@pytest.mark.parametrize("what", [response(b"unasked"), b""], ids=["a response", "the end"])
async def test_what_a_server_says_before_it_is_asked_is_no_answer(monkeypatch: pytest.MonkeyPatch, what: bytes) -> None:
    real_connect = connect._connect

    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as peers:

        async def connect_and_hear(address: str, port: int | None) -> socket.socket:
            sock = await real_connect(address, port)
            peer = peers.enter_context(listener.accept()[0])
            if what:
                peer.sendall(what)
            else:
                peer.shutdown(socket.SHUT_WR)
            assert select.select([sock], [], [], 10)[0]
            return sock

        monkeypatch.setattr(connect, "_connect", connect_and_hear)
        async with penstock.Client() as client:
            with pytest.raises(penstock.ConnectionLost, match="before it was asked"):
                await client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            assert at_hand(client) == NOTHING


async def test_all_addresses_failing_tells_the_first_failure() -> None:
    async def reach(address: str) -> socket.socket:
        raise OSError(address)

    with pytest.raises(OSError, match="first"):
        await connect._race(["first", "second"], reach)


async def test_a_race_cancelled_at_any_turn_leaves_no_socket() -> None:
    made: list[socket.socket] = []

    async def reach(address: str) -> socket.socket:
        await asyncio.sleep(0)
        made.append(socket.socket())
        return made[-1]

    for turns in range(8):
        racing = asyncio.create_task(connect._race(["a", "b"], reach))
        for _ in range(turns):
            await asyncio.sleep(0)
        racing.cancel()
        await asyncio.wait([racing])
        if not racing.cancelled():
            racing.result().close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert all(sock.fileno() < 0 for sock in made)


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["::1", "::2", "::3", "1.1.1.1"], ["::1", "1.1.1.1", "::2", "::3"]),
        (["1.1.1.1", "::1", "2.2.2.2"], ["1.1.1.1", "::1", "2.2.2.2"]),
        (["1.1.1.1"], ["1.1.1.1"]),
    ],
)
async def test_both_families_are_tried_in_turn(addresses: list[str], order: list[str]) -> None:
    assert connect._interleaved(addresses) == order


async def test_a_unix_socket_in_place_of_an_address(tmp_path: Path, storing: Storing) -> None:
    body = bytes(500_000)
    seen = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                seen.append(request)
                if b"PUT" in request:
                    assert await reader.readexactly(len(body)) == body
                writer.write(response(body))
                await writer.drain()
        writer.close()

    path = tmp_path / "socket"
    server = await asyncio.start_unix_server(answer, str(path))
    image = await penstock.collect(aiter_of(body), storing.tunables)
    async with storing.client(uds=path) as client:
        for _ in range(2):
            assert await (await client.get("http://any.host/path")).read() == body
        assert await (await client.put("http://any.host/", content=image)).read() == body
        assert client.stats()["connected"] == 1
        assert b"host: any.host\r\n" in seen[0]
    with pytest.raises(penstock.ConnectError, match="nowhere"):
        async with penstock.Client(uds=str(tmp_path / "nowhere")) as client:
            await client.get("http://any.host/")
    server.close()


async def test_an_error_names_the_proxy_and_the_socket_at_which_it_was_to_be(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    async with penstock.Client(uds=nowhere, proxy="http://proxy.test:8080") as client:
        with pytest.raises(penstock.ConnectError) as caught:
            await client.get("http://any.host/")
    assert str(caught.value).startswith(f"cannot connect to http://any.host by proxy proxy.test:8080 at {nowhere}: ")


async def test_what_is_no_path_of_a_socket_is_refused_and_not_cut(tmp_path: Path) -> None:
    # The system takes what is before a NUL for the path.
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), str(tmp_path / "socket"))
    for uds in ("", f"{tmp_path}/socket\0more"):
        with pytest.raises(ValueError, match="is no path of a socket"):
            penstock.Client(uds=uds)
    wrong: Any = b"/socket"
    with pytest.raises(TypeError, match="takes a path that is a str"):
        penstock.Client(uds=wrong)
    server.close()


async def aiter_of(body: bytes) -> Any:
    yield body


@pytest.fixture
def mutual(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for a client, signed by itself, with its key; and the server's context trusts it."""
    key, certificate = tmp_path / "client.key", tmp_path / "client.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=client", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, capture_output=True, check=True)
    return certificate, key


async def test_a_client_certificate_and_the_servers_name(certificate: Path, mutual: tuple[Path, Path]) -> None:
    names: list[str | None] = []
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    server_context.load_verify_locations(mutual[0])
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.sni_callback = lambda _, name, __: names.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            subject = writer.get_extra_info("peercert")["subject"][0][0][1]
            writer.write(response(subject.encode()))
            await writer.drain()
            await reader.read()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        context = trusting(certificate)
        context.load_cert_chain(*mutual)
        async with penstock.Client(ssl_context=context) as client:
            assert await (await client.get(url)).read() == b"client"
        assert names == ["localhost"]
        async with penstock.Client(ssl_context=trusting(certificate)) as client:
            with pytest.raises((penstock.TLSError, penstock.ConnectionLost)):
                await client.get(url)


async def test_a_context_of_one_request_makes_connections_of_its_own(certificate: Path) -> None:
    async with serve_tls(certificate, response(b"x")) as url, penstock.Client() as client:
        with pytest.raises(penstock.TLSError):
            await client.get(f"{url}0")
        context = trusting(certificate)
        for _ in range(2):
            assert (await client.get(f"{url}0", ssl_context=context)).status == 200
        assert client.stats()["connected"] == 1
        # Trust isn't lent to who didn't ask with it.
        with pytest.raises(penstock.TLSError):
            await client.get(f"{url}0")


async def test_uploads_go_through_tls(storing_by: Callable[[str], Storing], certificate: Path) -> None:
    body = bytes(range(256)) * 8000
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    got = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.readexactly(len(body)))
        writer.write(response(b"ok"))
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        for name in ("ram", "windows"):
            storing = storing_by(name)
            image = await penstock.collect(aiter_of(body), storing.tunables)
            async with storing.client(ssl_context=trusting(certificate)) as client:
                assert (await client.put(url, content=image)).status == 200
        assert got == [body, body]
