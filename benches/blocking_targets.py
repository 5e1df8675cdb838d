"""What must hold of blocking work beside a loop; `benches.targets` judges it by `benches/results/blocking.json`."""

from penstock.bench.blocking import BY_HAND, SLEEPERS, SLEEPS
from penstock.bench.figures import lag_p99

from benches.targets import Bound, Ratio

LAG_MS = 5.0
ECHO = (("p99", lag_p99),)
OTHERS = ("penstock direct", "penstock permit", "run_in_executor", "to_thread", "anyio")


def _cheaper(name: str, loop: str, ours: str, base: str, times: float) -> Ratio:
    what = f"native {name}" if ours.endswith("native") else name
    return Ratio(
        f"{what}, {loop}: {times:g} times cheaper", f"{name}/{loop}/{ours}", f"{name}/{loop}/{base}", 1 / times
    )


def _beside(loop: str, gathered: float, single: float) -> list[Ratio | Bound]:
    """The targets that exist once a loop; noops are to be so many times cheaper together, and one by one."""
    dispatch, executor = "penstock dispatch", "run_in_executor"
    return [
        _cheaper("noop", loop, dispatch, executor, gathered),
        _cheaper("noop one by one", loop, dispatch, executor, single),
        _cheaper("noop", loop, "penstock native", executor, 12),
        _cheaper("noop one by one", loop, "penstock native", executor, 4),
        _cheaper("sleep", loop, dispatch, executor, 5),
        Ratio(f"sleep, {loop} ÷ upstream's Rust", f"sleep/{loop}/{dispatch}", "sleep/tokio/dispatch_rx", 1.8),
        _cheaper("expensive", loop, dispatch, executor, 1.15),
        Ratio(
            f"native expensive, {loop} ÷ upstream's Rust",
            f"expensive/{loop}/penstock native",
            "expensive/tokio/dispatch_rx",
            1.3,
        ),
        *(
            Ratio(f"{name}, {loop}: not dearer", f"{name}/{loop}/{dispatch}", f"{name}/{loop}/{executor}", 1.0)
            for name in (f"sleep {sleep} µs x {threads}" for threads in SLEEPERS for sleep in SLEEPS)
        ),
        Bound(f"in flight, {loop}", f"in flight/{loop}/{dispatch}", "lag_p99_ms", LAG_MS),
        _cheaper("semaphore free", loop, "penstock", "asyncio", 4),
        _cheaper("semaphore contended", loop, "penstock", "asyncio", 1.2),
        *(
            Ratio(f"{name}, {loop}: below {other}", f"{name}/{loop}/{dispatch}", f"{name}/{loop}/{other}", 1.0, ECHO)
            for name in ("echo beside expensive", "echo beside sleep")
            for other in OTHERS
        ),
    ]


def _floors(loop: str) -> list[Ratio | Bound]:
    """What no pool can go below, by the limits of the targets that have it beneath them."""
    executor, upstream = "run_in_executor", "tokio/dispatch_rx"
    return [
        Ratio(f"noop, {loop}: futures by hand", f"noop/{loop}/futures by hand", f"noop/{loop}/{executor}", 1 / 12),
        Ratio(
            f"noop one by one, {loop}: upstream's Rust",
            f"noop one by one/{upstream}",
            f"noop one by one/{loop}/{executor}",
            1 / 4,
        ),
        *(
            Ratio(f"sleep, {loop}: {hand}", f"sleep/{loop}/{hand}", f"sleep/{loop}/{executor}", 1 / 5)
            for hand in (f"{threads} threads by hand" for threads in BY_HAND)
        ),
        *(
            Ratio(f"sleep, {loop}: {hand} ÷ upstream's Rust", f"sleep/{loop}/{hand}", f"sleep/{upstream}", 1.8)
            for hand in (f"{threads} threads by hand" for threads in BY_HAND)
        ),
        Ratio(
            f"expensive, {loop}: on the loop's own thread",
            f"expensive/{loop}/penstock direct",
            f"expensive/{loop}/{executor}",
            1 / 1.15,
        ),
    ]


FLOORS = [*_floors("asyncio"), *_floors("uvloop")]
TARGETS: list[Ratio | Bound] = [*_beside("asyncio", 10, 2.5), *_beside("uvloop", 8, 2)]
