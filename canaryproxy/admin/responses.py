"""Responses in JSON, with ETags."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from aiohttp import web

from canaryproxy.admin import conditions
from canaryproxy.config.json_text import encode


def tagged(value: Any, etag: str) -> web.Response:
    """Return ``value`` as JSON with an ETag (given without quotes)."""
    return _response(encode(value), etag)


def conditional(request: web.Request, etag: str, value: Callable[[], Any]) -> web.Response:
    """Return the value as JSON, or 304 if the client's copy has this ETag (given without quotes)."""
    if conditions.is_current(request, etag):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    return tagged(value(), etag)


def hashed(request: web.Request, value: Any) -> web.Response:
    """Return ``value`` as JSON with a hash of it as its ETag, or 304 if the client has it."""
    body = encode(value)
    etag = hashlib.sha256(body).hexdigest()[:16]
    if conditions.is_current(request, etag):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    return _response(body, etag)


def _response(body: bytes, etag: str) -> web.Response:
    return web.Response(body=body, content_type="application/json", headers={"ETag": f'"{etag}"'})
