"""niquests, as its quickstart shows it and as its documentation advises. It has rows in RAM only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import niquests

from penstock.bench.reading import Fetch, Take

CONNECTIONS = 16


@asynccontextmanager
async def naive(scenario: str) -> AsyncIterator[Fetch]:
    # https://niquests.readthedocs.io/en/latest/user/quickstart.html
    async with niquests.AsyncSession() as session:

        async def fetch(url: str, take: Take) -> None:
            response = await session.get(url)
            assert response.content is not None
            take(response.content)

        yield fetch


@asynccontextmanager
async def tuned(scenario: str) -> AsyncIterator[Fetch]:
    # The default pool keeps fewer connections than a batch has requests:
    # https://niquests.readthedocs.io/en/latest/api.html#niquests.AsyncSession
    async with niquests.AsyncSession(pool_maxsize=CONNECTIONS) as session:

        async def fetch(url: str, take: Take) -> None:
            # Whole: by pieces (`stream=True`) costs more here.
            response = await session.get(url)
            assert response.content is not None
            take(response.content)

        yield fetch
