"""Releases that have ended. A release id names one build, and is not used again.

A pipeline that deploys another build and forgets to change the id would find it promoted already, and every
user on a build that was never judged. A proxy cannot look into a build; it knows the endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from canaryproxy.config import Config
from canaryproxy.control.state_file import StateError, StateFile
from canaryproxy.release.rollout import Refused, Rollout, State

_KEPT = 200
"""Releases that are remembered, the latest."""
_ENDS = (State.PROMOTED, State.ABORTED)
_BROKEN = (State.TRIPPED, State.PROBING)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a release ended."""

    state: str
    time: float
    canary: tuple[str, ...]
    """The endpoints of its canary."""


class EndedReleases:
    """By id, the releases that have ended."""

    def __init__(self) -> None:
        self._by_id: dict[str, Ended] = {}

    def note(self, release: str, here: Rollout, canary: tuple[str, ...]) -> None:
        """Take note of where a release is; ``canary`` are the endpoints of its canary."""
        known = self._by_id.get(release)
        if here.state in _ENDS:
            if known is None or (known.state, known.time) != (here.state.value, here.since):
                self._by_id.pop(release, None)  # the latest is the last
                self._by_id[release] = Ended(here.state.value, here.since, canary)
                for oldest in list(self._by_id)[:-_KEPT]:
                    del self._by_id[oldest]
        elif known is not None and here.state not in _BROKEN:  # it has begun again
            del self._by_id[release]

    def refusal(
        self, release: str | None, canary: tuple[str, ...], current: str | None
    ) -> str | None:
        """Return why a release with this canary cannot follow the ``current`` one, or ``None``.

        Endpoints that come or go are no other build while one of them stays.
        """
        known = None if release is None else self._by_id.get(release)
        same = known is not None and (
            known.canary == canary or not set(known.canary).isdisjoint(canary)
        )
        if known is None or (release == current and same):
            return None
        when = datetime.fromtimestamp(known.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
        why = (
            f"variants.canary has other endpoints now ({', '.join(canary) or 'none'})"
            if release == current
            else "another release has been in force since"
        )
        return (
            f"release.id: {release} was {known.state} on {when}, and {why}. An id names one build:"
            " give release.id a new value"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {release: asdict(ended) for release, ended in self._by_id.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        self._by_id = {
            release: Ended(str(one["state"]), float(one["time"]), tuple(map(str, one["canary"])))
            for release, one in saved.items()
        }


def canary_of(config: Config) -> tuple[str, ...]:
    """Return the endpoints of the canary, in order."""
    canary = config.variants.canary
    return () if canary is None else tuple(sorted(str(one) for one in canary.endpoints))


def refusal_of(document: Mapping[str, Any], config: Config) -> str | None:
    """Return why a configuration cannot follow what a state file holds, or ``None``.

    Raises ``KeyError``, ``TypeError`` or ``ValueError``.
    """
    found = EndedReleases()
    found.restore(document.get("ended", {}))
    return found.refusal(config.release_id, canary_of(config), document["release"])


def refuse_ended(config: Config) -> None:
    """Raise ``Refused`` if the state file knows that the release has ended; for a service that comes back.

    A state file that cannot be used refuses nothing here: all users go to stable then.
    """
    try:
        document = StateFile(Path(config.state)).load()
        why = None if document is None else refusal_of(document, config)
    except (StateError, KeyError, TypeError, ValueError):
        return
    if why is not None:
        raise Refused(why)
