"""Guard rails: when half of the canary's requests fail, and when that says nothing of the version."""

from __future__ import annotations

import pytest

from canaryproxy.judging.rails import Rails, Raw
from canaryproxy.judging.settings import GuardRails


def rails(rule: GuardRails | None = None, *, known: frozenset[int] = frozenset()) -> Rails:
    return Rails(rule or GuardRails(), lambda position: position in known)


def feed(
    rail: Rails, users: dict[int, tuple[int, int]], stable: Raw, *, refused: bool = False
) -> str | None:
    """Let users ask so often and fail so often."""
    ended = failed = 0
    for position, (asks, fails) in users.items():
        for turn in range(asks):
            bad = turn < fails
            rail.add(position, failed=bad and not refused, refused=bad and refused)
        ended += asks
        failed += fails
    canary = Raw(ended, 0 if refused else failed, failed if refused else 0)
    return rail.tick(0.1, stable, canary)


@pytest.mark.parametrize("users", [1, 2, 3, 20])
@pytest.mark.parametrize("refused", [False, True])
def test_a_canary_that_fails_for_all_its_users_hits_the_rail(users: int, refused: bool) -> None:
    each = dict.fromkeys(range(users), (20 // users, 20 // users))
    each[0] = (20 - 20 // users * (users - 1), 20 - 20 // users * (users - 1))
    cause = feed(rails(), each, Raw(400, 2, 2), refused=refused)
    assert cause is not None
    assert cause.startswith("guard rail: 20 of the last 20 canary requests")
    assert ("4xx" if refused else "failed") in cause


def test_nineteen_requests_are_too_few() -> None:
    assert feed(rails(), {1: (19, 19)}, Raw(100)) is None


def test_one_client_among_others_does_not_hit_the_rail() -> None:
    assert feed(rails(), {1: (30, 30), 2: (5, 0), 3: (5, 0), 4: (5, 0)}, Raw(400, 2)) is None


def test_a_user_that_failed_on_stable_before_does_not_hit_the_rail() -> None:
    assert feed(rails(known=frozenset({1})), {1: (40, 40)}, Raw(400, 2)) is None


def test_a_shared_outage_does_not_hit_the_rail_and_is_named() -> None:
    rail = rails()
    assert feed(rail, {1: (40, 40), 2: (40, 40), 3: (40, 40)}, Raw(400, 300)) is None
    assert (
        rail.outage
        == "stable itself fails 75.0% of 400 requests: the variants cannot be told apart"
    )


def test_the_words_say_over_how_many_seconds() -> None:
    rail = rails()
    for second in range(16):
        cause = rail.tick(100.0 + second, Raw(10), Raw(2, (second > 3 and 2) or 0))
    assert cause is not None
    assert cause.startswith("guard rail: 24 of the last 32 canary requests failed in 15 s (75.0%")
    rail.tick(116.0, Raw(1000, 1000), Raw())
    assert rail.outage is not None
    assert rail.outage.startswith("stable itself fails 86.2% of 1,160 requests in 16 s: ")


def test_an_absolute_rail_looks_at_nothing_else() -> None:
    rule = GuardRails(errors=0.3, absolute=True)
    assert feed(rails(rule), {1: (20, 6), 2: (1, 0)}, Raw(400, 300)) is None
    assert feed(rails(rule), {1: (20, 7), 2: (1, 0)}, Raw(400, 300)) is not None


def test_requests_without_users_hit_the_rail_too() -> None:
    assert rails().tick(0.1, Raw(100, 1), Raw(20, 10)) is not None


def test_without_stable_traffic_the_rail_still_guards() -> None:
    assert rails().tick(0.1, Raw(), Raw(20, 20)) is not None


def test_old_requests_pass_out_of_sight() -> None:
    rail = rails()
    assert rail.tick(0.0, Raw(100), Raw(15, 15)) is None
    for turn in range(1, 4):
        assert rail.tick(11.0 * turn, Raw(100), Raw(40, 0)) is None
    assert rail.tick(40.0, Raw(100), Raw(5, 5)) is None
