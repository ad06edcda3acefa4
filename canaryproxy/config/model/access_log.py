"""``access_log``: a line for each request."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section


class AccessLog(Section):
    """A line for each request."""

    path: types.FilePath = Field("-", description="File to append to; - is standard output.")
    format: Literal["json", "combined"] = Field("json", description="Format of a line.")
    queue: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Lines that may wait to be written; more are dropped and counted.",
    )
