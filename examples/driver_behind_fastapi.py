"""A blocking database driver behind an ASGI app: python examples/driver_behind_fastapi.py [--seconds 60]

`run_blocking` runs each query on a pool of four threads, whatever number of requests come at once, and the event loop
goes on meanwhile. The app is what FastAPI makes of its routes if it is there, else the same written by hand: penstock
doesn't mind. The program serves it with uvicorn, asks it, and watches threads, memory, descriptors and how late the
loop is. When a bound is broken it says which and ends with status 1.
"""

import argparse
import asyncio
import json
import resource
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import penstock
import uvicorn

PLACES = 64
PROC = Path("/proc/self")
MOST = {"rss_mib": 200, "threads": 24, "descriptors": 300, "lag_ms": 250}
"""What it may take. The lag is the second worst of all that were seen: one stall of the machine proves nothing."""


class Driver:
    """Blocks, as drivers do; a pool for it, with a connection for each thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mine = threading.local()
        self.pool = penstock.DispatchPool(
            threads=4,
            queue_length=256,
            name_prefix="driver-",
            after_start=self._connect,
            before_stop=self._disconnect,
        )
        self.policy = penstock.Dispatch(self.pool)

    def _connect(self, index: int) -> None:
        self._mine.connection = sqlite3.connect(self._path)

    def _disconnect(self, index: int) -> None:
        self._mine.connection.close()

    def prepare(self) -> None:
        connection: sqlite3.Connection = self._mine.connection
        with connection:
            connection.execute("create table things (id integer primary key, name text)")
            connection.executemany("insert into things values (?, ?)", [(n, f"thing {n}") for n in range(1000)])

    def thing(self, number: int) -> str:
        time.sleep(0.005)  # a network, or a lock
        found = self._mine.connection.execute("select name from things where id = ?", (number,)).fetchone()
        return str(found[0])


def app_of(driver: Driver) -> Any:
    try:
        from fastapi import FastAPI
    except ImportError:
        return by_hand(driver)
    app = FastAPI()

    @app.get("/things/{number}")
    async def thing(number: int) -> dict[str, str]:
        return {"name": await penstock.run_blocking(driver.thing, number, policy=driver.policy)}

    return app


def by_hand(driver: Driver) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = int(scope["path"].rpartition("/")[2])
        name = await penstock.run_blocking(driver.thing, number, policy=driver.policy)
        body = json.dumps({"name": name}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


async def ask(client: penstock.Client, end: float, first: int) -> int:
    asked = 0
    while time.monotonic() < end:
        number = (first + asked) % 1000
        response = await client.get(f"/things/{number}")
        assert await response.json() == {"name": f"thing {number}"}
        asked += 1
    return asked


def taken() -> dict[str, float]:
    pages = int((PROC / "statm").read_text().split()[1])
    return {
        "rss_mib": pages * resource.getpagesize() / 2**20,
        "threads": sum(1 for _ in (PROC / "task").iterdir()),
        "descriptors": sum(1 for _ in (PROC / "fd").iterdir()),
    }


async def watch(worst: dict[str, float]) -> None:
    lags: list[float] = []
    while True:
        due = time.monotonic() + 0.02
        await asyncio.sleep(0.02)
        lags = sorted([*lags, (time.monotonic() - due) * 1000])[-2:]
        now = taken() | {"lag_ms": lags[0]}
        worst.update({name: max(worst[name], now[name]) for name in MOST})


async def serve(driver: Driver, seconds: float) -> int:
    await penstock.run_blocking(driver.prepare, policy=driver.policy)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app_of(driver), log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve([listener]))
    worst = dict.fromkeys(MOST, 0.0)
    watching = asyncio.create_task(watch(worst))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with penstock.Client(base_url=base) as client:
        end = time.monotonic() + seconds
        asked = sum(await asyncio.gather(*[ask(client, end, first * 17) for first in range(PLACES)]))
    watching.cancel()
    server.should_exit = True
    await serving
    print(f"{asked} queries, {asked / seconds:.0f} a second on {driver.pool.threads} threads")
    broken = [name for name, most in MOST.items() if worst[name] > most]
    for name, most in MOST.items():
        print(f"{name}: {worst[name]:.0f} of {most}", file=sys.stderr if name in broken else sys.stdout)
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        driver = Driver(str(Path(directory) / "things.db"))
        with driver.pool:
            sys.exit(asyncio.run(serve(driver, given.seconds)))
