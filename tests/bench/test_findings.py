"""Upstream's findings: each is named, and judged by the side and the size of its ratios."""

from collections.abc import Callable

import pytest
from penstock.bench.results import Results, Row

from benches.cross import compare_report, findings


def test_each_of_upstreams_findings_is_named_where_nothing_was_measured_too() -> None:
    found = findings.findings({})
    assert {each.verdict for each in found} == {"not measured"}
    for claim in (
        "Direct is fastest, upstream's client",
        "Direct is fastest, upstream's blocking work",
        "Direct is fastest, penstock's blocking work",
        "Permits reduce variance, upstream's client: permit ÷ direct, spread of a batch's requests",
        "Permits reduce variance, upstream's client: permit ÷ direct, p99 of requests",
        "dispatch_rx beats spawn_blocking on sleeps",
        "dispatch_rx and spawn_blocking are close on noop and expensive",
        "futures-intrusive's semaphore is much worse on sleeps",
        "futures-intrusive's semaphore is slower on noop and expensive, too",
        "crossbeam's channel is slower",
        "With huge pages a mapping is nearly free, upstream's client",
        "Spilling 1 % of the bodies costs next to nothing, upstream's client",
        "Cooperative swapping: short of memory, bodies do better in tmpfs than in RAM, upstream's client",
    ):
        assert len([each for each in found if each.claim.startswith(claim)]) == 1


@pytest.mark.parametrize("disk", ["ext4", "xfs"])
def test_findings_are_of_files_on_a_disk_of_any_type(
    disk: str, row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(
        row(f"fs_direct/length/{disk}/penstock", [10.0] * 3),
        row(f"fs_permit/length/{disk}/penstock", [12.0] * 3),
        row(f"spill, 0 %/length/{disk}/penstock", [10.0] * 3),
        row(f"spill, 1 %/length/{disk}/penstock", [10.1] * 3),
    )
    judged = {each.claim.partition(":")[0]: each for each in findings.findings({"clients": made})}
    assert judged["Direct is fastest, penstock's client"].seen == "1.20 [1.20, 1.20]"
    assert judged["Spilling 1 % of the bodies costs next to nothing, penstock's client"].verdict == "reproduced"
    spills = compare_report.tables({"parts": {"clients": made}, "missing": {}})["compare-spills"]
    assert f"| {disk} | penstock | 1.01 [1.01, 1.01] | 1.01 [1.01, 1.01] |" in spills


def test_a_finding_is_judged_by_the_side_of_its_ratios(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    made = results(
        row("sleep/tokio/upstream direct", [10.0] * 3, loop="tokio"),
        row("sleep/tokio/upstream permit", [12.0] * 3, loop="tokio"),
        row("sleep/tokio/upstream dispatch_rx", [9.0] * 3, loop="tokio"),
        row("sleep/tokio/upstream spawn_blocking", [15.0] * 3, loop="tokio"),
    )
    judged = {each.claim.partition(":")[0]: each for each in findings.findings({"strategies": made})}
    direct = judged["Direct is fastest, upstream's blocking work"]
    assert (direct.seen, direct.verdict) == ("0.90 to 1.50 (3 ratios)", "reproduced in 2 of 3, the contrary in 1")
    dispatch = judged["dispatch_rx beats spawn_blocking on sleeps"]
    assert (dispatch.seen, dispatch.verdict) == ("0.60 [0.60, 0.60]", "reproduced")
    assert judged["With huge pages a mapping beats gathering, upstream's client"].verdict == "not measured"


@pytest.mark.parametrize(
    ("milliseconds", "verdict"),
    [
        ([80.0, 80.0, 80.0], "reproduced"),
        ([13.0, 13.0, 13.0], "reproduced, but not in its size"),
        ([9.0, 9.0, 9.0], "not reproduced"),
        ([9.0, 10.0, 11.0], "not reproduced: no difference is seen"),
        ([80.0, 80.0], "not measured"),
    ],
)
def test_a_finding_has_a_size(
    row: Callable[..., Row], results: Callable[..., Results], milliseconds: list[float], verdict: str
) -> None:
    made = results(
        row("permit sleep/tokio/tokio", [10.0] * 3, loop="tokio"),
        row("permit sleep/tokio/futures-intrusive, Sync", milliseconds, loop="tokio"),
    )
    found = findings.findings({"semaphores": made})
    assert [each.verdict for each in found if "much worse on sleeps" in each.claim] == [verdict]


LEVEL = "Its Sync wrapper costs nothing measurable"


NEARLY_FREE = "With huge pages a mapping is nearly free, penstock's client"


@pytest.mark.parametrize(
    ("multiples", "verdict"),
    [
        ([0.98, 1.0, 1.02], "reproduced"),
        # Wide, but all of it is on one side of 1.
        ([1.10, 1.22, 1.73], "not reproduced"),
        ([1.01, 1.06, 1.20], "not reproduced"),
        ([0.70, 0.80, 0.90], "not reproduced"),
        # 1 is in it, and so is a quarter more.
        ([0.99, 1.08, 1.25], "not told: the interval is too wide"),
    ],
)
def test_what_costs_nothing_has_to_be_near_to_nothing(
    row: Callable[..., Row], results: Callable[..., Results], multiples: list[float], verdict: str
) -> None:
    made = results(
        row("permit sleep/tokio/futures-intrusive", [10.0] * 6, loop="tokio"),
        row("permit sleep/tokio/futures-intrusive, Sync", [10.0 * each for each in multiples * 2], loop="tokio"),
    )
    assert [each.verdict for each in findings.findings({"semaphores": made}) if each.claim.startswith(LEVEL)] == [
        verdict
    ]


@pytest.mark.parametrize(
    ("multiples", "verdict"),
    [
        ([0.92, 1.05, 1.09], "reproduced"),
        ([1.02, 1.15, 1.30], "not reproduced"),
        ([0.80, 1.00, 1.20], "not told: the interval is too wide"),
    ],
)
def test_what_is_close_may_be_a_tenth_apart(
    row: Callable[..., Row], results: Callable[..., Results], multiples: list[float], verdict: str
) -> None:
    made = results(
        row("noop/tokio/upstream spawn_blocking", [10.0] * 6, loop="tokio"),
        row("noop/tokio/upstream dispatch_rx", [10.0 * each for each in multiples * 2], loop="tokio"),
    )
    judged = {each.claim: each.verdict for each in findings.findings({"strategies": made})}
    (close,) = [judged[claim] for claim in judged if " are close on noop and expensive" in claim]
    assert close == verdict


def test_direct_is_held_against_copies_too_beside_what_was_published(
    row: Callable[..., Row], results: Callable[..., Results]
) -> None:
    rows = {policy: f"mmap_copy_{policy}/length/ext4/upstream as published" for policy in ("direct", "permit")}
    made = results(row(rows["direct"], [10.0] * 3), row(rows["permit"], [12.0] * 3))
    line = "Direct is fastest, upstream's client: others ÷ direct | 1.13 to 1.38 (8 ratios) | 1.20 [1.20, 1.20]"
    assert f"| {line} | reproduced |" in findings.table({"clients": made})


def test_one_narrow_ratio_is_not_hidden_by_a_wide_one(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    def spilled(store: str, multiples: list[float]) -> list[Row]:
        return [
            row(f"spill, 0 %/length/{store}/penstock", [10.0] * 6),
            row(f"spill, 1 %/length/{store}/penstock", [10.0 * each for each in multiples * 2]),
        ]

    made = results(*spilled("ext4", [1.10, 1.22, 1.73]), *spilled("tmpfs", [0.9, 1.2, 1.6]))
    found = [each for each in findings.findings({"clients": made}) if each.claim.startswith("Spilling") and each.ratios]
    assert [each.verdict for each in found] == ["not reproduced: the contrary in 1 of 2"]
    assert "| 1.0036 | 1.20 to 1.22 (2 ratios) |" in findings.table({"clients": made})


@pytest.mark.parametrize(
    ("multiples", "verdict"),
    [
        ([0.70, 0.89, 0.98], "reproduced"),
        ([1.30, 1.36, 1.45], "reproduced"),
        ([1.05, 1.36, 1.60], "not told: the interval is too wide"),
        ([1.60, 1.70, 1.80], "not reproduced"),
    ],
)
def test_what_is_nearly_free_may_cost_less_and_not_much_more(
    row: Callable[..., Row], results: Callable[..., Results], multiples: list[float], verdict: str
) -> None:
    made = results(
        row("ram/length/tmpfs huge/penstock", [10.0] * 6),
        row("mmap_direct/length/tmpfs huge/penstock", [10.0 * each for each in multiples * 2]),
    )
    judged = {each.claim.partition(":")[0]: each.verdict for each in findings.findings({"clients": made})}
    assert judged[NEARLY_FREE] == verdict


def test_rows_of_different_sessions_make_no_finding(row: Callable[..., Row], results: Callable[..., Results]) -> None:
    made = results(row("ram/length/penstock", [10.0] * 3), row("mmap_direct/length/tmpfs huge/penstock", [10.0] * 3))
    judged = {each.claim.partition(":")[0]: each.verdict for each in findings.findings({"clients": made})}
    assert judged[NEARLY_FREE] == "not measured"


@pytest.mark.parametrize(("places", "verdict"), [(("ext4", "tmpfs huge"), "reproduced"), (("ext4",), "not measured")])
def test_places_for_files_are_held_against_each_other_as_multiples_of_ram(
    row: Callable[..., Row], results: Callable[..., Results], places: tuple[str, ...], verdict: str
) -> None:
    times = {"ext4": (10.0, 20.0), "tmpfs huge": (20.0, 30.0)}
    made = results(
        *(row(f"ram/length/{store}/penstock", [times[store][0]] * 3) for store in places),
        *(row(f"fs_direct/length/{store}/penstock", [times[store][1]] * 3) for store in places),
    )
    judged = {each.claim.partition(":")[0]: each for each in findings.findings({"clients": made})}
    found = judged["In huge pages files cost less than on disk, penstock's client"]
    assert found.verdict == verdict
    assert found.seen == ("0.75 [0.75, 0.75]" if found.ratios else "")
