"""What stays on one machine has no congestion control that paces it; what leaves keeps the host's."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from canaryproxy.config import TcpAddress
from canaryproxy.proxy import tcp_options
from canaryproxy.proxy.listener import listen
from canaryproxy.proxy.network import network_of

linux = pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="no TCP_CONGESTION here")


def congestion(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()


def of_host() -> str:
    with closing(socket.socket()) as sock:
        return congestion(sock)


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1"])
def test_listener_on_loopback_hands_reno_to_what_it_accepts(host: str) -> None:
    with (
        closing(listen(TcpAddress(host, 0))) as listening,
        closing(socket.create_connection(listening.getsockname()[:2])) as client,
    ):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with closing(accepted):
            assert congestion(accepted) == "reno"
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert congestion(client) == of_host(), "the client's own end is its own"


@linux
@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_listener_on_all_addresses_keeps_what_the_host_has(host: str) -> None:
    with closing(listen(TcpAddress(host, 0))) as listening:
        assert congestion(listening) == of_host()


@linux
def test_connection_to_an_upstream_on_this_machine_has_reno() -> None:
    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

    async def story() -> None:
        loop = asyncio.get_running_loop()
        with closing(socket.create_server(("127.0.0.1", 0))) as upstream:
            sock = socket.create_connection(upstream.getsockname())
            sock.setblocking(False)
            end, _ = await loop.run_in_executor(None, upstream.accept)
            watched = sock.dup()
            protocol = await network_of(loop).open(sock, Protocol)
            assert isinstance(protocol, Protocol)
            with closing(end), closing(watched):
                assert congestion(watched) == "reno"
                assert watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            protocol.transport.close()
            await asyncio.sleep(0)

    asyncio.run(story())


class Ends:
    """A socket, by its addresses."""

    def __init__(self, here: str, there: str | None) -> None:
        self.here, self.there = here, there

    def getsockname(self) -> tuple[str, int]:
        return self.here, 80

    def getpeername(self) -> tuple[str, int]:
        if self.there is None:
            raise OSError
        return self.there, 80


@pytest.mark.parametrize(
    ("here", "there", "stays"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", None, True),
        ("::1", "::1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("fd00::1", "fd00::1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", None, False),
        ("0.0.0.0", None, False),
        ("::", None, False),
    ],
)
def test_only_two_ends_with_one_address_stay_here(
    here: str, there: str | None, stays: bool
) -> None:
    ends = Ends(here, there)
    assert tcp_options.stays_here(ends) is stays  # type: ignore[arg-type]


def test_kernel_without_the_option_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        monkeypatch.setattr(tcp_options, "_RENO", b"no-such-algorithm")
        tcp_options.prepare(listening)
        monkeypatch.setattr(tcp_options, "_CONGESTION", None)
        tcp_options.prepare(listening)
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
