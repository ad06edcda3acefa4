"""Asks the gates in the background, and passes their answer on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from canaryproxy.control.ledger import figures
from canaryproxy.judging.verdict import Assessment
from canaryproxy.release.rollout import GateAnswer, Plan, Rollout

AskGates = Callable[[Mapping[str, Any]], Awaitable[tuple[bool, str]]]
"""Asks the gates whether a step may be left; returns whether it may, and the reason. Never raises."""


class GateKeeper:
    """Asks gates without blocking the tick; calls ``answered`` with each answer."""

    def __init__(self, ask: AskGates | None, answered: Callable[[GateAnswer], None]) -> None:
        self._ask = ask
        self._answered = answered
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, number: int, question: Mapping[str, Any]) -> None:
        """Ask whether the step may be left; without gates to ask the answer is no."""
        task = asyncio.ensure_future(self._run(number, question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, number: int, question: Mapping[str, Any]) -> None:
        if self._ask is None:
            passed, cause = False, "no gate client: gates cannot be asked"
        else:
            passed, cause = await self._ask(question)
        self._answered(GateAnswer(number, passed, cause))

    def stop(self) -> None:
        """Drop the questions under way."""
        for task in self._tasks:
            task.cancel()


def question(
    release: str | None, rollout: Rollout, plan: Plan, seen: Assessment | None
) -> dict[str, Any]:
    """Return the question about a step: the body of the request to a gate."""
    at, steps = rollout.step, plan.steps
    last = at + 1 >= len(steps)
    return {
        "release": release,
        "step": at + 1,
        "steps": len(steps),
        "weight": rollout.weight,
        "next_step": None if last else at + 2,
        "next_weight": 100.0 if last else steps[at + 1].weight,
        **_cohorts(rollout, plan),
        "baked": round(rollout.baked, 3),
        **({} if seen is None else figures(seen)),
    }


def _cohorts(rollout: Rollout, plan: Plan) -> dict[str, Any]:
    """Return what a question says of cohorts; nothing in a plan without any."""
    if all(step.cohort is None for step in plan.steps):
        return {}
    following = plan.steps[rollout.step + 1 : rollout.step + 2]
    return {
        "cohort": rollout.cohorts.drawn,
        "cohorts": dict(rollout.cohorts.reached),
        "next_cohort": following[0].cohort if following else None,
    }
