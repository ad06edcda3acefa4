"""Capacity as the state file at hand knows it, for commands that need no running proxy."""

from __future__ import annotations

from pathlib import Path
from time import time

from canaryproxy.config import Config
from canaryproxy.control.state_file import StateError, StateFile
from canaryproxy.measure.routing import STABLE
from canaryproxy.release.capacity import Carried, Outlook, planned


def outlook_of(config: Config, rate: float | None = None) -> Outlook | None:
    """Return what the steps would bring at ``rate`` requests a second, by default the most of stable.

    ``None``: nothing is known.
    """
    if config.release is None or config.variants.canary is None:
        return None
    try:
        document = StateFile(Path(config.state)).load()
        carried = Carried.from_dict((document or {}).get("capacity", {}))
    except (StateError, KeyError, TypeError, ValueError, AttributeError):
        return None  # a start reports it
    most = carried.most(STABLE)
    if most is None:
        return None
    up = len(config.variants.stable.endpoints), len(config.variants.canary.endpoints)
    weights = [step.weight for step in config.release.plan if step.cohort is None]
    return planned(carried, time(), most.rate if rate is None else rate, up, weights)
