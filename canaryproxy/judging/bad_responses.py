"""Bad canary responses of a step by route and status, so that a cause can name the worst. Pure."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from canaryproxy.judging import metrics
from canaryproxy.judging.metrics import OTHER

_MOST: Final = 1000
"""Routes with a status that are remembered."""
_STATUSES: Final = {
    metrics.ERRORS: (0, 1023, True),
    metrics.CLIENT_ERRORS: (400, 499, False),
    metrics.REDIRECTS: (300, 399, False),
    metrics.EMPTY: (200, 299, False),
    metrics.ANSWERS: (0, 1023, False),
}
"""By metric: the first and last status of its events, and whether they failed."""


class BadResponses:
    """Numbers of bad responses by route template, status and whether they failed."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int, bool], int] = {}

    def add(self, template: int, status: int, *, failed: bool) -> None:
        """Count a response; ``status`` is 0 if none came."""
        numbers, of = self._numbers, (template, status, failed)
        if of in numbers or len(numbers) < _MOST:
            numbers[of] = numbers.get(of, 0) + 1

    def worst(
        self, metric: str, template: int | None, busiest: Container[int]
    ) -> tuple[int | None, int]:
        """Return the status of most of a metric's bad responses (0: none came), and their route.

        ``template``: of one route only, ``metrics.OTHER`` of those that are judged together: all but the
        ``busiest``. Neither is named that has less than half of them.
        """
        first, last, is_failed = _STATUSES.get(metric, (1, 0, False))
        by_status: dict[int, int] = {}
        by_route: dict[int, int] = {}
        for (route, status, failed), number in self._numbers.items():
            of_route = OTHER if template == OTHER and route not in busiest else route
            if failed is is_failed and first <= status <= last and template in (None, of_route):
                by_status[status] = by_status.get(status, 0) + number
                by_route[route] = by_route.get(route, 0) + number
        total = sum(by_status.values())
        status, of_status = max(by_status.items(), key=_second, default=(0, 0))
        route, of_route = max(by_route.items(), key=_second, default=(OTHER, 0))
        return (
            status if 2 * of_status > total else None,
            route if 2 * of_route > total else OTHER,
        )


def _second(one: tuple[int, int]) -> int:
    return one[1]
