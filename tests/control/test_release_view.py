"""What the release view says of verdicts, in words and within bounds."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log

import pytest

from canaryproxy.control import release_view as view
from canaryproxy.control.controller import Status
from canaryproxy.control.ledger import figures
from canaryproxy.judging.verdict import Assessment, Placebo, Verdict
from canaryproxy.release.circuit import Circuit
from canaryproxy.release.rollout import Plan, Rollout, State, Step

VERDICT = Verdict(
    metric="errors",
    level="ok",
    log_evidence=1.0,
    limit=9.0,
    hold_limit=4.0,
    log_proof=0.0,
    proven=False,
    stable=(4000, 8),
    canary=(410, 12),
    difference=None,
    ratio=None,
    interval=(0.0, inf),
    comparable=True,
    reason="",
    users=(760, 40),
    hurt=3,
)
ASSESSMENT = Assessment(
    level="ok",
    verdicts=(VERDICT,),
    judged=410,
    answered=410,
    comparable=True,
    proven=False,
    cause=None,
    quiet=None,
)


def shown(seen: Assessment, accepted: frozenset[str] = frozenset(), users: int = 0) -> view.Release:
    status = Status(
        "r1",
        Rollout(State.RUNNING, accepted=accepted, users=users),
        Circuit(),
        seen,
        5.0,
        (),
        0,
        Plan((Step(5.0, 60.0, 10, 20),)),
        None,
        None,
    )
    side = view.Variant(
        requests=0, failed=0, in_flight=0, rate=0.0, error_rate=None, p50=None, p95=None, p99=None,
        long_lived=view.LongLived(tunnels=0, streams=0, leaving=0, until=None), endpoints=[],
    )  # fmt: skip
    return view.release(
        status,
        0.0,
        fleet=None,
        variants=view.Variants(stable=side, canary=side),
        config=view.ConfigStatus(file=None, loaded_at=0.0, error=None, restart_needed=[]),
        environment=None,
        host="vm",
        at_fault=[],
        unresolved=[],
        version="1",
        pid=1,
        main_pid=1,
        timings={},
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (VERDICT, "3 of 40 users, 12 of 410 requests"),
        (replace(VERDICT, users=(760, 1), hurt=1), "1 of 1 user, 12 of 410 requests"),
        (replace(VERDICT, users=(0, 0), canary=(1, 0)), "0 of 1 request"),
    ],
)
def test_known_is_by_user_and_by_request(verdict: Verdict, words: str) -> None:
    assert figures(replace(ASSESSMENT, verdicts=(verdict,)))["metrics"]["errors"]["known"] == words
    assert view.metric(verdict).known == words


def test_placebo_in_words() -> None:
    found = shown(replace(ASSESSMENT, placebo=Placebo(0, 20, log(12.0)))).placebo
    assert found is not None
    assert found.said == "0 of 20 virtual canaries would have tripped; evidence at most 12:1"
    assert shown(ASSESSMENT).placebo is None


def test_routes_that_stand_out_are_shown_and_the_others_counted() -> None:
    routes = [
        replace(VERDICT, scope=f"GET /{at}", log_evidence=at / 10, worse=at % 2 == 1)
        for at in range(60)
    ]
    routes[4] = replace(routes[4], level="breach")
    routes[6] = replace(routes[6], level="suspect")
    seen = replace(ASSESSMENT, verdicts=(*routes, VERDICT), routes=60)
    release = shown(seen, frozenset({"errors GET /59"}))
    assert release.routes == 60
    assert [one.route for one in release.metrics[:4]] == [None, "GET /4", "GET /6", "GET /59"]
    assert len(release.metrics) == 11
    assert [one.route for one in release.metrics if one.accepted] == ["GET /59"]
    assert list(figures(seen)["metrics"]) == ["errors GET /4", "errors GET /6", "errors"]
    everywhere = shown(seen, frozenset({"errors"})).metrics
    assert all(one.accepted for one in everywhere)


def test_evidence_without_a_trial_is_no_number_in_json() -> None:
    seen = replace(ASSESSMENT, verdicts=(replace(VERDICT, log_evidence=-inf),))
    assert figures(seen)["metrics"]["errors"]["log_evidence"] is None
    assert shown(seen).metrics[0].log_evidence is None


def test_users_and_holds_are_shown() -> None:
    found = shown(replace(ASSESSMENT, holds=("looks worse", "blind")), users=7)
    assert (found.users, found.steps[0].min_users, found.holds) == (7, 20, ["looks worse", "blind"])
    users = found.metrics[0].users
    assert users == view.Users(stable=760, canary=40, hurt=3)
    assert view.metric(replace(VERDICT, users=(0, 0))).users is None
    assert not view.metric(replace(VERDICT, limit=inf)).trips
    assert not view.metric(replace(VERDICT, trips=False)).trips
