"""The pure modules of the dashboard, evaluated where they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from selenium import webdriver

from canaryproxy.release.summary import Kind, Standing
from tests.browser.fake import FakeAdmin
from tests.browser.page import Page
from tests.browser.scenes import idle


@pytest.fixture(scope="module")
def dashboard(driver: webdriver.Chrome) -> Iterator[Page]:
    """The dashboard, loaded once: what a pure module returns depends on no call before."""
    page = Page(driver)
    with FakeAdmin(idle()) as fake:
        page.look("dark", 1280, 900)
        page.open(fake.url)
        yield page
        page.leave()


@pytest.fixture
def module(dashboard: Page) -> Iterator[Callable[[str, str], Any]]:
    """Evaluate an expression over a module called ``m``."""
    yield dashboard.module
    assert dashboard.complaints() == []


def test_thin_keeps_every_peak_and_hole(module: Callable[[str, str], Any]) -> None:
    found = module(
        "scale.js",
        """(() => {
          const values = Array.from({ length: 100000 }, (_, t) => [t, 5]);
          values[43210] = [43210, 99];
          values[71000] = [71000, 1];
          values[90000] = [90000, null];
          const thin = m.thin(values, 300);
          const ordered = thin.every((v, i) => i === 0 || v[0] > thin[i - 1][0]);
          return { size: thin.length, ordered, first: thin[0], last: thin.at(-1),
                   found: [43210, 71000, 90000].map((t) => thin.find((v) => v[0] === t)?.[1]) };
        })()""",
    )
    assert found["size"] <= 5 * 301
    assert found["ordered"]
    assert found["found"] == [99, 1, None]
    assert (found["first"], found["last"]) == ([0, 5], [99999, 5])


def test_thin_band_never_gets_narrower(module: Callable[[str, str], Any]) -> None:
    found = module(
        "scale.js",
        """(() => {
          const values = Array.from({ length: 5000 }, (_, t) => [t, 4 - (t === 777), 6 + (t === 778)]);
          const thin = m.thinBand(values, 100);
          return [thin.length, Math.min(...thin.map((v) => v[1])), Math.max(...thin.map((v) => v[2]))];
        })()""",
    )
    assert found[0] <= 102
    assert found[1:] == [3, 7]


def test_lines_break_at_holes_and_gaps(module: Callable[[str, str], Any]) -> None:
    path = module(
        "scale.js",
        "m.linePath([[0, 1], [1, 2], [2, null], [3, 3], [9, 4], [10, 5]], (t) => t, (v) => v, 5)",
    )
    assert path == "M0.0 1.0L1.0 2.0M3.0 3.0h0.1M9.0 4.0L10.0 5.0"
    stepped = module("scale.js", "m.linePath([[0, 1], [4, 2]], (t) => t, (v) => v, 5, true)")
    assert stepped == "M0.0 1.0H4.0V2.0"


@pytest.mark.parametrize(
    ("top", "ticks"), [(1, [0, 0.5, 1]), (0.04, [0, 0.02, 0.04]), (100, [0, 50, 100])]
)
def test_ticks_are_round(module: Callable[[str, str], Any], top: float, ticks: list[float]) -> None:
    assert module("scale.js", f"m.ticks({top}, 2)") == ticks


def test_ceiling_is_round_and_never_below(module: Callable[[str, str], Any]) -> None:
    values = [10**power * step for power in range(-6, 5) for step in (1, 1.01, 2.4, 7.77, 9.99)]
    tops = module("scale.js", f"{values}.map(m.ceiling)")
    for value, top in zip(values, tops, strict=True):
        assert value * (1 - 1e-9) <= top <= value * 1.7


def test_time_ticks_are_few_and_inside(module: Callable[[str, str], Any]) -> None:
    for span in (60, 300, 1800, 86400, 86400 * 40):
        found = module("scale.js", f"m.timeTicks(1790000003, {1790000003 + span}, 6)")
        assert 1 <= len(found["at"]) <= 7
        assert all(1790000003 <= t <= 1790000003 + span for t in found["at"])


def test_merge_orders_and_bounds(module: Callable[[str, str], Any]) -> None:
    found = module(
        "live.js",
        """(() => {
          const points = (from, to) => Array.from({ length: to - from }, (_, n) => ({ t: from + n }));
          const gap = m.merge([...points(0, 5), ...points(9, 12)], points(4, 10));
          const long = m.merge(points(0, 20000), [{ t: 20000 }]);
          return [gap.map((p) => p.t), long.length <= 20000, long[0].t, long.at(-1).t];
        })()""",
    )
    assert found == [list(range(12)), True, 0, 20000]


def test_every_verdict_has_its_words(module: Callable[[str, str], Any]) -> None:
    found = module("words.js", "Object.keys(m.STANDINGS)")
    assert set(found) == {*get_args(Standing), *get_args(Kind)}


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("m.duration(0.4)", "0 s"),
        ("m.duration(288)", "4 min 48 s"),
        ("m.duration(7500)", "2 h 5 min"),
        ("m.duration(90061)", "1 d 1 h"),
        ("m.latency(0.0478)", "48 ms"),
        ("m.latency(0.0048)", "4.8 ms"),
        ("m.latency(0)", "0 ms"),
        ("m.latency(1.2345)", "1.23 s"),
        ("m.latency(null)", "–"),
        ("m.percent(0.00588)", "0.59%"),
        ("m.percent(0.389)", "38.9%"),
        ("m.percent(0.00001)", "<0.01%"),
        ("m.weight(12.5)", "12.5%"),
        ("m.odds(Math.log(5000))", "5,000:1"),
        ("m.odds(-0.22)", "0.8:1"),
        ("m.odds(Math.log(2.4e6))", "2.4 million:1"),
        ("m.odds(800)", ">1 trillion:1"),
        ("m.interval([0.6, 1.4])", "0.6× to 1.4× stable's rate"),
        ("m.interval([0.6, null])", "at least 0.6× stable's rate"),
        ("m.interval([0, 1.4])", "at most 1.4× stable's rate"),
        ("m.interval([null, null])", "no bounds yet: not enough data"),
        (
            "m.timing({quantile: 0.95, canary: {value: 0.048, low: 0.044, high: 0.053},"
            " stable: {value: 0.9, low: 0.8, high: 1.2}})",
            "canary P95 48 ms (44 to 53), stable 900 ms (800 ms to 1.2 s)",
        ),
        (
            "m.timing(null) || m.timing({quantile: 0.5, canary: null, stable: null}) || 'none'",
            "none",
        ),
        ("m.utc(1790000000)", "2026-09-21 14:13:20 UTC"),
    ],
)
def test_numbers_and_times_read_as_in_the_terminal(
    module: Callable[[str, str], Any], expression: str, words: str
) -> None:
    assert str(module("words.js", expression)).replace("\u00a0", " ") == words
