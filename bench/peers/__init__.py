"""The peers: other proxies, configured to do the same work."""

from __future__ import annotations

from bench.peers.base import Peer, Site
from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.haproxy import Haproxy
from bench.peers.nginx import Nginx
from bench.peers.ours import Ours
from bench.peers.python_peers import Floor, PlainAiohttp, ProxyPy

__all__ = ["PEERS", "Peer", "Site"]

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (Ours(), Nginx(), Haproxy(), Envoy(), Caddy(), PlainAiohttp(), ProxyPy(), Floor())
}
"""All peers by name, in the order of the tables."""
