"""Which configurations go together in a fleet. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from canaryproxy.config import Config
from canaryproxy.fleet.protocol import Settings
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan


def settings(config: Config, plan: Plan, circuit: CircuitSettings, salt: bytes) -> Settings:
    """Return what a configuration means for the fleet.

    Replicas go together if plan, split and judge are the same; their endpoints, limits, addresses, gates
    and notifications may differ.
    """
    judge = _mark(config.judge.model_copy(update={"cooldown": None}).model_dump(mode="json"))
    steps = [[step.weight, step.bake, step.min_requests] for step in plan.steps]
    whole: dict[str, Any] = {
        "release": config.release_id,
        "steps": steps,
        "promote": plan.promote,
        "gated": plan.gated,
        "split": config.split.model_dump(mode="json"),
        "judge": judge,
        "cooldown": config.judge.cooldown,
        "canary": config.variants.canary is not None,
    }
    return Settings(
        release=config.release_id,
        settings=_mark(whole),
        judge=judge,
        salt=salt.decode(),
        plan=plan,
        circuit=circuit,
        weight=config.split.weight if config.release is None else None,
    )


def _mark(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
