"""What the log says about endpoints: each change once, flapping and failures at a bounded rate."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.control.upstream_watch import (
    AGAIN,
    QUIET,
    EndpointState,
    Line,
    UpstreamWatch,
    VariantState,
)
from canaryproxy.measure.counters import Reason


def up(url: str, errors: int = 0) -> EndpointState:
    return EndpointState(url, True, errors, Reason.CONNECT_REFUSED, errno.ECONNREFUSED)


def down(url: str, errors: int = 0) -> EndpointState:
    return EndpointState(url, False, errors, Reason.CONNECT_REFUSED, errno.ECONNREFUSED)


class World:
    """A watch, and what it has said."""

    def __init__(self) -> None:
        self.watch = UpstreamWatch()

    def see(
        self, now: float, canary: Sequence[EndpointState], unserved: int = 0, stable: int = 0
    ) -> list[Line]:
        variants = {
            "stable": VariantState([up("s:1", stable)], 0),
            "canary": VariantState(canary, unserved),
        }
        return self.watch.observe(now, variants)

    def said(self, now: float, canary: Sequence[EndpointState], unserved: int = 0) -> list[str]:
        return [line.text for line in self.see(now, canary, unserved)]


def test_with_no_endpoint_of_either_variant_no_line_promises_the_other_one() -> None:
    watch = UpstreamWatch()
    watch.observe(0, {v: VariantState([up(f"{v}:1")], 0) for v in ("stable", "canary")})
    lines = watch.observe(1, {v: VariantState([down(f"{v}:1")], 0) for v in ("stable", "canary")})
    assert [line.text.partition("; ")[2] for line in lines if "is down" in line.text] == [
        "no endpoint of either variant left: requests are tried on all of them all the same"
    ] * 2


def test_with_an_endpoint_of_the_canary_left_the_line_of_stable_counts_it() -> None:
    watch = UpstreamWatch()
    watch.observe(0, {v: VariantState([up(f"{v}:1")], 0) for v in ("stable", "canary")})
    after = {"stable": VariantState([down("s:1")], 0), "canary": VariantState([up("canary:1")], 0)}
    watch.observe(1, after | {"stable": VariantState([up("s:1")], 0)})
    (line,) = [one.text for one in watch.observe(2, after) if "is down" in one.text]
    assert line.endswith(
        "; no stable endpoint left: requests are tried on all of them all the same"
    )


def test_without_a_canary_the_line_says_what_becomes_of_stables_requests() -> None:
    watch = UpstreamWatch()
    watch.observe(0, {"stable": VariantState([up("s:1")], 0)})
    out = replace(down("s:1"), out="check failed: status 503, wanted 2xx")
    (line,) = watch.observe(1, {"stable": VariantState([out], 0)})
    assert line.text == (
        "stable endpoint s:1 is down: check failed: status 503, wanted 2xx; no stable endpoint left:"
        " requests are tried on all of them all the same"
    )
    assert (line.fields["reason"], line.fields["cause"]) == ("out", out.out)


def test_a_panic_begins_and_ends_with_a_line_each() -> None:
    watch = UpstreamWatch()
    lines: list[Line] = []
    for now, panic in enumerate([False, True, True, False, False]):
        one = down("s:1") if panic else up("s:1")
        lines += watch.observe(now, {"stable": VariantState([one], 0, panic=panic)})
    began, ended = [one for one in lines if one.fields["event"].startswith("panic")]
    assert (began.level, began.fields["event"]) == (logging.ERROR, "panic_began")
    assert began.text == (
        "stable panics: none of 1 endpoint is up, so requests are tried all the same"
    )
    assert (ended.level, dict(ended.fields)) == (
        logging.INFO,
        {"event": "panic_ended", "variant": "stable", "endpoints": 1, "seconds": 2},
    )


def test_a_panic_that_comes_and_goes_is_logged_at_a_bounded_rate_and_in_the_end_truly() -> None:
    watch = UpstreamWatch()
    events = []
    for now in range(200):
        state = VariantState([down("s:1")], 0, panic=now % 2 == 0 or now > 150)
        events += [one.fields["event"] for one in watch.observe(now, {"stable": state})]
    events = [one for one in events if one.startswith("panic")]
    assert len(events) <= 6 + 200 / 10
    assert events[-1] == "panic_began"
    assert all(one != other for one, other in pairwise(events))


def test_good_endpoints_are_no_news() -> None:
    world = World()
    assert [world.said(now, [up("c:1"), up("c:2")]) for now in range(100)] == [[]] * 100


def test_down_and_up_name_reason_and_what_is_left() -> None:
    world = World()
    world.see(0, [up("c:1"), up("c:2")])
    (first,) = world.see(1, [down("c:1"), up("c:2")])
    assert (first.level, first.text) == (
        logging.WARNING,
        "canary endpoint c:1 is down: connection refused (ECONNREFUSED, errno 111);"
        " 1 of 2 canary endpoints left",
    )
    assert first.fields == {
        "event": "endpoint_down",
        "variant": "canary",
        "endpoint": "c:1",
        "reason": "connect_refused",
        "errno": errno.ECONNREFUSED,
        "left": 1,
        "endpoints": 2,
    }
    (last,) = world.see(2, [down("c:1"), down("c:2")])
    assert last.level == logging.ERROR
    assert "; no canary endpoint left: stable answers the canary's requests" in last.text
    (back,) = world.see(14, [up("c:1"), down("c:2")])
    assert (back.level, back.text) == (
        logging.INFO,
        "canary endpoint c:1 is up again after 13 s; 1 of 2 canary endpoints up",
    )
    assert world.said(15, [up("c:1"), down("c:2")]) == []


def test_two_that_go_at_once_leave_one_less_each() -> None:
    world = World()
    world.see(0, [up("c:1"), up("c:2")])
    one, other = world.see(1, [down("c:1"), down("c:2")])
    assert (one.fields["left"], other.fields["left"]) == (1, 0)


def test_failures_begin_go_on_and_end() -> None:
    world = World()
    world.see(0, [up("c:1")])
    began = world.see(1, [up("c:1", 3)])
    assert [line.text for line in began] == [
        "canary endpoint c:1: requests fail: connection refused (ECONNREFUSED, errno 111)"
    ]
    assert world.said(2, [up("c:1", 10)]) == []
    (again,) = world.see(1 + AGAIN, [up("c:1", 1203)])
    assert again.text == (
        "canary endpoint c:1: 1,200 requests failed in the last 1 min:"
        " connection refused (ECONNREFUSED, errno 111)"
    )
    assert (again.level, again.fields["requests"]) == (logging.WARNING, 1200)
    (end,) = world.see(1 + AGAIN + QUIET, [up("c:1", 1203)])
    assert (end.level, end.fields["event"]) == (logging.INFO, "failures_ended")
    assert end.text == (
        "canary endpoint c:1: no failed request for 30 s; 1,203 requests had failed in 1 min"
    )
    assert world.said(999, [up("c:1", 1203)]) == []


def test_requests_that_find_no_endpoint_are_an_event_of_the_variant() -> None:
    world = World()
    world.see(0, [down("c:1")], 5)
    assert world.said(1, [down("c:1")], 6) == ["canary: requests fail: no endpoint is up"]


def test_a_worker_that_was_replaced_counts_from_0_again() -> None:
    world = World()
    world.see(0, [up("c:1", 500)])
    assert world.said(1, [up("c:1", 0)]) == []
    assert world.see(2, [up("c:1", 2)])[0].fields["requests"] == 2


def test_an_endpoint_of_a_reload_begins_without_a_past() -> None:
    world = World()
    world.see(0, [down("c:1", 7)])
    assert world.said(1, [up("c:2")]) == []
    assert len(world.said(2, [up("c:2"), down("c:1", 7)])) == 1


@given(
    st.lists(
        st.tuples(st.floats(0.1, 20), st.booleans(), st.integers(0, 50), st.integers(0, 50)),
        max_size=150,
    )
)
def test_whatever_happens_the_log_is_bounded_and_ends_with_the_truth(
    story: list[tuple[float, bool, int, int]],
) -> None:
    world = World()
    now, errors, unserved, changes, failures = 0.0, 0, 0, 0, 0
    said = True
    for gap, usable, failed, lost in story:
        now += gap
        errors += failed
        unserved += lost
        for line in world.see(
            now, [EndpointState("c:1", usable, errors, Reason.RESET, 0)], unserved
        ):
            event = line.fields["event"]
            if event.startswith("endpoint"):
                assert (event == "endpoint_up") is not said, "a change that is none"
                said = event == "endpoint_up"
                changes += 1
            else:
                failures += 1
    assert changes <= 6 + now / 10
    assert failures <= 4 * (1 + now / QUIET)
    final = story[-1][1] if story else True
    world.see(now + 60, [EndpointState("c:1", final, errors, Reason.RESET, 0)], unserved)
    known = world.watch._known["canary", "c:1"]
    assert known.usable is final


def test_a_watch_is_calm_only_while_there_is_nothing_to_say() -> None:
    world = World()
    assert not world.watch.is_calm, "it has seen nothing yet"
    for now, canary, unserved, is_calm in (
        (0.0, [up("c:1")], 0, True),
        (1.0, [up("c:1", errors=2)], 0, False),
        (1.0 + QUIET, [up("c:1", errors=2)], 0, True),
        (40.0, [down("c:1", errors=2)], 0, False),
        (60.0, [up("c:1", errors=2)], 0, True),
        (70.0, [up("c:1", errors=2)], 1, False),
        (70.0 + QUIET, [up("c:1", errors=2)], 1, True),
    ):
        world.see(now, canary, unserved)
        assert world.watch.is_calm is is_calm, now
    assert world.said(1e6, [up("c:1", errors=2)], 1) == []


def test_a_watch_is_not_calm_while_a_change_waits_for_its_line() -> None:
    world = World()
    for turn in range(40):
        world.see(turn / 10, [down("c:1") if turn % 2 else up("c:1")])
    assert not world.watch.is_calm, "it is up, and the log does not say so yet"
    world.see(100.0, [up("c:1")])
    assert world.watch.is_calm
