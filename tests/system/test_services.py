"""Several services in one proxy, as real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .reloads import AT_A_TIME, CHANGED, KEPT, reload_under_load


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_that_add_change_and_remove_services_fail_no_request(
    tmp_path: Path, workers: int
) -> None:
    found = reload_under_load(tmp_path, reloads=12, workers=workers, clients=2)
    assert found.failures == []
    assert found.sent > 0
    if workers > 1:  # with one, the control plane maps slots in the same process
        here = len((*KEPT, CHANGED)) + AT_A_TIME
        # The process part, the services of now, and those that still have something in flight.
        assert max(found.mapped[2:]) <= 1 + here + AT_A_TIME
