"""A canary of gRPC that fails trips after as few requests as one of HTTP."""

from __future__ import annotations

from random import Random

from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.http1.grpc import counted_as
from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.metrics import unpacked
from canaryproxy.judging.settings import JudgeSettings
from tests.judging.world import Answer, User, Version, World

BREAKS = 5.0
"""Seconds after the step has begun."""


def parsed(head: bytes) -> Response:
    return ResponseParser().parse(b"HTTP/1.1 " + head + b"\r\n\r\n")


GRPC = parsed(b"200 OK\r\nContent-Type: application/grpc")
UNAVAILABLE = counted_as(GRPC, GrpcStatus.UNAVAILABLE)
HTTP, DOWN = parsed(b"200 OK\r\nContent-Type: text/html"), parsed(b"503 Down\r\nContent-Length: 0")


def breaking(healthy: Response, broken: Response) -> Version:
    def version(user: User, now: float, luck: Random) -> Answer:
        response = broken if now > BREAKS else healthy
        record = unpacked(response.word, 0, 0)
        size = 0 if response is broken else 1000
        return Answer(record.status, size=size, content_type=record.content_type)

    return version


def canary_requests(healthy: Response, broken: Response) -> int:
    world = World(
        Judge(JudgeSettings(steps=(1.0, 100.0))),
        users=5000,
        stable=breaking(healthy, healthy),
        canary=breaking(healthy, broken),
    )
    seen = world.step(1.0, 600.0)
    assert seen.level == "breach"
    return world.canary_requests


def test_a_canary_that_becomes_unavailable_trips_at_weight_1() -> None:
    of_grpc, of_http = canary_requests(GRPC, UNAVAILABLE), canary_requests(HTTP, DOWN)
    assert of_grpc == of_http
    assert of_grpc < BREAKS * 2 + 60
