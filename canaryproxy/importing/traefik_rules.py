"""Rules of Traefik's routers, such as ``Host(`a`) && !HeaderRegexp(`X-Beta`, `.+`)``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.config.errors import shown
from canaryproxy.importing.fields import Field
from canaryproxy.importing.rules import Condition, joined

_TOKEN: Final = re.compile(
    r"\s*(&&|\|\||!|\(|\)|([A-Za-z]+)\(((?:\s*(?:`[^`]*`|\"[^\"]*\"|'[^']*')\s*,?)*)\)|\S)"
)
_ARGUMENT: Final = re.compile(r"`([^`]*)`|\"([^\"]*)\"|'([^']*)'")
MAX_DEPTH: Final = 16
"""Deeper nesting is no rule that a person has written."""


@dataclass(slots=True)
class Parsed:
    """A rule as conditions of ours."""

    conditions: tuple[Condition, ...] = ()
    hosts: list[str] = field(default_factory=list)
    """The hosts that the rule as a whole requires; they are no conditions: they are the service's."""
    obstacle: str = ""
    """Why it has no equivalent."""


def parse(rule: Field) -> Parsed:
    """Return the conditions of a rule."""
    return _Parser(rule).parsed()


class _Parser:
    def __init__(self, rule: Field) -> None:
        self._rule = rule
        self._tokens = list(self._split(rule.text()))
        self._at = 0
        self._found = Parsed()

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str, str]]:
        for one in _TOKEN.finditer(text):
            yield one[1], one[2] or "", one[3] or ""

    def parsed(self) -> Parsed:
        parts = self._all(0)
        if self._at < len(self._tokens):
            raise self._unexpected()
        hosts = [one for one in parts if set(one) == {"host"}]
        self._found.hosts = [name for one in hosts for name in one["host"]]
        self._found.conditions = tuple(one for one in parts if one not in hosts and one)
        return self._found

    def _all(self, depth: int) -> list[Condition]:
        """Return the conditions of alternatives, or of the only one."""
        alternatives = [self._both(depth)]
        while self._next("||"):
            alternatives.append(self._both(depth))
        if len(alternatives) == 1:
            return alternatives[0]
        if any(not joined(one) for one in alternatives):
            return []
        if all(len(one) == 1 and set(one[0]) == {"host"} for one in alternatives):
            return [{"host": [name for one in alternatives for name in one[0]["host"]]}]
        return [{"any": [joined(one) for one in alternatives]}]

    def _both(self, depth: int) -> list[Condition]:
        found = self._one(depth)
        while self._next("&&"):
            found += self._one(depth)
        return [one for one in found if one]

    def _one(self, depth: int) -> list[Condition]:
        if depth > MAX_DEPTH:
            raise self._rule.place.error(f"rule: nested deeper than {MAX_DEPTH} levels")
        if self._next("!"):
            inner = joined(self._one(depth + 1))
            if not inner:
                self._found.obstacle = "it negates what every request has"
                return []
            return [{"not": inner}]
        if self._next("("):
            inner_all = self._all(depth + 1)
            if not self._next(")"):
                raise self._unexpected()
            return inner_all
        if self._at >= len(self._tokens) or not self._tokens[self._at][1]:
            raise self._unexpected()
        _, name, arguments = self._tokens[self._at]
        self._at += 1
        values = [one[0] or one[1] or one[2] for one in _ARGUMENT.findall(arguments)]
        return self._matcher(name, values)

    def _next(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at][0] == token:
            self._at += 1
            return True
        return False

    def _unexpected(self) -> Exception:
        found = self._tokens[self._at][0] if self._at < len(self._tokens) else "the end"
        return self._rule.place.error(
            f"rule: expected a matcher such as PathPrefix(`/`), && or ||, found {shown(found)}",
            self._rule.value,
        )

    def _matcher(self, name: str, values: list[str]) -> list[Condition]:
        match name, values:
            case ("Host" | "HostHeader", [_, *_]):
                return [{"host": values}]
            case ("PathPrefix", ["/"]):
                return []
            case ("PathPrefix", [value]):
                return [{"path": {"prefix": value}}]
            case ("Path", [value]):
                return [{"path": {"equals": value}}]
            case ("PathRegexp", [value]):
                return [{"path": {"regex": value}}]
            case ("HostRegexp", [value]):
                return [{"header": {"name": "Host", "regex": value}}]
            case ("Method", [_, *_]):
                return [{"method": values}]
            case ("Header" | "Headers", [header, value]):
                return [{"header": {"name": header, "equals": value}}]
            case ("HeaderRegexp" | "HeadersRegexp", [header, value]):
                return [{"header": {"name": header, "regex": value}}]
            case ("Query", [parameter]):
                return [{"query": {"name": parameter, "present": True}}]
            case ("Query", [parameter, value]):
                return [{"query": {"name": parameter, "equals": value}}]
            case ("QueryRegexp", [parameter, value]):
                return [{"query": {"name": parameter, "regex": value}}]
            case ("ClientIP", [_, *_]):
                return [{"network": values}]
            case _:
                self._found.obstacle = f"a rule has no condition {name} of {len(values)} values"
                return []
