"""What rows hold in memory, where each may have a cgroup of its own.

The peak that the kernel keeps of a cgroup has the cache of files in it, which can't be taken off afterwards. So what it
holds without that is looked at while a batch runs that isn't timed, from another CPU where there is one.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any

from penstock.bench import blocking, driver, machine
from penstock.bench.results import Settings
from penstock.bench.rounds import Child, Rounds, Variant

from benches.cross import cgroups, forwarding, pressure, swapping, tls, two_cpus

TICK = 0.002
TITLE = "peak memory as a cgroup counts it"
INSTEAD = "the tables have the peak of resident memory, which counts mapped files and not those in tmpfs"


class Accounted(Rounds):
    """Rounds whose rows run in cgroups of their own, unless that isn't permitted: `refused` then says why.

    With a `limit` to what each may hold they don't run without.
    """

    refused: str | None = None
    limit: int | None = None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self._groups: dict[str, cgroups.Group] = {}
        with ExitStack() as stack:
            stack.enter_context(super().prepared())
            ids = dict.fromkeys(variant.id for session in self._sessions for variant in session)
            try:
                groups = cgroups.groups()
                made = [stack.enter_context(groups.made(str(number), self.limit)) for number, _ in enumerate(ids)]
            except cgroups.NotPermitted as reason:
                if self.limit is not None:
                    raise
                self.refused = f"{reason}; {INSTEAD}"
            else:
                self._groups = dict(zip(ids, made, strict=True))
            yield

    def wrapper(self, variant: Variant) -> tuple[str, ...]:
        group = self._groups.get(variant.id)
        return (*(group.entering if group else ()), *super().wrapper(variant))

    def warm(self, child: Child) -> dict[str, Any]:
        """The batch, and the most that the row held meanwhile."""
        group = self._groups.get(child.variant.id)
        if group is None:
            return super().warm(child)
        away, _ = machine.processors()
        with machine.pinned(away), ThreadPoolExecutor(1) as asking:
            asked = asking.submit(super().warm, child)
            peaks = self._held(group)
            while not asked.done():
                wait([asked], TICK)
                peaks = {name: max(peaks[name], now) for name, now in self._held(group).items()}
            return {**asked.result(), **peaks}

    def _held(self, group: cgroups.Group) -> dict[str, int]:
        held = {"peak_bytes": group.held()}
        return held if self.limit is None else {**held, "peak_swap_bytes": group.swapped()}

    def helpers(self) -> list[int] | None:
        """This process, too: whoever looks isn't somebody else on the machine."""
        found = super().helpers()
        return None if found is None else [*found, os.getpid()]

    def settings(self) -> Settings:
        return {**super().settings(), "peak_by": "cgroup" if self._groups else "rss"}


class Work(Accounted, blocking.Blocking):
    """The rounds of blocking work, semaphores and queues."""


class Clients(Accounted, driver.Driver):
    """The clients' rounds."""


class TwoCpus(Accounted, two_cpus.TwoCpus):
    """Those of clients on two CPUs."""


class Tls(Accounted, tls.Tls):
    """Those of clients under TLS."""


class Forwarding(Accounted, forwarding.Forwarding):
    """Those of streams of bodies that were written before."""


class Swapping(Accounted, driver.Driver):
    """Those of clients that are to hold more than their cgroups may, with swap; `NotPermitted` says what of it can't be
    had."""

    limit = swapping.LIMIT

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with super().prepared(), pressure.swap():
            yield
