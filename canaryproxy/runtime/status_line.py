"""Where the releases are in a line, for ``systemctl status`` and the log."""

from __future__ import annotations

from collections.abc import Mapping

from canaryproxy.config.text import plural, weight
from canaryproxy.control.controller import Status
from canaryproxy.release.circuit import State as CircuitState
from canaryproxy.release.rollout import UNDER_WAY

_LONGEST = 500


def status_line(status: Status) -> str:
    """Return the state of a release."""
    parts = [f"{status.exposure.said()} on the canary"]
    if status.plan.steps:
        parts.append(_release(status))
    if status.circuit.state is not CircuitState.CLOSED:
        parts.append(f"circuit {status.circuit.state.value}: {status.circuit.cause}")
    else:
        parts.append("circuit closed")
    return _one_line("; ".join(parts))


def overall_line(services: int, statuses: Mapping[str, Status]) -> str:
    """Return the state of so many services: those that need attention first.

    ``statuses`` are those of which something is to be said (``Ledger.is_active``).
    """
    parts = [plural(services, "service")]
    for name, status in statuses.items():
        if status.circuit.state is not CircuitState.CLOSED:
            parts.append(f"{name}: circuit {status.circuit.state.value}")
    under_way = {
        name: status for name, status in statuses.items() if status.rollout.state in UNDER_WAY
    }
    parts.insert(1, f"{plural(len(under_way), 'release')} under way")
    for name, status in under_way.items():
        parts.append(f"{name}: {_release(status)}, {_share(status)}")
    return _one_line("; ".join(parts))


def _share(status: Status) -> str:
    """``5%``; with cohorts ``1% of users, 50% of staff``."""
    return status.exposure.said() if status.cohorts.reached else weight(status.weight)


def _release(status: Status) -> str:
    here, steps = status.rollout, status.plan.steps
    step = min(here.step, len(steps) - 1) + 1
    at = "before step" if here.learning else "on step"
    return f"{status.release} is {here.state.value} {at} {step} of {len(steps)}"


def _one_line(text: str) -> str:
    return text.replace("\n", " ")[:_LONGEST]
