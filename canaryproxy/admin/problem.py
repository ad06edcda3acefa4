"""Errors as ``application/problem+json`` (RFC 9457), with type, title, status and detail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

CONTENT_TYPE = "application/problem+json"
_LONGEST_PATH = 200


class Problem(Exception):
    """A request that failed, and why; ``extra`` are further members of the response.

    ``close`` closes the connection after the response, for requests that were not read to their end.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.close = close
        self.extra = extra

    def response(self) -> web.Response:
        """Return the error as a response."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        response = web.Response(
            body=json.dumps(body).encode(),
            status=self.status,
            headers=self.headers,
            content_type=CONTENT_TYPE,
        )
        if self.close:
            response.force_close()
        return response


def of_exception(error: web.HTTPException, method: str, path: str) -> Problem:
    """Return the problem for an exception of aiohttp, such as no route or a wrong method."""
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    shown = path[:_LONGEST_PATH]
    detail = {
        404: f"nothing at {shown}; /v1/openapi.json lists the paths",
        405: f"{shown} does not support {method}",
    }.get(error.status, error.reason)
    return Problem(error.status, detail, headers=headers)
