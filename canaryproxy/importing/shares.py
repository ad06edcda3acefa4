"""Stable and canary among the versions of the source, and the percentage of the canary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from canaryproxy.config.errors import ConfigError, shown
from canaryproxy.importing.draft import Draft
from canaryproxy.importing.fields import Place

_CANARY: Final = re.compile(
    r"(?i)canary|candidate|preview|experiment|(?:^|[-_.])(?:next|new|beta|green)(?:$|[-_.])"
)
_STABLE: Final = re.compile(
    r"(?i)stable|primary|production|(?:^|[-_.])(?:current|main|old|blue|prod)(?:$|[-_.])"
)
STAYS: Final = (
    "a user stays on one version here (split.sticky), while the share of users is the same"
)


class SeveralSplits(ConfigError):
    """The source has several splits, by ``names``, and none of them is asked for."""

    def __init__(self, error: ConfigError, names: tuple[str, ...]) -> None:
        super().__init__(error.problems)
        self.names = names


class Wanted(NamedTuple):
    """The choices of the user of the command."""

    only: str | None = None
    """The split to import, of several."""
    canary: str | None = None
    """The version that is the canary."""


@dataclass(frozen=True, slots=True)
class Share:
    """A version and its weight."""

    name: str
    weight: float
    place: Place


@dataclass(frozen=True, slots=True)
class Pair:
    """The two versions."""

    stable: str
    canary: str
    weight: float
    """Percent of users on the canary."""
    place: Place


def pair_of(shares: Sequence[Share], wanted: Wanted, place: Place, draft: Draft) -> Pair:
    """Return stable and canary of some weighted versions. Fails if there are not two."""
    merged: dict[str, Share] = {}
    for one in shares:
        before = merged.get(one.name)
        weight = one.weight + (before.weight if before else 0.0)
        merged[one.name] = Share(one.name, weight, before.place if before else one.place)
    total = sum(one.weight for one in merged.values())
    if len(merged) < 2:
        raise place.error(
            f"expected two versions with weights, found {', '.join(merged) or 'none'}"
        )
    if total <= 0:
        raise place.error("expected weights whose sum is above 0, found 0")
    stable, canary, *rest = _ordered(list(merged.values()), wanted, place)
    for one in rest:
        draft.no_equivalent(
            one.place,
            f"the version {one.name} with {one.weight / total * 100:.4g}%",
            "a proxy has two versions",
            f"its users get {stable.name} here",
        )
    exact = canary.weight / total * 100.0
    weight = round(exact, 2)
    if abs(weight - exact) > 1e-9:
        draft.differs(canary.place, f"{exact:.6g}% became {weight:g}%: weights have two decimals")
    return Pair(stable.name, canary.name, weight, canary.place)


def _ordered(shares: list[Share], wanted: Wanted, place: Place) -> list[Share]:
    """Return the shares: stable, canary, the others.

    The canary is the one that is asked for, or named so; else stable has the largest weight, the canary the
    next one.
    """
    by_weight = sorted(shares, key=lambda one: -one.weight)
    if wanted.canary is not None:
        chosen = [one for one in shares if one.name == wanted.canary]
        if not chosen:
            known = ", ".join(one.name for one in shares)
            raise place.error(f"--canary: expected one of {known}, found {shown(wanted.canary)}")
    else:
        chosen = [one for one in by_weight if _CANARY.search(one.name)]
        named = [one for one in by_weight if _STABLE.search(one.name)]
        if len(chosen) != 1:
            chosen = [one for one in by_weight if one not in named[:1]] if named else by_weight[1:]
    canary = chosen[0]
    others = [one for one in by_weight if one is not canary]
    others.sort(key=lambda one: _STABLE.search(one.name) is None)
    return [others[0], canary, *others[1:]]


def choose_split(
    found: Sequence[tuple[str, Place]], wanted: Wanted, place: Place, what: str
) -> int:
    """Return which split is imported: the only one, or the one that ``wanted.only`` names."""
    names = list(dict.fromkeys(name for name, _ in found))
    if not found:
        raise place.error(f"found no split; expected {what}")
    if wanted.only is not None:
        for at, (name, _) in enumerate(found):
            if name == wanted.only:
                return at
        raise place.error(f"--only: expected one of {', '.join(names)}, found {shown(wanted.only)}")
    if len(names) > 1:
        shown_names = ", ".join(f"{name} (line {at.line})" for name, at in found[:8])
        error = found[1][1].error(
            f"found {len(names)} splits: {shown_names}; choose one with --only NAME"
        )
        raise SeveralSplits(error, tuple(names))
    return 0
