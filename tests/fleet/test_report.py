"""What a replica tells the others of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.fleet.report import Report, shed, with_reports
from canaryproxy.judging.verdict import Sample

from ..control.test_release_view import ASSESSMENT

counts = st.integers(0, 2**63)


@given(counts, counts, st.lists(st.text(), max_size=5))
def test_what_is_told_is_understood(stable: int, canary: int, holds: list[str]) -> None:
    made = Report.of(Sample({}, {}, holds=tuple(holds), shed=(stable, canary)))
    if not made.text():
        assert made == Report()
    else:
        assert Report.parse(made.text()) == made


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"shed": [1], "holds": []}', '{"shed": [1, "x"], "holds": []}'],
)
def test_nonsense_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Report.parse(text)


def test_the_reports_of_all_replicas_add_up_and_the_holds_of_others_name_them() -> None:
    reports = {
        "a": Report((1, 2), ("1 of 2 is out",)),
        "b": Report((10, 20), ("2 of 2 are out",)),
    }
    assert shed(reports) == {"stable": 11, "canary": 22}
    assert shed({}) == {"stable": 0, "canary": 0}
    seen = replace(ASSESSMENT, holds=("own",))
    assert with_reports(seen, reports, "a").holds == ("own", "2 of 2 are out (at replica b)")
    assert with_reports(seen, {"a": reports["a"]}, "a") is seen
