"""Envoy: conditions of routes, and which of them splits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Field, Place
from canaryproxy.importing.rules import Rule, Test, literal, not_below, whole_match
from canaryproxy.importing.shares import Pair, Share

_DENOMINATORS: Final = {"HUNDRED": 100.0, "TEN_THOUSAND": 1e4, "MILLION": 1e6}


@dataclass(slots=True)
class Route:
    """A route of a virtual host."""

    source: Field
    rule: Rule
    action: Field | None
    """``route``; ``None`` for a redirect or a direct response."""
    shares: list[Share] = field(default_factory=list)
    percent: float = 100.0
    """Percent of the requests that match at all (``runtime_fraction``)."""


def read(source: Field, draft: Draft) -> Route:
    """Return a route with its conditions and its clusters."""
    rule = Rule(source.place, "route")
    match = source.need("match")
    _path(match, rule)
    for one in match.items("headers"):
        _header(one, rule)
    for key in ("query_parameters", "grpc", "tls_context", "dynamic_metadata"):
        if match.get(key) is not None:
            match.take(key)
            rule.obstacle = f"a rule has no condition on {key}"
    route = Route(source, rule, source.get("route"))
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
        rule.obstacle = "a header names no cluster here"
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


def _path(match: Field, rule: Rule) -> None:
    insensitive = match.get("case_sensitive")
    if (prefix := match.get("prefix")) is not None:
        rule.path = None if prefix.text() == "/" else {"prefix": prefix.text()}
    elif (path := match.get("path")) is not None:
        rule.path = {"equals": path.text()}
    elif (separated := match.get("path_separated_prefix")) is not None:
        rule.path = {"regex": f"^{literal(separated.text())}(?:/|$)"}
    elif (regex := match.get("safe_regex", "regex")) is not None:
        match.take("safe_regex")
        rule.path = whole_match(regex.text())
    elif match.has("path_match_policy") or match.has("connect_matcher"):
        match.take("path_match_policy", "connect_matcher")
        rule.obstacle = "a rule has no such condition on the path"
    if insensitive is not None and not insensitive.flag() and rule.path is not None:
        ((kind, value),) = rule.path.items()
        quoted = {"prefix": f"^{literal(value)}", "equals": f"^{literal(value)}$"}.get(kind, value)
        rule.path = {"regex": f"(?i){quoted}"}


def _header(one: Field, rule: Rule) -> None:
    name = one.need("name").text()
    inverted = one.get("invert_match")
    test = _test(one)
    one.take()
    if inverted is not None and inverted.flag():
        present = test.get("present") if test else None
        test = {"present": not present} if present is not None else None
    if test is None:
        rule.obstacle = f"a rule has no such condition on the header {name}"
    elif name == ":method" and "equals" in test:
        rule.methods.append(str(test["equals"]))
    elif name == ":path":
        rule.obstacle = "a rule looks at the path without its query"
    elif name == ":authority":
        rule.headers.append({"name": "Host", **test})
    elif name.startswith(":"):
        rule.obstacle = f"a rule has no condition on {name}"
    else:
        rule.headers.append({"name": name, **test})


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


def rules(routes: list[Route], split: Route, pair: Pair, draft: Draft) -> None:
    """Add the rules of routes before the split that lead to one of its versions, and of those outside it."""
    variants = {pair.stable: "stable", pair.canary: "canary"}
    at = next(index for index, one in enumerate(routes) if one is split)
    for route in routes[:at]:
        _force(route, variants, draft)
    rest = routes[at + 1 :]
    if split.rule.is_everything:
        for route in rest:
            if route.percent == 100.0 and route.action is not None and not _follows(route, split):
                draft.no_equivalent(
                    route.source.place, route.source.name, "the route before it takes every request",
                    "remove it",
                )  # fmt: skip
        return
    _outside(rest, split, pair, draft)


def _follows(route: Route, split: Route) -> bool:
    """Tell whether a route only takes what the fraction of the split leaves over."""
    return split.percent < 100.0 and route.rule.conditions == split.rule.conditions


def _force(route: Route, variants: dict[str, str], draft: Draft) -> None:
    rule, place = route.rule, route.source.place
    name = route.source.get("name")
    what = f"the route {name.text()}" if name is not None else route.source.name
    if route.action is None:
        _unserved(route, what, draft)
        return
    variant = variants.get(route.shares[0].name) if len(route.shares) == 1 else None
    if variant is None:
        draft.no_equivalent(place, what, "a proxy has two versions of one service", FRONT)
    elif route.percent < 100.0:
        draft.no_equivalent(place, what, "a proxy has one split", "force the version with a header")
    elif why := rule.why_not():
        draft.no_equivalent(place, what, why, "force the version with a header (split.match)")
    elif not rule.is_everything:
        draft.add("split.match", rule.forcing(variant), place, what)


def _unserved(route: Route, what: str, draft: Draft) -> None:
    kind = next((key for key in ("redirect", "direct_response") if route.source.has(key)), "action")
    route.source.take(kind)
    draft.no_equivalent(
        route.source.place, f"{kind} of {what}", "canaryproxy answers nothing itself", FRONT
    )


def _outside(rest: list[Route], split: Route, pair: Pair, draft: Draft) -> None:
    """Force what the split does not take to stable, if Envoy sends it there."""
    rest = [one for one in rest if not _follows(one, split)]
    path = split.rule.path or {}
    only_path = split.rule.conditions.keys() == {"path"} and not split.rule.why_not()
    test = not_below([str(path["prefix"])]) if only_path and "prefix" in path else None
    whole = next((one for one in rest if one.rule.is_everything), None)
    if test is not None and whole is not None and [x.name for x in whole.shares] == [pair.stable]:
        rule = {"variant": "stable", "path": test}
        draft.add("split.match", rule, whole.source.place, f"outside {path['prefix']}")
        rest = [one for one in rest if one is not whole]
    else:
        draft.no_equivalent(
            split.source.place, f"a split for {split.rule.conditions} only",
            "a proxy splits every request that it gets",
            "let the proxy in front send only these requests here",
        )  # fmt: skip
    for one in rest:
        _force(one, {}, draft)


def place_of(routes: list[Route]) -> Place:
    """Return the place of the first route."""
    return routes[0].source.place
