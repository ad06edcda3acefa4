"""The judge: records and raw counts of a tick in, a verdict per metric out.

A step of the release is a lottery (``units.Lottery``): it moves some users to the canary and leaves others
on stable, by a hash that knows nothing of them. If the version changes nothing, everything that these users
meet is what they would meet on the other side, and any difference is the luck of the draw, whose odds are
known exactly. Nothing is assumed of users or of time: not that they are alike, nor that their requests are
independent, nor that the service is in the same state from one minute to the next.

Two levels for each metric:

* ``breach``: the evidence has reached 1/α of this metric in this step *and* the difference in the round that
  gave the evidence is material. The shares of α add up over metrics, routes and steps (``families``): a
  healthy release is ever rolled back with probability α at most.
* ``suspect``: the evidence has reached 1/α_hold now. It may pass again.

Beside the evidence ``watch`` holds, or trips, by plain rules; and nothing that *looks* worse in raw counts is
promoted, whatever the evidence, unless the difference is within what users differ by.

**Cuts.** All weights ever in force cut the positions into intervals. A new weight between two neighbouring
cuts moves ``[cut below, weight)`` and leaves ``[weight, cut above)``; users who were moved earlier are not
compared again. A weight that was in force before continues its lottery where it stood.

A step that began in a bad time of stable begins anew once that is over, with the α of an unplanned change: by
its limits nothing would be late any more.

**Cohorts** (``Sample.cohort``) have hashes of their own, and so lotteries, units and evidence (``draws``).
What was seen of one group is forgotten by the plain rules when another one is drawn.

**Warm-up.** A canary may be slow at first: until ``warmup`` seconds have passed, and twenty responses of each
of its endpoints can be expected, only a response that takes ``step.HANG`` seconds is late. The tests of time
begin anew after it, with limits of their own and their share of α, and a step bakes only then.

**Before the first step** the judge learns from stable (``Assessment.learned``): limits of latency and sizes,
the busiest routes, and how often each user fails. What is not known when a step begins is learnt in it.

A judge belongs to one release: α starts afresh with it and not with a step. After a reset or for a probe of a
half-open circuit a new judge begins, with a new α; it goes on with what the old one has learnt of stable. The
users are the same then, and so is the draw.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from math import log
from typing import Any

from canaryproxy.judging import families, metrics, words
from canaryproxy.judging.draws import Groups
from canaryproxy.judging.growth import flat_words
from canaryproxy.judging.hearing import Hearing
from canaryproxy.judging.intake import Intake, Split
from canaryproxy.judging.learning import Learning
from canaryproxy.judging.metrics import Limits
from canaryproxy.judging.named_routes import NamedRoutes
from canaryproxy.judging.parts import whole
from canaryproxy.judging.posted import PostedTest
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.step import HANG, Step
from canaryproxy.judging.units import Lottery
from canaryproxy.judging.verdict import Assessment, Level, Sample, Verdict
from canaryproxy.judging.verdicts import Look, Shown, seen_of, untested
from canaryproxy.judging.watch import Watch
from canaryproxy.measure.compiled import COMPILED
from canaryproxy.measure.records import POSITION_MASK, WORDS
from canaryproxy.measure.routing import FINE, POSITIONS

_LONGEST_WARMUP = 300.0
_WARM_RESPONSES = 20
_AT_ONCE = 128 * WORDS
"""Words of the records that are taken before other work may come in between."""
_COLLECTED = 4096 if COMPILED else 1024
"""Records that a test takes at once, each test from its own arrays: the more, the more are of the same units.
In plain Python each takes longer, and other work waits meanwhile."""


class Judge:
    """Judges one release. ``observe`` ten times a second."""

    def __init__(self, settings: JudgeSettings, before: Judge | None = None) -> None:
        self.settings = settings
        goes_on = before is not None and before.settings == settings
        self._learning: Learning = (
            before._learning if before is not None and goes_on else Learning(settings, HANG)
        )
        self._named = NamedRoutes(settings.named) if settings.named else None
        self._watch = Watch(settings)
        self._groups = Groups(settings, self._learning.units, self._learning.past)
        self._draws = self._groups.of(None)
        self._unplanned = 0
        self._limit = 0
        self._cohort: str | None = None
        self._step: Step | None = None
        business = settings.business
        is_posted = business is not None and business.slot is None
        self._posted = PostedTest(business) if business is not None and is_posted else None
        self._warm = False
        self._extra = 0.0
        self._hearing = Hearing()
        self._shown = Shown()
        """Of the last step: shown while the circuit is open, too."""

    def share(self, alpha: float) -> None:
        """Lower α to this value, if smaller than the configured one."""
        self._extra = max(log(self.settings.alpha / alpha), 0.0)

    @property
    def limits(self) -> Limits:
        """Limits of late and odd responses: for both sides, fixed when a step begins."""
        return self._learning.limits

    @property
    def published(self) -> tuple[float, float]:
        """Seconds to the first and to the last byte after which a request in flight is told of at once.

        Before the first step as in the warm-up: requests keep the limits that they were routed with.
        """
        limits = self.limits if self._warm else self.limits.warming(HANG)
        return limits.late, limits.stalled

    def observe(self, now: float, sample: Sample) -> Assessment:
        """Take what settled until ``now`` (seconds, any origin, not falling) and return the verdicts.

        The raw counts at the first call are where counting begins.
        """
        return whole(self.parts(now, sample))

    def parts(self, now: float, sample: Sample) -> Generator[None, None, Assessment]:
        """Do the same in parts (``judging.parts``). Nothing else may be asked of the judge until it ends."""
        named = self._named
        self._learning.baseline.learn(sample.names if named is None else named.learn(sample.names))
        begins = sample.limit * FINE != self._limit or sample.cohort != self._cohort
        if begins:
            yield from self._begin_step(now, sample.limit * FINE, sample.cohort)
        self._learn(now)
        was_waiting = self._watch.is_waiting
        if begins or sample.records:
            yield
        yield from self._take(sample, now, None if was_waiting else self._step)
        heard = self._step is not None and self._step.heard()
        cause = self._watch.tick(now, sample, heard=heard)
        if was_waiting and not self._watch.is_waiting and self._step is not None:
            self._add_step(now, self._step.lottery, self._step.share)
        if self._posted is not None:
            self._posted.tick(now, sample)
        if self._step is not None:
            self._warm_up(now, self._step)
            yield from self._step.tick_in_parts(now)
        seen = self._assess(now, cause, sample)
        yield
        return seen

    # Steps

    def _begin_step(self, now: float, limit: int, cohort: str | None) -> Generator[None]:
        """Begin the lottery of a new weight, or go on with that of an old one."""
        if self._step is not None:
            self._draws.prove(self._step)
        if cohort != self._cohort:
            self._draw_among(cohort)
        draws, self._limit = self._draws, limit
        self._watch.begin_step()
        self._step = draws.steps.get(limit)
        if self._step is not None or limit in (0, POSITIONS):
            return
        if (saved := draws.take_saved(limit)) is not None:
            self._add_step(now, Lottery(*saved["lottery"]), float(saved["share"])).load(saved, now)
            return
        if (lottery := draws.cut(limit)) is None:
            return
        weight = limit * 100 / POSITIONS
        if not families.is_planned(self.settings, weight, cohort):
            self._unplanned += 1
        share = families.step_share(self.settings, weight, self._unplanned, cohort)
        self._learning.refresh(now)
        yield
        self._add_step(now, lottery, share)

    def _draw_among(self, cohort: str | None) -> None:
        """Go on by the hash of a cohort, or of all users: what was seen by another one says nothing there."""
        self._cohort = cohort
        self._draws = self._groups.of(cohort)
        self._watch.forget_users()
        self._hearing.forget_users()

    def _add_step(self, now: float, lottery: Lottery, share: float) -> Step:
        draws = self._draws
        for spec in families.specs(self.settings, self.limits):
            draws.past.of(spec.name)
        step = self._step = Step(
            lottery,
            draws.units,
            self.settings,
            self.limits,
            share,
            now,
            draws.past.histories,
            warm=self._warm,
        )
        draws.add(step)
        return step

    def _learn(self, now: float) -> None:
        """Follow stable before a step; in it, only tell what was not known, or was known of a bad time."""
        learning = self._learning
        learning.watch(now, alone=self._limit == 0)
        if self._step is None:
            learning.follow(now)
        elif not learning.limits.known and learning.baseline.enough:
            learning.refresh(now)
            self._step.learn(learning.limits)
        elif learning.is_outdated(now):
            learning.refresh(now)
            self._unplanned += 1
            share = families.unplanned_share(self.settings, self._unplanned)
            self._add_step(now, self._step.lottery, share)

    def _warm_up(self, now: float, step: Step) -> None:
        if self._warm or self._watch.up_at is None:
            return
        waited = now - self._watch.up_at
        least = _WARM_RESPONSES * self.settings.endpoints if self.settings.warmup else 0
        enough = waited >= self.settings.warmup and self._hearing.expected >= least
        if enough or waited >= _LONGEST_WARMUP:
            self._warm = True
            step.warm_up(now)

    # Records

    def _take(self, sample: Sample, now: float, step: Step | None) -> Generator[None]:
        """Take the records of a tick that were routed by the split in force.

        ``step`` is that which compares them: none while the canary is not up yet, as only one side has trials
        then.
        """
        intake, end = self._intake(sample, now, step), len(sample.records)
        for begin in range(0, end, _AT_ONCE):
            chosen = intake.choose(begin, min(begin + _AT_ONCE, end))
            if step is None and len(chosen):
                self._learning.past.add(intake.words, chosen)
            at = 0
            while step is not None and at < len(chosen):
                at = step.take(intake.words, chosen, at)
                yield
            if step is not None and (step.collected >= _COLLECTED or begin + _AT_ONCE >= end):
                yield from step.settle()
            else:
                yield
        if step is not None:
            up = self._watch.up_at is not None
            self._hearing.hear(step.lottery, now, list(intake.ended), up=up)
        if self._step is None and self._limit == 0:
            self._learning.past.tick()

    def _intake(self, sample: Sample, now: float, step: Step | None) -> Intake:
        first = last = 0
        if step is not None:
            first, last = step.lottery.first, step.lottery.last
        elif self._step is None and self._limit == 0:
            last = POSITION_MASK + 1
        split = Split(sample.epoch, self._limit, first, last, step is not None)
        learning = self._learning
        words = flat_words(sample.records)
        return Intake(words, now, split, self._watch, learning.baseline, self._named)

    # Verdicts

    def _assess(self, now: float, rail: str | None, sample: Sample) -> Assessment:
        step, accepted = self._step, sample.accepted
        quiet = self._quiet(now)
        if step is None:
            verdicts = self._shown.verdicts or [
                untested(spec, self.settings, quiet)
                for spec in families.specs(self.settings, self.limits)
            ]
        else:
            verdicts = self._shown.take(self._look(now, step, quiet, accepted))
        if self._posted is not None and step is not None:
            log_hold = log(len(verdicts) / self.settings.alpha_hold)
            is_accepted = metrics.BUSINESS in accepted
            verdicts = self._posted.among(verdicts, log_hold, accepted=is_accepted)
        silent = self._watch.silent(now) if step is not None else None
        seen = verdicts if step is not None else []
        breach = next((verdict for verdict in seen if verdict.level == "breach"), None)
        level: Level = "ok"
        if rail is not None or breach is not None:
            level = "breach"
        elif silent is not None or any(verdict.level == "suspect" for verdict in seen):
            level = "suspect"
        tripping = [one for one in seen if one.trips and not one.scope and one.users != (0, 0)]
        return Assessment(
            level=level,
            verdicts=tuple(verdicts),
            judged=self._hearing.judged,
            answered=self._watch.answered,
            comparable=quiet is None,
            proven=bool(tripping) and all(one.proven for one in tripping),
            cause=breach.reason if breach is not None else rail,
            quiet=quiet,
            users=0 if step is None else step.users[1],
            learned=self._learning.seconds,
            holds=(*sample.holds, *self._holds(now, verdicts, silent, accepted)),
            warming=self._warming(now) is not None,
            routes=0 if step is None else len(step.routes),
            placebo=None if step is None else self._shown.placebo,
        )

    def _look(self, now: float, step: Step, quiet: str | None, accepted: frozenset[str]) -> Look:
        names = self._learning.baseline.names
        proofs = self._draws.proofs
        return Look(self.settings, now, self._extra, proofs, quiet, accepted, step, names)

    def _quiet(self, now: float) -> str | None:
        """Return why nothing can be compared now."""
        if self._step is None:
            return words.at_rest(
                self.settings, at_end=self._limit > 0, shown=bool(self._shown.verdicts)
            )
        watch = self._watch
        return watch.not_up(now) or watch.shedding(now) or self._hearing.quiet(now)

    def _holds(
        self, now: float, verdicts: list[Verdict], silent: str | None, accepted: frozenset[str]
    ) -> tuple[str, ...]:
        found = [] if silent is None or metrics.ERRORS in accepted else [silent]
        found += self._watch.holds(now, accepted)
        step = self._step
        if step is None:
            return tuple(found)
        for verdict in verdicts:
            if verdict.worse and verdict.level == "ok":
                trial = step.trials[verdict.metric]
                if (seen := seen_of(trial, trial.estimated)) is not None:
                    place = self._look(now, step, None, accepted).place(trial)
                    found.append(words.worse(trial.spec, place, seen, self.settings.min_users))
        strangers = None if step.user_time is None else step.user_time.strangers
        if self._cohort is not None:  # events are posted of all users, whatever they belong to
            strangers = None
        if strangers is not None and metrics.BUSINESS not in accepted:
            found.append(words.strangers(*strangers))
        elif (silence := self._watch.no_events(accepted)) is not None:
            found.append(silence)
        found += step.holds(accepted)
        if (warming := self._warming(now)) is not None:
            found.append(warming)
        return tuple(found)

    def _warming(self, now: float) -> str | None:
        """Say how far the warm-up is; ``None`` without one."""
        up_at = self._watch.up_at
        if self._warm or self._step is None or up_at is None or not self.settings.times:
            return None
        least = _WARM_RESPONSES * self.settings.endpoints
        return words.warming(now - up_at, self.settings.warmup, self._hearing.expected, least)

    # State

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values.

        The evidence of every step stands; what single units did is not kept, so that after a restart rounds
        begin anew (``lottery``). Left out, too: the last requests of the rails.
        """
        return {
            **self._groups.to_dict(),
            "unplanned": self._unplanned,
            "limits": self.limits.to_dict(),
            "warm": self._warm,
            "learned": self._learning.seconds,
            "judged": self._hearing.judged,
            "watch": self._watch.to_dict(),
            "posted": None if self._posted is None else self._posted.to_dict(),
        }

    @classmethod
    def from_dict(
        cls, settings: JudgeSettings, state: Mapping[str, Any], before: Judge | None = None
    ) -> Judge:
        """Return a judge that continues from a state, and with what ``before`` has learnt of users.

        A metric that is new in ``settings`` starts afresh, and all do after a version whose evidence counted
        requests: only how many were judged continues. Raises ``KeyError``, ``TypeError`` or
        ``ValueError`` if the state is not one of ``to_dict``.
        """
        judge = cls(settings, before)
        if "steps" not in state:  # of a version that counted requests
            judge._hearing.judged = int(state["judged"])
            judge._watch.answered = int(state["answered"])
            return judge
        judge._groups.load(state)
        judge._unplanned = int(state["unplanned"])
        judge._learning.take(Limits.from_dict(state["limits"]))
        judge._learning.seconds = float(state.get("learned", 0.0))
        judge._warm = bool(state["warm"])
        judge._hearing.judged = int(state["judged"])
        judge._watch.load(state["watch"])
        if judge._posted is not None and state["posted"] is not None:
            judge._posted.load(state["posted"])
        return judge
