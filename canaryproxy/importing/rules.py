"""Conditions of other tools as conditions of ours, and routes in their order as ``split.match``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Place

Condition = dict[str, Any]
"""A condition as the file has it, with one key, such as ``{method: GET}``."""
Test = dict[str, Any]
"""One test on a value, such as ``{equals: "yes"}``."""
SPLIT: Final = "split"
ELSEWHERE: Final = ""
_BELOW: Final = re.compile(r"\^((?:[^\\.+*?()|\[\]{}^$]|\\.)*)\(\?:/\|\$\)")
"""A path and all below it, as ``literal`` writes it."""


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


class Prefix(NamedTuple):
    """A path of one of several services."""

    path: str
    is_alike: bool
    """Whether it stands for the same paths in the source: it and all below it."""


def prefixes(conditions: Sequence[Condition]) -> list[Prefix] | None:
    """Return the prefixes of paths that conditions stand for: none are every path.

    ``None``: they ask for something else, too.
    """
    found: list[Prefix] = []
    for one in conditions:
        alternatives = one.get("any", [one])
        paths = [it["path"] for it in alternatives if set(it) == {"path"}]
        if found or len(paths) < len(alternatives):
            return None
        for path in paths:
            below = _BELOW.fullmatch(path.get("regex", ""))
            text = path.get("prefix", path.get("equals"))
            if below is not None:
                found.append(Prefix(re.sub(r"\\(.)", r"\1", below[1]), is_alike=True))
            elif text is not None:
                found.append(Prefix(text, is_alike=False))
            else:
                return None
    return found


def places(
    found: Sequence[tuple[Sequence[str], Sequence[Prefix], Place]], draft: Draft, place: Place
) -> None:
    """Add hosts and paths of one of several services: each with its place, none for any.

    Raises ``ConfigError`` where not each host has the same paths.
    """
    paths_of: dict[str, set[str]] = {}
    for hosts, paths, _ in found:
        for host in hosts or ("",):
            paths_of.setdefault(host, set()).update({one.path for one in paths} or {"/"})
    every = [{"/"} if "/" in one else one for one in paths_of.values()]
    if any(one != every[0] for one in every) or ("" in paths_of and len(paths_of) > 1):
        raise place.error(
            "expected the same paths for each host of a service; import one split with --only NAME"
        )
    for hosts, paths, at in found:
        for host in hosts:
            draft.add("hosts", host, at, f"the host {host}")
        for path, is_alike in () if every[0] == {"/"} else paths:
            draft.add("paths", path, at, f"the path {path}")
            if not is_alike:
                draft.differs(at, f"the path {path} is a prefix of whole segments here")


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
