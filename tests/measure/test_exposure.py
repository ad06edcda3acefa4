"""Cohorts in the split: whom a table sends to the canary, and whom it compares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.exposure import Cohorts, Exposure, Members, cohort_salt
from canaryproxy.measure.records import POSITION_MASK
from canaryproxy.measure.routing import (
    CANARY,
    FINE,
    STABLE,
    RouteTable,
    bucket_of,
    position_of,
)
from canaryproxy.measure.shared_memory import TableCell

NAMES = ("staff", "beta", "press")
KEYS = tuple(b"user-%d" % number for number in range(60))
GROUPS = tuple(
    frozenset(name for at, name in enumerate(NAMES) if mask >> at & 1) for mask in range(8)
)

weights = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)
exposures = st.builds(
    lambda weight, cohorts, cohort: Exposure(
        weight, tuple(cohorts.items()), cohort if cohort in cohorts else None
    ),
    weights,
    st.dictionaries(st.sampled_from(NAMES), weights.filter(bool), max_size=3),
    st.sampled_from((*NAMES, None)),
)


def table(users: Exposure, **more: object) -> RouteTable:
    return RouteTable(
        weight=users.weight,
        cohorts=users.cohorts,
        cohort=users.cohort,
        salt=b"cart-2.4",
        **more,  # type: ignore[arg-type]
    )


def on_canary(users: Exposure) -> set[tuple[bytes, Members]]:
    found = table(users)
    return {
        (key, members)
        for key in KEYS
        for members in GROUPS
        if found.variant_of(key, members) == CANARY
    }


@given(exposures, exposures)
def test_what_raises_none_moves_no_user_to_the_canary(one: Exposure, other: Exposure) -> None:
    if not one.raises(other):
        assert on_canary(one) <= on_canary(other)


@given(exposures, exposures)
def test_the_meet_is_within_both(one: Exposure, other: Exposure) -> None:
    meet = one.meet(other)
    assert not meet.raises(one)
    assert not meet.raises(other)
    assert on_canary(meet) <= on_canary(one) & on_canary(other)
    assert meet.cohort is None or meet.of(meet.cohort) > 0


@given(exposures)
def test_the_meet_with_itself_is_itself(one: Exposure) -> None:
    assert one.meet(one) == one
    assert not one.raises(one)
    assert one.meet(Exposure()) == Exposure()


@given(exposures, st.sampled_from(KEYS), st.sampled_from(GROUPS))
def test_a_user_is_on_the_canary_by_any_of_its_thresholds(
    users: Exposure, key: bytes, members: Members
) -> None:
    limits = [(b"cart-2.4", users.weight)]
    limits += [(cohort_salt(b"cart-2.4", n), w) for n, w in users.cohorts if n in members]
    expected = any(bucket_of(salt, key) < round(weight * 100) for salt, weight in limits)
    found = table(users)
    assert (found.variant_of(key, members) == CANARY) == expected
    assert table(users, circuit_open=True).variant_of(key, members) == STABLE
    assert table(users, new_sessions_only=True).variant_of(key, members) == STABLE


@given(exposures, st.sampled_from(KEYS), st.sampled_from(GROUPS))
def test_a_record_has_the_position_of_the_draw_that_decides_alone(
    users: Exposure, key: bytes, members: Members
) -> None:
    found = table(users)
    routing = found.route(key, members=members)
    reached = {name for name, _ in users.cohorts}
    if routing.mark < 0:
        others = (members & reached) - {users.cohort}
        general = users.cohort is not None and bucket_of(b"cart-2.4", key) < found.limit
        assert others or general or (users.cohort is not None and users.cohort not in members)
        return
    salt = b"cart-2.4" if users.cohort is None else cohort_salt(b"cart-2.4", users.cohort)
    position = routing.mark & POSITION_MASK
    assert position == position_of(salt, key)
    assert routing.variant == (position < found.drawn * FINE)
    assert members & reached <= {users.cohort}


def test_outside_a_cohort_step_only_members_of_no_cohort_leave_records() -> None:
    later = table(Exposure(1.0, (("staff", 50.0),)))
    assert later.route(b"ann", members=frozenset({"staff"})).mark == -1
    assert later.route(b"ann", members=frozenset({"beta"})).mark >= 0
    assert later.route(b"ann").mark >= 0


def test_in_a_cohort_step_other_users_stay_on_stable_and_leave_no_records() -> None:
    step = table(Exposure(0.0, (("staff", 50.0),), "staff"))
    staff = [step.route(key, members=frozenset({"staff"})) for key in KEYS]
    assert {one.variant for one in staff} == {STABLE, CANARY}
    assert all(one.mark >= 0 for one in staff)
    others = [step.route(key) for key in KEYS]
    assert {(one.variant, one.mark) for one in others} == {(STABLE, -1)}


def test_a_cohorts_draw_says_nothing_of_that_of_all_users() -> None:
    keys = [b"user-%d" % number for number in range(4000)]
    salt = cohort_salt(b"cart-2.4", "staff")
    both = sum(bucket_of(salt, key) < 5000 and bucket_of(b"cart-2.4", key) < 5000 for key in keys)
    assert abs(both - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert cohort_salt(b"a", "b") != cohort_salt(b"ab", "")


@given(exposures, st.booleans())
def test_a_table_survives_shared_memory(users: Exposure, is_open: bool) -> None:
    cell = TableCell()
    sent = table(users, circuit_open=is_open)
    cell.publish(sent, 7)
    found = cell.read()
    assert found is not None
    assert found[1:] == (sent, 7)
    assert found[1].epoch == sent.epoch


def test_a_shorter_table_follows_a_longer_one() -> None:
    cell = TableCell()
    cell.publish(table(Exposure(1.0, (("staff", 50.0),), "staff")))
    cell.publish(table(Exposure(1.0)))
    found = cell.read()
    assert found is not None
    assert found[1].cohorts == ()


def test_a_split_without_cohorts_has_the_epoch_that_it_always_had() -> None:
    assert table(Exposure(5.0)).epoch == RouteTable(weight=5.0, salt=b"cart-2.4").epoch
    epochs = {table(Exposure(0.0, (("staff", 50.0),), cohort)).epoch for cohort in ("staff", None)}
    assert len(epochs) == 2


def test_an_exposure_is_said_in_words() -> None:
    assert Exposure(5.0).said() == "5% of users"
    assert Exposure().said() == "0% of users"
    assert Exposure(0.0, (("staff", 50.0),), "staff").said() == "50% of staff"
    assert Exposure(1.0, (("staff", 50.0),)).said() == "1% of users, 50% of staff"


@given(exposures)
def test_cohorts_survive_json(users: Exposure) -> None:
    assert Cohorts.from_dict(users.of_cohorts.to_dict()) == users.of_cohorts


@pytest.mark.parametrize(
    "state", [{"reached": [["staff", 101]], "drawn": None}, {"reached": [["staff", "x"]]}]
)
def test_other_values_are_refused(state: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Cohorts.from_dict(state)
