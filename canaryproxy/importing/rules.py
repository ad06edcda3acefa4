"""Conditions of other tools as conditions of ours, and routes in their order as ``split.match``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Place

Condition = dict[str, Any]
"""A condition as the file has it, with one key, such as ``{method: GET}``."""
Test = dict[str, Any]
"""One test on a value, such as ``{equals: "yes"}``."""
SPLIT: Final = "split"
ELSEWHERE: Final = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A route of the source: the first one whose conditions hold takes the request."""

    place: Place
    origin: str
    conditions: tuple[Condition, ...]
    target: str
    """``stable``, ``canary``, ``SPLIT`` or ``ELSEWHERE``."""
    obstacle: str = ""
    """Why the conditions have no equivalent."""


def force(entries: Iterable[Entry], draft: Draft) -> None:
    """Add the rules of entries that lead to one version; rules behind a split leave out what it takes."""
    splits: list[Entry] = []
    for one in entries:
        if one.target == SPLIT and not one.conditions and not one.obstacle:
            return
        if one.obstacle:
            what = f"a split for {one.origin} only" if one.target == SPLIT else one.origin
            draft.no_equivalent(
                one.place, what, one.obstacle, "force the version with a header (split.match)"
            )
        elif one.target == SPLIT:
            splits.append(one)
        elif one.target == ELSEWHERE:
            draft.no_equivalent(
                one.place, one.origin, "a proxy has two versions of one service", FRONT
            )
        else:
            rule = joined(_outside(one.conditions, [other.conditions for other in splits]))
            if rule:
                draft.add("split.match", {"variant": one.target, **rule}, one.place, one.origin)
            if not one.conditions:
                return
    for one in splits[:1]:
        draft.no_equivalent(
            one.place, f"a split for {one.origin} only", "a proxy splits every request that it gets",
            "let the proxy in front send only these requests here",
        )  # fmt: skip


def joined(conditions: Sequence[Condition]) -> Condition:
    """Return conditions that all have to hold as one mapping."""
    found: Condition = {}
    more: list[Condition] = []
    for one in conditions:
        ((key, value),) = one.items()
        if key in found and one != {key: found[key]}:
            more.append(one)
        found.setdefault(key, value)
    if more:
        found["all"] = [*found.get("all", ()), *more]
    return found


def _outside(
    conditions: tuple[Condition, ...], splits: Sequence[tuple[Condition, ...]]
) -> tuple[Condition, ...]:
    """Return conditions that leave out those of some splits."""
    found = [joined(one) for one in splits if not _disjoint(conditions, one)]
    if not found:
        return conditions
    return (*conditions, {"not": found[0] if len(found) == 1 else {"any": found}})


def _disjoint(one: Sequence[Condition], other: Sequence[Condition]) -> bool:
    """Tell whether two paths exclude each other."""
    here, there = ([x["path"] for x in some if "path" in x] for some in (one, other))
    for a in here:
        for b in there:
            x, y = (path.get("prefix", path.get("equals")) for path in (a, b))
            if x is None or y is None:
                continue
            covers = ("prefix" in a and y.startswith(x)) or ("prefix" in b and x.startswith(y))
            if not covers and x != y:
                return True
    return False


def whole_match(pattern: str) -> Test:
    """Return the test of an expression that has to match all of a value; ours may match anywhere."""
    if pattern.startswith("^") and pattern.endswith("$") and not set(pattern) & set("|\\"):
        return {"regex": pattern}
    return {"regex": f"^(?:{pattern})$"}


def string_test(kind: str, text: str) -> Test | None:
    """Return the test of a match by Istio's names: exact, prefix or regex."""
    if kind == "regex":
        return whole_match(text)
    return {"exact": {"equals": text}, "prefix": {"prefix": text}}.get(kind)


def literal(text: str) -> str:
    """Return an RE2 expression for exactly this text."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)
