"""Draw docs/pictures from simulated releases: ``python -m bench.simulation.pictures [--check]``.

The releases are those of ``tests.simulation``, judged by ``canaryproxy.judging.judge``. With ``--check``
nothing is written, and exit status 1 means that a picture differs from what would be drawn now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path

import numpy as np

from canaryproxy.judging.judge import Judge
from canaryproxy.judging.verdict import Sample
from tests.simulation import rules
from tests.simulation.rules import FIVE_METRICS
from tests.simulation.world import TICK, Errors, Ticks

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SEED = 1
RATE = 200.0
"""Requests a second, both variants."""
STABLE = 0.005
METRICS = 5
TRIP = METRICS / FIVE_METRICS.alpha
HOLD = METRICS / FIVE_METRICS.alpha_hold

INK, FAINT, GOOD, WARN, BAD = "#24292f", "#8c959f", "#1a7f37", "#9a6700", "#cf222e"


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels, with its marks."""

    low: float
    high: float
    begin: float
    end: float
    marks: Sequence[tuple[float, str]]
    title: str
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value; what lies outside is drawn at the edge."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, here = log10(low), log10(high), log10(here)
        return self.begin + (here - low) / (high - low) * (self.end - self.begin)


class Picture:
    """An SVG with two axes: lines, dots and words."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y
        self._parts = [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 320" width="720" height="320" '
            'font-family="system-ui, sans-serif" font-size="12" role="img">',
            f"<title>{title}</title>",
            '<rect width="720" height="320" fill="#ffffff"/>',
        ]
        for value, word in y.marks:
            self._level(value, FAINT, 0.4)
            self._word(x.begin - 8, y.at(value) + 4, word, FAINT, "end")
        for value, word in x.marks:
            self._word(x.at(value), y.begin + 18, word, FAINT, "middle")
        self._word((x.begin + x.end) / 2, y.begin + 38, x.title, INK, "middle")
        self._word(x.begin - 8, y.end - 14, y.title, INK, "start")

    def _word(self, x: float, y: float, word: str, colour: str, anchor: str) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{word}</text>'
        )

    def _level(self, value: float, colour: str, width: float, dash: str = "") -> None:
        y = f"{self._y.at(value):.1f}"
        self._parts.append(
            f'<line x1="{self._x.begin}" y1="{y}" x2="{self._x.end}" y2="{y}" stroke="{colour}" '
            f'stroke-width="{width}"{dash}/>'
        )

    def limit(self, value: float, word: str, colour: str) -> None:
        """Draw a dashed level with its name."""
        self._level(value, colour, 1.2, ' stroke-dasharray="5 4"')
        self._word(self._x.end, self._y.at(value) - 5, word, colour, "end")

    def line(self, points: Sequence[tuple[float, float]], colour: str, word: str) -> None:
        """Draw a line with its name at its end."""
        path = " ".join(f"{self._x.at(x):.1f},{self._y.at(y):.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        x, y = points[-1]
        self._word(self._x.at(x) + 6, self._y.at(y) + 4, word, colour, "start")

    def bar(self, x: float, low: float, middle: float, high: float, colour: str, word: str) -> None:
        """Draw a span with a dot for its middle and a name above."""
        at = self._x.at(x)
        self._parts.append(
            f'<line x1="{at:.1f}" y1="{self._y.at(low):.1f}" x2="{at:.1f}" '
            f'y2="{self._y.at(high):.1f}" stroke="{colour}" stroke-width="6" opacity="0.35"/>'
            f'<circle cx="{at:.1f}" cy="{self._y.at(middle):.1f}" r="5" fill="{colour}"/>'
        )
        self._word(at, self._y.at(high) - 9, word, colour, "middle")

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join([*self._parts, "</svg>", ""])


def course(ticks: Ticks) -> list[tuple[float, float]]:
    """Return (seconds, log10 of the evidence on errors) after each tick, until the circuit opens."""
    judge = Judge(FIVE_METRICS)
    zero = {"errors": (0, 0), "throughput": (0, 0)}
    judge.observe(0.0, Sample(zero, zero))
    cells = [np.cumsum(cell).tolist() for cell in (ticks.n_s, ticks.e_s, ticks.n_c, ticks.e_c)]
    points = [(0.0, 0.0)]
    for at, (n_s, e_s, n_c, e_c) in enumerate(zip(*cells, strict=True)):
        now = (at + 1) * TICK
        seen = judge.observe(now, Sample({"errors": (n_s, e_s)}, {"errors": (n_c, e_c)}))
        (errors,) = [one for one in seen.verdicts if one.metric == "errors"]
        points.append((now, errors.log_evidence / float(np.log(10))))
        if seen.level == "breach":
            break
    return points


def evidence() -> str:
    """Three releases at five percent: healthy, slightly worse, broken."""
    seconds = 240.0
    picture = Picture(
        "Evidence against three canaries over four minutes",
        Axis(0, seconds, 70, 560, [(t, f"{t:g} s") for t in (0, 60, 120, 180, 240)],
             "200 requests a second, 5 % of the users on the canary"),
        Axis(1e-2, 1e5, 260, 40, [(10.0**n, f"{10.0**n:g}") for n in range(-2, 6)],
             "evidence that the canary is worse", logarithmic=True),
    )  # fmt: skip
    picture.limit(TRIP, f"trip: {TRIP:g}", BAD)
    picture.limit(HOLD, f"suspect: {HOLD:g}", WARN)
    for canary, colour, word in (
        (STABLE, GOOD, "0.5 %, as stable"),
        (0.012, WARN, "1.2 %: held a while"),
        (0.05, BAD, "5 %: tripped"),
    ):
        ticks = Errors(STABLE, canary, 5.0, rate=RATE).run(np.random.default_rng(SEED), seconds)
        points = course(ticks)
        thinned = [*points[:-1:5], points[-1]]
        picture.line([(t, 10.0**e) for t, e in thinned], colour, word)
    return picture.svg()


def peeking() -> str:
    """How many healthy canaries each rule has rolled back so far, if it is looked at all the time."""
    seconds, releases = 120.0, 40
    named: tuple[tuple[str, str, Callable[[Ticks], rules.Run]], ...] = (
        ("rate &gt; stable + 1 point", WARN, rules.naive),
        ("z-test at 5 %", BAD, rules.z_test),
        ("this judge", GOOD, rules.ours),
    )
    rng = np.random.default_rng(SEED)
    drawn = [Errors(0.02, 0.02, 5.0, rate=RATE).run(rng, seconds) for _ in range(releases)]
    picture = Picture(
        "Healthy canaries rolled back by three rules over two minutes",
        Axis(0, seconds, 70, 520, [(t, f"{t:g} s") for t in range(0, 121, 30)],
             "canary and stable both fail 2 % of their answers; 5 % of the users on the canary"),
        Axis(0, 1, 260, 40, [(n / 5, f"{n * 20} %") for n in range(6)],
             f"healthy canaries rolled back by then, of {releases}"),
    )  # fmt: skip
    for word, colour, rule in named:
        ends = sorted((run.tick + 1) * TICK for one in drawn if (run := rule(one)).tick is not None)
        steps, share = [(0.0, 0.0)], 0.0
        for at, end in enumerate(ends):
            steps += [(end, share), (end, share := (at + 1) / releases)]
        steps.append((seconds, share))
        picture.line(steps, colour, f"{word}: {share:.0%}".replace("%", " %"))
    return picture.svg()


def speed() -> str:
    """How many canary requests it takes until the circuit opens, by how bad the canary is."""
    releases = 25
    rates = (0.02, 0.05, 0.1, 0.5, 1.0)
    picture = Picture(
        "Canary requests until the circuit opens",
        Axis(0, len(rates) + 1, 70, 690, [(n + 1, f"{rate:.0%}".replace("%", " %"))
             for n, rate in enumerate(rates)],
             "share of the canary's answers that fail; stable's is 0.5 %; 5 % of the users"),
        Axis(1, 10_000, 260, 40, [(10.0**n, f"{10**n:,}") for n in range(5)],
             "canary requests until the circuit opens: median, and 5 to 95 of 100 releases",
             logarithmic=True),
    )  # fmt: skip
    for place, rate in enumerate(rates):
        rng = np.random.default_rng(SEED)
        seconds = 900.0 if rate < 0.1 else 120.0
        runs = [
            rules.ours(Errors(STABLE, rate, 5.0, rate=RATE).run(rng, seconds))
            for _ in range(releases)
        ]
        counts = [run.requests for run in runs if run.requests is not None]
        assert len(counts) == releases, f"{rate}: some releases were not caught in {seconds} s"
        low, middle, high = (float(q) for q in np.quantile(counts, (0.05, 0.5, 0.95)))
        picture.bar(place + 1, low, middle, high, BAD, f"{middle:.0f}")
    return picture.svg()


PICTURES: dict[str, Callable[[], str]] = {
    "evidence.svg": evidence,
    "peeking.svg": peeking,
    "speed.svg": speed,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pictures; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulation.pictures", description=__doc__
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args(arguments).check
    FOLDER.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, draw in PICTURES.items():
        path, text = FOLDER / name, draw()
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"not as they would be drawn now: {', '.join(stale)}; make pictures", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
