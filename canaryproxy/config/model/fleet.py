"""``fleet``: replicas that share one release."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Mistake, Section, Variable, not_both, report

SHORTEST_INTERVAL = 0.05
"""Seconds."""


class Fleet(Section):
    """Replicas that share one release through Redis (pip install canaryproxy[redis])."""

    redis: types.RedisUrl = Field(
        description="redis://, rediss:// or unix:// URL without a password.",
    )
    group: types.Word = Field(description="Name of the fleet; its replicas share one release.")
    replica: types.Word | None = Field(
        None, description="Name of this replica; default: host name, process id and a random part."
    )
    username: types.Word | None = Field(None, description="Redis user; none by default.")
    password_env: Variable | None = Field(
        None, description="Name of the environment variable that contains the Redis password."
    )
    password_file: types.FilePath | None = Field(
        None, description="File that contains the Redis password."
    )
    ca_file: types.FilePath | None = Field(
        None,
        description="With rediss://: PEM file with the authorities to trust; default: the system's.",
    )
    lease: types.WholeSeconds = Field(
        3.0, description="Silence of the leader after which another replica leads; a duration."
    )
    interval: types.Timeout = Field(
        0.1,
        description="Time between two exchanges with Redis; a duration from 50ms to a third of the lease.",
    )
    timeout: types.Timeout = Field(
        1.0, description="Time limit for a response of Redis; a duration."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Fleet:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        yield from not_both(self, "password_file", "password_env")
        if not SHORTEST_INTERVAL <= self.interval <= self.lease / 3:
            message = f"expected 50ms to a third of the lease ({self.lease / 3:g}s)"
            yield Mistake(message, ("interval",), (("lease",),))
        if self.ca_file is not None and not self.redis.startswith("rediss:"):
            yield Mistake("has no effect without rediss://", ("ca_file",), (("redis",),))
