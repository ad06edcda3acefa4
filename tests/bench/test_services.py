"""The benchmark of several services: what it starts, and what it sends to whom."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bench.harness import scenarios
from bench.harness.ports import HOST
from bench.peers import Site
from bench.services import InTurn, hosts
from canaryproxy import config


def test_as_many_services_as_asked_for_and_as_many_releases(tmp_path: Path) -> None:
    site = Site(folder=tmp_path, port=18080, stable=18081, canary=18082, weight=10.0)
    peer = replace(scenarios.PURE, services=30, releasing=4)
    found = config.parse(peer.render_config(site), file="bench").by_service()
    assert len(found) == 30
    assert [name for name, one in found.items() if one.release is not None] == [
        f"service-{number}" for number in range(4)
    ]
    assert hosts(peer) == [f"service-{number}.bench" for number in range(4)]
    assert config.parse(scenarios.PURE.render_config(site), file="bench").services == {}


def test_a_connection_is_of_one_host_if_there_are_as_many() -> None:
    with socket.create_server((HOST, 0)) as server:
        to = ["a.bench", "b.bench", "c.bench"]
        with closing(InTurn(server.getsockname()[1], to, connections=3)) as client:
            sent = [client._next() for _ in range(9)]
    named = [re.findall(rb"Host: (\S+)", request)[0].decode() for request in sent]
    assert named[:3] == named[3:6] == named[6:]
    assert sorted(named[:3]) == to
