"""If-Match and If-None-Match (RFC 9110 §13.1): nobody changes what somebody else has changed meanwhile."""

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
    """As they stand there, with quotes."""
    any: bool = False

    def strongly(self, etag: str) -> bool:
        """Whether one is exactly this tag (given without quotes); weak ones never are."""
        return self.any or f'"{etag}"' in self.tags

    def weakly(self, etag: str) -> bool:
        """Whether one is this tag, weak or not."""
        return self.strongly(etag) or f'W/"{etag}"' in self.tags


def tags(request: web.Request, name: str) -> Tags | None:
    """Return the tags of a header field, ``None`` without it. Raises ``Problem`` if it is malformed."""
    lines = request.headers.getall(name, None)
    if lines is None:
        return None
    text = ",".join(lines)
    if text.strip(" \t") == "*":
        return Tags(any=True)
    if not _LIST.fullmatch(text):
        raise Problem(400, f'{name} must be * or a list of tags in double quotes: {name}: "..."')
    return Tags(frozenset(_ONE.findall(text)))


def allowed(request: web.Request) -> Matches | None:
    """Return what the state's ETag must fulfil for a change, ``None`` if anything does.

    Raises ``Problem`` if a condition is malformed: it must not be lost.
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
    """Return whether the client that asks has this already (304)."""
    known = tags(request, "If-None-Match")
    return known is not None and known.weakly(etag)
