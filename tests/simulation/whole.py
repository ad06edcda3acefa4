"""The whole judge on releases of ``worlds``: records in, as the data path writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure import records
from canaryproxy.measure.routing import FINE
from tests.simulation.judges import Run, at
from tests.simulation.worlds import BASELINE, TICK, Release

EPOCH = 7
QUICK, LATE = 20_000, 1_200_000
"""Microseconds to the first byte: the median of a good answer, and a late answer."""
Kind = Literal["errors", "slow"]
"""Whether a bad answer is a 500 or a late one."""


@dataclass(frozen=True)
class Seen:
    """What the judge said at one tick of the step."""

    tick: int
    """Negative ones belong to the baseline."""
    assessment: Assessment


def names(release: Release) -> dict[int, str]:
    """Return the names of the routes by their hash."""
    return {
        records.template_of(name.encode()): name
        for name in (f"GET /r{at}" for at in range(int(release.route.max(initial=0)) + 1))
    }


def pack(release: Release, kind: Kind) -> NDArray[np.uint64]:
    """Return the three words of each request of the release."""
    luck = np.random.default_rng(0)
    late = release.bad if kind == "slow" else np.zeros(len(release.t), dtype=bool)
    failed = release.bad & ~late
    flags = np.where(failed, records.FAILED | records.ENDED, records.ENDED)
    html = records.type_code(b"text/html")
    first = records.pack_first(0, 0, EPOCH, 0, html, 0)
    first_byte = QUICK * np.exp(0.4 * luck.normal(size=len(late)))
    templates = np.array(list(names(release)), dtype=np.uint64)
    words = np.empty((len(late), records.WORDS), dtype=np.uint64)
    words[:, 0] = (
        release.position
        | release.canary.astype(np.int64) << records.VARIANT_SHIFT
        | np.where(failed, 500, 200) << records.STATUS_SHIFT
        | flags << records.FLAGS_SHIFT
        | first
    )
    words[:, 1] = templates[release.route]
    words[:, 2] = (
        np.where(late, LATE, first_byte).astype(np.int64) | np.where(failed, 20, 1000) << 32
    )
    return words


def watch(release: Release, kind: Kind, settings: JudgeSettings) -> Iterator[Seen]:
    """Yield what the judge says at each tick, from the baseline on, until it trips."""
    judge = Judge(settings)
    words = pack(release, kind)
    begin = -round(BASELINE / TICK)
    edges = np.searchsorted(release.t, np.arange(begin, release.ticks + 1) * TICK).tolist()
    failed = release.bad & (kind == "errors")
    sums = [
        np.concatenate([[0], np.cumsum(side & what)]).tolist()
        for side in (~release.canary, release.canary)
        for what in (np.ones(len(failed), dtype=bool), failed)
    ]
    raw = [{"requests": (0, 0)}, {"requests": (0, 0)}]
    learnt = names(release)
    judge.observe(0.0, Sample(raw[0], raw[1]))
    for number, (low, high) in enumerate(pairwise(edges)):
        tick = begin + number
        raw = [
            {
                "requests": (sums[side][high], sums[side + 1][high]),
                "client_errors": (sums[side][high], 0),
                "unreached": (0, 0),
            }
            for side in (0, 2)
        ]
        limit = (release.limit if tick >= 0 else release.first) // FINE
        some = words[low:high][release.keyed[low:high]].ravel().tolist()
        sample = Sample(raw[0], raw[1], some, limit, EPOCH, learnt if number == 0 else {})
        seen = judge.observe((number + 1) * TICK, sample)
        yield Seen(tick, seen)
        if seen.level == "breach":
            return


def whole_judge(release: Release, kind: Kind, settings: JudgeSettings) -> Run:
    """Judge a release; ``worse`` says that the step may not be left at its end."""
    weight = release.limit / FINE / 100
    settings = replace(settings, steps=(weight,))
    held, last, tick = False, None, None
    for last in watch(release, kind, settings):
        held = held or last.assessment.level == "suspect"
        if last.assessment.level == "breach":
            tick = last.tick
    assert last is not None
    seen = last.assessment
    placebo = (0, 0) if seen.placebo is None else (seen.placebo.tripped, seen.placebo.of)
    waits = bool(seen.holds) or seen.users < settings.min_users or seen.level != "ok"
    return at(release, tick, held=held, worse=waits, placebos=placebo)
