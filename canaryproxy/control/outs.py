"""The endpoints that the control plane has taken out of service, each with its cause in words."""

from __future__ import annotations

from collections.abc import Mapping

from canaryproxy.measure.endpoint_cells import identity
from canaryproxy.measure.shared_memory import CHECK, OUTLIER, OutCell


class Outs:
    """Collects what is out for which reason, and tells the workers through ``cell``.

    After a restart of the control plane, what the one before took out stays out until ``put`` says otherwise.
    """

    def __init__(self, cell: OutCell) -> None:
        self._cell = cell
        self._before = cell.read() or {}
        self._causes: dict[tuple[int, int], Mapping[str, str]] = {}
        """By reason and variant: the cause by URL."""
        self.version = 0
        """Grows with every change."""

    def was_out(self, why: int, variant: int, url: str) -> bool:
        """Tell whether the control plane before this one had taken it out for this reason."""
        return bool(self._before.get((variant, identity(url)), 0) & why)

    def put(self, why: int, variant: int, causes: Mapping[str, str]) -> None:
        """Replace what is out of a variant for a reason (``CHECK`` or ``OUTLIER``): causes by URL."""
        if self._causes.get((why, variant)) == causes:
            return
        self._causes[why, variant] = dict(causes)
        self.version += 1
        outs = {
            at: kept for at, bits in self._before.items() if (kept := bits & ~self._decided(at[0]))
        }
        for (reason, which), found in self._causes.items():
            for url in found:
                at = which, identity(url)
                outs[at] = outs.get(at, 0) | reason
        self._cell.publish(outs)

    def cause(self, variant: int, url: str) -> str:
        """Return why an endpoint is out, in words; empty if it is not."""
        found = [self._causes.get((why, variant), {}).get(url) for why in (CHECK, OUTLIER)]
        return "; ".join([cause for cause in found if cause])

    def causes(self, why: int, variant: int) -> Mapping[str, str]:
        """Return what is out of a variant for a reason, and the cause in words."""
        return self._causes.get((why, variant), {})

    def _decided(self, variant: int) -> int:
        """Return the reasons for which ``put`` has been called."""
        return sum(why for why, which in self._causes if which == variant)
