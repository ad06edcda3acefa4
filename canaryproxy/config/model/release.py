"""``release``: the steps from stable to canary."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Mistake, Section, Variable, not_both, report

LONGEST_GATE = 120.0
"""Seconds; a gate that needs longer refuses, and is called again."""


class Step(Section):
    """One step of a release."""

    weight: types.Weight = Field(description="Percent of users, 0 to 100 in steps of 0.01.")
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

    @model_validator(mode="after")
    def _rising(self) -> Release:
        weights = [step.weight for step in self.steps]
        report(
            Mistake(f"weights must rise: {here:g} after {before:g}", ("steps", at + 1, "weight"))
            for at, (before, here) in enumerate(pairwise(weights))
            if here <= before
        )
        return self
