"""A short soak; ``make soak`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from .run import Soak

pytestmark = pytest.mark.slow


def test_the_accounts_balance_after_every_fault(tmp_path: Path) -> None:
    report = Soak(tmp_path, 8.0).run()
    print(report)
    assert report.problems == []
    assert report.ledger.sent > 1000
    assert len(report.faults) > 2
