"""nginx: ``split_clients``, ``map`` and ``upstream`` as they reach a ``proxy_pass``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from canaryproxy.config.errors import shown
from canaryproxy.importing import nginx_server
from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Place
from canaryproxy.importing.nginx_syntax import Directive
from canaryproxy.importing.nginx_variables import Branch, Values
from canaryproxy.importing.rules import Rule, not_below
from canaryproxy.importing.shares import Pair, Share, Wanted, choose_split, pair_of

_PASS = re.compile(r"(https?)://(unix:[^\s:]+|[^/\s]+)(:?/?.*)", re.DOTALL)
_REQUEST_URI: Final = ("", "$request_uri", "$uri", "$uri$is_args$args")


@dataclass(slots=True)
class Location:
    """A location, and where its requests go."""

    rule: Rule
    directive: Directive
    branches: list[Branch]
    """In order; the last one is unconditional. Empty if it passes nothing on."""
    scheme: str = "http"

    @property
    def splits(self) -> bool:
        """Whether its requests are split by weights."""
        return bool(self.branches) and len(self.branches[-1].shares) > 1


def convert(directives: list[Directive], wanted: Wanted, draft: Draft) -> None:
    """Add what a configuration of nginx says to a draft."""
    place = directives[0].place if directives else Place(draft.source, 1, 1)
    root = Directive("", (), place, directives)
    https = root.all("http")
    http = https[0] if https else root
    upstreams = {one.arg(): one for one in http.all("upstream")}
    values = Values(http, upstreams)
    servers = http.all("server")
    found = []
    for server in servers:
        locations = _locations(server, values)
        if any(one.splits for one in locations):
            found.append((server, locations))
    if not found:
        expected = "a location whose proxy_pass leads to two versions, by split_clients or by server weights"
        for one in servers[:1]:
            raise one.place.error(f"found no split; expected {expected}")
        raise place.error(f"found no split; expected a server with {expected}")
    names = [(_server_name(server), server.place) for server, _ in found]
    server, locations = found[choose_split(names, wanted, place, "")]
    split = min((one for one in locations if one.splits), key=lambda one: one.rule.path is not None)
    shares = list(split.branches[-1].shares)
    pair = pair_of(shares, wanted, split.branches[-1].place, draft)
    nginx_server.listeners(server, draft)
    for variant, name in (("stable", pair.stable), ("canary", pair.canary)):
        nginx_server.endpoints(
            variant, name, split, upstreams, draft, {one.name: one for one in shares}
        )
    nginx_server.verify(split, http, server, draft)
    draft.set("split.weight", pair.weight, pair.place, split.branches[-1].origin)
    values.sticky(split.branches[-1], draft)
    _rules(locations, split, pair, draft)
    nginx_server.timeouts(http, server, split.directive, draft)
    others = [one.directive for one in locations if one is not split]
    nginx_server.headers([split.directive, *others, server, http], draft)
    for name in dict.fromkeys(one.partition(":")[0] for one in (pair.stable, pair.canary)):
        if name in upstreams:
            nginx_server.upstream_settings(upstreams[name], draft)
    nginx_server.mirror(locations, split, pair, draft)
    for other in servers:
        if other is not server:
            draft.no_equivalent(
                other.place, f"server {_server_name(other)}", "a proxy has one service", FRONT
            )
    nginx_server.report(root, http, server, [one.directive for one in locations], draft)


def _server_name(server: Directive) -> str:
    names = server.last("server_name")
    return names.args[0] if names is not None and names.args else f"server:{server.place.line}"


def _locations(server: Directive, values: Values) -> list[Location]:
    """Return the locations in the order in which nginx would try them."""
    found: list[tuple[int, int, Location]] = []
    for one in server.all("location"):
        modifier, path = one.args if len(one.args) == 2 else ("", one.arg())
        rule = Rule(one.place, f"location {' '.join(one.args)}")
        rank, length = 3, -len(path)
        if modifier == "=":
            rule.path, rank = {"equals": path}, 0
        elif modifier in ("~", "~*"):
            rule.path = {"regex": path if modifier == "~" else f"(?i){path}"}
            rank, length = 2, 0
        elif path.startswith("@"):
            rule.obstacle = "named locations are reached from other directives"
        elif modifier in ("", "^~"):
            rule.path, rank = (None if path == "/" else {"prefix": path}), 1 if modifier else 3
        else:
            raise one.place.error(
                f"expected =, ~, ~* or ^~ before the path, found {shown(modifier)}"
            )
        found.append((rank, length, _passing(one, server, rule, values)))
    found.sort(key=lambda one: one[:2])
    return [one for _, _, one in found]


def _passing(location: Directive, server: Directive, rule: Rule, values: Values) -> Location:
    """Return where a location passes its requests to."""
    passes = location.last("proxy_pass")
    if passes is None:
        return Location(rule, location, [])
    match = _PASS.fullmatch(passes.arg())
    if match is None:
        if passes.arg().startswith("$"):
            raise passes.place.error(
                f"proxy_pass: expected http:// or https:// before the variable, found {shown(passes.arg())}"
            )
        raise passes.place.error(
            f"proxy_pass: expected an http:// or https:// URL, found {shown(passes.arg())}"
        )
    target = match[2]
    path = match[3]
    while (inner := re.search(r"\$request_uri$|\$uri$", target)) is not None:
        target, path = target[: inner.start()], inner[0] + path
    branches = values.branches(target, passes, location, server)
    if path not in _REQUEST_URI:
        branches = [replace(one, rewrites=path) for one in branches]
    return Location(rule, location, branches, match[1])


def _rules(locations: list[Location], split: Location, pair: Pair, draft: Draft) -> None:
    """Add the match rules of conditions before the split, and of locations that go to one version."""
    variants = {pair.stable: "stable", pair.canary: "canary"}
    if split.rule.path is not None:
        _outside(locations, split, pair, draft)
    for location in locations:
        same = location.splits and _same(location.branches[-1].shares, split.branches[-1].shares)
        if location.splits and not same:
            draft.no_equivalent(
                location.rule.place,
                f"{location.rule.origin} with another split",
                "a proxy has one",
                FRONT,
            )
            continue
        for branch in location.branches:
            if len(branch.shares) == 1:
                _rule(location, branch, variants, draft)
        if location.branches and location.branches[0].rewrites and location.splits:
            draft.no_equivalent(
                location.branches[0].place,
                f"the path {location.branches[0].rewrites} in proxy_pass",
                "paths are passed on as they are",
                "serve the path that clients ask for, or rewrite it in the proxy in front",
            )


def _same(one: tuple[Share, ...], other: tuple[Share, ...]) -> bool:
    return [(x.name, x.weight) for x in one] == [(x.name, x.weight) for x in other]


def _rule(location: Location, branch: Branch, variants: dict[str, str], draft: Draft) -> None:
    """Add the rule of one branch that leads to one upstream."""
    name = branch.shares[0].name
    variant = variants.get(name)
    rule = Rule(
        branch.place,
        branch.origin if branch.conditions else location.rule.origin,
        location.rule.path,
        [one for kind, one in branch.conditions if kind == "header"],
        [one for kind, one in branch.conditions if kind == "cookie"],
        [str(one["equals"]) for kind, one in branch.conditions if kind == "method"],
        branch.obstacle or location.rule.obstacle,
    )
    paths = [one for kind, one in branch.conditions if kind == "path"]
    if paths and rule.path is not None:
        rule.obstacle = rule.obstacle or "a rule has one condition on the path"
    rule.path = rule.path or (paths[0] if paths else None)
    if variant is None:
        draft.no_equivalent(
            rule.place, f"{rule.origin} to {name}", "a proxy has two versions of one service", FRONT
        )
        return
    if rule.is_everything:
        return
    if why := rule.why_not():
        draft.no_equivalent(
            rule.place,
            f"{rule.origin} to {name}",
            why,
            "force the version with a header (split.match)",
        )
        return
    draft.add("split.match", rule.forcing(variant), rule.place, f"{rule.origin} -> {name}")


def _outside(locations: list[Location], split: Location, pair: Pair, draft: Draft) -> None:
    """Force what is outside the split's location to stable, if nginx sends it there."""
    path = split.rule.path or {}
    rest = next((one for one in locations if one.rule.path is None and not one.rule.obstacle), None)
    others = rest.branches[-1].shares if rest is not None and rest.branches else ()
    test = not_below([str(path["prefix"])]) if "prefix" in path else None
    if [one.name for one in others] == [pair.stable] and test is not None and rest is not None:
        rule = {"variant": "stable", "path": test}
        draft.add("split.match", rule, rest.rule.place, f"outside {split.rule.origin}")
        rest.branches.clear()
        return
    draft.no_equivalent(
        split.rule.place,
        f"a split for {split.rule.origin} only",
        "a proxy splits every request that it gets",
        "let the proxy in front send only these paths here",
    )


def is_nginx(text: str) -> bool:
    """Tell whether a text looks like a configuration of nginx."""
    block = r"(?m)^\s*(?:http|events|server|upstream\s+\S+|split_clients\s+.+|map\s+.+|location\s+.+)\s*\{"
    return re.search(block, text) is not None or (
        re.search(r"(?m)^\s*include\s+\S+;\s*$", text) is not None
    )
