"""Endpoints of a variant that fail more, or are slower, than its others. Pure.

Theory of operation. Of the failures of a variant, k of K are on one endpoint that had the share p of the
attempts. It is named if P(Binomial(K, p) >= k) is below one in a thousand, there are five at least, and its
rate is twice that of the rest; then the rest is looked at again. So a variant that fails on all of its
endpoints names none.

Slow responses are counted in the same way, by two limits (``measure.slowness``): the endpoint's own are slow
only far later than the others', and there must be more of them by a fifth of its responses. Requests are not
independent: one pause makes many of them slow, which is no fifth of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import Final

from canaryproxy.config.text import count, latency, percent
from canaryproxy.judging.look import log_choose
from canaryproxy.measure.endpoint_cells import EndpointCounts
from canaryproxy.measure.slowness import ENOUGH, FAR, NEVER, limit_of, slow_from

_LEAST: Final = 5
"""Bad requests from which an endpoint is named."""
_RATIO: Final = 2.0
"""How often as much as the others an endpoint that is named fails, or is slow."""
_CHANCE: Final = 0.001
_MARGIN: Final = 0.2

Named = tuple[str, str]
"""The URL of an endpoint that stands out, and how, in words with the place of the time left open."""
_Part = tuple[int, int]
"""Requests, and how many of them were bad."""
_StandsOut = Callable[[_Part, _Part], bool]


def failing(endpoints: Sequence[tuple[str, EndpointCounts]]) -> list[Named]:
    """Return the endpoints that fail more than the others, the worst first."""
    parts = {url: (counts.requests, counts.failed) for url, counts in endpoints}
    found = _worst_first(parts, parts, _stands_out)
    return [
        (url, f"{count(mine[1])} of {count(mine[0])} requests failed in {{}}")
        for url, mine, _ in found
    ]


def slow(endpoints: Sequence[tuple[str, Sequence[int]]]) -> list[Named]:
    """Return the endpoints that are slower than the others by their histograms, the worst first."""
    limit = slow_from([times for _, times in endpoints])
    if limit == NEVER:
        return []
    own = {url: _over(times, FAR[limit]) for url, times in endpoints}
    usual = {url: _over(times, limit) for url, times in endpoints}
    return [
        (
            url,
            f"{_share(mine)} of {count(mine[0])} responses took over {latency(limit_of(FAR[limit]))} in {{}},"
            f" others {_share(others)} of {count(others[0])} over {latency(limit_of(limit))}",
        )
        for url, mine, others in _worst_first(own, usual, _is_far_slower)
    ]


def _worst_first(
    own: dict[str, _Part], usual: dict[str, _Part], stands_out: _StandsOut
) -> list[tuple[str, _Part, _Part]]:
    """Return those that stand out, with their own part and that of those that do not."""
    rest = [url for url, part in own.items() if part[0]]
    rest.sort(key=lambda url: own[url][1] / own[url][0], reverse=True)
    found = []
    while len(rest) > 1:
        others = [usual[url] for url in rest[1:]]
        theirs = sum(part[0] for part in others), sum(part[1] for part in others)
        if not stands_out(own[rest[0]], theirs):
            break
        found.append((rest.pop(0), theirs))
    return [(url, own[url], theirs) for url, theirs in found]


def _stands_out(mine: _Part, others: _Part) -> bool:
    (requests, bad), (of_others, bad_there) = mine, others
    if bad < _LEAST or bad * of_others < _RATIO * bad_there * requests:
        return False
    share = requests / (requests + of_others)
    return _tail(bad, bad + bad_there, share) < _CHANCE


def _is_far_slower(mine: _Part, others: _Part) -> bool:
    usual = others[1] / max(others[0], 1)
    return mine[0] >= ENOUGH and mine[1] / mine[0] >= usual + _MARGIN and _stands_out(mine, others)


def _tail(least: int, trials: int, share: float) -> float:
    """Return an upper bound on P(Binomial(trials, share) >= least), for least > trials * share.

    The first term times a geometric series (Feller 1968, VI.3).
    """
    if least <= trials * share:
        return 1.0
    term = log_choose(trials, least) + least * log(share) + (trials - least) * log(1.0 - share)
    ratio = (trials - least) * share / ((least + 1) * (1.0 - share))
    return exp(term) / (1.0 - ratio)


def _over(times: Sequence[int], limit: int) -> _Part:
    return sum(times), sum(times[limit:])


def _share(part: _Part) -> str:
    return percent(part[1] / max(part[0], 1))
