"""The conditions of ``split.cohorts``, compiled: which cohorts a request belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from canaryproxy.config import Condition
from canaryproxy.measure.conditions import RequestView, condition_of
from canaryproxy.measure.exposure import NO_COHORTS, Members


class CohortRules:
    """The compiled ``split.cohorts``."""

    __slots__ = ("_known", "_rules", "reads_client", "reads_query")

    def __init__(self, cohorts: Iterable[tuple[str, Condition]] = ()) -> None:
        found: Sequence[tuple[str, Condition]] = tuple(cohorts)
        self._rules = tuple((name, condition_of(condition)) for name, condition in found)
        parts = [part for _, condition in found for part in condition.parts()]
        self.reads_query = any(part.query is not None for part in parts)
        """Whether requests that differ only in their query may differ in their cohorts."""
        self.reads_client = any(part.network is not None for part in parts)
        """Likewise for their clients' addresses."""
        self._known: dict[Members, Members] = {NO_COHORTS: NO_COHORTS}

    def __bool__(self) -> bool:
        return bool(self._rules)

    def of(self, request: RequestView) -> Members:
        """Return the cohorts of a request: equal ones are the same object."""
        if not self._rules:
            return NO_COHORTS
        found = frozenset(name for name, holds in self._rules if holds(request))
        return self._known.setdefault(found, found)
