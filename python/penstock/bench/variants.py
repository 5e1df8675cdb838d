"""How penstock is measured: one factory, which rows name as `penstock.bench.variants:open_client`, with options.

Which options make a row is for the demo and the full comparison to say. The other clients' rows are in the repository's
benches.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import penstock
from penstock.bench.reading import PIECE, Fetch, Summary, Take

# As upstream's scenarios: two threads or two permits beside the loop.
THREADS = 2
PERMITS = 2

FILE_POOL = "256MiB"

Reader: TypeAlias = Callable[[penstock.BodyImage, Take, penstock.Policy], Awaitable[None]]


async def _ram(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    for view in image.chunks(PIECE):
        take(view)


async def _gathered(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    take(memoryview(image.gather()))


async def _file(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    async for view in image.stream(PIECE, policy=policy):
        take(view)


async def _mapped(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    take(memoryview(await image.to_mmap()))


async def _copied(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    take(bytes(await image.to_mmap()))


async def _kept(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    """Where it is: in RAM, or mapped if it was spilled."""
    await (_ram if image.state == "ram" else _mapped)(image, take, policy)


async def _dropped(image: penstock.BodyImage, take: Take, policy: penstock.Policy) -> None:
    """Nothing is read: what is measured is how the body came, and went."""


READERS: dict[str, Reader] = {
    "ram": _ram,
    "ram_gather": _gathered,
    "fs": _file,
    "mmap": _mapped,
    "mmap_copy": _copied,
    "spill": _kept,
    "drop": _dropped,
}


@asynccontextmanager
async def open_client(
    scenario: str,
    *,
    policy: str = "dispatch",
    store: str | None = None,
    max_body_ram: int | str | None = None,
    file_pool: bool = False,
    budget_ram: str | None = None,
    connections: int = 100,
    passes: int = 1,
    together: int = 0,
    certificate: str | None = None,
) -> AsyncIterator[Fetch]:
    """A client that stores as `scenario` says: "ram", "ram_gather", "fs", "mmap", "mmap_copy", "spill", or "drop".

    Bodies stay in RAM for the first two and go to a file from their first byte for the others, unless `max_body_ram`
    says otherwise, as it must for "spill". `policy` is "direct", "permit" or "dispatch"; `store` is for files, which
    `file_pool` recycles; `budget_ram` bounds the RAM of all bodies; `passes` is how often a body is read, and
    not before `together` of them are kept; `certificate` is the file of the one that is trusted.
    A further scenario, "stream", keeps nothing and reads each body while it comes.
    """
    if max_body_ram is None:
        max_body_ram = "64MiB" if scenario.startswith("ram") else 0
    reader = READERS.get(scenario, _dropped)
    async with AsyncExitStack() as stack:
        chosen = await chosen_policy(policy, stack)
        client = await stack.enter_async_context(
            penstock.Client(
                tunables=penstock.Tunables(max_body_ram=max_body_ram, temp_dir=store),
                budget=penstock.Budget(ram=budget_ram) if budget_ram else None,
                policy=chosen,
                limits=penstock.Limits(connections=connections),
                ssl_context=ssl.create_default_context(cafile=certificate) if certificate else None,
                file_pool=penstock.FilePool(max_bytes=FILE_POOL) if file_pool else None,
            )
        )

        kept = asyncio.Barrier(together) if together else None

        async def fetch(url: str, take: Take) -> None:
            response = await client.get(url)
            if kept is not None:
                await kept.wait()
            # As the clients in Rust do: once for all passes.
            body = await response.body.to_mmap() if reader is _mapped else response.body
            for _ in range(passes - 1):
                await reader(body, Summary().add, chosen)
            await reader(body, take, chosen)

        async def stream(url: str, take: Take) -> None:
            async with client.stream("GET", url) as response:
                async for view in response.stream(PIECE):
                    take(view)

        yield stream if scenario == "stream" else fetch


async def chosen_policy(name: str, stack: AsyncExitStack) -> penstock.Policy:
    match name:
        case "direct":
            return penstock.Direct()
        case "permit":
            return penstock.Permit(penstock.Semaphore(PERMITS))
        case "dispatch":
            return penstock.Dispatch(await stack.enter_async_context(penstock.DispatchPool(threads=THREADS)))
        case _:
            raise ValueError(f"unknown policy {name!r}: direct, permit or dispatch")
