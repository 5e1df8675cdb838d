"""`collect`: bodies for users of any client."""

from __future__ import annotations

from collections.abc import AsyncIterable

from penstock._native import Budget, Tunables
from penstock.blocking.policy import Policy
from penstock.body.image import BodyImage, Buffer
from penstock.body.sink import AsyncBodySink

__all__ = ["collect"]


async def collect(
    source: AsyncIterable[Buffer],
    tunables: Tunables | None = None,
    *,
    policy: Policy | None = None,
    budget: Budget | None = None,
    size_hint: int | None = None,
) -> BodyImage:
    """Collects the pieces that `source` gives to one body, in memory up to a limit and above it in a file.

    Args:
        source: Gives `bytes` or other buffers: the content of an aiohttp or httpx response, an upload, a generator.
        tunables: Limits and places; `None` is `Tunables()`.
        policy: Runs the writes; `None` is the process's default pool.
        budget: What is counted against; `None` is the process's.
        size_hint: The expected length in bytes, as for `BodySink`; a `Content-Length`, for example.

    Raises:
        BodyTooLong: Over `max_body`; no further piece is taken.
        TypeError: `source` isn't an asynchronous iterable, or a piece isn't a buffer.
        BudgetExceeded, StorageFull, OSError: As `BodySink.write`.
        Exception: What `source` raises.

    Cancelled or failed, `source` is closed if it can be, and what was collected is dropped.
    """
    if not isinstance(source, AsyncIterable):
        raise TypeError(
            f"source is of the type {type(source).__name__}, not an asynchronous iterable; for what is in memory there "
            "is BodyImage.from_bytes, and BodySink for what is read on a thread"
        )
    try:
        async with AsyncBodySink(tunables, policy=policy, budget=budget, size_hint=size_hint) as sink:
            async for piece in source:
                await sink.write(piece)
            return await sink.prepare()
    except BaseException:
        # A generator holds a connection, most likely.
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()
        raise
