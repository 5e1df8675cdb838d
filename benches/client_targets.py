"""What must hold of the client beside others; `benches.targets` judges it by `benches/results/client.json`."""

from penstock.bench.figures import cpu

from benches.targets import Bound, Ratio

LAG_MS = 5.0
CPU = (("CPU", cpu),)


def _beside(loop: str) -> list[Ratio | Bound]:
    """The targets that exist once a loop."""
    return [
        Ratio(
            f"small, {loop}: 3 times aiohttp's requests", f"small/{loop}/penstock", f"small/{loop}/aiohttp", 1 / 3, CPU
        ),
        Ratio(
            f"small, {loop}: 1.5 times pyreqwest's", f"small/{loop}/penstock", f"small/{loop}/pyreqwest", 1 / 1.5, CPU
        ),
        *(
            Ratio(
                f"gzip, {loop}: 1.5 times faster than {peer}", f"gzip/{loop}/penstock", f"gzip/{loop}/{peer}", 1 / 1.5
            )
            for peer in ("aiohttp", "aiohttp zlib-ng", "aiohttp isal")
        ),
        Bound(f"loop lag while gzip is decoded, {loop}", f"gzip lag/{loop}/penstock", "lag_worst_ms", LAG_MS),
        Ratio(f"tls, {loop}: below aiohttp", f"tls/{loop}/penstock", f"tls/{loop}/aiohttp", 1.0),
        *(
            Ratio(f"upload, {loop}: half of {peer}", f"upload/{loop}/penstock", f"upload/{loop}/{peer}", 1 / 2, CPU)
            for peer in ("aiohttp", "aiohttp, large pieces")
        ),
    ]


TARGETS: list[Ratio | Bound] = [
    *_beside("asyncio"),
    *_beside("uvloop"),
    Ratio(
        "chunks of 256: a third of aiohttp",
        "chunks of 256/asyncio/penstock",
        "chunks of 256/asyncio/aiohttp",
        1 / 3,
        CPU,
    ),
    *(
        Ratio(
            f"{sockets} {store}, {framing}, {loop}: {policy} ÷ direct",
            f"{sockets} {store}, {framing}/{loop}/penstock {policy}",
            f"{sockets} {store}, {framing}/{loop}/penstock direct",
            limit,
        )
        for sockets, loop, limit in (("tls", "asyncio", 1.10), ("tls", "uvloop", 1.10), ("plain", "uvloop", 1.05))
        for store in ("fs", "mmap")
        for framing in ("length", "chunked")
        for policy in ("dispatch", "permit")
    ),
]
