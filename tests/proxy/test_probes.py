"""Which requests carry no user: health checks and monitors, but nobody's browser and no curl."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from canaryproxy.config import Probes
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.request import RequestParser
from canaryproxy.proxy.probes import ProbeRules

BROWSER = b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"


def is_probe(head: bytes, probes: Probes | None = None, peer: str = "192.0.2.1") -> bool:
    proxies = TrustedProxies((ip_network("10.0.0.0/8"),))
    client = Peer(peer, b"http", proxies.trusts(peer), b"127.0.0.1:80")
    request = RequestParser(b"\r\n").parse(head + b"\r\n", client)
    return ProbeRules(probes or Probes(), proxies).match(request, client)


def get(agent: bytes, path: bytes = b"/") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n" + agent


@pytest.mark.parametrize(
    "agent",
    [
        b"kube-probe/1.29",
        b"ELB-HealthChecker/2.0",
        b"GoogleHC/1.0",
        b"Amazon-Route53-Health-Check-Service (ref 1; report http://amzn.to/1vsZADi)",
        b"Blackbox Exporter/0.24.0",
        b"Prometheus/2.45.0",
        b"Consul Health Check",
        b"nginx/1.25.3 (health check)",
        b"Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
        b"Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
    ],
)
def test_monitors_are_known_by_their_agent(agent: bytes) -> None:
    assert is_probe(get(b"User-Agent: " + agent + b"\r\n"))
    assert is_probe(get(b"user-agent: " + agent.swapcase() + b"\r\n"))


@pytest.mark.parametrize(
    "head",
    [
        get(BROWSER),
        get(b"User-Agent: curl/7.88.1\r\n"),
        get(b"User-Agent: Go-http-client/1.1\r\n"),
        get(b""),
        get(BROWSER, b"/health-insurance"),
        get(BROWSER, b"/shop/health"),
        b"OPTIONS /cart HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\n" + BROWSER,
        b"GET / HTTP/1.0\r\nUser-Agent: ApacheBench/2.3\r\n",
        b"GET / HTTP/1.0\r\nHost: nginx-speaks-1.0\r\n",
        b"OPTIONS / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\n",
        get(b"User-Agent: " + b"x" * 300 + b"kube-probe/1.29\r\n"),
    ],
)
def test_users_are_no_probes(head: bytes) -> None:
    assert not is_probe(head)


@pytest.mark.parametrize(
    "head",
    [
        b"OPTIONS / HTTP/1.0\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: h\r\n",
        b"GET /app HTTP/1.0\r\n",
        get(BROWSER, b"/healthz"),
        get(BROWSER, b"/readyz?verbose=1"),
    ],
)
def test_checks_of_haproxy_and_usual_paths_are_probes(head: bytes) -> None:
    assert is_probe(head)


def test_each_list_can_be_replaced() -> None:
    own = Probes(agents=("our-monitor",), paths=("/up",), bare=False)
    assert is_probe(get(b"User-Agent: Our-Monitor 3\r\n"), own)
    assert is_probe(get(BROWSER, b"/up"), own)
    assert not is_probe(get(b"User-Agent: kube-probe/1.29\r\n"), own)
    assert not is_probe(get(BROWSER, b"/healthz"), own)
    assert not is_probe(b"OPTIONS / HTTP/1.0\r\n", own)
    assert not is_probe(get(b"User-Agent: kube-probe/1.29\r\n"), Probes(agents=()))


def test_the_address_is_the_clients_not_that_of_the_proxy_before_us() -> None:
    checkers = Probes.model_validate({"networks": ("10.1.0.0/16", "203.0.113.0/24")})
    assert is_probe(get(BROWSER), checkers, "10.1.0.9")
    assert is_probe(get(BROWSER), checkers, "203.0.113.9")
    user = b"X-Forwarded-For: 192.0.2.7\r\n"
    assert not is_probe(get(BROWSER + user), checkers, "10.1.0.9")
    forged = b"X-Forwarded-For: 10.1.0.9\r\n"
    assert not is_probe(get(BROWSER + forged), checkers, "192.0.2.1")
