"""Verdicts on the metrics of a step: from its tests to what is shown of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log

from canaryproxy.judging import families, words
from canaryproxy.judging.families import Spec
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.step import OTHERS, Kept, Step, Trial
from canaryproxy.judging.tally import Estimate, Seen, Side
from canaryproxy.judging.verdict import Level, Placebo, Verdict

_KEPT_FOR = 1.0
_ERRORS = 2.0
"""Standard errors by user within which a difference may be chance."""


def untested(spec: Spec, settings: JudgeSettings, why: str | None) -> Verdict:
    """Return the verdict on a metric while there is no step to test; ``why`` says so in words."""
    return Verdict(
        metric=spec.name, level="ok", log_evidence=0.0,
        limit=-log(families.alpha_of(spec, [spec], settings, 1.0)) if spec.trips else inf,
        hold_limit=log(1.0 / settings.alpha_hold), log_proof=0.0, proven=False,
        stable=(0, 0), canary=(0, 0), difference=None, ratio=None, interval=(0.0, inf),
        comparable=False, trips=spec.trips,
        reason=words.reason(spec, words.Place(), None, "ok", 0.0, (0.0, 0.0), why),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the tests of a step."""

    settings: JudgeSettings
    now: float
    extra: float
    """ln of the factor by which α is smaller than configured."""
    proofs: Mapping[str, float]
    """Evidence of earlier steps that the canary is not worse, by metric."""
    quiet: str | None
    """Why nothing can be compared now."""
    accepted: frozenset[str]
    """Metrics that an operator has accepted."""
    step: Step
    names: Mapping[int, str]
    """Names of routes by template."""

    def is_shown(self, trial: Trial) -> bool:
        """Whether a test has a verdict: those of routes only where they stand out."""
        return not trial.scope or trial.test.suspect or trial.breached(self.extra)

    def verdict(self, trial: Trial) -> Verdict:
        """Return the verdict of one test: for up to a second the last one, if only counts of users differ."""
        test, kept = trial.test, trial.kept
        seen = trial.estimate(self.now)
        log_proof = 0.0 if trial.proof is None else trial.proof.log_e
        of = (
            *(test.log_evidence, test.suspect, test.breach, log_proof),
            *(self.extra, self.quiet, self.accepted, self.proofs.get(trial.spec.name)),
        )
        if (
            kept is None
            or kept.seen is not seen
            or kept.of != of
            or self.now - kept.at >= _KEPT_FOR
        ):
            kept = trial.kept = Kept(self._verdict(trial, seen), seen, self.now, of)
        return kept.verdict

    def _verdict(self, trial: Trial, seen: Estimate | None) -> Verdict:
        spec, test = trial.spec, trial.test
        name = f"{spec.name} {trial.scope}" if trial.scope else spec.name
        accepted = name in self.accepted or spec.name in self.accepted
        level = "ok" if accepted else self._level(trial, seen)
        limit = trial.settings.log_limit + self.extra if spec.trips else inf
        hold_limit = trial.settings.log_hold
        log_proof = self.proofs.get(spec.name, 0.0) if not trial.scope else 0.0
        if trial.proof is not None:
            log_proof += trial.proof.log_e
        worse = not accepted and looks_worse(spec, seen, self.settings.min_users)
        users = test.users
        has_users = min(users) >= max(self.settings.min_users, 1)
        proven = log_proof >= hold_limit and has_users and level == "ok" and not worse
        note = words.note(accepted=accepted, quiet=self.quiet, worse=worse, proven=proven)
        stable, canary = ((0, 0), (0, 0)) if seen is None else (seen.stable, seen.canary)
        ratio, interval = _ratio(seen)

        def say() -> str:
            shown = test.cause() if level == "breach" else None
            return words.reason(
                spec,
                self.place(trial),
                shown or seen_of(trial, seen),
                level,
                test.log_evidence,
                (limit, hold_limit),
                note,
                self.step.lottery.odds,
            )

        return Verdict(
            metric=spec.name,
            level=level,
            log_evidence=test.log_evidence,
            limit=limit,
            hold_limit=hold_limit,
            log_proof=log_proof,
            proven=proven,
            stable=stable,
            canary=canary,
            difference=None if seen is None else seen.difference,
            ratio=ratio,
            interval=interval,
            comparable=self.quiet is None and bool(stable[0] and canary[0]),
            reason=trial.words((seen, level, note), say),
            scope=trial.scope,
            users=users,
            hurt=test.voted[1],
            trips=spec.trips,
            trial=spec.trial,
            watched=self.step.watched(trial),
            worse=worse,
        )

    def place(self, trial: Trial) -> words.Place:
        """Return what a verdict is about: route, limit, and what most of the bad responses are."""
        spec, scope = trial.spec, trial.scope
        status, template = self.step.bad_responses.worst(
            spec.name, trial.template, self.step.limits.routes
        )
        mostly = [] if status is None else [f"mostly {status}" if status else "mostly no response"]
        name = self.names.get(template)
        if name is not None and scope == OTHERS:
            scope = f"{OTHERS}, most on {name}"
        elif name is not None and not scope and len(self.names) > 1:
            mostly.append(f"mostly on {name}")
        watched = self.step.watched(trial)
        return words.Place(scope, self.step.seconds(trial), ", ".join(mostly), watched)

    def _level(self, trial: Trial, seen: Estimate | None) -> Level:
        if trial.spec.trips and trial.breached(self.extra):
            return "breach"
        if trial.test.suspect and reaches(trial.spec, seen):
            return "suspect"
        return "ok"


class Shown:
    """The verdicts on a step as they were shown last."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.placebo: Placebo | None = None
        self._of: tuple[object, ...] = ()
        self._until = -inf

    def take(self, look: Look) -> list[Verdict]:
        """Return the verdicts: for up to a second the last ones, if nothing has changed."""
        of = look.step, look.step.version, look.extra, look.quiet, look.accepted
        if of != self._of or look.now >= self._until:
            trials = [trial for trial in look.step.all_trials() if look.is_shown(trial)]
            self.verdicts = [look.verdict(trial) for trial in trials]
            self.placebo = look.step.placebo
            is_due = any(trial.test.has_news or trial.test.breach for trial in trials)
            self._of, self._until = of, -inf if is_due else look.now + _KEPT_FOR
        return self.verdicts


def looks_worse(spec: Spec, seen: Estimate | None, min_users: int) -> bool:
    """Whether the raw difference reaches the margin, and is not within what users differ by.

    The difference of ``seen`` is adjusted for what was expected of the same users. It passes as chance
    if its interval by users covers zero, and enough users were seen.
    """
    if seen is None or not _raw_reaches(spec, seen) or not reaches(spec, seen):
        return False
    enough = min(seen.users) >= min_users
    return not enough or abs(seen.difference) > _ERRORS * seen.error


def seen_of(trial: Trial, found: Estimate | None) -> Seen | None:
    """Return an estimate for people."""
    if found is None:
        return None
    (n_s, e_s), (n_c, e_c), hurt = found.stable, found.canary, trial.test.voted
    return Seen(Side(n_s, e_s, found.users[0], hurt[0]), Side(n_c, e_c, found.users[1], hurt[1]))


def reaches(spec: Spec, seen: Estimate | None) -> bool:
    """Whether the difference, adjusted for what was expected, reaches the margin in the bad direction."""
    if seen is None:
        return False
    worse = seen.difference if spec.direction == "increase" else -seen.difference
    least = spec.margin * seen.stable[1] / max(seen.stable[0], 1) if spec.relative else spec.margin
    return worse > 0.0 and worse >= least - 1e-12


def _raw_reaches(spec: Spec, seen: Estimate) -> bool:
    """The same for the raw rates."""
    (n_s, e_s), (n_c, e_c) = seen.stable, seen.canary
    if not n_s or not n_c:
        return False
    worse = e_c / n_c - e_s / n_s
    if spec.direction == "decrease":
        worse = -worse
    least = spec.margin * e_s / n_s if spec.relative else spec.margin
    return worse > 0.0 and worse >= least - 1e-12


def _ratio(seen: Estimate | None) -> tuple[float | None, tuple[float, float]]:
    """Return the ratio of the rates and its interval by user, two standard errors to each side."""
    if seen is None or not seen.stable[0] or not seen.canary[0] or not seen.stable[1]:
        return None, (0.0, inf)
    stable = seen.stable[1] / seen.stable[0]
    ratio = 1.0 + seen.difference / stable
    around = 2.0 * seen.error / stable
    return max(ratio, 0.0), (max(ratio - around, 0.0), max(ratio + around, 0.0))
