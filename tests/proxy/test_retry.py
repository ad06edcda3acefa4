"""The rule of retries, for each reason and variant: never twice what is not repeatable, never without end."""

from __future__ import annotations

import pytest

from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.proxy.retry import (
    GIVE_UP,
    MOST_ATTEMPTS,
    MOST_LATE_ATTEMPTS,
    NEXT_ENDPOINT,
    RESCUE,
    after_failure,
)

REASONS = list(Reason)
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


@pytest.mark.parametrize("rescue", [True, False])
@pytest.mark.parametrize("variant", [STABLE, CANARY])
@pytest.mark.parametrize("reason", REASONS)
def test_a_request_that_is_not_repeatable_is_never_sent_again(
    reason: Reason, variant: int, rescue: bool
) -> None:
    assert after_failure(reason, variant, 1, repeatable=False, rescue=rescue) == GIVE_UP


@pytest.mark.parametrize("reason", REASONS)
def test_every_failure_of_the_canary_is_rescued_at_once(reason: Reason) -> None:
    for attempts in range(5):
        decision = after_failure(reason, CANARY, attempts, repeatable=True, rescue=True)
        assert decision == RESCUE


@pytest.mark.parametrize("reason", REASONS)
def test_stable_is_never_rescued(reason: Reason) -> None:
    for rescue in (True, False):
        for attempts in range(5):
            decision = after_failure(reason, STABLE, attempts, repeatable=True, rescue=rescue)
            assert decision != RESCUE


def test_a_canary_without_a_usable_endpoint_is_rescued_even_where_rescue_is_off() -> None:
    decisions = {
        reason: after_failure(reason, CANARY, 0, repeatable=True, rescue=False)
        for reason in REASONS
    }
    assert [reason for reason in REASONS if decisions[reason] == RESCUE] == [Reason.NO_ENDPOINT]


@pytest.mark.parametrize("reason", REASONS)
def test_only_failures_of_one_endpoint_go_to_the_next(reason: Reason) -> None:
    decision = after_failure(reason, STABLE, 1, repeatable=True, rescue=True)
    assert decision == (NEXT_ENDPOINT if reason in OF_ONE_ENDPOINT else GIVE_UP)


@pytest.mark.parametrize("reason", sorted(OF_ONE_ENDPOINT))
def test_attempts_are_bounded_and_fewer_where_all_may_be_slow(reason: Reason) -> None:
    most = MOST_LATE_ATTEMPTS if reason == Reason.FIRST_BYTE_TIMEOUT else MOST_ATTEMPTS
    decisions = [
        after_failure(reason, STABLE, attempts, repeatable=True, rescue=True)
        for attempts in range(1, most + 3)
    ]
    assert decisions == [NEXT_ENDPOINT] * (most - 1) + [GIVE_UP] * 3
    assert MOST_LATE_ATTEMPTS < MOST_ATTEMPTS
