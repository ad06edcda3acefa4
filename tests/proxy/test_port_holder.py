"""Who has the port: a real process, found through /proc."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from canaryproxy.config import TcpAddress
from canaryproxy.proxy.listener import ListenError, listen
from canaryproxy.proxy.port_holder import holder_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_the_process_that_listens_is_named(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        port = taken.getsockname()[1]
        assert holder_of(port) is None  # bound is not listening
        taken.listen()
        name = Path("/proc/self/comm").read_text().strip()
        assert holder_of(port) == f"{name} (pid {os.getpid()})"
        with pytest.raises(ListenError) as refused:
            listen(TcpAddress(host, port))
        assert f"port already in use by {name} (pid {os.getpid()})" in str(refused.value)


def test_an_address_of_another_machine_is_named_as_such() -> None:
    with pytest.raises(ListenError, match="no interface of this machine has this address"):
        listen(TcpAddress("192.0.2.1", 18704))


def test_without_proc_the_command_to_find_it_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert holder_of(taken.getsockname()[1], tmp_path) is None


def test_a_process_that_cannot_be_seen_has_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("canaryproxy.proxy.listener.holder_of", lambda _: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"port already in use.*ss -ltnp 'sport = :{port}'"):
            listen(TcpAddress("127.0.0.1", port))
