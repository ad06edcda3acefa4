"""Outlier ejection: which endpoint of a variant fails so much more than its others that it gets no requests.

Theory of operation. ``Outliers.observe`` takes the counts of all endpoints of a variant ten times a second.
It asks of each endpoint that fails: if it were equal to the others, how likely would so many failures be?

* ``least_requests``: the balancer chooses the endpoint and knows nothing of the request, so a request that
  fails anywhere may fail on each endpoint alike, from any client. Requests are the trials (``LiveTest``).
* ``hash``: all requests of a key go to one endpoint, so one client that fails a thousand times is no
  evidence. Keys that fail are the events, each counted once, and an equal endpoint gets one in n of them,
  however many requests it has (``EProcess`` with equal trials; the hash is the draw). Keys are told apart
  by a hash into ``KEYS`` cells, which finds fewer of them and never more. For the other endpoints those are
  estimated that it lost, too; where the cells fill, all failed requests count.

Either is an e-process: with equal endpoints it ever reaches x with probability 1/x at most (Ville 1939), so
it may be looked at at any time. A test begins when an endpoint fails, and is given up as soon as the
endpoint does not fail by ``margin`` more than the others and twice as much, so no healthy past has to be
undone first (compare Shin, Ramdas & Rinaldo 2024, E-detectors). Of ``TESTS`` tests of equal endpoints one at
most ejects one. Counts at which nothing has failed are added with the next ones: while nothing fails, it
costs nothing.

An ejection is a pause: the first ``pause`` long, each further one twice as long as the one before, up to
``longest_pause``; an endpoint that stayed for ``longest_pause`` begins again with the first. At most the
share ``max_ejected`` is out at a time (one endpoint may always be), and never the last that is up: if the
others go down, all come back. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from canaryproxy.config.text import count, duration
from canaryproxy.judging.evidence import EProcess, LiveTest
from canaryproxy.measure.endpoint_cells import KEYS

TESTS: Final = 1e6
"""Tests of equal endpoints, of which one ejects an endpoint."""
_LASTS: Final = 60.0
"""Seconds after which a test is given up, whatever it has found."""
_RATIO: Final = 2.0
_FULL: Final = KEYS * 3 // 4
"""Cells in use from which the number of keys is not told from them."""


@dataclass(frozen=True, slots=True)
class OutlierRules:
    """Settings of a variant's outlier ejection."""

    by_hash: bool
    margin: float
    max_ejected: float
    pause: float
    longest_pause: float


@dataclass(frozen=True, slots=True)
class Observed:
    """An endpoint now."""

    url: str
    up: bool
    """It takes requests, or would if it were not ejected here."""
    requests: int
    """Since the start, over all workers."""
    failed: int
    keys: Sequence[int]
    """Failures by a hash of the sticky key."""


@dataclass(frozen=True, slots=True)
class Ejection:
    """An endpoint that is out."""

    cause: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Change:
    """An endpoint was ejected, or is back."""

    url: str
    ejected: bool
    cause: str
    figures: Mapping[str, float]


class _Look:
    """The counts of all endpoints that are compared, at one time."""

    __slots__ = ("_lost", "_lost_by", "by_url", "failed", "requests", "time")

    def __init__(self, now: float, endpoints: Sequence[Observed]) -> None:
        self.time = now
        self.by_url = {one.url: one for one in endpoints}
        self.requests = sum([one.requests for one in endpoints])
        self.failed = sum([one.failed for one in endpoints])
        self._lost: dict[str, int] = {}
        self._lost_by: _Look | None = None

    def seen(self, old: _Look, url: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return requests and failures of an endpoint since ``old``, and those of the others."""
        one, was = self.by_url[url], old.by_url[url]
        requests, failed = one.requests - was.requests, one.failed - was.failed
        rest = self.requests - old.requests - requests, self.failed - old.failed - failed
        return (max(requests, 0), max(failed, 0)), (max(rest[0], 0), max(rest[1], 0))

    def keys(self, old: _Look, url: str) -> tuple[int, int]:
        """Return the keys that failed on an endpoint since ``old``, and those that failed on the others."""
        if self._lost_by is not old:
            self._lost_by = old
            self._lost = {
                name: _lost_keys(one, old.by_url[name]) for name, one in self.by_url.items()
            }
        mine = _found_keys(self.by_url[url], old.by_url[url])
        return mine, sum(self._lost.values()) - self._lost[url]


class _Test:
    """One endpoint against the others, since ``base``."""

    __slots__ = ("_last", "_process", "base", "url")

    def __init__(self, url: str, base: _Look, by_hash: bool) -> None:
        self.url = url
        self.base = base
        self._process: EProcess | LiveTest = EProcess() if by_hash else LiveTest()
        self._last = (0, 0, 0, 0)

    def log_e(self, look: _Look) -> float:
        """Add what came since the last look, and return the evidence."""
        if isinstance(self._process, EProcess):
            found, others = look.keys(self.base, self.url)
            new = (0, others, 0, found)
            trials = len(look.by_url) - 1, 1
        else:
            mine, rest = look.seen(self.base, self.url)
            new = (*rest, *mine)
            trials = max(new[0] - self._last[0], 0), max(new[2] - self._last[2], 0)
        events = max(new[1] - self._last[1], 0), max(new[3] - self._last[3], 0)
        self._process.add(trials[0], events[0], trials[1], events[1])
        self._last = new
        return self._process.log_e

    def seen(self, look: _Look) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return requests and failures of the endpoint, and of the others, since the test began."""
        return look.seen(self.base, self.url)


def _found_keys(new: Observed, old: Observed) -> int:
    """Return at most as many keys as failed."""
    return sum([now > was for now, was in zip(new.keys, old.keys, strict=True)])


def _lost_keys(new: Observed, old: Observed) -> int:
    """Return about as many keys as failed: linear counting (Whang et al. 1990); or more, if they are many."""
    found, failed = _found_keys(new, old), new.failed - old.failed
    return failed if found >= _FULL else min(round(-KEYS * log(1.0 - found / KEYS)), failed)


class Outliers:
    """The outliers of one variant."""

    def __init__(self, rules: OutlierRules) -> None:
        self.rules = rules
        self.ejected: dict[str, Ejection] = {}
        """The endpoints that are out, by URL."""
        self._pauses: dict[str, tuple[float, float]] = {}
        """The last pause of an endpoint, and when it ended."""
        self._compared: tuple[str, ...] = ()
        self._last: _Look | None = None
        self._tests: dict[str, _Test] = {}
        """Of endpoints that fail more than the others, by URL."""

    def observe(self, now: float, endpoints: Sequence[Observed]) -> list[Change]:
        """Return who is ejected now, and who is back. ``now`` is in seconds and never goes back."""
        changes = self._readmit(now, endpoints)
        compared = [one for one in endpoints if one.up and one.url not in self.ejected]
        names = tuple([one.url for one in compared])
        if names != self._compared:
            self._compared, self._last, self._tests = names, None, {}
        if len(compared) < 2:
            return changes
        look, last = _Look(now, compared), self._last
        self._last = look
        outlier = None if last is None else self._test(look, last)
        most = max(1, int(len(endpoints) * self.rules.max_ejected + 1e-9))
        if outlier is not None and len(self.ejected) < most:
            changes.append(self._eject(now, outlier, look))
        return changes

    def _test(self, look: _Look, last: _Look) -> _Test | None:
        """Return the test that finds most against an endpoint, of those that are enough."""
        if look.failed > last.failed:
            for url, one in look.by_url.items():
                if one.failed > last.by_url[url].failed and url not in self._tests:
                    self._tests[url] = _Test(url, last, self.rules.by_hash)
        best, outlier = log(TESTS * len(look.by_url)), None
        for url, test in list(self._tests.items()):
            if look.time - test.base.time > _LASTS or not self._is_material(*test.seen(look)):
                del self._tests[url]
            elif look.failed > last.failed and (found := test.log_e(look)) >= best:
                best, outlier = found, test
        return outlier

    def _is_material(self, mine: tuple[int, int], others: tuple[int, int]) -> bool:
        rate, usual = mine[1] / max(mine[0], 1), others[1] / max(others[0], 1)
        return rate >= usual + self.rules.margin and rate >= _RATIO * usual

    def _eject(self, now: float, test: _Test, look: _Look) -> Change:
        url, (mine, others) = test.url, test.seen(look)
        rules = self.rules
        last, ended = self._pauses.get(url, (0.0, now))
        again = last > 0.0 and now - ended < rules.longest_pause
        pause = min(2.0 * last, rules.longest_pause) if again else rules.pause
        within = duration(now - test.base.time)
        cause = (
            f"outlier: {count(mine[1])} of {count(mine[0])} requests failed in {within},"
            f" others {count(others[1])} of {count(others[0])}"
        )
        self.ejected[url] = Ejection(cause, now, now + pause)
        self._pauses[url] = (pause, now + pause)
        figures = {
            "requests": mine[0],
            "failed": mine[1],
            "others_requests": others[0],
            "others_failed": others[1],
            "pause": pause,
        }
        return Change(url, True, cause, figures)

    def _readmit(self, now: float, endpoints: Sequence[Observed]) -> list[Change]:
        """Take back those whose pause is over, all if no other is up, and forget those that are gone."""
        known = {one.url for one in endpoints}
        self.ejected = {url: one for url, one in self.ejected.items() if url in known}
        self._pauses = {url: one for url, one in self._pauses.items() if url in known}
        left = any(one.up and one.url not in self.ejected for one in endpoints)
        changes = []
        for url, one in list(self.ejected.items()):
            if left and now < one.until:
                continue
            del self.ejected[url]
            self._pauses[url] = (self._pauses[url][0], now)
            why = "" if left else ", because no other endpoint is up"
            cause = f"back after {duration(now - one.since)}{why}"
            changes.append(Change(url, False, cause, {"seconds": round(now - one.since, 1)}))
        return changes

    def recent(self, now: float) -> Sequence[str]:
        """Return those that came back less than their pause ago, or are out."""
        return [url for url, (pause, ended) in self._pauses.items() if now < ended + pause]
