"""One request, without a client to keep: for scripts and notebooks."""

from __future__ import annotations

import asyncio
from typing import Unpack

from penstock._native import refuse_in_loop
from penstock.http.client import Client
from penstock.http.response import Response
from penstock.http.settings import Options

__all__ = ["fetch", "fetch_sync"]


async def fetch(url: str, method: str = "GET", **options: Unpack[Options]) -> Response:
    """Makes one request with a client of its own, and closes that.

    Args:
        url: http or https.
        method: Any; `GET` if not given.
        options: See `Options`.

    Raises:
        RequestError, LimitExceeded, BudgetExceeded, StorageFull: As `Client.get`.

    Cancelled, it leaves nothing behind. For several requests keep a `Client`, which keeps connections.
    """
    async with Client() as client:
        return await client.request(method, url, **options)


def fetch_sync(url: str, method: str = "GET", **options: Unpack[Options]) -> Response:
    """As `fetch`, and waits for it, with an event loop of its own; for threads that run none.

    The response's body is read by its synchronous methods: `bytes(response.body)`, `response.body.open()`.

    Raises:
        BlockingInLoop: This thread runs an event loop: `await fetch(...)` there.
    """
    refuse_in_loop("fetch_sync()", "await fetch()")
    return asyncio.run(fetch(url, method, **options))
