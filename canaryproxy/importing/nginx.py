"""nginx: ``split_clients``, ``map`` and ``upstream`` as they reach a ``proxy_pass``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.config.errors import ConfigError, shown
from canaryproxy.importing import nginx_server
from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.nginx_syntax import Directive
from canaryproxy.importing.nginx_variables import Branch, Values
from canaryproxy.importing.rules import ELSEWHERE, SPLIT, Condition, Entry, force
from canaryproxy.importing.shares import Pair, Wanted, choose_split, pair_of

_SCHEMES: Final = {"http": "http", "https": "https", "grpc": "h2c", "grpcs": "h2"}
_PASS = re.compile(r"(https?|grpcs?)://(unix:[^\s:]+|[^/\s]+)(:?/?.*)", re.DOTALL)
_REQUEST_URI: Final = ("", "$request_uri", "$uri", "$uri$is_args$args")


@dataclass(slots=True)
class Location:
    """A location, and where its requests go."""

    directive: Directive
    path: tuple[Condition, ...] = ()
    branches: list[Branch] = field(default_factory=list)
    """In order; the last one is unconditional. Empty if it passes nothing on."""
    scheme: str = "http"
    obstacle: str = ""
    problem: ConfigError | None = None
    """Why it is unknown where its requests go."""

    @property
    def origin(self) -> str:
        """The directive, for people."""
        return f"location {' '.join(self.directive.args)}"

    @property
    def split(self) -> Branch | None:
        """The branch whose requests are split by weights."""
        return next((one for one in self.branches if len(one.shares) > 1), None)


def convert(directives: list[Directive], wanted: Wanted, draft: Draft) -> None:
    """Add what a configuration of nginx says to a draft."""
    place = directives[0].place
    root = Directive("", (), place, directives)
    https = root.all("http")
    http = https[0] if https else root
    upstreams = {one.arg(): one for one in http.all("upstream")}
    values = Values(http, upstreams)
    servers = http.all("server")
    found = []
    problems: list[ConfigError] = []
    for server in servers:
        locations = _locations(server, values)
        problems += [one.problem for one in locations if one.problem is not None]
        if any(one.split for one in locations):
            found.append((server, locations))
    if not found:
        for problem in problems:
            raise problem
        expected = "a location whose proxy_pass leads to two versions, by split_clients or by server weights"
        for one in servers[:1]:
            raise one.place.error(f"found no split; expected {expected}")
        raise place.error(f"found no split; expected a server with {expected}")
    names = [(_server_name(server), server.place) for server, _ in found]
    server, locations = found[choose_split(names, wanted, place, "")]
    split = min((one for one in locations if one.split), key=lambda one: bool(one.path))
    branch = split.split
    assert branch is not None
    pair = pair_of(branch.shares, wanted, branch.place, draft)
    nginx_server.listeners(server, draft)
    nginx_server.hosts(server, draft)
    for variant, name in (("stable", pair.stable), ("canary", pair.canary)):
        nginx_server.endpoints(
            variant, name, split, upstreams, draft, {one.name: one for one in branch.shares}
        )
    nginx_server.verify(split, http, server, draft)
    draft.set("split.weight", pair.weight, pair.place, branch.origin)
    values.sticky(branch, draft)
    copied = nginx_server.mirror(locations, split, pair, draft)
    passing = [one for one in locations if one.branches and one is not copied]
    force([entry for one in passing for entry in _entries(one, branch, pair)], draft)
    _unknown(locations, draft)
    nginx_server.timeouts(http, server, split.directive, draft)
    others = [one.directive for one in locations if one is not split]
    nginx_server.headers([split.directive, *others, server, http], draft)
    for name in dict.fromkeys(one.partition(":")[0] for one in (pair.stable, pair.canary)):
        if name in upstreams:
            nginx_server.upstream_settings(upstreams[name], draft)
    _others(servers, server, draft)
    nginx_server.report(root, http, server, [one.directive for one in locations], draft)


def _others(servers: list[Directive], server: Directive, draft: Draft) -> None:
    """Note the servers that are not imported, and what the first one gets that nothing else takes."""
    for other in servers:
        if other is server:
            continue
        because, instead = "a proxy has one service", FRONT
        if draft.service is not None:
            because, instead = "nothing is split there", "add a service with variants.stable alone"
        draft.not_used(other.place, f"the server {_server_name(other)}", because, instead)
    if server is servers[0] and len(servers) > 1 and draft.has("hosts"):
        draft.differs(
            server.place,
            "nginx lets its first server have requests for unknown hosts; here they get 421, unless the"
            f" service {draft.service} has no hosts",
        )


def _server_name(server: Directive) -> str:
    names = server.last("server_name")
    if names is not None and names.args and names.args[0]:
        return names.args[0]
    listen = server.last("listen")
    return f"on {listen.arg()}" if listen is not None else "_"


def _locations(server: Directive, values: Values) -> list[Location]:
    """Return the locations in the order in which nginx would try them."""
    found: list[tuple[int, int, Location]] = []
    for one in server.all("location"):
        modifier, path = one.args if len(one.args) == 2 else ("", one.arg())
        here = Location(one)
        rank, length = 3, -len(path)
        if modifier == "=":
            here.path, rank = ({"path": {"equals": path}},), 0
        elif modifier in ("~", "~*"):
            here.path = ({"path": {"regex": path if modifier == "~" else f"(?i){path}"}},)
            rank, length = 2, 0
        elif path.startswith("@"):
            here.obstacle = "named locations are reached from other directives"
        elif modifier in ("", "^~"):
            here.path = () if path == "/" else ({"path": {"prefix": path}},)
            rank = 1 if modifier else 3
        else:
            raise one.place.error(
                f"expected =, ~, ~* or ^~ before the path, found {shown(modifier)}"
            )
        try:
            _passing(here, server, values)
        except ConfigError as error:
            here.problem = error
        found.append((rank, length, here))
    found.sort(key=lambda one: one[:2])
    return [one for _, _, one in found]


def _passing(here: Location, server: Directive, values: Values) -> None:
    """Find out where a location passes its requests to."""
    passes = here.directive.last("proxy_pass") or here.directive.last("grpc_pass")
    if passes is None:
        return
    bare = passes.name == "grpc_pass" and "://" not in passes.arg()
    match = _PASS.fullmatch(f"grpc://{passes.arg()}" if bare else passes.arg())
    if match is None:
        raise passes.place.error(
            "proxy_pass: expected http:// or https:// and an upstream or a variable that names one, found"
            f" {shown(passes.arg())}"
        )
    target, path = match[2], match[3]
    while (inner := re.search(r"\$request_uri$|\$uri$", target)) is not None:
        target, path = target[: inner.start()], inner[0] + path
    here.scheme = _SCHEMES[match[1]]
    here.branches = values.branches(target, passes, here.directive, server)
    if path not in _REQUEST_URI:
        here.obstacle = (
            f"proxy_pass replaces the path by {shown(path)}, and paths are passed on here"
        )


def _entries(location: Location, split: Branch, pair: Pair) -> list[Entry]:
    """Return the branches of a location as entries in order."""
    variants = {pair.stable: "stable", pair.canary: "canary"}
    found = []
    for one in location.branches:
        target, obstacle = variants.get(one.shares[0].name, ELSEWHERE), one.obstacle
        origin = one.origin if one.conditions else location.origin
        if len(one.shares) > 1:
            target = SPLIT
            same = [(x.name, x.weight) for x in one.shares] == [
                (x.name, x.weight) for x in split.shares
            ]
            obstacle = obstacle or ("" if same else "a proxy has one split")
        else:
            origin = f"{origin} -> {one.shares[0].name}"
        found.append(Entry(one.place, origin, (*location.path, *one.conditions), target, obstacle))
    return found


def _unknown(locations: list[Location], draft: Draft) -> None:
    """Note the locations that pass requests on in a way that we do not."""
    for one in locations:
        why = one.obstacle
        if one.problem is not None:
            why = f"it is unknown where it leads to: {one.problem.problems[0].message}"
        if why:
            draft.no_equivalent(one.directive.place, one.origin, why, FRONT)


def is_nginx(text: str) -> bool:
    """Tell whether a text looks like a configuration of nginx."""
    block = r"(?m)^\s*(?:http|events|server|upstream\s+\S+|split_clients\s+.+|map\s+.+|location\s+.+)\s*\{"
    return re.search(block, text) is not None or (
        re.search(r"(?m)^\s*include\s+\S+;\s*$", text) is not None
    )
