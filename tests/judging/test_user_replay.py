"""The offline judge by user, and the A/A test: verdicts, what a file must say, and the mistakes it names."""

from __future__ import annotations

import json
from math import log
from random import Random

import pytest

from canaryproxy.judging.replay import RowError
from canaryproxy.judging.user_replay import (
    UserRow,
    placebo_test,
    read_user_rows,
    replay_users,
    settings_of,
)

SETTINGS = settings_of(0.001, 0.01, "increase", 0.05)


def rows(
    users: int, per_second: int, seconds: float, fails: dict[bool, float], weight: float = 0.1
) -> list[UserRow]:
    """Return requests of random users, each on one side."""
    draw = Random(5)
    canary = [draw.random() < weight for _ in range(users)]
    found = []
    for at in range(round(per_second * seconds)):
        user = draw.randrange(users)
        bad = draw.random() < fails[canary[user]]
        found.append(UserRow(at / per_second, at / per_second, f"u{user}", canary[user], bad))
    return found


def test_a_dead_canary_is_a_breach_after_a_few_users() -> None:
    found = replay_users(rows(2000, 50, 20.0, {False: 0.005, True: 1.0}), 10.0, SETTINGS)
    assert found.verdict == "breach"
    assert found.tripped_at is not None
    assert 3 <= found.hurt <= 8
    assert found.hurt <= found.canary_requests <= 10
    assert found.log_evidence >= found.limit == pytest.approx(log(1000))
    assert json.loads(json.dumps(found.to_dict()))["unit"] == "user"


def test_equal_versions_are_ok_and_the_estimate_is_by_user() -> None:
    found = replay_users(rows(2000, 50, 60.0, {False: 0.02, True: 0.02}), 10.0, SETTINGS)
    assert found.verdict == "ok"
    assert found.tripped_at is None
    assert found.users[0] + found.users[1] <= 2000
    assert found.stable[0] + found.canary[0] == 3000
    assert found.difference is not None
    assert found.error is not None
    assert abs(found.difference) < 4 * found.error


def test_one_client_that_fails_a_thousand_times_is_no_breach() -> None:
    quiet = rows(500, 50, 40.0, {False: 0.0, True: 0.0})
    lone = [UserRow(row.t, row.t, "whale", True, True) for row in quiet[::2]]
    found = replay_users(sorted([*quiet, *lone], key=lambda row: row.t), 10.0, SETTINGS)
    assert found.verdict != "breach"
    assert found.hurt == 1


def test_what_users_did_before_the_step_is_expected_of_them() -> None:
    """Accounts that always fail, and are on the canary by bad luck, are no evidence if that is known."""
    lucky = [f"u{at}" for at in range(40)]
    cursed = [f"x{at}" for at in range(6)]
    before = [
        UserRow(-60.0 + at / 10, -60.0, user, False, user in cursed)
        for at, user in enumerate((lucky + cursed) * 12)
    ]
    after = [
        UserRow(at / 10, at / 10, user, user in cursed or user in lucky[:3], user in cursed)
        for at, user in enumerate((lucky + cursed) * 12)
    ]
    settings = settings_of(0.01, 0.01, "increase", 0.05)
    assert replay_users(after, 10.0, settings).verdict == "breach"
    known = replay_users([*before, *after], 10.0, settings, start=0.0)
    assert known.verdict != "breach"
    assert known.users == (37, 9)


def test_virtual_canaries_do_not_trip_on_accounts_that_differ() -> None:
    draw = Random(2)
    users = [f"u{at}" for at in range(300)]
    requests = [
        UserRow(at / 20, at / 20, user, False, user.endswith("7") or draw.random() < 0.01)
        for at, user in enumerate(draw.choices(users, k=3000))
    ]
    found = placebo_test(requests, 10.0, SETTINGS, 10)
    assert (found.tripped, found.of, found.users, found.requests) == (0, 10, 300, 3000)
    assert found.log_evidence < found.limit
    assert found.to_dict()["tripped"] == 0


def test_nothing_recorded_is_ok() -> None:
    assert replay_users([], 5.0, SETTINGS).verdict == "ok"
    assert placebo_test([], 5.0, SETTINGS, 2).tripped == 0


HEADER = "t,user,variant,bad"


def test_a_file_is_read() -> None:
    found = read_user_rows(
        [
            "\ufefft,user,bad,variant",
            "2026-01-31T12:00:00Z,a,0,stable",
            "",
            "2026-01-31T12:00:01,b,true,canary",
        ]
    )
    assert [(row.user, row.canary, row.bad) for row in found] == [
        ("a", False, False),
        ("b", True, True),
    ]
    assert found[1].t - found[0].t == 1.0
    assert not read_user_rows(["t,user,bad", "1,a,1"])[0].canary


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "line 1: found no header"),
        (["t,user,variant"], "line 1: found no column 'bad'"),
        ([HEADER, "1,a,stable"], "line 2: found 3 values"),
        ([HEADER, "x,a,stable,0"], "line 2, t: found 'x'"),
        ([HEADER, "2026-99-99,a,stable,0"], "line 2, t: found '2026-99-99'"),
        ([HEADER, "1,,stable,0"], "line 2, user: found nothing"),
        ([HEADER, "1,a,beta,0"], "line 2, variant: found 'beta', expected stable or canary"),
        ([HEADER, "1,a,stable,2"], "line 2, bad: found '2', expected 0 or 1"),
        (
            [HEADER, "2,a,stable,0", "1,a,stable,0"],
            "line 3, t: found 1, expected rows in the order of time",
        ),
        (
            [HEADER, "1,a,stable,0", "2,a,canary,0"],
            "line 3, user: found 'a', expected each user on one",
        ),
    ],
)
def test_mistakes_are_named(lines: list[str], text: str) -> None:
    with pytest.raises(RowError) as caught:
        read_user_rows(lines)
    assert text in str(caught.value)


def test_before_the_step_all_users_are_on_stable() -> None:
    lines = [HEADER, "1,a,stable,0", "5,a,canary,0"]
    assert [row.canary for row in read_user_rows(lines, start=5.0)] == [False, True]
    with pytest.raises(RowError, match="line 2, variant: found canary"):
        read_user_rows([HEADER, "1,a,canary,0"], start=5.0)


@pytest.mark.parametrize(("alpha", "margin"), [(0.0, 0.0), (1.0, 0.0), (0.001, 1.5)])
def test_settings_that_make_no_sense_are_refused(alpha: float, margin: float) -> None:
    with pytest.raises(ValueError, match="found"):
        settings_of(alpha, margin, "increase", 0.05)


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_a_weight_without_a_lottery_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        replay_users([], weight, SETTINGS)
