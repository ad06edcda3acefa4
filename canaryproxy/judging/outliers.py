"""Outlier ejection: which endpoint fails so much more, or is so much slower, than the others that it is out.

Theory of operation. ``Outliers.observe`` takes the counts of all endpoints of a variant ten times a second.
It asks of each endpoint that fails: if it were equal to the others, how likely would so many failures be?

* ``least_requests``: the balancer chooses the endpoint and knows nothing of the request, so a request that
  fails anywhere may fail on each endpoint alike, from any client. Requests are the trials (``LiveTest``).
* ``hash``: all requests of a key go to one endpoint, so one client that fails a thousand times is no
  evidence. Keys that fail are the events, each counted once, and an equal endpoint gets one in n of them,
  however many requests it has (``EProcess`` with equal trials; the hash is the draw). Keys are told apart
  by a hash into a few cells, which finds fewer of them and never more. For the other endpoints those are
  estimated that it lost, too; where the cells fill, all failed requests count.

Either is an e-process: with equal endpoints it ever reaches x with probability 1/x at most (Ville 1939), so
it may be looked at at any time. A test begins when an endpoint fails, and is given up as soon as the
endpoint does not fail by ``margin`` more than the others and twice as much, so no healthy past has to be
undone first (compare Shin, Ramdas & Rinaldo 2024, E-detectors). Of ``TESTS`` tests of equal endpoints one at
most ejects one. Counts at which nothing has failed are added with the next ones: while nothing fails, it
costs nothing.

Slow responses are compared in the same way, and both kinds share the one chance in ``TESTS``. What is slow is
known before the test begins, and is less for the others than for the endpoint itself (``measure.slowness``):
the test is of an endpoint that is no more than half as slow again, or 10 ms slower. A garbage collection
makes all requests of its second slow, which are one event and look like many. So an endpoint must be slow, by
the margin, over a third of ``pause`` (half a minute at most), by half of it since the middle of that, and one
that is new or back has a ``pause`` to warm up. A test is over when the limit is a new one, each minute.

An ejection is a pause: the first ``pause`` long, each further one twice as long as the one before, up to
``longest_pause``; an endpoint that stayed for ``longest_pause`` begins again with the first. At most the
share ``max_ejected`` is out at a time (one endpoint may always be), and never the last that is up: if the
others go down, all come back. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

from canaryproxy.config.text import count, duration, latency, percent
from canaryproxy.judging.evidence import EProcess, LiveTest
from canaryproxy.measure.slowness import FAR, NEVER, Usual, limit_of

TESTS: Final = 1e6
"""Tests of equal endpoints, of which one ejects an endpoint."""
_LASTS: Final = 60.0
"""Seconds after which a test is given up, whatever it has found."""
_RATIO: Final = 2.0
_FULL: Final = 0.75
"""Share of the cells in use from which the number of keys is not told from them."""


@dataclass(frozen=True, slots=True)
class OutlierRules:
    """Settings of a variant's outlier ejection."""

    by_hash: bool
    margin: float
    max_ejected: float
    pause: float
    longest_pause: float
    slow: bool = True


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
    times: Sequence[int] = ()
    """Histogram of the times to the first byte."""
    slow_keys: Sequence[int] = ()
    """Slow responses by a hash of the sticky key, by the limit for the other endpoints."""
    far_keys: Sequence[int] = ()
    """In the same way, by the limit for the endpoint itself."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counts by which an endpoint is compared, since the start."""

    url: str
    requests: int
    bad: int
    """Failures, or slow responses by the limit for the endpoint itself."""
    usual: int
    """The same by which the others are measured: as many, or more."""
    keys: Sequence[int]
    usual_keys: Sequence[int]


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

    __slots__ = ("_lost", "_lost_by", "bad", "by_url", "requests", "time", "usual")

    def __init__(self, now: float, endpoints: Sequence[_Counted]) -> None:
        self.time = now
        self.by_url = {one.url: one for one in endpoints}
        self.requests = sum([one.requests for one in endpoints])
        self.bad = sum([one.bad for one in endpoints])
        self.usual = sum([one.usual for one in endpoints])
        self._lost: dict[str, int] = {}
        self._lost_by: _Look | None = None

    def seen(self, old: _Look, url: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return requests and bad ones of an endpoint since ``old``, and those of the others."""
        one, was = self.by_url[url], old.by_url[url]
        requests, usual = one.requests - was.requests, one.usual - was.usual
        rest = self.requests - old.requests - requests, self.usual - old.usual - usual
        return (max(requests, 0), max(one.bad - was.bad, 0)), (max(rest[0], 0), max(rest[1], 0))

    def keys(self, old: _Look, url: str) -> tuple[int, int]:
        """Return the bad keys of an endpoint since ``old``, and those of the others."""
        if self._lost_by is not old:
            self._lost_by = old
            self._lost = {
                name: _lost_keys(one, old.by_url[name]) for name, one in self.by_url.items()
            }
        mine = _found_keys(self.by_url[url].keys, old.by_url[url].keys)
        return mine, sum(self._lost.values()) - self._lost[url]


class _Test:
    """One endpoint against the others, since ``base``."""

    __slots__ = ("_last", "_process", "base", "middle", "most", "url")

    def __init__(self, url: str, base: _Look, by_hash: bool) -> None:
        self.url = url
        self.base = base
        self.middle = base
        """After half of the time that the test takes at least."""
        self.most = 0.0
        """The most evidence that there ever was."""
        self._process: EProcess | LiveTest = EProcess() if by_hash else LiveTest()
        self._last = (0, 0, 0, 0)

    def add(self, look: _Look) -> None:
        """Add what came since the last look."""
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
        self.most = max(self.most, self._process.log_e)

    def seen(self, look: _Look) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return requests and bad ones of the endpoint, and of the others, since the test began."""
        return look.seen(self.base, self.url)


def _found_keys(new: Sequence[int], old: Sequence[int]) -> int:
    """Return at most as many keys as there were."""
    return sum([now > was for now, was in zip(new, old, strict=True)])


def _lost_keys(new: _Counted, old: _Counted) -> int:
    """Return about as many keys as there were: linear counting (Whang et al. 1990); or more, if many."""
    found, bad = _found_keys(new.usual_keys, old.usual_keys), new.usual - old.usual
    cells = len(new.usual_keys)
    return bad if found >= _FULL * cells else min(round(-cells * log(1.0 - found / cells)), bad)


class _Tests:
    """The tests of one kind."""

    __slots__ = ("_last", "_tests")

    def __init__(self) -> None:
        self._last: _Look | None = None
        self._tests: dict[str, _Test] = {}
        """Of endpoints that are worse than the others, by URL."""

    def forget(self) -> None:
        """Give up all tests: the endpoints, or what is bad of them, are others."""
        self._last, self._tests = None, {}

    def observe(
        self, look: _Look, rules: OutlierRules, least: float, spared: Collection[str], lasts: float
    ) -> _Test | None:
        """Return the test that finds most against an endpoint, of those that are enough.

        ``least``: the evidence that is enough. ``spared`` are not tested. ``lasts``: for how long the
        endpoint must have been worse.
        """
        last, self._last = self._last, look
        if last is None:
            return None
        grows = look.bad > last.bad
        if grows:
            for url, one in look.by_url.items():
                if one.bad > last.by_url[url].bad and url not in self._tests and url not in spared:
                    self._tests[url] = _Test(url, last, rules.by_hash)
        outlier = None
        for url, test in list(self._tests.items()):
            past = look.time - test.base.time
            if past > _LASTS or not _is_material(rules.margin, *test.seen(look)):
                del self._tests[url]
                continue
            if grows:
                test.add(look)
            if past <= lasts / 2:
                test.middle = look
            is_bad = past >= lasts and _is_material(rules.margin / 2, *look.seen(test.middle, url))
            if is_bad and test.most >= least:
                least, outlier = test.most, test
        return outlier


def _is_material(margin: float, mine: tuple[int, int], others: tuple[int, int]) -> bool:
    rate, usual = mine[1] / max(mine[0], 1), others[1] / max(others[0], 1)
    return rate >= usual + margin and rate >= _RATIO * usual


class Outliers:
    """The outliers of one variant."""

    def __init__(self, rules: OutlierRules) -> None:
        self.rules = rules
        self.ejected: dict[str, Ejection] = {}
        """The endpoints that are out, by URL."""
        self._pauses: dict[str, tuple[float, float]] = {}
        """The last pause of an endpoint, and when it ended."""
        self._compared: dict[str, float] = {}
        """Since when they are, by URL."""
        self._failing = _Tests()
        self._slow = _Tests()
        self._usual = Usual()

    @property
    def slow_from(self) -> int:
        """The bucket of the time to the first byte from which a response of the others is slow."""
        return self._usual.slow_from if self.rules.slow else NEVER

    def observe(self, now: float, endpoints: Sequence[Observed]) -> list[Change]:
        """Return who is ejected now, and who is back. ``now`` is in seconds and never goes back."""
        changes = self._readmit(now, endpoints)
        compared = [one for one in endpoints if one.up and one.url not in self.ejected]
        if [one.url for one in compared] != list(self._compared):
            self._compared = {one.url: self._compared.get(one.url, now) for one in compared}
            self._failing.forget()
            self._slow.forget()
        if len(compared) < 2:
            return changes
        rules = self.rules
        least = log(TESTS * len(compared) * (1 + rules.slow))
        look = _Look(now, [_by_failures(one) for one in compared])
        cause, test = _failed, self._failing.observe(look, rules, least, (), 0.0)
        if rules.slow:
            slow_look = self._look_at_slow(now, compared)
            new = {url for url, since in self._compared.items() if now - since < rules.pause}
            lasts = min(rules.pause / 3, _LASTS / 2)
            slow = self._slow.observe(slow_look, rules, least, new, lasts)
            if test is None and slow is not None:
                look, cause, test = slow_look, self._was_slow, slow
        most = max(1, int(len(endpoints) * rules.max_ejected + 1e-9))
        if test is not None and len(self.ejected) < most:
            changes.append(self._eject(now, test.url, *cause(test, look)))
            del self._compared[test.url]
            self._failing.forget()
            self._slow.forget()
        return changes

    def _look_at_slow(self, now: float, compared: Sequence[Observed]) -> _Look:
        if self._usual.observe(now, {one.url: one.times for one in compared}):
            self._slow.forget()
        limit = self._usual.slow_from
        return _Look(now, [_by_times(one, limit) for one in compared])

    def _was_slow(self, test: _Test, look: _Look) -> tuple[str, dict[str, float]]:
        mine, others = test.seen(look)
        limit = self._usual.slow_from
        usual, far = limit_of(limit), limit_of(FAR[limit])
        cause = (
            f"slow: {_share(mine)} of {count(mine[0])} responses took over {latency(far)} in"
            f" {duration(look.time - test.base.time)}, others {_share(others)} of {count(others[0])} over"
            f" {latency(usual)}"
        )
        figures = {**_figures("slow", mine, others), "limit": far, "others_limit": usual}
        return cause, figures

    def _eject(self, now: float, url: str, cause: str, figures: Mapping[str, float]) -> Change:
        rules = self.rules
        last, ended = self._pauses.get(url, (0.0, now))
        again = last > 0.0 and now - ended < rules.longest_pause
        pause = min(2.0 * last, rules.longest_pause) if again else rules.pause
        self.ejected[url] = Ejection(cause, now, now + pause)
        self._pauses[url] = (pause, now + pause)
        return Change(url, True, cause, {**figures, "pause": pause})

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


def _by_failures(one: Observed) -> _Counted:
    return _Counted(one.url, one.requests, one.failed, one.failed, one.keys, one.keys)


def _by_times(one: Observed, limit: int) -> _Counted:
    slow, far = sum(one.times[limit:]), sum(one.times[FAR[limit] :])
    return _Counted(one.url, sum(one.times), far, slow, one.far_keys, one.slow_keys)


def _failed(test: _Test, look: _Look) -> tuple[str, dict[str, float]]:
    mine, others = test.seen(look)
    cause = (
        f"outlier: {count(mine[1])} of {count(mine[0])} requests failed in"
        f" {duration(look.time - test.base.time)}, others {count(others[1])} of {count(others[0])}"
    )
    return cause, _figures("failed", mine, others)


def _figures(what: str, mine: tuple[int, int], others: tuple[int, int]) -> dict[str, float]:
    return {
        "requests": mine[0],
        what: mine[1],
        "others_requests": others[0],
        f"others_{what}": others[1],
    }


def _share(seen: tuple[int, int]) -> str:
    return percent(seen[1] / max(seen[0], 1))
