"""The rules of a judge, and how sure it has to be. A rule that is ``None`` is off."""

from __future__ import annotations

from dataclasses import dataclass

from canaryproxy.config import PathMatch
from canaryproxy.judging.evidence import Direction


@dataclass(frozen=True, slots=True)
class ErrorsRule:
    """Failed responses."""

    margin: float = 0.01
    """Increase that matters, absolute."""


@dataclass(frozen=True, slots=True)
class LatencyRule:
    """Slow responses."""

    quantile: float = 0.95
    """Of stable's time to the first byte, 0..1."""
    margin: float = 0.05
    """Seconds by which that quantile may be worse."""
    p50: float = 0.5
    """Increase of the median that holds, relative."""
    p99: float = 0.5
    """Increase of the 99% quantile that holds, relative."""


@dataclass(frozen=True, slots=True)
class ThroughputRule:
    """Requests that stall."""

    margin: float = 0.01
    """Increase that matters, absolute."""


@dataclass(frozen=True, slots=True)
class ClassesRule:
    """Shares of 2xx, 3xx, 4xx and of responses without a body, each way."""

    margin: float = 0.01
    """Increase that holds, absolute."""
    gross: float = 0.2
    """Increase that trips, absolute."""


@dataclass(frozen=True, slots=True)
class ContentRule:
    """Sizes and media types of bodies; holds only."""

    margin: float = 0.2
    """Increase of the share of odd ones that matters, absolute."""
    size: bool = True
    """Whether sizes are compared."""
    type: bool = True
    """Whether media types are compared."""


@dataclass(frozen=True, slots=True)
class ConnectionsRule:
    """Tunnels and event streams that the upstream breaks off."""

    margin: float = 0.01
    """Increase that matters, absolute."""


@dataclass(frozen=True, slots=True)
class BusinessRule:
    """Something that users should keep doing."""

    margin: float = 0.05
    """Change that matters, relative to stable's rate."""
    direction: Direction = "decrease"
    """Which change is bad."""
    slot: int | None = None
    """The slot of its outcome; ``None``: its events are posted."""
    outcome: str | None = None
    """The name of that outcome."""


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """Responses that are bad by their content."""

    name: str
    margin: float = 0.01
    """Increase that matters, absolute."""
    slot: int = 0
    """Its bit in a record."""


@dataclass(frozen=True, slots=True)
class GuardRails:
    """Simple limits to the raw requests of the canary, whatever the number of its users."""

    errors: float | None = 0.5
    """Share of failed canary requests, 0..1."""
    client_errors: float | None = 0.5
    """Share of 4xx responses, 0..1; only where stable's is far lower."""
    min_requests: int = 20
    """Canary requests before they apply."""
    absolute: bool = False
    """Whether ``errors`` holds whatever stable does; else only where stable's share is far lower."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """The metrics to compare, and how sure the judge has to be."""

    alpha: float = 0.001
    """Chance that a healthy release is ever rolled back, all metrics together."""
    alpha_hold: float = 0.05
    """Chance that a healthy release is ever held as suspect, all metrics of a step together."""
    errors: ErrorsRule | None = ErrorsRule()
    latency: LatencyRule | None = LatencyRule()
    throughput: ThroughputRule | None = ThroughputRule()
    classes: ClassesRule | None = ClassesRule()
    content: ContentRule | None = ContentRule()
    connections: ConnectionsRule | None = ConnectionsRule()
    business: BusinessRule | None = None
    outcomes: tuple[OutcomeRule, ...] = ()
    guard_rails: GuardRails | None = GuardRails()
    routes: bool = True
    """Whether routes are judged one by one, too."""
    named: tuple[tuple[str, PathMatch], ...] = ()
    """Those routes: names and conditions on the path; empty: the busiest ones."""
    steps: tuple[float, ...] = ()
    """The weights of the plan in percent, without those of cohorts: each has its share of α."""
    cohort_steps: tuple[tuple[str, float], ...] = ()
    """The steps of cohorts, which come before: cohort and percent of its users."""
    min_users: int = 10
    """Users on each side before a difference may pass as chance."""
    warmup: float = 30.0
    """Seconds for which the canary may be slow at first."""
    endpoints: int = 1
    """Endpoints of the canary: each has its own warm-up."""
    not_up: float = 120.0
    """Seconds for which a canary that never accepted a connection is waited for."""
    placebos: int = 20
    """Virtual canaries that are judged beside the real one."""

    @property
    def times(self) -> bool:
        """Whether time is judged: then a canary warms up."""
        return self.latency is not None or self.throughput is not None
