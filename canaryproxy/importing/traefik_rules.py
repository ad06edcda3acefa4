"""Rules of Traefik's routers, such as ``Host(`a`) && HeaderRegexp(`X-Beta`, `.+`)``."""

from __future__ import annotations

import re
from typing import Final

from canaryproxy.importing.fields import Field, Place
from canaryproxy.importing.rules import Rule

_MATCHER = re.compile(r"\s*(!?)\s*([A-Za-z]+)\(((?:\s*(?:`[^`]*`|\"[^\"]*\"|'[^']*')\s*,?)*)\)\s*")
_ARGUMENT = re.compile(r"`([^`]*)`|\"([^\"]*)\"|'([^']*)'")
_DEEPEST: Final = 10_000


def parse(rule: Field) -> tuple[list[Rule], list[str]]:
    """Return the alternatives of a rule, and the hosts that it names."""
    text = rule.text()
    alternatives, hosts = [], []
    for part in _split(text, "||"):
        one = Rule(rule.place, text)
        for matcher in _split(part, "&&"):
            hosts += _matcher(matcher, one, rule.place)
        alternatives.append(one)
    return alternatives, hosts


def _split(text: str, operator: str) -> list[str]:
    """Split at an operator outside quotes and parentheses, and without those around everything."""
    text = text.strip()
    while text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1].strip()
    parts, depth, begin, quote = [], 0, 0, ""
    for at, char in enumerate(text[:_DEEPEST]):
        if quote:
            quote = "" if char == quote else quote
        elif char in "`\"'":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif not depth and text.startswith(operator, at):
            parts.append(text[begin:at])
            begin = at + len(operator)
    return [*parts, text[begin:]]


def _closing(text: str) -> int:
    depth = 0
    for at, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth == 0:
            return at
    return -1


def _matcher(text: str, rule: Rule, place: Place) -> list[str]:
    """Add a matcher to a rule, or say why it cannot be one; return the hosts that it names."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        if "(" in text.strip()[1:] and ("&&" in text or "||" in text):
            rule.obstacle = "alternatives within a conjunction are no single rule"
            return []
        raise place.error(
            f"rule: expected a matcher such as PathPrefix(`/`), found {text.strip()!r:.80}"
        )
    name = found[2]
    values = [one[0] or one[1] or one[2] for one in _ARGUMENT.findall(found[3])]
    if found[1]:
        rule.obstacle = "a rule has no negation"
        return []
    match name, values:
        case ("Host" | "HostHeader" | "HostRegexp", _):
            return values
        case ("PathPrefix", ["/"]):
            return []
        case ("PathPrefix", [value]):
            rule.path = {"prefix": value}
        case ("Path", [value]):
            rule.path = {"equals": value}
        case ("PathRegexp", [value]):
            rule.path = {"regex": value}
        case ("Method", _) if values:
            rule.methods += values
        case ("Header" | "Headers", [header, value]):
            rule.headers.append({"name": header, "equals": value})
        case ("HeaderRegexp" | "HeadersRegexp", [header, value]):
            rule.headers.append({"name": header, "regex": value})
        case _:
            rule.obstacle = f"a rule has no condition {name}"
    return []
