"""httpx, as its quickstart shows it and as its documentation advises. It has rows in RAM only."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from penstock.bench.reading import Fetch, Take


@asynccontextmanager
async def naive(scenario: str) -> AsyncIterator[Fetch]:
    # https://www.python-httpx.org/async/
    async with httpx.AsyncClient() as client:

        async def fetch(url: str, take: Take) -> None:
            response = await client.get(url)
            take(response.content)

        yield fetch


@asynccontextmanager
async def tuned(scenario: str) -> AsyncIterator[Fetch]:
    # https://www.python-httpx.org/advanced/resource-limits/
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    # https://www.python-httpx.org/environment_variables/ ("trust_env"), with which it also ignores SSL_CERT_FILE; the
    # standard library's context doesn't: https://www.python-httpx.org/advanced/ssl/#configuring-client-instances
    trusted = ssl.create_default_context()
    async with httpx.AsyncClient(limits=limits, trust_env=False, verify=trusted) as client:

        async def fetch(url: str, take: Take) -> None:
            # As received, without joining: https://www.python-httpx.org/async/#streaming-responses
            async with client.stream("GET", url) as response:
                chunks = [chunk async for chunk in response.aiter_raw()]
            for chunk in chunks:
                take(chunk)

        yield fetch
