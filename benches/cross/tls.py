"""The clients' rows under TLS: the same programs and options, from a server with a certificate of its own."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from penstock.bench import machine, server
from penstock.bench.driver import Driver
from penstock.bench.rounds import Variant

from benches.cross.rows import CORE, on_disk
from benches.python import origin

SCENARIOS = ("ram", "fs_direct", "fs_permit", "fs_dispatch", "stream")
QUICK_SCENARIOS = ("ram", "fs_dispatch", "stream")
NO_CORE = "penstock-core knows no sockets and no TLS: its bytes come from whoever owns the connection"


def rows(plain: Iterable[list[Variant]], quick: bool) -> Iterator[list[Variant]]:
    """Those of the clients' rows that say what TLS costs."""
    for session in plain:
        scenarios = QUICK_SCENARIOS if quick else SCENARIOS
        chosen = [row for row in session if row.scenario in scenarios and _wanted(row)]
        if chosen:
            yield [replace(row, id=f"TLS {row.id}", scenario=f"TLS {row.scenario}") for row in chosen]


def _wanted(row: Variant) -> bool:
    return (
        row.framing == "length"
        and (on_disk(row.store) if row.scenario.startswith("fs") else row.store is None)
        and row.client != CORE
        and not (row.wrapper or row.options.get("file_pool"))
    )


class Tls(Driver):
    """The driver, with a server that speaks TLS. Who may be trusted, programs look up in the environment."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        cpus, _ = machine.processors()
        with origin.running(cpus) as self._origin:
            # What the driver itself asks for, it asks for without TLS.
            self._address = server.Address(self._origin.http, self._origin.pid)
            yield

    def command(self, variant: Variant) -> list[str]:
        served = self._origin
        words = [word.replace(served.http, served.https) for word in super().command(variant)]
        trusted = [f"{name}={served.certificate}" for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
        return ["env", *trusted, *words]
