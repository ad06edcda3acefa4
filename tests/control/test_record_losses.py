"""Losses of records: said while they go on and for a minute after, and forgotten then."""

from __future__ import annotations

from canaryproxy.control.record_losses import SAID_FOR, RecordLosses


def test_a_loss_is_said_once_it_begins_and_until_a_minute_after_the_last() -> None:
    losses = RecordLosses()
    assert not losses.take(0.0, 0)
    assert losses.notice(0.0) is None
    assert losses.take(1.0, 1_500)
    assert not losses.take(30.0, 2_000)
    said = losses.notice(30.0 + SAID_FOR)
    assert said is not None
    assert said.startswith("dropped 2,000 records of requests")
    assert losses.notice(30.1 + SAID_FOR) is None
    assert losses.take(200.0, 2_001)
    assert (losses.notice(200.0) or "").startswith("dropped 1 record of")
