"""The client's address: X-Forwarded-For read from the right, over the proxies that are trusted."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.fields import IS_FORWARDED, IS_FORWARDED_FOR
from canaryproxy.http1.forwarding import Peer, TrustedProxies, address_in

LB, CDN, USER = "10.0.0.5", "198.51.100.9", "203.0.113.7"
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("198.51.100.0/24"), ip_network("fd00::/8"))
PROXIES = TrustedProxies(NETWORKS)
BY_FORWARDED = TrustedProxies(NETWORKS, by_forwarded=True)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"", LB),
        (b"203.0.113.7", USER),
        (b"203.0.113.7, 198.51.100.9", USER),
        (b"203.0.113.7,198.51.100.9,10.0.0.4", USER),
        (b"192.0.2.1, 203.0.113.7, 198.51.100.9", USER),
        (b"203.0.113.7:51234, 198.51.100.9:443", USER),
        (b"[2001:db8::7]:51234, fd00::1", "2001:db8::7"),
        (b"2001:DB8:0:0::7,[fd00::1]", "2001:db8::7"),
        (b'"[2001:db8::7]"', "2001:db8::7"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"::ffff:203.0.113.7", USER),
        (b"203.0.113.7, unknown", LB),
        (b"203.0.113.7, unknown, 198.51.100.9", CDN),
        (b"203.0.113.7, , 198.51.100.9", CDN),
        (b"203.0.113.7, _hidden:80, 10.0.0.4", "10.0.0.4"),
        (b"10.0.0.4, 10.0.0.3", "10.0.0.4"),
        (b"\xff\xfe, 198.51.100.9", CDN),
        (b"1" * 20_000 + b", 198.51.100.9", CDN),
        (b"203.0.113.7.8, 198.51.100.9", CDN),
    ],
)
def test_the_first_address_that_is_not_trusted_is_the_client(chain: bytes, client: str) -> None:
    for _ in range(2):  # read, then cached
        assert PROXIES.client(chain, LB) == client


@given(
    st.lists(st.one_of(st.ip_addresses(), st.sampled_from([ip_address(LB), ip_address(CDN)]))),
    st.lists(st.sampled_from([ip_address(LB), ip_address(CDN)])),
    st.ip_addresses().filter(lambda ip: not PROXIES.trusts(str(ip))),
)
def test_what_a_stranger_writes_further_left_changes_nothing(
    forged: list[object], proxies: list[object], user: object
) -> None:
    chain = ", ".join(map(str, [*forged, user, *proxies])).encode()
    assert PROXIES.client(chain, LB) == address_in(str(user).encode())


@given(st.binary(max_size=80))
def test_any_entry_is_an_address_or_nothing(entry: bytes) -> None:
    found = address_in(entry)
    assert not found or str(ip_address(found)) == found


# Forwarded (RFC 7239)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"", LB),
        (b"for=203.0.113.7", USER),
        (b'For=203.0.113.7;Proto=https;by=10.0.0.4, for=198.51.100.9;host="a:80"', USER),
        (b"for=192.0.2.1, for=203.0.113.7,for=198.51.100.9", USER),
        (b'for="203.0.113.7:51234" ; proto=http', USER),
        (b"for=203.0.113.7:51234", USER),
        (b'for="[2001:db8::7]:51234", for="[fd00::1]"', "2001:db8::7"),
        (b"for=203.0.113.7, for=unknown", LB),
        (b'for=203.0.113.7, for="_hidden:80", for=10.0.0.4', "10.0.0.4"),
        (b"for=203.0.113.7, proto=https, for=198.51.100.9", CDN),
        (b"for=203.0.113.7, 192.0.2.1, for=198.51.100.9", CDN),
        (b"for=203.0.113.7;for=192.0.2.1, for=198.51.100.9", CDN),
        # A quote that the client opened hides nothing, and text in a Host is no element.
        (b'for="192.0.2.1, for=203.0.113.7, for=198.51.100.9', USER),
        (b'for=203.0.113.7;host="a, for=192.0.2.1"', LB),
        (b'for=203.0.113.7;host="a, for=192.0.2.1;x="', LB),
        (b'for=203.0.113.7;host="a, for=192.0.2.1;x=\\""', LB),
        (b"for=" + b"1" * 20_000, LB),
    ],
)
def test_forwarded_is_read_as_x_forwarded_for_is(chain: bytes, client: str) -> None:
    for _ in range(2):  # read, then cached
        assert BY_FORWARDED.client(chain, LB) == client


@given(
    st.text('for=192.0.2.1";, \\', max_size=60),
    st.lists(st.sampled_from([LB, CDN]), max_size=3),
    st.ip_addresses().filter(lambda ip: not PROXIES.trusts(str(ip))),
)
def test_nothing_further_left_in_forwarded_changes_the_client(
    forged: str, proxies: list[str], user: object
) -> None:
    nodes = [
        f'for="[{user}]"' if ":" in str(user) else f"for={user}",
        *(f"for={p}" for p in proxies),
    ]
    chain = ", ".join([forged, *nodes]).encode()
    assert BY_FORWARDED.client(chain, LB) == address_in(str(user).encode())


def test_only_the_field_that_the_proxies_write_is_read() -> None:
    """The other one may be the client's own, passed on by a proxy that does not know it."""
    both = [(IS_FORWARDED, b"for=203.0.113.7"), (IS_FORWARDED_FOR, b"192.0.2.1")]
    assert BY_FORWARDED.client_of(both, LB) == USER
    assert PROXIES.client_of(both, LB) == "192.0.2.1"
    assert BY_FORWARDED.client_of(both[1:], LB) == LB
    assert PROXIES.client_of(both[:1], LB) == LB
    assert PROXIES.client_of(None, LB) == LB
    lines = [(IS_FORWARDED, b"for=203.0.113.7"), (IS_FORWARDED, b"for=198.51.100.9")]
    assert BY_FORWARDED.client_of(lines, LB) == USER


def test_connections_of_a_client_begin_with_what_was_found_out_about_it() -> None:
    proxies = TrustedProxies()
    client = proxies.peer("192.0.2.1", tls=False)
    one, other = (Peer("192.0.2.1", b"http", False, b"") for _ in range(2))
    one.template = 3
    lines = one.ending(b"shop.example", None, b"", b"\r\n")
    client.begin_like(one)
    other.begin_like(proxies.peer("192.0.2.1", tls=False))
    assert other.template == 3
    assert other.ending(b"shop.example", None, b"", b"\r\n") is lines
    assert b"X-Forwarded-Host: blog.example\r\n" in other.ending(
        b"blog.example", None, b"", b"\r\n"
    )


@pytest.mark.parametrize(
    ("name", "address", "trusted"),
    [
        ("203.0.113.7", USER, False),
        ("10.0.0.5", LB, True),
        ("::ffff:10.0.0.5", LB, True),
        ("fe80::1%eth0", "fe80::1", False),
        ("fd00::1", "fd00::1", True),
    ],
)
def test_a_client_is_described_by_its_address_and_whether_it_has_tls(
    name: str, address: str, trusted: bool
) -> None:
    for tls, proto in ((False, b"http"), (True, b"https")):
        peer = PROXIES.peer(name, tls=tls)
        assert (peer.address, peer.trusted, peer.proto) == (address, trusted, proto)
        assert PROXIES.peer(name, tls=tls) is peer


def test_clients_that_are_remembered_are_bounded() -> None:
    proxies = TrustedProxies()
    first = proxies.peer("192.0.2.1", tls=False)
    for number in range(2000):
        proxies.peer(f"198.51.100.{number}", tls=False)
    assert proxies.peer("192.0.2.1", tls=False) is not first
