"""Health checks by ``grpc.health.v1``: of a real service, and what each kind of response means."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from canaryproxy import config
from canaryproxy.config import Health
from canaryproxy.config.addresses import endpoint
from canaryproxy.proxy.health_check import HealthCheck
from tests.http1.test_grpc import message
from tests.proxy.test_health_check import answering, serving
from tests.system.processes import DEADLINE

from .test_clients import service

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def ask(url: str, name: str = "") -> str:
    rules = Health.model_validate({"grpc": name, "timeout": "30s"})
    return await HealthCheck(endpoint(url), rules, asyncio.get_running_loop()).ask()


async def test_a_real_service_says_whether_it_serves(tmp_path: Path) -> None:
    with service(tmp_path, "stable") as port:
        url = f"h2c://127.0.0.1:{port}"
        assert await ask(url) == await ask(url, "test.Echo") == ""
        assert await ask(url, "test.Other") == "NOT_FOUND, wanted SERVING"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary("/test.Echo/Fail")(b"14", timeout=DEADLINE)
        assert await ask(url) == "NOT_SERVING, wanted SERVING"


def answer(content: bytes, status: bytes = b"grpc-status: 0\r\n") -> bytes:
    framed = message(content)
    return CHUNKED + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(framed), framed, status)


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (answer(b"\x08\x01"), ""),
        (answer(b"\x08\x02"), "NOT_SERVING, wanted SERVING"),
        (answer(b"\x08\x03"), "SERVICE_UNKNOWN, wanted SERVING"),
        (answer(b""), "UNKNOWN, wanted SERVING"),
        (answer(b"hello"), "a response that is no HealthCheckResponse, wanted SERVING"),
        (answer(b"\x08\x01", b""), "no grpc-status, wanted SERVING"),
        (answer(b"\x08\x01", b"grpc-status: 13\r\n"), "INTERNAL, wanted SERVING"),
        (HEAD + b"grpc-status: 12\r\nContent-Length: 0\r\n\r\n", "UNIMPLEMENTED, wanted SERVING"),
        (CHUNKED + b"fffff\r\n" + bytes(4000), "no grpc-status, wanted SERVING"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status 404, wanted a response of gRPC"),
    ],
)
async def test_what_a_response_means(response: bytes, why: str) -> None:
    asked: list[bytes] = []
    async with serving(answering(response, asked)) as port:
        assert await ask(f"http://127.0.0.1:{port}", "test.Echo") == why
    (head,) = asked
    assert head.startswith(b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nContent-Type: application/grpc\r\nContent-Length: 16\r\nTE: trailers\r\n" in head


@pytest.mark.parametrize(
    ("health", "why"),
    [
        ("{}", "expected exactly one of path, grpc, found none"),
        ('{path: /up, grpc: ""}', "expected exactly one of path, grpc, found path and grpc"),
        (
            '{grpc: "", statuses: 2xx}',
            "has no effect: a gRPC check passes if the service is SERVING",
        ),
        ('{grpc: "a b"}', "grpc"),
    ],
)
def test_what_a_check_cannot_be(health: str, why: str) -> None:
    text = f'variants: {{stable: {{endpoints: ["http://h:1"], health: {health}}}}}\n'
    with pytest.raises(config.ConfigError) as raised:
        config.parse(text, file="a.yaml")
    assert why in str(raised.value)
