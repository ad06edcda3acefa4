"""The marks by which replicas compare their configurations. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from canaryproxy.control.settings import ControlSettings
from canaryproxy.fleet.protocol import Settings


def settings(control: ControlSettings) -> Settings:
    """Return the settings that replicas of a fleet must share.

    These are plan, split and judge; endpoints, limits, addresses, gates and notifications may differ.
    """
    plan = control.plan
    judge = _mark(control.evidence_of.model_dump(mode="json"))
    steps: list[list[object]] = [
        [step.weight, step.bake, step.min_requests, step.min_users] for step in plan.steps
    ]
    for known, step in zip(steps, plan.steps, strict=True):
        known += [step.cohort] * (step.cohort is not None)
    split = control.split.model_dump(mode="json")
    for name in ("eligible", "cohorts"):
        if not split[name]:  # so that replicas of a version without them agree
            del split[name]
    whole: dict[str, Any] = {
        "release": control.release,
        "steps": steps,
        "promote": plan.promote,
        "gated": plan.gated,
        "baseline": plan.baseline,
        "reversible": plan.reversible,
        "ramp_down": plan.ramp_down,
        "split": split,
        "judge": judge,
        "cooldown": control.circuit.cooldown,
        "canary": control.has_canary,
    }
    return Settings(
        release=control.release,
        settings=_mark(whole),
        judge=judge,
        salt=control.salt.decode(),
        plan=plan,
        circuit=control.circuit,
        weight=control.weight,
    )


def _mark(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
