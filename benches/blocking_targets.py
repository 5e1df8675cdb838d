"""What must hold of blocking work beside a loop; `benches.targets` judges it by `benches/results/blocking.json`."""

from penstock.bench.blocking import SLEEPERS, SLEEPS
from penstock.bench.figures import lag_p99

from benches.targets import Bound, Ratio

LAG_MS = 5.0
ECHO = (("p99", lag_p99),)
OTHERS = ("penstock direct", "run_in_executor", "to_thread", "anyio")


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


TARGETS: list[Ratio | Bound] = [*_beside("asyncio", 10, 2.5), *_beside("uvloop", 8, 2)]
