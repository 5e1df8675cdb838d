"""What must hold of archives beside upstream's Rust; `benches.targets` judges it by `benches/results/archives.json`."""

from benches.targets import Bound, Ratio

UPSTREAM = "upstream"
CORE = "penstock core"
PYTHON = "penstock"
BY_HAND = "by hand"

READ = 1.5
WRITE = 1.2

# There is no server and no network in these rows: a batch is a thousand records, or 128 MiB, and what one round says of
# a ratio another says again within a few hundredths.
MIN_ITERATIONS = 5

# Of a record of 200 MB, so much may be in memory at most.
MOST_MIB = 16


def _faster(case: str, store: str, client: str, times: float) -> Ratio:
    name = f"{case}, {store}: {client} {times:g} times as fast"
    return Ratio(name, f"{case}/{store}/{client}", f"{case}/{store}/{UPSTREAM}", 1 / times)


TARGETS: list[Ratio | Bound] = [
    *(
        _faster(f"{action} {size} {kind}", store, client, times)
        for client in (CORE, PYTHON)
        for action, times in (("read", READ), ("write", WRITE))
        for size in ("small", "large")
        for kind, store in (("plain", "ext4"), ("plain", "tmpfs"), ("gzip", "ext4"))
    ),
    *(
        Bound(
            f"{action} huge gzip, ext4: {client}", f"{action} huge gzip/ext4/{client}", "growth_bytes", MOST_MIB << 20
        )
        for client in (CORE, PYTHON)
        for action in ("read", "write")
    ),
]
