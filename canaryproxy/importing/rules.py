"""Conditions of other tools as conditions of ``split.match``, within one rule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from canaryproxy.importing.fields import Place

Test = dict[str, Any]
"""One test on a value, such as ``{equals: "yes"}``."""


@dataclass(slots=True)
class Rule:
    """One rule of ``split.match``, or why it cannot be one."""

    place: Place
    origin: str
    path: Test | None = None
    headers: list[Test] = field(default_factory=list)
    cookies: list[Test] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    obstacle: str = ""
    """Why the rule has no equivalent."""

    @property
    def is_everything(self) -> bool:
        """Whether every request matches."""
        return not (self.conditions or self.obstacle)

    @property
    def conditions(self) -> Test:
        """The conditions as the file has them."""
        found: Test = {}
        if self.headers:
            found["header"] = self.headers[0]
        if self.cookies:
            found["cookie"] = self.cookies[0]
        if self.path is not None:
            found["path"] = self.path
        if self.methods:
            found["method"] = self.methods[0] if len(self.methods) == 1 else self.methods
        return found

    def why_not(self) -> str:
        """Return why this is no rule of ours; empty if it is one."""
        if self.obstacle:
            return self.obstacle
        for name, tests in (("header", self.headers), ("cookie", self.cookies)):
            if len(tests) > 1:
                return f"a rule has one condition on a {name}"
        return ""

    def forcing(self, variant: str) -> Test:
        """Return the rule that forces a variant."""
        return {"variant": variant, **self.conditions}


def whole_match(pattern: str) -> Test:
    """Return the test of an expression that has to match all of a value; ours may match anywhere."""
    return {"regex": f"^(?:{pattern})$"}


def literal(text: str) -> str:
    """Return an RE2 expression for exactly this text."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def not_below(prefixes: Iterable[str]) -> Test | None:
    """Return a test for paths that do not begin with a prefix; ``None`` for several prefixes or the root."""
    one, *more = prefixes
    if more or one in ("", "/"):
        return None
    rest = ""
    for char in reversed(one):
        quoted = literal(char)
        other = f"[^\\{char}]" if char in "\\^]-" else f"[^{char}]"
        rest = f"(?:$|{other}|{quoted}{rest})" if rest else f"(?:$|{other})"
    return {"regex": f"^{rest}"}
