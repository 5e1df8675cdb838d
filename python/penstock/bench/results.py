"""The shape of a run's results, as Python types: what the driver writes as JSON and the report reads.

benches/schema.json says the same for readers in other languages; a test holds the two together. Times are
milliseconds, sizes bytes.
"""

from typing import Literal, NotRequired, TypeAlias, TypedDict

Framing = Literal["chunked", "length"]
Kind = Literal["batch", "lag", "memory", "echo"]
Option: TypeAlias = str | int | bool | None


class Environment(TypedDict):
    """Where the run took place; None stands for what this system doesn't tell."""

    cpu: str
    cpus: int
    memory_bytes: int
    kernel: str
    governor: str | None
    huge_pages: str | None
    python: str
    packages: dict[str, str]
    rustc: str | None
    commit: str | None
    build_profile: str
    stores: dict[str, str]


class Settings(TypedDict):
    """How the run was done; what stands last is about the server that a run loads from, if it does.

    `peak_by` tells whether samples have `peak_bytes`, or the peak of resident memory alone.
    """

    rounds: int
    warmup: int
    batches: int
    seed: int
    noise: float
    client_cpus: list[int] | None
    size: NotRequired[int]
    chunk: NotRequired[int]
    connections: NotRequired[int]
    server_cpus: NotRequired[list[int] | None]
    server: NotRequired[str]
    peak_by: NotRequired[Literal["cgroup", "rss"]]


class Sample(TypedDict):
    """One row's turn in one round: several batches, one after the other. Times are means of one batch.

    Of requests that run at once, the spread is from the first that ends to the last, as a mean of the batches.
    In a row of the kind "echo" the lag is that of round trips, and `batches` counts them. `writes` are calls of
    write(2) and its kin: to files, and to what wakes other threads; what is sent by a socket's own calls isn't counted.
    `major_faults` are page faults that waited for a disk or for swap. `peak_bytes` is the most memory of the row's own
    cgroup, without the cache of files but with what is in tmpfs, while a batch ran that isn't timed; `peak_swap_bytes`
    is the most of it that was in swap then.
    """

    round: int
    batches: int
    wall_ms: float
    user_ms: float
    system_ms: float
    rss_bytes: int
    lag_worst_ms: float | None
    lag_p99_ms: float | None
    lag_p50_ms: NotRequired[float]
    growth_bytes: int | None
    request_p99_ms: NotRequired[float]
    request_spread_ms: NotRequired[float]
    writes: NotRequired[float]
    major_faults: NotRequired[float]
    peak_bytes: NotRequired[int]
    peak_swap_bytes: NotRequired[int]
    noisy: bool


class Row(TypedDict):
    """One variant with all its samples; one that could not run has a reason instead."""

    id: str
    kind: Kind
    scenario: str
    client: str
    framing: Framing | None
    store: str | None
    loop: str
    options: dict[str, Option]
    unavailable: str | None
    samples: list[Sample]


class Results(TypedDict):
    """A whole run."""

    version: Literal[1]
    started: str
    environment: Environment
    settings: Settings
    rows: list[Row]
