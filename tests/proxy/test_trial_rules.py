"""The outcomes of trials: what is remembered of responses that come again, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy import config
from canaryproxy.http1.response import Response
from canaryproxy.measure.counters import Tally
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.trial_rules import TrialRules

_STATUSES = st.sampled_from([0, 200, 204, 302, 304, 404, 500])
_SIZES = st.sampled_from([0, 1, 9, 10, 11, 99, 100, 101, 1 << 40])
_FIELDS = st.sampled_from([(), ((b"X-Cache", b"HIT"),), ((b"X-Cache", b"MISS"),)])
_WHEN = st.fixed_dictionaries(
    {},
    optional={
        "status": st.lists(st.sampled_from(["2xx", "404", "5xx"]), min_size=1, unique=True),
        "body_under": st.sampled_from(["1B", "10B", "100B"]),
        "header": st.just({"name": "X-Cache", "equals": "HIT"}),
        "regex": st.just("wrong"),
    },
).filter(bool)
_RESPONSES = st.lists(st.tuples(_STATUSES, _SIZES, _FIELDS), min_size=1)


class Rules:
    """The rules of outcomes that are named by number, and what they have counted."""

    def __init__(self, whens: Sequence[dict[str, Any]]) -> None:
        outcomes = {f"o{number}": {"when": when} for number, when in enumerate(whens)}
        made = config.parse(
            yaml.safe_dump(
                {
                    "variants": {"stable": {"endpoints": ["http://127.0.0.1:1"]}},
                    "judge": {"outcomes": outcomes},
                }
            ),
            file="f",
        )
        cells = ServiceCells()
        slots = {name: number for number, name in enumerate(outcomes)}
        routes = RouteNames(cells.names)
        self.rules = TrialRules(made, slots, BodySampler(), cells.records, routes)
        self.cells = cells.counters.stable
        self.tally = Tally(self.cells)


@settings(deadline=None)
@given(st.lists(_WHEN, min_size=1, max_size=4), st.data(), _RESPONSES)
def test_what_is_remembered_of_a_response_is_what_it_would_be_evaluated_to(
    whens: list[dict[str, Any]],
    data: st.DataObject,
    responses: list[tuple[int, int, tuple[tuple[bytes, bytes], ...]]],
) -> None:
    remembering, evaluating = Rules(whens), Rules(whens)
    watching = st.sets(st.integers(0, len(whens) - 1)).map(sorted).map(tuple)
    known = data.draw(st.lists(watching, min_size=1, max_size=3))
    for status, size, fields in responses:
        outcomes = data.draw(st.sampled_from(known))
        if data.draw(st.booleans()):
            outcomes = (*outcomes,)  # equal, and another object
        response = Response(status, fields)
        found = remembering.rules.recall(outcomes, response, size)
        remembering.tally.add_each(found.cells)
        expected = evaluating.rules.evaluate(outcomes, response, size, None, evaluating.tally)
        assert found.word == expected
        assert remembering.cells == evaluating.cells


def test_responses_of_all_kinds_at_once_are_evaluated_as_well() -> None:
    remembering, evaluating = Rules([{"status": ["404"]}]), Rules([{"status": ["404"]}])
    for status in (*range(100, 1000), *range(100, 1000)):
        response = Response(status)
        remembering.tally.add_each(remembering.rules.recall((0,), response, 0).cells)
        evaluating.rules.evaluate((0,), response, 0, None, evaluating.tally)
    assert remembering.cells == evaluating.cells
