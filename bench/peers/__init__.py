"""The peers: other proxies, configured to do the same work."""

from __future__ import annotations

from bench.peers.base import Peer, Site
from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.haproxy import Haproxy
from bench.peers.nghttpx import Nghttpx
from bench.peers.nginx import Nginx
from bench.peers.ours import Ours
from bench.peers.python_peers import Floor, PlainAiohttp, ProxyPy

__all__ = ["PEERS", "Peer", "Site"]

PURE = Ours(
    name="pure",
    title="canaryproxy, plain Python, split by cookie, counting on, 1 worker",
    compiled=False,
)

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Ours(),
        PURE,
        Nginx(),
        Haproxy(),
        Envoy(),
        Caddy(),
        Nghttpx(),
        PlainAiohttp(),
        ProxyPy(),
        Floor(),
    )
}
"""All peers by name, in the order of the tables."""
