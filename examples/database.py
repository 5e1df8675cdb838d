"""A blocking database driver in an asyncio program: python examples/database.py FILE

A hundred transfers at once between the accounts of an SQLite file, which is made if it isn't there, through four
connections. Each thread of the pool has a connection of its own, made and closed on that thread: connections of sqlite3
must not change threads, and those of most drivers don't like to.
"""

import asyncio
import random
import sqlite3
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import penstock

T = TypeVar("T")


class Database:
    """As many connections as there are threads; a transaction is a function of one of them."""

    def __init__(self, path: str, connections: int) -> None:
        self._path = path
        self._mine = threading.local()
        self._opening = threading.Lock()
        self._pool = penstock.DispatchPool(
            threads=connections,
            queue_length=1000,
            drain_threads=0,
            name_prefix="db-",
            after_start=self._connect,
            before_stop=self._disconnect,
        )

    def _connect(self, index: int) -> None:
        # One at a time: who finds that another changes the journal doesn't wait, but fails.
        with self._opening:
            self._mine.connection = sqlite3.connect(self._path, timeout=20, isolation_level=None)
            self._mine.connection.execute("PRAGMA journal_mode=WAL")

    def _disconnect(self, index: int) -> None:
        self._mine.connection.close()

    async def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` as one job, so on one connection: what belongs together must not be cut into several."""
        return await self._pool.run(self._transact, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection: sqlite3.Connection = self._mine.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    async def aclose(self) -> None:
        """Lets what is queued run, then closes each connection on its thread."""
        await self._pool.aclose()


class Overdrawn(Exception):
    pass


def create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
    connection.executemany("INSERT OR IGNORE INTO accounts VALUES (?, 100)", [(n,) for n in range(10)])


def total(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT sum(balance) FROM accounts").fetchone()[0])


async def transfer(database: Database, source: int, target: int, amount: int) -> bool:
    """Moves an amount; False if there isn't as much."""

    def move(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, target))
        connection.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, source))
        if connection.execute("SELECT balance FROM accounts WHERE id = ?", (source,)).fetchone()[0] < 0:
            raise Overdrawn

    try:
        await database.transaction(move)
    except Overdrawn:
        return False
    return True


async def main(path: str) -> None:
    database = Database(path, connections=4)
    try:
        await database.transaction(create)
        chance = random.Random(1)
        orders = [(*chance.sample(range(10), 2), chance.randrange(60)) for _ in range(100)]
        done = await asyncio.gather(*[transfer(database, *order) for order in orders])
        print(f"{sum(done)} transfers, {len(done) - sum(done)} refused, {await database.transaction(total)} in all")
    finally:
        await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
