"""Envoy: conditions of routes, and which of them splits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Field, Place
from canaryproxy.importing.rules import (
    ELSEWHERE,
    SPLIT,
    Condition,
    Entry,
    Prefix,
    Test,
    force,
    literal,
    prefixes,
    whole_match,
)
from canaryproxy.importing.shares import Pair, Share

_DENOMINATORS: Final = {"HUNDRED": 100.0, "TEN_THOUSAND": 1e4, "MILLION": 1e6}


@dataclass(slots=True)
class Route:
    """A route of a virtual host."""

    source: Field
    action: Field | None
    """``route``; ``None`` for a redirect or a direct response."""
    conditions: list[Condition] = field(default_factory=list)
    obstacle: str = ""
    """Why the conditions have no equivalent."""
    shares: list[Share] = field(default_factory=list)
    percent: float = 100.0
    """Percent of the requests that match at all (``runtime_fraction``)."""


def read(source: Field, draft: Draft) -> Route:
    """Return a route with its conditions and its clusters."""
    route = Route(source, source.get("route"))
    match = source.need("match")
    _path(match, route)
    for one in match.items("headers"):
        _header(one, route)
    for one in match.items("query_parameters"):
        parameter = one.need("name").text()
        test = _test(one)
        one.take()
        if test is None:
            route.obstacle = f"a rule has no such condition on the parameter {parameter}"
        else:
            route.conditions.append({"query": {"name": parameter, **test}})
    for key in ("grpc", "tls_context", "dynamic_metadata", "filter_state"):
        if match.get(key) is not None:
            match.take(key)
            route.obstacle = f"a rule has no condition on {key}"
    if (fraction := match.get("runtime_fraction")) is not None:
        route.percent = fraction_of(fraction, draft)
    if route.action is None:
        return route
    action = route.action
    if (cluster := action.get("cluster")) is not None:
        route.shares = [Share(cluster.text(), 1.0, cluster.place)]
    elif (weighted := action.get("weighted_clusters")) is not None:
        for one in weighted.items("clusters"):
            weight = one.get("weight")
            name = one.need("name")
            route.shares.append(
                Share(name.text(), weight.number(0, 2**32) if weight else 0.0, one.place)
            )
        weighted.take("total_weight")
    elif action.get("cluster_header") is not None:
        route.obstacle = "a header names no cluster here"
    return route


def fraction_of(fraction: Field, draft: Draft) -> float:
    """Return the percentage of a runtime fraction, by its default."""
    key = fraction.get("runtime_key")
    if key is not None:
        draft.no_equivalent(
            key.place, f"the runtime key {key.text()}", "there is no runtime layer",
            "change the share while it runs with canaryproxy weight",
        )  # fmt: skip
    value = fraction.get("default_value")
    if value is None:
        return 100.0
    numerator, kind = value.get("numerator"), value.get("denominator")
    whole = _DENOMINATORS.get("HUNDRED" if kind is None else kind.text())
    if whole is None:
        assert kind is not None
        raise kind.place.error(
            f"denominator: expected {', '.join(_DENOMINATORS)}, found {kind.text()}", kind.value
        )
    return (numerator.number(0, whole) if numerator is not None else 0.0) / whole * 100.0


def _path(match: Field, route: Route) -> None:
    insensitive = match.get("case_sensitive")
    test: Test | None = None
    if (prefix := match.get("prefix")) is not None:
        test = None if prefix.text() == "/" else {"prefix": prefix.text()}
    elif (path := match.get("path")) is not None:
        test = {"equals": path.text()}
    elif (separated := match.get("path_separated_prefix")) is not None:
        test = {"regex": f"^{literal(separated.text())}(?:/|$)"}
    elif (regex := match.get("safe_regex", "regex")) is not None:
        match.take("safe_regex")
        test = whole_match(regex.text())
    elif match.has("path_match_policy") or match.has("connect_matcher"):
        match.take("path_match_policy", "connect_matcher")
        route.obstacle = "a rule has no such condition on the path"
    if test is None:
        return
    if insensitive is not None and not insensitive.flag():
        ((kind, value),) = test.items()
        quoted = {"prefix": f"^{literal(value)}", "equals": f"^{literal(value)}$"}.get(kind, value)
        test = {"regex": f"(?i){quoted}"}
    route.conditions.append({"path": test})


def _header(one: Field, route: Route) -> None:
    name = one.need("name").text()
    inverted = one.get("invert_match")
    test = _test(one)
    one.take()
    if test is None:
        route.obstacle = f"a rule has no such condition on the header {name}"
        return
    condition: Condition = {"header": {"name": name, **test}}
    if name == ":method" and "equals" in test:
        condition = {"method": test["equals"]}
    elif name == ":authority":
        condition = {"header": {"name": "Host", **test}}
    elif name.startswith(":"):
        route.obstacle = f"a rule has no condition on {name}"
        return
    if inverted is not None and inverted.flag():
        condition = {"not": condition}
    route.conditions.append(condition)


def _test(one: Field) -> Test | None:
    """Return the test of a header matcher."""
    if (present := one.get("present_match")) is not None:
        return {"present": present.flag()}
    match = one.get("string_match")
    kinds = {"exact": "exact", "prefix": "prefix", "suffix": "suffix", "contains": "contains"}
    ignoring = ""
    if match is None:
        match = one
        kinds = {kind: f"{kind}_match" for kind in kinds}
    elif (flag := match.get("ignore_case")) is not None and flag.flag():
        ignoring = "(?i)"
    regex = match.get("safe_regex") or match.get("safe_regex_match")
    if regex is not None:
        return whole_match(regex.need("regex").text())
    for kind, key in kinds.items():
        if (found := match.get(key)) is None:
            continue
        text = found.text()
        quoted = ignoring + literal(text)
        anchored = f"{ignoring}^{literal(text)}"
        if kind == "exact":
            return {"regex": f"{anchored}$"} if ignoring else {"equals": text}
        if kind == "prefix":
            return {"regex": anchored} if ignoring else {"prefix": text}
        return {"regex": f"{quoted}$" if kind == "suffix" else quoted}
    return None if match is not one or _other_test(one) else {"present": True}


def _other_test(one: Field) -> bool:
    return any(re.search(r"match$", key) for key in one.value if key != "invert_match")


def splits(routes: list[Route]) -> list[Route]:
    """Return the routes that split, each weighting once: by weights, or by a fraction of the requests.

    A fraction counts if a later route with the same conditions takes the rest. What comes after a route for
    every request is never reached.
    """
    found: list[Route] = []
    for at, one in enumerate(routes):
        several = len({share.name for share in one.shares}) > 1
        by_fraction = (
            one.percent < 100.0 and bool(one.shares) and rest_of(one, routes[at + 1 :]) is not None
        )
        if (several or by_fraction) and all(not is_like(one, other) for other in found):
            found.append(one)
        if not (one.conditions or one.obstacle) and one.percent == 100.0:
            break
    return found


def is_like(one: Route, other: Route) -> bool:
    """Tell whether two routes split alike."""
    return _weights(one) == _weights(other) and one.percent == other.percent


def rest_of(split: Route, later: list[Route]) -> Route | None:
    """Return the route that takes what the fraction of another leaves over."""
    for one in later:
        same = one.conditions == split.conditions or not (one.conditions or one.obstacle)
        if same and one.percent == 100.0 and len(one.shares) == 1:
            return one if one.shares[0].name != split.shares[0].name else None
    return None


def places_of(routes: list[Route], split: Route) -> Iterator[tuple[list[Prefix], Place]]:
    """Yield the prefixes of paths that one of several splits has, none for every path, with their place."""
    for one in routes:
        if one.action is None or not is_like(one, split):
            continue
        paths = prefixes(one.conditions)
        if one.obstacle or paths is None:
            why = one.obstacle or "a service has hosts and prefixes of paths"
            raise one.source.place.error(
                f"this split is for some requests only, and {why}; import it with --only NAME"
            )
        yield paths, one.source.place


def rules_of_service(routes: list[Route], split: Route, pair: Pair, draft: Draft) -> None:
    """Add the rules of the routes that lead to one version of one of several services."""
    variants = {pair.stable: "stable", pair.canary: "canary"}
    entries = []
    for one in routes:
        if one.action is None:
            _note_answer(one, draft)
            continue
        names = {share.name for share in one.shares}
        if len(names) > 1 or one.percent < 100.0 or _follows(one, split):
            continue
        target = variants.get(next(iter(names), ""), ELSEWHERE)
        if target != ELSEWHERE:
            what = _named(one)
            if one.conditions or one.obstacle:
                entries.append(
                    Entry(one.source.place, what, tuple(one.conditions), target, one.obstacle)
                )
            continue
        draft.not_used(
            one.source.place, _named(one), "no versions are split there",
            "add a service with variants.stable alone",
        )  # fmt: skip
    force([*entries, Entry(split.source.place, "", (), SPLIT)], draft)


def _named(route: Route) -> str:
    name = route.source.get("name")
    return f"the route {name.text()}" if name is not None else route.source.name


def _note_answer(route: Route, draft: Draft) -> None:
    """Note a redirect or a direct response."""
    source = route.source
    kind = next((key for key in ("redirect", "direct_response") if source.has(key)), "action")
    source.take(kind)
    draft.no_equivalent(
        source.place, f"{kind} of {_named(route)}", "canaryproxy answers nothing itself", FRONT
    )


def rules(routes: list[Route], split: Route, pair: Pair, draft: Draft) -> None:
    """Add the rules of the routes that lead to one version."""
    variants = {pair.stable: "stable", pair.canary: "canary"}
    entries = []
    for one in routes:
        what = _named(one)
        if one.action is None:
            _note_answer(one, draft)
            continue
        if _follows(one, split):
            continue
        names = {share.name for share in one.shares}
        target = variants.get(next(iter(names)), ELSEWHERE) if len(names) == 1 else SPLIT
        obstacle = one.obstacle
        if one is split:
            target = SPLIT
        elif one.percent < 100.0 or (target == SPLIT and _weights(one) != _weights(split)):
            obstacle = obstacle or "a proxy has one split"
        entries.append(Entry(one.source.place, what, tuple(one.conditions), target, obstacle))
    force(entries, draft)


def _weights(route: Route) -> list[tuple[str, float]]:
    return [(one.name, one.weight) for one in route.shares]


def _follows(route: Route, split: Route) -> bool:
    """Tell whether a route only takes what the fraction of the split leaves over."""
    return (
        route is not split and split.percent < 100.0 and route.conditions == split.conditions
        and route.percent == 100.0
    )  # fmt: skip
