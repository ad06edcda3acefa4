"""``release``: the steps from stable to canary."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.errors import Path
from canaryproxy.config.model.section import Mistake, Section, Variable, not_both, report

LONGEST_GATE = 120.0
"""Seconds; a gate that needs longer refuses, and is called again."""


class Step(Section):
    """One step of a release."""

    cohort: types.CohortName | None = Field(
        None,
        description="The users that it is about: a cohort of split.cohorts; default: all users.",
    )
    weight: types.Weight = Field(
        description="Percent of users (of the cohort), 0 to 100 in steps of 0.01."
    )
    bake: types.Duration = Field(0.0, description="Shortest time at this step; a duration.")
    min_requests: int = Field(
        0, ge=0, description="Canary requests that must be judged before the next step."
    )
    min_users: int | None = Field(
        None,
        ge=0,
        description="Canary users that must be compared before the next step; default: judge.min_users.",
    )


class Gate(Section):
    """A webhook that must approve each step: a 2xx response in time means yes, anything else no."""

    webhook: types.WebUrl = Field(description="URL to POST to.")
    timeout: types.Timeout = Field(10.0, description="Time limit for the response; a duration.")
    secret_env: Variable | None = Field(
        None, description="Name of the environment variable that contains the signing key."
    )
    secret_file: types.FilePath | None = Field(
        None, description="File that contains the signing key."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        yield from not_both(self, "secret_file", "secret_env")
        if self.timeout > LONGEST_GATE:
            yield Mistake(f"expected a duration of at most {LONGEST_GATE:g}s", ("timeout",))


class HoldBack(Section):
    """A control group: it stays on stable while everyone else is on the canary."""

    share: types.Weight = Field(description="Percent of users who stay on stable, such as 1.")
    bake: types.Duration = Field(description="How long at least, until they follow; a duration.")


class RampDown(Section):
    """How an abort takes users back that is no emergency."""

    over: types.Timeout = Field(
        description="Time over which the weight falls to 0; a duration.", examples=["30s"]
    )


class Release(Section):
    """One attempt to move users from stable to canary."""

    id: types.ReleaseId = Field(description="Its name; it also salts the hash of the split.")
    steps: tuple[Step, ...] = Field(min_length=1, description="The plan, with rising weights.")
    promote: Literal["bake", "proof", "manual"] = Field(
        "bake",
        description=(
            "When the next step begins: after the bake time, after proof of no harm,"
            " or when an operator resumes."
        ),
    )
    hold_back: HoldBack | None = Field(
        None,
        description=(
            "Before the promotion, a share of users stays on stable for a time, so that the canary can be"
            " compared while everyone else is on it."
        ),
    )
    gates: tuple[Gate, ...] = Field((), description="Webhooks that must approve each step.")
    capacity: Literal["off", "warn", "hold"] = Field(
        "warn",
        description=(
            "Where the next step, or a trip, would bring a variant more requests than its endpoints have"
            " carried: say so, or also hold the step."
        ),
    )
    reversible: bool = Field(
        True,
        description=(
            "false: stable cannot serve the canary's users any more (an irreversible migration). A"
            " regression then pauses the release and notifies, and moves no user; rescue is off."
        ),
    )
    ramp_down: RampDown | None = Field(
        None,
        description=(
            "An abort takes users back little by little; default: at once. A trip always takes them back at"
            " once."
        ),
    )

    @model_validator(mode="after")
    def _rising(self) -> Release:
        report((*self._not_rising(), *self._of_cohorts()))
        weights = [step.weight for step in self.steps if step.cohort is None]
        report(self._held_back(max((one for one in weights if one < 100.0), default=0.0)))
        return self

    def _not_rising(self) -> Iterator[Mistake]:
        """Yield each step that has not more users than the one before of the same group."""
        last: dict[str | None, tuple[int, float]] = {}
        for at, step in enumerate(self.steps):
            before_at, before = last.get(step.cohort, (at, -1.0))
            if step.weight <= before:
                found = f"weights must rise: {step.weight:g} after {before:g}"
                groups = (("steps", before_at, "cohort"), ("steps", at, "cohort"))
                yield Mistake(found, ("steps", at, "weight"), groups)
            last[step.cohort] = at, step.weight

    def _of_cohorts(self) -> Iterator[Mistake]:
        """Yield what is wrong with the steps of cohorts."""
        everyone = False
        for at, step in enumerate(self.steps):
            everyone = everyone or step.cohort is None
            if step.cohort is None:
                continue
            if everyone:
                yield Mistake(
                    "the steps of cohorts come before those of all users", ("steps", at, "cohort")
                )
            if not 0.0 < step.weight < 100.0:
                found = f"expected a weight above 0 and below 100, found {step.weight:g}"
                why = f"the users of {step.cohort} are compared with each other"
                yield Mistake(f"{found}: {why}", ("steps", at, "weight"))
        if not everyone:
            yield Mistake("expected a step of all users after those of cohorts", ("steps",))

    def _held_back(self, highest: float) -> Iterator[Mistake]:
        """Yield what is wrong with the control group; ``highest`` is the largest weight below 100."""
        if self.hold_back is None:
            return
        share = self.hold_back.share
        if not 0.0 < share < 100.0 - highest:
            found = f"expected a share above 0% and below {100.0 - highest:g}%"
            why = f", the users who are on stable after the step at {highest:g}%" if highest else ""
            yield Mistake(f"{found}{why}; found {share:g}%", ("hold_back", "share"))
        if self.hold_back.bake == 0.0:
            yield Mistake("expected a duration above 0, such as 24h", ("hold_back", "bake"))

    @property
    def held(self) -> Step | None:
        """The step of ``hold_back``."""
        if self.hold_back is None:
            return None
        weight = round(100.0 - self.hold_back.share, 2)
        return Step.model_construct(weight=weight, bake=self.hold_back.bake)

    @property
    def plan(self) -> tuple[Step, ...]:
        """The steps, and before the last users move that of ``hold_back``."""
        if (held := self.held) is None:
            return self.steps
        ends = self.steps[-1:] if self.steps[-1].weight >= 100.0 else ()
        return (*self.steps[: len(self.steps) - len(ends)], held, *ends)


def unknown_cohorts(release: Release | None, known: Collection[str], at: Path) -> Iterator[Mistake]:
    """Yield the steps of a release whose cohort is none of the ``known`` ones; ``at`` is its place."""
    for number, step in enumerate(() if release is None else release.steps):
        if step.cohort is not None and step.cohort not in known:
            names = ", ".join(known)
            found = f"split.cohorts has {names}" if names else "there is no split.cohorts"
            where = (*at, "steps", number, "cohort")
            yield Mistake(f"no cohort is named {step.cohort}: {found}", where, (("split",),))
