"""A service of gRPC for tests: ``python service.py NAME PORT``. Messages are bytes as they are.

``/test.Echo/Unary`` responds with the request, and its name in the metadata, or with a status once ``/Fail``
has named one. ``/ClientStream`` responds with the number of bytes, ``/ServerStream`` with as many messages as
the request says, ``/Bidi`` with each message, ``/Hang`` with nothing; ``/Hung`` says how many of these
have begun, and ``/Cancelled`` how many were cancelled.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.max_metadata_size", 64 * 1024))  # fmt: skip
Context = Any


class Echo:
    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 0
        self.hung = self.cancelled = 0
        self.left: list[str] = []

    async def unary(self, request: bytes, context: Context) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        echoed = [(name, value) for name, value in metadata.items() if name.startswith("x-echo")]
        await context.send_initial_metadata(
            (("x-variant", self.name), *echoed)
        ) if not self.status else None
        if self.status:
            await context.abort(codes()[self.status], "told to")
        left = context.time_remaining()
        context.set_trailing_metadata((("x-left", "none" if left is None else f"{left:.3f}"),))
        return request

    async def fail(self, request: bytes, context: Context) -> bytes:  # noqa: ARG002
        self.status = int(request)
        return b""

    async def client_stream(self, requests: AsyncIterator[bytes], context: Context) -> bytes:  # noqa: ARG002
        return b"%d" % sum([len(one) async for one in requests])

    async def server_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:  # noqa: ARG002
        for number in range(int(request)):
            yield b"%d" % number

    async def bidi(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("x-variant", self.name),))
        async for one in requests:
            yield one

    async def hang(self, request: bytes, context: Context) -> bytes:  # noqa: ARG002
        self.hung += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b""

    async def begun(self, request: bytes, context: Context) -> bytes:  # noqa: ARG002
        return b"%d" % self.hung

    async def count(self, request: bytes, context: Context) -> bytes:  # noqa: ARG002
        return b"%d" % self.cancelled

    async def check(self, request: bytes, context: Context) -> bytes:
        """``grpc.health.v1.Health/Check``: of the server and of ``test.Echo``."""
        if request not in (b"", b"\x0a\x09test.Echo"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b"\x08\x02" if self.status else b"\x08\x01"


def codes() -> dict[int, grpc.StatusCode]:
    return {one.value[0]: one for one in grpc.StatusCode}


async def main(name: str, port: int) -> None:
    server, echo = grpc.aio.server(options=OPTIONS), Echo(name)
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(echo.unary),
        "Fail": grpc.unary_unary_rpc_method_handler(echo.fail),
        "ClientStream": grpc.stream_unary_rpc_method_handler(echo.client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(echo.server_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(echo.bidi),
        "Hang": grpc.unary_unary_rpc_method_handler(echo.hang),
        "Hung": grpc.unary_unary_rpc_method_handler(echo.begun),
        "Cancelled": grpc.unary_unary_rpc_method_handler(echo.count),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(echo.check)}
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("test.Echo", handlers),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ))  # fmt: skip
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
