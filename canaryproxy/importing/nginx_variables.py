"""Variables of nginx that lead to an upstream: ``split_clients``, ``map``, and ``set`` with ``if``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

from canaryproxy.config.errors import shown
from canaryproxy.importing.draft import Draft
from canaryproxy.importing.fields import Place
from canaryproxy.importing.nginx_syntax import Directive
from canaryproxy.importing.rules import Condition, Test, literal
from canaryproxy.importing.shares import STAYS, Share

MAX_BRANCHES: Final = 1000
MAX_DEPTH: Final = 32
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%")
_IDENTITIES: Final = (
    "remote_addr",
    "binary_remote_addr",
    "realip_remote_addr",
    "proxy_protocol_addr",
)


@dataclass(frozen=True, slots=True)
class Branch:
    """Where requests with some conditions go."""

    place: Place
    origin: str
    shares: tuple[Share, ...]
    """One upstream, or several with weights."""
    conditions: tuple[Condition, ...] = ()
    obstacle: str = ""
    key: str = ""
    """The text that ``split_clients`` hashes."""


@dataclass(slots=True)
class Values:
    """The values that variables of an ``http`` block can have."""

    http: Directive
    upstreams: dict[str, Directive]
    splits: dict[str, Directive] = field(init=False)
    maps: dict[str, Directive] = field(init=False)
    _count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.splits = {one.arg(1).lstrip("$"): one for one in self.http.all("split_clients")}
        self.maps = {one.arg(1).lstrip("$"): one for one in self.http.all("map")}

    def branches(
        self, target: str, passes: Directive, location: Directive, server: Directive
    ) -> list[Branch]:
        """Return where a target of ``proxy_pass`` leads to; the last branch has no condition."""
        found = self._of_text(target, passes, self._sets(server, location), ())
        inner: list[Branch] = []
        for one in location.all("if"):
            for other in one.all("proxy_pass"):
                host = re.sub(r"^https?://([^/]+).*", r"\1", other.arg())
                obstacle, condition = _if(one)
                inner += [
                    _under(branch, condition, obstacle, one)
                    for branch in self._of_text(host, other, {}, ())
                ]
        return [*inner, *found]

    def _sets(self, server: Directive, location: Directive) -> dict[str, list[Directive]]:
        """Return the ``set`` directives of variables, with the ``if`` around them, in order."""
        found: dict[str, list[Directive]] = {}
        for block in (server, location):
            for one in block.block or ():
                if one.name == "set" and len(one.args) == 2:
                    one.read = True
                    found.setdefault(one.arg().lstrip("$"), []).append(one)
                elif one.name == "if" and any(x.name == "set" for x in one.block or ()):
                    one.read = True
                    for inner in one.all("set"):
                        found.setdefault(inner.arg().lstrip("$"), []).append(one)
        return found

    def _of_text(
        self, text: str, at: Directive, sets: dict[str, list[Directive]], seen: tuple[str, ...]
    ) -> list[Branch]:
        """Return the branches of a text with at most one variable."""
        self._count += 1
        if self._count > MAX_BRANCHES:
            raise at.place.error(f"variables lead to more than {MAX_BRANCHES:,} branches")
        variables = list(_VARIABLE.finditer(text))
        if not variables:
            return [self._upstream(text, at)]
        if len(variables) > 1:
            raise at.place.error(
                f"{at.name}: expected one variable that names an upstream, found {shown(text)}"
            )
        one = variables[0]
        before, after = text[: one.start()], text[one.end() :]
        name = one[1] or one[2]
        if name in seen:
            raise at.place.error(
                f"the variable ${name} is defined by itself: ${' -> $'.join((*seen, name))}"
            )
        deeper = (*seen, name)
        if len(seen) >= MAX_DEPTH:
            raise at.place.error(f"variables are defined by more than {MAX_DEPTH} others")
        if name in sets:
            return self._of_sets(name, (before, after), sets, deeper)
        if name in self.splits:
            return [self._split(self.splits[name], before, after)]
        if name in self.maps:
            return self._of_map(self.maps[name], (before, after), sets, deeper)
        raise at.place.error(
            f"{at.name}: expected a variable of split_clients, map or set, found ${name}, which is known only"
            " when a request comes"
        )

    def _of_sets(
        self,
        name: str,
        around: tuple[str, str],
        sets: dict[str, list[Directive]],
        seen: tuple[str, ...],
    ) -> list[Branch]:
        """Return the branches of ``set``: what is set last holds, so later conditions come first."""
        found: list[Branch] = []
        for one in reversed(sets[name]):
            inner = one if one.name == "set" else one.all("set")[-1]
            value = around[0] + inner.arg(1) + around[1]
            branches = self._of_text(value, inner, sets, seen)
            if one.name == "set":
                return [*found, *branches]
            obstacle, condition = _if(one)
            found += [_under(branch, condition, obstacle, one) for branch in branches]
        raise sets[name][0].place.error(
            f"the variable ${name} has no value unless the condition holds"
        )

    def _of_map(
        self,
        one: Directive,
        around: tuple[str, str],
        sets: dict[str, list[Directive]],
        seen: tuple[str, ...],
    ) -> list[Branch]:
        """Return the branches of a ``map``: texts, then expressions, then the default."""
        texts, expressions, default = [], [], None
        for entry in one.block or ():
            entry.read = True
            if entry.name in ("hostnames", "volatile") and not entry.args:
                continue
            if entry.name == "default":
                default = entry
            elif entry.name.startswith("~"):
                expressions.append(entry)
            else:
                texts.append(entry)
        if default is None:
            raise one.place.error(f"map {one.arg(1)}: expected a default, found none")
        found: list[Branch] = []
        for entry in (*texts, *expressions):
            obstacle, condition = _condition(one.arg(), _map_test(entry.name))
            value = around[0] + entry.arg() + around[1]
            for branch in self._of_text(value, entry, sets, seen):
                if len(branch.shares) == 1:
                    named = f"map {one.arg()} {entry.name or repr('')}"
                    branch = replace(branch, origin=named)
                found.append(_under(branch, condition, obstacle, entry))
        value = around[0] + default.arg() + around[1]
        return [*found, *self._of_text(value, default, sets, seen)]

    def _split(self, one: Directive, before: str, after: str) -> Branch:
        shares, left, rest = [], 100.0, None
        for entry in one.block or ():
            entry.read = True
            name = before + entry.arg() + after
            if _VARIABLE.search(name):
                raise entry.place.error(
                    f"split_clients: expected the name of an upstream, found {shown(name)}"
                )
            if entry.name == "*":
                rest = (name, entry.place)
                continue
            match = _PERCENT.fullmatch(entry.name)
            if match is None:
                raise entry.place.error(
                    f"split_clients: expected a percentage with at most two decimals or *, found"
                    f" {shown(entry.name)}"
                )
            left -= float(match[1])
            shares.append(Share(name, float(match[1]), entry.place))
        if left < -1e-9:
            raise one.place.error(f"split_clients: expected at most 100%, found {100.0 - left:g}%")
        if rest is not None:
            shares.append(Share(rest[0], round(max(left, 0.0), 4), rest[1]))
        elif left > 1e-9:
            raise one.place.error(f"split_clients: expected * for the other {left:g}%, found none")
        return Branch(one.place, f"split_clients {one.arg()}", tuple(shares), key=one.arg())

    def _upstream(self, name: str, at: Directive) -> Branch:
        """Return the branch of an upstream; servers with different weights are two versions."""
        one = self.upstreams.get(name)
        servers = [] if one is None else _weighted(one)
        if one is not None and len({weight for _, weight in servers}) > 1:
            most = max(weight for _, weight in servers)
            stable = sum(weight for _, weight in servers if weight == most)
            canary = sum(weight for _, weight in servers if weight < most)
            shares = (
                Share(f"{name}:stable", stable, one.place),
                Share(f"{name}:canary", canary, one.place),
            )
            return Branch(one.place, f"upstream {name}: server weights", shares)
        return Branch(at.place, f"{at.name} {name}", (Share(name, 100.0, at.place),))

    def sticky(self, split: Branch, draft: Draft) -> None:
        """Set what identifies a user: what ``split_clients`` hashes."""
        if not split.key:
            draft.differs(split.place, f"nginx takes turns between servers by weight; {STAYS}")
            return
        names = [one[1] or one[2] for one in _VARIABLE.finditer(split.key)]
        salt = _VARIABLE.sub("", split.key)
        if salt:
            draft.set("split.salt", salt, split.place, f"{split.key} in split_clients")
        for name in names:
            kind, of = _source(f"${name}")
            if name in _IDENTITIES:
                draft.set(
                    "split.sticky", {"address": True}, split.place, f"${name} in split_clients"
                )
            elif kind == "cookie":
                value = {"cookie": of, "set": False}
                draft.set("split.sticky", value, split.place, f"${name} in split_clients")
            elif kind == "header" and of.lower() not in ("user-agent", "accept-language"):
                draft.set("split.sticky", {"header": of}, split.place, f"${name} in split_clients")
            else:
                continue
            break
        if not draft.has("split.sticky"):
            draft.differs(
                split.place, f"{split.key} does not identify a user; {STAYS}, by a cookie"
            )
        elif len(names) > 1:
            draft.differs(
                split.place,
                f"{split.key} became one of them: a user is identified by one thing here",
            )
        draft.differs(split.place, "the hash is another one: as many users, but not the same ones")


def _weighted(upstream: Directive) -> list[tuple[str, float]]:
    """Return the servers in use, with their weights."""
    found = []
    for one in upstream.all("server"):
        options = one.args[1:]
        if "down" in options or "backup" in options:
            continue
        weights = [option[7:] for option in options if option.startswith("weight=")]
        if weights and not re.fullmatch(r"[0-9]{1,9}", weights[0]):
            raise one.place.error(
                f"server: expected a whole number as weight, found {shown(weights[0])}"
            )
        found.append((one.arg(), float(weights[0]) if weights else 1.0))
    return found


def _under(branch: Branch, condition: Condition | None, obstacle: str, at: Directive) -> Branch:
    """Return a branch under one more condition."""
    named = branch.origin if branch.origin.startswith("map ") else f"if {' '.join(at.args)}"
    return replace(
        branch,
        conditions=(*((condition,) if condition else ()), *branch.conditions),
        obstacle=obstacle or branch.obstacle,
        place=at.place if len(branch.shares) == 1 else branch.place,
        origin=named if len(branch.shares) == 1 else branch.origin,
    )


def _source(variable: str) -> tuple[str, str]:
    """Return kind and name of what a variable holds of the request; no kind if no rule can look at it."""
    match = re.fullmatch(r"\$\{?(\w+)\}?", variable)
    name = match[1] if match else ""
    if name in ("http_host", "host"):
        return "header", "Host"
    for begin, kind in (("http_", "header"), ("cookie_", "cookie"), ("arg_", "query")):
        if name.startswith(begin):
            rest = name.removeprefix(begin)
            return kind, "-".join(
                map(str.capitalize, rest.split("_"))
            ) if kind == "header" else rest
    kinds = {"request_method": "method", "uri": "path", "document_uri": "path"}
    return kinds.get(name, ""), name


def _condition(variable: str, test: Test) -> tuple[str, Condition | None]:
    """Return the condition of a test on a variable, or why it has no equivalent."""
    kind, name = _source(variable)
    if not kind:
        return f"no rule looks at {variable}", None
    if kind == "path":
        return ("a path is always present", None) if "present" in test else ("", {"path": test})
    if kind == "method":
        words = test.get("equals", re.sub(r"^\(\?i\)|[\^$()?:]", "", str(test.get("regex", ""))))
        methods = words.upper().split("|")
        if not all(re.fullmatch(r"[A-Z-]+", one) for one in methods):
            return "a rule names methods", None
        return "", {"method": methods[0] if len(methods) == 1 else methods}
    return "", {kind: {"name": name, **test}}


def _map_test(key: str) -> Test:
    """Return the test of a map's key: texts are compared ignoring case, expressions match anywhere."""
    if key.startswith("~"):
        return {"regex": key[1:] if not key.startswith("~*") else f"(?i){key[2:]}"}
    key = key.removeprefix("\\")
    if not key:
        return {"present": False}
    return {"equals": key} if key.lower() == key.upper() else {"regex": f"(?i)^{literal(key)}$"}


def _if(one: Directive) -> tuple[str, Condition | None]:
    """Return the condition of an ``if``, or why it has no equivalent."""
    words = list(one.args)
    if words:
        words[0] = words[0].removeprefix("(")
        words[-1] = words[-1].removesuffix(")")
    words = [word for word in words if word]
    test: Test | None = None
    negated = False
    if len(words) == 1:
        test = {"regex": "[^0]|.."}  # nginx: neither empty nor 0
    elif len(words) in (2, 3):
        value = words[2] if len(words) == 3 else ""
        negated = words[1].startswith("!")
        test = {
            "=": {"equals": value} if value else {"present": False},
            "~": {"regex": value},
            "~*": {"regex": f"(?i){value}"},
        }.get(words[1].removeprefix("!"))
    if test is None:
        return "a rule has no such condition", None
    obstacle, condition = _condition(words[0], test)
    return obstacle, {"not": condition} if negated and condition else condition
