"""Tells the history when load is shed, and how many requests it was in all. Time is an argument."""

from __future__ import annotations

from collections.abc import Sequence

from canaryproxy.config import text
from canaryproxy.control.ledger import Ledger
from canaryproxy.control.upstream_watch import Failing
from canaryproxy.measure import counters
from canaryproxy.measure.routing import CANARY, VARIANTS


class ShedWatch:
    """Writes a record when a variant begins to shed load, and one when it has shed none for half a minute.

    ``used`` says whether something has been counted: if not, all is 0, and is not read.
    """

    def __init__(
        self, ledger: Ledger, variants: Sequence[Sequence[int]], *, used: bool = True
    ) -> None:
        self._ledger = ledger
        self._variants = variants
        self._watched = [Failing(counters.shed(cells) if used else 0) for cells in variants]

    def observe(self, now: float) -> None:
        """Look at the counters of both variants."""
        for variant, (cells, watched) in enumerate(zip(self._variants, self._watched, strict=True)):
            change = watched.observe(now, counters.shed(cells))
            if change is None:
                continue
            event, requests, seconds = change
            name, figures = VARIANTS[variant], {"variant": VARIANTS[variant], "requests": requests}
            if event == "began":
                otherwise = ", or stable answers them" if variant == CANARY else ""
                cause = (
                    f"{name} is over its measured limit: requests get 503 with Retry-After{otherwise},"
                    " new users first"
                )
                self._ledger.note("shedding", cause, figures)
            elif event == "ended":
                lasted = text.duration(max(seconds, 1.0) // 1)
                many = text.plural(requests, "request")
                cause = f"{name} was over its measured limit for {many} in {lasted}"
                self._ledger.note("shed", cause, {**figures, "seconds": seconds})
