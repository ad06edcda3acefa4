"""The rule of retries, for each reason: only where another endpoint may do better, never without end."""

from __future__ import annotations

import pytest

from canaryproxy.measure.counters import Reason
from canaryproxy.proxy.retry import MOST_ATTEMPTS, MOST_LATE_ATTEMPTS, on_next_endpoint

OF_ONE_ENDPOINT = {
    Reason.CONNECT_REFUSED,
    Reason.CONNECT_TIMEOUT,
    Reason.CONNECT_FAILED,
    Reason.DNS,
    Reason.TLS,
    Reason.CERTIFICATE,
    Reason.RESET,
    Reason.FIRST_BYTE_TIMEOUT,
    Reason.BROKEN_ANSWER,
}


@pytest.mark.parametrize("reason", list(Reason))
def test_only_failures_of_one_endpoint_go_to_the_next(reason: Reason) -> None:
    assert on_next_endpoint(reason, 1) == (reason in OF_ONE_ENDPOINT)


@pytest.mark.parametrize("reason", sorted(OF_ONE_ENDPOINT))
def test_attempts_are_bounded_and_fewer_where_all_may_be_slow(reason: Reason) -> None:
    most = MOST_LATE_ATTEMPTS if reason == Reason.FIRST_BYTE_TIMEOUT else MOST_ATTEMPTS
    decisions = [on_next_endpoint(reason, attempts) for attempts in range(1, most + 3)]
    assert decisions == [True] * (most - 1) + [False] * 3
    assert MOST_LATE_ATTEMPTS < MOST_ATTEMPTS
