"""Draw docs/pictures from simulated releases: ``python -m bench.judge.pictures [--check]``.

The releases are those of ``tests.simulation``, judged by ``canaryproxy.judging.lottery``. With ``--check``
nothing is written, and exit status 1 means that a picture differs from what would be drawn now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log10
from pathlib import Path

import numpy as np

from tests.simulation import others
from tests.simulation.judges import ERRORS, SLOW, course, this_judge
from tests.simulation.worlds import TICK, Harm, Release, World, mixed

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SEED = 1
STABLE = 0.005
LIMITS = ERRORS.judged()[1]
TRIP, HOLD = exp(LIMITS.log_limit), exp(LIMITS.log_hold)

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


def evidence() -> str:
    """Draw three releases at five percent: healthy, slightly worse, broken."""
    seconds = 240.0
    picture = Picture(
        "Evidence against three canaries over four minutes",
        Axis(0, seconds, 70, 560, [(t, f"{t:g} s") for t in (0, 60, 120, 180, 240)],
             "200 requests a second of 20,000 users, 5% of them on the canary"),
        Axis(1e-2, 1e6, 260, 40, [(10.0**n, f"{10.0**n:g}") for n in range(-2, 7)],
             "evidence that the canary is worse", logarithmic=True),
    )  # fmt: skip
    picture.limit(TRIP, f"trip: {TRIP:,.0f}", BAD)
    picture.limit(HOLD, f"suspect: {HOLD:,.0f}", WARN)
    for canary, colour, word in (
        (STABLE, GOOD, "0.5%, as stable"),
        (0.012, WARN, "1.2%: held"),
        (0.05, BAD, "5%: tripped"),
    ):
        world = World(5.0, 20_000, STABLE, Harm(canary))
        logs = course(world.run(np.random.default_rng(SEED), seconds), ERRORS)
        points = [((at + 1) * TICK, exp(min(log_e, 100.0))) for at, log_e in enumerate(logs)]
        picture.line([*points[:-1:5], points[-1]], colour, word)
    return picture.svg()


def peeking() -> str:
    """Draw how many healthy canaries each rule has rolled back so far, if it is looked at all the time."""
    seconds, releases = 120.0, 40
    named: tuple[tuple[str, str, Callable[[Release], int | None]], ...] = (
        ("rate &gt; stable + 1 point", WARN, others.naive),
        ("z-test at 5%", BAD, others.z_test),
        ("z-test by user", FAINT, others.users_z),
        ("this judge", GOOD, lambda release: this_judge(release, SLOW).tick),
    )
    rng = np.random.default_rng(SEED)
    world = World(5.0, 2000, mixed(0.05, 0.03), accounts=0.03, tail=1.0)
    drawn = [world.run(rng, seconds) for _ in range(releases)]
    picture = Picture(
        "Healthy canaries rolled back by four rules over two minutes",
        Axis(0, seconds, 70, 520, [(t, f"{t:g} s") for t in range(0, 121, 30)],
             "both versions are the same; 3% of 2,000 accounts are always slow; 5% of them on the canary"),
        Axis(0, 1, 260, 40, [(n / 5, f"{n * 20}%") for n in range(6)],
             f"healthy canaries rolled back by then, of {releases}"),
    )  # fmt: skip
    for word, colour, rule in named:
        ends = sorted((at + 1) * TICK for one in drawn if (at := rule(one)) is not None)
        steps, share = [(0.0, 0.0)], 0.0
        for at, end in enumerate(ends):
            steps += [(end, share), (end, share := (at + 1) / releases)]
        steps.append((seconds, share))
        picture.line(steps, colour, f"{word}: {share:.0%}")
    return picture.svg()


def speed() -> str:
    """Draw how many canary requests it takes until the circuit opens, by how bad the canary is."""
    releases = 41
    rates = (0.02, 0.05, 0.1, 0.5, 1.0)
    picture = Picture(
        "Canary requests until the circuit opens",
        Axis(0, len(rates) + 1, 70, 690, [(n + 1, f"{rate:.0%}") for n, rate in enumerate(rates)],
             "share of the canary's answers that fail; stable's is 0.5%; 5% of 20,000 users"),
        Axis(1, 10_000, 260, 40, [(10.0**n, f"{10**n:,}") for n in range(5)],
             "canary requests until the circuit opens (users with an error): median, 5 to 95 of 100 releases",
             logarithmic=True),
    )  # fmt: skip
    for place, rate in enumerate(rates):
        rng = np.random.default_rng(SEED)
        world = World(5.0, 20_000, STABLE, Harm(rate))
        runs = [
            this_judge(world.run(rng, 400.0 if rate < 0.1 else 60.0), ERRORS)
            for _ in range(releases)
        ]
        assert all(run.tick is not None for run in runs), f"{rate}: some releases were not caught"
        low, middle, high = np.quantile([run.requests for run in runs], (0.05, 0.5, 0.95))
        users = np.median([run.users for run in runs])
        word = f"{middle:,.0f} ({users:.0f} users)"
        picture.bar(place + 1, float(low), float(middle), float(high), BAD, word)
    return picture.svg()


PICTURES: dict[str, Callable[[], str]] = {
    "evidence.svg": evidence,
    "peeking.svg": peeking,
    "speed.svg": speed,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pictures; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge.pictures", description=__doc__)
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
