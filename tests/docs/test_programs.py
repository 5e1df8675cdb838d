"""Programs of the pages do what their pages say: the tutorial's fetcher (many pages by some workers, another try, and
no error ends the rest), and the handler that serves files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock
import pytest

from tests.docs.test_recording import page
from tests.http.serving import CLOSE, Script, response, serve

pytestmark = pytest.mark.asyncio

OK = [response(b"page")]
LOST = [CLOSE]
BUSY = [response(b"", status="503 Service Unavailable")]
LIMITED = [response(b"", status="429 Too Many Requests")]
MISSING = [response(b"", status="404 Not Found")]


@pytest.fixture
def tutorial() -> dict[str, Any]:
    found = page("tutorial/polite-fetcher.md")
    found["PAUSES"] = (0,) * len(found["PAUSES"])
    return found


async def test_all_urls_are_visited_by_fewer_workers_than_there_are_urls(
    tutorial: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tutorial["WORKERS"] = 3
    async with serve(OK) as server:
        await tutorial["main"](f"{server.url}{number}" for number in range(20))
        assert sorted(capsys.readouterr().out.splitlines()) == sorted(
            f"{server.url}{number}: 200, 4 bytes" for number in range(20)
        )
        assert server.connections <= 3


@pytest.mark.parametrize(
    ("scripts", "asked", "said"),
    [
        ([LOST, BUSY, OK], 3, "200, 4 bytes"),
        ([LIMITED, OK], 2, "200, 4 bytes"),
        ([LOST, LOST, LOST, OK], 3, "gave up"),
        ([MISSING, OK], 1, "404 Not Found"),
        ([[response(bytes(99))], OK], 1, "99 is over 9 (Tunables.max_body)"),
    ],
    ids=["lost and busy", "too many requests", "lost again and again", "missing", "too long"],
)
async def test_what_may_succeed_is_asked_for_again_and_nothing_else(
    tutorial: dict[str, Any], scripts: list[Script], asked: int, said: str
) -> None:
    tunables = penstock.Tunables(max_body=9)
    async with serve(*scripts) as server, penstock.Client(tunables=tunables) as client:
        told = await tutorial["visit"](client, server.url)
        assert told.startswith(f"{server.url}: {said}")
        assert len(server.requests) == asked


class Failing:
    """A transport that fails."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self._make = make

    async def answer(self, prolog: penstock.Prolog, /) -> penstock.Dialog:
        raise self._make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: penstock.BudgetExceeded("no room", resource="disk"),
        lambda: penstock.StorageFull(28, "no room", "/var/tmp"),
        lambda: PermissionError(13, "no room"),
    ],
    ids=["budget", "full disk", "no place"],
)
async def test_no_room_for_a_body_is_told_and_ends_no_other_visit(
    tutorial: dict[str, Any], make: Callable[[], BaseException]
) -> None:
    async with penstock.Client(transport=Failing(make)) as client:
        assert "no room" in await tutorial["visit"](client, "http://a.test/")


class Writer:
    """Takes what a handler writes."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes | memoryview) -> None:
        self.written += data

    async def drain(self) -> None:
        pass


async def test_the_handler_serves_a_file_by_the_pool_of_its_page(tmp_path: Path) -> None:
    handler, writer, body = page("how-to/file-handler.md"), Writer(), bytes(200_000)
    (tmp_path / "body").write_bytes(body)
    await handler["main"](lambda pool: handler["send"](pool, tmp_path / "body", writer))
    assert writer.written == b"HTTP/1.0 200 OK\r\nContent-Length: 200000\r\n\r\n" + body
