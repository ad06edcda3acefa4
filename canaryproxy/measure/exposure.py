"""The users on the canary: a share of all of them, and a share of each cohort. Pure.

A *cohort* is a group of users, chosen by a condition, who get the canary before everyone does. Each has a
hash of its own, so its draw says nothing about the place of a user in the draw of all users, nor in that of
another cohort. A user is on the canary whose bucket is below the limit of all users, or who belongs to a
cohort that the plan has reached and whose bucket *there* is below that cohort's limit. So the split is a
union of thresholds, and raising any of them moves users to the canary only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from canaryproxy.config import text

MOST: Final = 16
"""Cohorts of a configuration at most."""
LONGEST: Final = 40
"""Characters of a cohort's name at most."""

Members = frozenset[str]
"""The cohorts that a request belongs to, by name."""
NO_COHORTS: Final[Members] = frozenset()


def cohort_salt(salt: bytes, name: str) -> bytes:
    """Return the salt of a cohort's hash in the release with this salt.

    A zero byte is in no release id and in no sticky key, so it is no salt of all users.
    """
    return b"%s\0%s\0" % (salt, name.encode())


@dataclass(frozen=True, slots=True)
class Cohorts:
    """The part of an ``Exposure`` that is about cohorts."""

    reached: tuple[tuple[str, float], ...] = ()
    """``Exposure.cohorts``."""
    drawn: str | None = None
    """``Exposure.cohort``."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"reached": [list(pair) for pair in self.reached], "drawn": self.drawn}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any] | None) -> Cohorts:
        """Return the cohorts whose ``to_dict`` this was; none of ``None``.

        Raises ``KeyError``, ``TypeError`` or ``ValueError``.
        """
        if state is None:
            return cls()
        if len(state["reached"]) > MOST:
            raise ValueError(f"at most {MOST} cohorts")
        reached = tuple((str(name), float(percent)) for name, percent in state["reached"])
        if not all(0.0 <= percent <= 100.0 for _, percent in reached):
            raise ValueError("a weight is 0 to 100")
        drawn = state["drawn"]
        return cls(reached, None if drawn is None else str(drawn))


NONE_REACHED: Final = Cohorts()
"""No cohort has users on the canary."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """The users on the canary while the circuit is closed, and those who are compared."""

    weight: float = 0.0
    """Percent of all users."""
    cohorts: tuple[tuple[str, float], ...] = ()
    """Cohorts that the plan has reached, in its order, and percent of the users of each."""
    cohort: str | None = None
    """The cohort whose users are drawn and compared now; ``None``: all users but those of ``cohorts``."""

    @property
    def of_cohorts(self) -> Cohorts:
        """Its part about cohorts."""
        return Cohorts(self.cohorts, self.cohort)

    @property
    def has_users(self) -> bool:
        """Whether users are on the canary."""
        return self.limit > 0 or any(percent > 0.0 for _, percent in self.cohorts)

    @property
    def limit(self) -> int:
        """Buckets of all users below this one are on the canary."""
        return round(self.weight * 100)

    @property
    def drawn(self) -> float:
        """Percent of the users that are compared."""
        return self.weight if self.cohort is None else self.of(self.cohort)

    def of(self, cohort: str) -> float:
        """Return the percentage of a cohort; every user of it is on the canary when all users are."""
        return 100.0 if self.weight >= 100.0 else dict(self.cohorts).get(cohort, 0.0)

    def raises(self, before: Exposure) -> bool:
        """Whether it may put a user on the canary who is not there ``before``, with the same salt."""
        return self.limit > before.limit or any(
            round(percent * 100) > round(before.of(name) * 100) for name, percent in self.cohorts
        )

    def meet(self, other: Exposure) -> Exposure:
        """Return the exposure of which every user is on the canary by both."""
        names = dict.fromkeys(name for one in (self, other) for name, _ in one.cohorts)
        lower = tuple((name, min(self.of(name), other.of(name))) for name in names)
        weight = min(self.weight, other.weight)
        left = tuple(pair for pair in lower if pair[1] > 0.0) if weight < 100.0 else ()
        kept = dict(left)
        for one in (other, self):
            if (one.weight, one.cohorts) == (weight, left):
                return one
        fits = [one.cohort for one in (self, other) if one.cohort in kept and not weight]
        return Exposure(weight, left, fits[0] if fits else None)

    @property
    def mark(self) -> str:
        """It in a word: the limit, then those of cohorts, and a star at the one that is compared."""
        found = [str(self.limit)]
        for name, percent in self.cohorts:
            found.append(f"{name}{'*' * (name == self.cohort)}={round(percent * 100)}")
        return ",".join(found)

    def said(self) -> str:
        """``1% of users``, ``50% of staff``, ``1% of users, 50% of staff``."""
        found = [f"{text.weight(percent)} of {name}" for name, percent in self.cohorts]
        if self.weight or not found:
            found.insert(0, f"{text.weight(self.weight)} of users")
        return ", ".join(found)

    def compared(self) -> str | None:
        """Say which users are compared; ``None`` without cohorts: all of them."""
        others = " and ".join(name for name, _ in self.cohorts if name != self.cohort)
        if self.cohort is None:
            return (
                f"all users but those of {others}, who keep the canary that they have"
                if others
                else None
            )
        but = f", but not those who are of {others}, too" if others else ""
        return f"the users of {self.cohort}, with each other{but}; no other user moves"
