"""What is published is what was measured."""

from benches import publish


def test_every_table_is_what_the_committed_results_say() -> None:
    assert publish.main(["--check"]) == 0
