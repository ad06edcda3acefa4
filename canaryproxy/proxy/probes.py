"""Requests without a user: health checks of load balancers, and monitors."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from canaryproxy.config import Probes
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.request import (
    MONITOR,
    NO_AGENT,
    OTHER_AGENT,
    UNKNOWN,
    Request,
    RequestFields,
)

_LONGEST_AGENT: Final = 256
"""Bytes of a User-Agent that are searched."""


@lru_cache(maxsize=64)
def _pattern(agents: tuple[str, ...]) -> re.Pattern[bytes] | None:
    """Return what finds one of these in a User-Agent; the same object for the same ones."""
    parts = [re.escape(agent.lower().encode("latin-1")) for agent in agents]
    return re.compile(b"|".join(parts)) if parts else None


class ProbeRules:
    """The compiled ``split.probes``."""

    __slots__ = ("_agents", "_bare", "_networks", "_paths", "_proxies")

    def __init__(self, probes: Probes, proxies: TrustedProxies) -> None:
        self._paths = frozenset(path.encode("latin-1") for path in probes.paths)
        self._bare = probes.bare
        self._agents = _pattern(probes.agents)
        self._networks = TrustedProxies(probes.networks) if probes.networks else None
        self._proxies = proxies

    def match(self, request: Request, peer: Peer) -> bool:
        """Tell whether a request is a probe. To be asked where it carries no cookie or header of a user."""
        if request.rule_key[1] in self._paths:
            return True
        fields = request.fields
        agent = fields.agent_kind
        if agent == UNKNOWN or fields.agents is not self._agents:
            fields.agents = self._agents
            agent = fields.agent_kind = self._kind_of_agent(fields)
        if agent == MONITOR:
            return True
        if (
            agent == NO_AGENT
            and self._bare
            and (request.method == b"OPTIONS" or (request.http10 and not fields.field(b"host")))
        ):
            return True
        if self._networks is None:
            return False
        client = self._proxies.client_at(peer, request.forwarding)
        return bool(client) and self._networks.trusts(client)

    def _kind_of_agent(self, fields: RequestFields) -> int:
        agent = fields.field(b"user-agent")
        if not agent:
            return NO_AGENT if fields.forwarding is None else OTHER_AGENT  # a proxy's client
        if self._agents is None:
            return OTHER_AGENT
        found = self._agents.search(agent[:_LONGEST_AGENT].lower())
        return OTHER_AGENT if found is None else MONITOR
