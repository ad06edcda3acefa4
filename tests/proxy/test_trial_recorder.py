"""What the recorder of a trial makes of times: of clients that wait, of tunnels that last."""

from __future__ import annotations

import pytest

from canaryproxy import config
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.judging.metrics import Record, unpack
from canaryproxy.measure.counters import Tally
from canaryproxy.measure.records import (
    ABANDONED,
    BROKEN,
    CLIENT_GONE,
    ENDED,
    FALLBACK_LATE,
    LATE,
    SHORT_TUNNEL,
    STALLED,
    TUNNEL,
)
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.measure.routing import RouteTable
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.trial_recorder import TrialRecorder
from canaryproxy.proxy.trial_rules import TrialRules


def response(status: bytes, fields: bytes = b"") -> Response:
    return ResponseParser().parse(b"HTTP/1.1 " + status + b" X\r\n" + fields + b"\r\n")


class Recorded(TrialRecorder):
    """A request that only leaves records."""

    def __init__(self, late: float = 0.0, stalled: float = 0.0) -> None:
        made = config.parse("variants: {stable: {endpoints: ['http://127.0.0.1:1']}}", file="f")
        self.cells = ServiceCells()
        names = RouteNames(self.cells.names)
        self._rules = TrialRules(made, {}, BodySampler(), self.cells.records, names)
        self._tally = Tally(self.cells.counters.stable)
        self.request = Request()
        self.request.method, self.request.rule_key = b"GET", (b"GET", b"/")
        self.routing = RouteTable(late=late, stall_after=stalled).route(b"alice")
        self._flags = self._size = 0
        self._received = 0.0
        self._outcomes = ()
        self._response = None

    def responds(self, head: Response, after: float) -> None:
        self._response, self._first_byte = head, after

    @property
    def records(self) -> list[Record]:
        ring = self.cells.records
        ring.flush()
        return list(unpack(ring.words(0, ring.written)))

    @property
    def flags(self) -> list[int]:
        return [one.flags for one in self.records]


@pytest.mark.parametrize(
    ("late", "waited", "flags"),
    [
        (0.0, FALLBACK_LATE - 0.01, ENDED | CLIENT_GONE),
        (0.0, FALLBACK_LATE + 0.01, ENDED | CLIENT_GONE | ABANDONED),
        (0.5, 0.49, ENDED | CLIENT_GONE),
        (0.5, 0.51, ENDED | CLIENT_GONE | ABANDONED),
        (5.0, FALLBACK_LATE - 0.01, ENDED | CLIENT_GONE),
        (5.0, FALLBACK_LATE + 0.01, ENDED | CLIENT_GONE | ABANDONED),
    ],
)
def test_a_client_gives_up_after_the_limit(late: float, waited: float, flags: int) -> None:
    request = Recorded(late)
    request.record_gone(waited)
    assert request.flags == [flags]


def test_each_limit_is_passed_once_and_the_end_repeats_both() -> None:
    request = Recorded(0.5, 1.0)
    for tenth in range(30):
        request.record_late(tenth / 10)
    request.record_end(504, True, 3.0)
    assert request.flags[:2] == [LATE, STALLED]
    assert request.flags[2] & (ENDED | LATE | STALLED) == ENDED | LATE | STALLED
    assert len(request.flags) == 3


def test_a_tick_that_comes_late_passes_both_limits_in_one_record() -> None:
    request = Recorded(0.5, 1.0)
    request.record_late(2.0)
    request.record_late(2.1)
    assert request.flags == [LATE | STALLED]


def test_a_late_first_byte_between_two_ticks_needs_no_early_record() -> None:
    request = Recorded(0.5)
    request.record_late(0.45)
    request.responds(response(b"200"), 0.52)
    request.record_late(0.55)
    request.record_end(200, False, 0.6)
    (record,) = request.records
    assert record.flags == ENDED
    assert record.first_byte == pytest.approx(0.52)


@pytest.mark.parametrize(
    ("lasted", "by_client", "reset", "broken"),
    [
        (SHORT_TUNNEL - 0.1, False, False, True),
        (SHORT_TUNNEL - 0.1, True, True, False),
        (SHORT_TUNNEL + 0.1, False, False, False),
        (SHORT_TUNNEL + 0.1, False, True, True),
    ],
)
def test_who_ends_a_tunnel_first(lasted: float, by_client: bool, reset: bool, broken: bool) -> None:
    request = Recorded(0.5, 1.0)
    request.record_switch(response(b"101"), False, 0.1)
    request.record_late(100.0)
    request.record_tunnel_ends(lasted, by_client=by_client, failed=reset)
    request.record_tunnel_ends(lasted + 0.1, by_client=not by_client, failed=True)
    assert request.flags == []
    request.record_tunnel()
    assert request.flags == [ENDED | TUNNEL | BROKEN * broken]


@pytest.mark.parametrize(("lasted", "flags"), [(4.9, BROKEN), (5.1, 0)])
def test_an_event_stream_that_ends_soon_is_broken(lasted: float, flags: int) -> None:
    request = Recorded()
    events = b"Content-Type: Text/Event-Stream; charset=utf-8\r\n"
    request.responds(response(b"200", events), 1.0)
    request.record_end(200, False, 1.0 + lasted)
    assert request.flags == [ENDED | TUNNEL | flags]
