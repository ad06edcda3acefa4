"""If-Match and If-None-Match (RFC 9110 §13.1), which keep operators from overwriting each other's changes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiohttp import web

from canaryproxy.admin.interfaces import Matches
from canaryproxy.admin.problem import Problem

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"'
_LIST = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_ONE = re.compile(_TAG)


@dataclass(frozen=True, slots=True)
class Tags:
    """A list of entity tags, or ``*``."""

    tags: frozenset[str] = frozenset()
    """As sent, with quotes."""
    any: bool = False

    def strongly(self, etag: str) -> bool:
        """Return whether one is this tag (given without quotes); weak tags never match."""
        return self.any or f'"{etag}"' in self.tags

    def weakly(self, etag: str) -> bool:
        """Return whether one is this tag, weak or not."""
        return self.strongly(etag) or f'W/"{etag}"' in self.tags


def tags(request: web.Request, name: str) -> Tags | None:
    """Return the tags of a header, or ``None`` without it. Raises ``Problem`` if it is malformed."""
    lines = request.headers.getall(name, None)
    if lines is None:
        return None
    text = ",".join(lines)
    if text.strip(" \t") == "*":
        return Tags(any=True)
    if not _LIST.fullmatch(text):
        raise Problem(400, f"{name} must be * or a list of ETags in double quotes")
    return Tags(frozenset(_ONE.findall(text)))


def allowed(request: web.Request) -> Matches | None:
    """Return the condition on the ETag for a change, or ``None`` if there is none.

    Raises ``Problem`` if a condition is malformed, because it must not be ignored.
    """
    wanted, unwanted = tags(request, "If-Match"), tags(request, "If-None-Match")
    if wanted is None and unwanted is None:
        return None

    def fits(etag: str) -> bool:
        return (wanted is None or wanted.strongly(etag)) and not (
            unwanted is not None and unwanted.weakly(etag)
        )

    return fits


def is_current(request: web.Request, etag: str) -> bool:
    """Return whether the client has the current version (304)."""
    known = tags(request, "If-None-Match")
    return known is not None and known.weakly(etag)
