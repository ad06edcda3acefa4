"""Samples, which a judge takes, and assessments, which it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Level = Literal["ok", "suspect", "breach"]

REQUESTS: Final = "requests"
"""Key of the raw request counts in a ``Sample``."""
CLIENT_ERRORS: Final = "client_errors"
"""Key of the raw counts of 4xx responses."""
UNREACHED: Final = "unreached"
"""Key of the raw counts of attempts that reached no upstream."""
BLIND: Final = ".blind"
"""Ending of the key of an outcome's responses, and those of them that it could not look into.

Outcomes on bodies have a key for each reason, too, such as ``search.blind.too_large``: all of the latter, and
those with that reason (``counters.Blind``).
"""
FOUND: Final = ".found"
"""Ending of the key of an outcome's responses whose JSON pointer was followed to its end, and of those of
them that have something there."""

QUIET = 15.0
"""Seconds without a comparison after which there is nothing to be judged, where requests are frequent."""

Counts = Mapping[str, tuple[int, int]]
"""Growing pairs of raw counts of a variant: ``REQUESTS``, ``CLIENT_ERRORS`` and ``UNREACHED`` among the
requests that ended (not those whose client left), ``posted.POSTED``, trials and events of each outcome.
The same object again: nothing has grown.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters as read at one tick, summed over workers, and the records since the last sample.

    Of the counters nothing but growth is looked at.
    """

    stable: Counts
    canary: Counts
    records: Sequence[int] = ()
    """Three words for each randomised request (``measure.records``), in an order that does not depend on
    variants."""
    limit: int = 0
    """Buckets on the canary, as published, of the users that are compared."""
    epoch: int = 0
    """The split in force (``RouteTable.epoch``): records of another one are not compared."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of route templates by their hash, as far as they are new since the last sample."""
    lost: bool = False
    """Whether records of this tick were dropped, because the reader was late."""
    accepted: frozenset[str] = frozenset()
    """What an operator has accepted: a metric, or ``"metric route"``. It neither holds nor trips."""
    holds: tuple[str, ...] = ()
    """Why the step may not be left, beside what the judge finds."""
    shed: tuple[int, ...] = (0, 0)
    """Requests that found stable and the canary over their measured limits."""
    cohort: str | None = None
    """The cohort whose users are compared, by its own hash; ``None``: all users but members of cohorts."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one metric."""

    metric: str
    level: Level
    log_evidence: float
    """Natural logarithm of the evidence that the canary is worse."""
    limit: float
    """The ``log_evidence`` of a breach; ``inf`` if the metric never trips."""
    hold_limit: float
    """The ``log_evidence`` of a suspicion."""
    log_proof: float
    """Natural logarithm of the evidence that the canary is not worse by the margin."""
    proven: bool
    """Whether that is enough for ``promote: proof``; never of a metric that looks worse."""
    stable: tuple[int, int]
    """Trials and events of stable that were judged."""
    canary: tuple[int, int]
    """Trials and events of the canary that were judged."""
    difference: float | None
    """Estimated difference of the rates, canary minus stable."""
    ratio: float | None
    """Estimated ratio of the rates, canary over stable."""
    interval: tuple[float, float]
    """Anytime-valid interval for the ratio at 1 - α_hold."""
    comparable: bool
    """Whether both sides had trials of late."""
    reason: str
    """The verdict in plain words."""
    scope: str = ""
    """The route that it is about; empty: all of them."""
    users: tuple[int, int] = (0, 0)
    """Users of stable and of the canary that were compared; (0, 0): the metric is not judged by user."""
    hurt: int = 0
    """Canary users with an event since the step began."""
    trips: bool = True
    """Whether the metric can open the circuit."""
    trial: str = "request"
    """What a trial is."""
    watched: float = 0.0
    """Seconds of the step in which ``stable`` and ``canary`` were counted."""
    worse: bool = False
    """Whether the difference as estimated now reaches the margin, whatever the evidence: not promoted."""


@dataclass(frozen=True, slots=True)
class Placebo:
    """Virtual canaries, drawn at random from stable's users and judged like the real one."""

    tripped: int
    """How many of them would have tripped. None should: their version is stable's."""
    of: int
    """How many there are."""
    log_evidence: float
    """Natural logarithm of the strongest evidence against any of them."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict on the release."""

    level: Level
    verdicts: tuple[Verdict, ...]
    judged: int
    """Canary requests that were compared with stable's, since the judge began."""
    answered: int
    """Canary requests that ended, compared or not, since the judge began."""
    comparable: bool
    """Whether requests of both variants ended together within the last ``QUIET`` seconds."""
    proven: bool
    """Whether every metric that can trip has shown that the canary is not worse by its margin."""
    cause: str | None
    """Why the circuit must open: the first breach or guard rail in plain words."""
    quiet: str | None
    """Why nothing can be compared, if nothing can."""
    users: int = 0
    """Canary users of the step that were compared."""
    holds: tuple[str, ...] = ()
    """Why the step may not be left, whatever the evidence; each in plain words."""
    learned: float = 0.0
    """Seconds for which stable has been watched while no user was on the canary."""
    warming: bool = False
    """Whether the canary warms up: what is slow is not judged yet."""
    routes: int = 0
    """Routes that are compared one by one; only those that stand out have verdicts."""
    placebo: Placebo | None = None
    """The judge's own test; ``None``: there is none (yet)."""
