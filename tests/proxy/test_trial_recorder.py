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
from canaryproxy.measure.shared_memory import WorkerCells
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.trial_recorder import TrialRecorder, TrialRules


def response(status: bytes, fields: bytes = b"") -> Response:
    return ResponseParser().parse(b"HTTP/1.1 " + status + b" X\r\n" + fields + b"\r\n")


class Bench:
    """A recorder of one randomised request, and the records it has left."""

    def __init__(self, late: float = 0.0, stalled: float = 0.0) -> None:
        made = config.parse("variants: {stable: {endpoints: ['http://127.0.0.1:1']}}", file="f")
        self._cells = WorkerCells()
        names = RouteNames(self._cells.names)
        rules = TrialRules(made, {}, BodySampler(), self._cells.records, names)
        request = Request()
        request.method, request.rule_key = b"GET", (b"GET", b"/")
        routing = RouteTable(late=late, stall_after=stalled).route(b"alice")
        recorder = rules.enroll(routing, (), Tally(self._cells.counters.stable), request)
        assert recorder is not None
        self.recorder: TrialRecorder = recorder

    @property
    def records(self) -> list[Record]:
        self._cells.records.flush()
        words = self._cells.records.since(0)[1]
        assert words is not None
        return list(unpack(words))

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
    bench = Bench(late)
    bench.recorder.client_gone(waited)
    assert bench.flags == [flags]


def test_each_limit_is_passed_once_and_the_end_repeats_both() -> None:
    bench = Bench(0.5, 1.0)
    for tenth in range(30):
        bench.recorder.mark_late(tenth / 10)
    bench.recorder.end(504, True, 3.0)
    assert bench.flags[:2] == [LATE, STALLED]
    assert bench.flags[2] & (ENDED | LATE | STALLED) == ENDED | LATE | STALLED
    assert len(bench.flags) == 3


def test_a_tick_that_comes_late_passes_both_limits_in_one_record() -> None:
    bench = Bench(0.5, 1.0)
    bench.recorder.mark_late(2.0)
    bench.recorder.mark_late(2.1)
    assert bench.flags == [LATE | STALLED]


def test_a_late_first_byte_between_two_ticks_needs_no_early_record() -> None:
    bench = Bench(0.5)
    bench.recorder.mark_late(0.45)
    bench.recorder.response_head(response(b"200"), b"", 0.52)
    bench.recorder.mark_late(0.55)
    bench.recorder.end(200, False, 0.6)
    (record,) = bench.records
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
    bench = Bench(0.5, 1.0)
    bench.recorder.switched(response(b"101"), False, 0.1)
    bench.recorder.mark_late(100.0)
    bench.recorder.tunnel_ends(lasted, by_client=by_client, reset=reset)
    bench.recorder.tunnel_ends(lasted + 0.1, by_client=not by_client, reset=True)
    assert bench.flags == []
    bench.recorder.end_tunnel()
    assert bench.flags == [ENDED | TUNNEL | BROKEN * broken]


@pytest.mark.parametrize(("lasted", "flags"), [(4.9, BROKEN), (5.1, 0)])
def test_an_event_stream_that_ends_soon_is_broken(lasted: float, flags: int) -> None:
    bench = Bench()
    events = b"Content-Type: Text/Event-Stream; charset=utf-8\r\n"
    bench.recorder.response_head(response(b"200", events), b"", 1.0)
    bench.recorder.end(200, False, 1.0 + lasted)
    assert bench.flags == [ENDED | TUNNEL | flags]
