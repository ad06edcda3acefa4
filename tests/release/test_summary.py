"""The verdict in words contradicts nothing: all combinations of verdict, circuit and evidence."""

from __future__ import annotations

import re
from itertools import product
from math import inf
from typing import get_args

from canaryproxy.judging import words
from canaryproxy.judging.verdict import Assessment, Level, Verdict
from canaryproxy.release.circuit import Circuit, State
from canaryproxy.release.summary import Kind, Standing, standing, summary

GOOD = ("no regression", "is proven", "proven not worse")
BAD = ("a regression in", "a regression:", "as suspect", "a suspicion", "looks worse")


def verdict(
    metric: str, level: Level, *, worse: bool, proof: bool, quiet: str | None, accepted: bool
) -> Verdict:
    """Return what the judge makes of a metric, by the rules of ``verdicts.Look``."""
    level, worse = "ok" if accepted else level, worse and not accepted
    proven = proof and level == "ok" and not worse
    note = words.note(accepted=accepted, quiet=quiet, worse=worse, proven=proven)
    return Verdict(
        metric=metric, level=level, log_evidence=0.0, limit=8.0, hold_limit=4.0, log_proof=0.0,
        proven=proven, stable=(10, 1), canary=(10, 1), difference=0.0, ratio=1.0,
        interval=(0.0, inf), comparable=quiet is None, reason=note or "no regression seen",
        worse=worse,
    )  # fmt: skip


def assessments() -> list[tuple[Assessment, frozenset[str]]]:
    found = []
    flags = product(
        get_args(Level), (False, True), (False, True), (None, "stable has no traffic"), (False, True),
        ((), ("7 of 10 users",)), (None, "guard rail: 20 of the last 20 canary requests failed"),
        (False, True),
    )  # fmt: skip
    for level, worse, proof, quiet, accepted, holds, rail, past in flags:
        one = verdict("errors", level, worse=worse, proof=proof, quiet=quiet, accepted=accepted)
        other = verdict("latency", "ok", worse=False, proof=True, quiet=quiet, accepted=False)
        # While nobody is on the canary, the verdicts are those of the last step, and the level is ok.
        at = "breach" if rail else "ok" if past else one.level
        seen = Assessment(
            at, (one, other), 100, 100, quiet is None, one.proven and other.proven, rail, quiet, 20, holds
        )  # fmt: skip
        found.append((seen, frozenset({"errors"} if accepted else ())))
    return found


def test_no_sentence_contradicts_another() -> None:
    for (seen, accepted), state in product(assessments(), State):
        found = summary(seen, Circuit(state), accepted)
        stands = [standing(one, accepted) for one in seen.verdicts]
        good = any(word in found.said for word in GOOD)
        bad = any(word in found.said for word in BAD)
        at = (found, stands, state, seen)
        assert not (good and bad), at
        assert good == (found.kind in ("ok", "proven")), at
        if state is State.OPEN:
            assert not good, at
            assert "the circuit is open" in found.said, at
        if seen.quiet is not None:
            assert not good, at
        if {"breach", "suspect", "worse"} & set(stands) or seen.level != "ok" or seen.holds:
            assert not good, at
        if {"breach", "suspect"} & set(stands):
            assert found.kind in stands or seen.level == "breach" or state is State.OPEN, at
        assert (found.kind == "proven") <= all(one.proven for one in seen.verdicts), at
        assert not re.search(r"reports ok|: ?$|None|\(\)", found.said), at


def test_no_metric_says_two_things() -> None:
    for seen, accepted in assessments():
        for one in seen.verdicts:
            stands = standing(one, accepted)
            assert not (one.proven and stands in ("breach", "suspect", "worse")), one
            if stands in ("suspect", "worse", "breach"):
                assert not any(word in one.reason for word in ("proven", "accepted")), one
            if stands == "worse" and seen.quiet is None:
                assert one.reason == "looks worse, which may be chance"
            if stands == "unknown":
                assert one.reason == seen.quiet


def test_all_words_are_used() -> None:
    kinds, stands = set(), set()
    for (seen, accepted), state in product(assessments(), State):
        kinds.add(summary(seen, Circuit(state), accepted).kind)
        stands |= {standing(one, accepted) for one in seen.verdicts}
    assert kinds == set(get_args(Kind))
    assert stands == set(get_args(Standing))


def test_nothing_was_seen_yet() -> None:
    assert summary(None, Circuit()).said == "the judge has seen nothing yet"
    assert "the circuit is open" in summary(None, Circuit(State.OPEN)).said


def test_what_the_last_step_found_is_said_after_it() -> None:
    one = verdict("errors", "breach", worse=False, proof=False, quiet=None, accepted=False)
    quiet = "no user is on the canary (the verdicts are those of the last step)"
    seen = Assessment("ok", (one,), 100, 100, False, False, None, quiet)
    tripped = summary(seen, Circuit(State.OPEN))
    assert tripped.kind == "breach"
    assert tripped.said == (
        "the circuit is open, so nothing is compared; before, the judge reported a regression in errors"
    )
    closed = summary(seen, Circuit())
    assert closed.said.startswith("the judge has nothing to compare (no user is on the canary")
    assert closed.said.endswith("; before, it reported a regression in errors")
