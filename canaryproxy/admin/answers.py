"""Answers in JSON, with ETags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from aiohttp import web

from canaryproxy.admin import conditions


def encoded(value: Any) -> bytes:
    """Return JSON text. What JSON has no number for is ``null``."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def answer(body: bytes, etag: str) -> web.Response:
    """Return JSON with its ETag (given without quotes)."""
    return web.Response(body=body, content_type="application/json", headers={"ETag": f'"{etag}"'})


def fresh(request: web.Request, etag: str, body: Callable[[], bytes]) -> web.Response:
    """Return an answer, or 304 if the client has it."""
    if conditions.is_known(request, etag):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    return answer(body(), etag)


def hashed(request: web.Request, body: bytes) -> web.Response:
    """Return an answer whose ETag is a mark of its text, or 304 if the client has it."""
    return fresh(request, hashlib.sha256(body).hexdigest()[:16], lambda: body)
