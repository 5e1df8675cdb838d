"""What is published is what was measured."""

import pytest

from benches import publish


@pytest.mark.timeout(120)
def test_every_table_is_what_the_committed_results_say() -> None:
    assert publish.main(["--check"]) == 0
