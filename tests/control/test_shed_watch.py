"""The history has the beginning and the end of load shedding, once each, and how many requests it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from canaryproxy.control.shed_watch import ShedWatch
from canaryproxy.control.upstream_watch import QUIET
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY, STABLE

from .world import running

SHED = counters.ERRORS + Reason.SHED


@pytest.mark.parametrize(
    ("variant", "begins", "ends"),
    [
        (
            STABLE,
            "stable is over its measured limit: requests get 503 with Retry-After, new users first",
            "stable was over its measured limit for 60 requests in 2 s",
        ),
        (
            CANARY,
            "canary is over its measured limit: requests get 503 with Retry-After, or stable answers them,"
            " new users first",
            "canary was over its measured limit for 60 requests in 2 s",
        ),
    ],
)
async def test_it_is_told_once_and_summed_up(
    tmp_path: Path, variant: int, begins: str, ends: str
) -> None:
    async with running(tmp_path, "") as world:
        both = [[0] * counters.VARIANT_CELLS for _ in range(2)]
        both[variant][SHED] = 7  # of a process before
        watch, ledger = ShedWatch(world.controller.ledger, both), world.controller.ledger
        before = len(ledger.history)
        for now in range(100, 103):
            both[variant][SHED] += 20
            watch.observe(float(now))
        assert [one.cause for one in ledger.history[before:]] == [begins]
        watch.observe(102.0 + QUIET)
        began, ended = ledger.history[before:]
        assert (began.what, ended.what) == ("shedding", "shed")
        assert ended.cause == ends
        assert ended.figures["requests"] == 60


async def test_the_release_document_has_the_refused_requests_apart(tmp_path: Path) -> None:
    async with running(tmp_path, "") as world:
        stable = world.cells.stable
        stable[counters.ROUTED] += 10
        stable[counters.FINISHED] += 10
        stable[counters.SHED] += 4
        stable[SHED] += 4
        view = world.release_view["variants"]["stable"]
        assert (view["requests"], view["failed"], view["shed"]) == (6, 0, 4)
