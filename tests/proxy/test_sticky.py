"""Reading the sticky cookie: the quick way finds what the expression finds that says what is meant."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.config import Sticky
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.head_cache import RequestHeadCache
from canaryproxy.http1.request import RequestParser
from canaryproxy.proxy.signing import Signer
from canaryproxy.proxy.sticky import CookieFinder, CookieJar, key_reader

find = CookieFinder("id").find


def meant(cookies: bytes) -> bytes | None:
    """Return the first value that is not empty: to the semicolon, without blanks and one pair of quotes."""
    for one in cookies.split(b";"):
        name, found, value = one.lstrip(b" \t").partition(b"=")
        value = value.strip(b" \t")
        if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
            value = value[1:-1]
        if found and name == b"id" and value:
            return value
    return None


pieces = st.lists(
    st.sampled_from(
        [b"id=", b"id", b"=", b"a", b"b1", b";", b"; ", b" ", b"\t", b'"', b"xid=", b",", b"\xe4"]
    ),
    max_size=12,
).map(b"".join)


@given(pieces)
@example(b"xid=a")
@example(b" id=a")
@example(b"x; id=; id=b")
@example(b'id="a b"')
@settings(max_examples=2000)
def test_the_value_of_a_cookie(cookies: bytes) -> None:
    assert find(cookies) == meant(cookies)


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        (b'id={"user": 5, "new": true}; b=1', b'{"user": 5, "new": true}'),
        (b'a=1; id={"user": 6}', b'{"user": 6}'),
        (b"id=two words; b=1", b"two words"),
        (b'id="quoted"', b"quoted"),
        (b'id="half', b'"half'),
        (b'id=""; id=x', b"x"),
        (b"id=; id=x", b"x"),
        (b"id=special; id=general", b"special"),
        (b"id=a=b==", b"a=b=="),
        (b"Id=x", None),
    ],
)
def test_values_that_applications_write(cookies: bytes, value: bytes | None) -> None:
    assert find(cookies) == value


def test_of_two_signed_cookies_the_valid_one_counts() -> None:
    """A subdomain or an older release may have set one of that name, and browsers send it first."""
    old, new = Signer((b"1" * 32,), b"id"), Signer((b"2" * 32, b"1" * 32), b"id")
    sticky = Sticky.model_validate({"cookie": "id", "sign": {"key_file": "k"}})
    reader, jar = key_reader(sticky, TrustedProxies(), new), CookieJar(sticky, new)
    peer = Peer("127.0.0.1", b"http", False, b"localhost")

    def key_of(cookies: bytes) -> bytes | None:
        head = b"GET / HTTP/1.1\r\nHost: h\r\nCookie: " + cookies + b"\r\n\r\n"
        return reader.read(RequestParser(b"\r\n").parse(head, peer), peer)

    stray, mine, before = b"id=stray", b"id=" + new.sign(b"u"), b"id=" + old.sign(b"u")
    assert key_of(stray) is None
    assert key_of(stray + b"; " + mine) == b"u"
    assert not jar.is_old(stray + b"; " + mine)
    assert jar.is_old(stray + b"; " + before)


CROSS, SAME = b"Sec-Fetch-Site: cross-site\r\n", b"Sec-Fetch-Site: same-origin\r\n"
PAGE = b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
FRAME = b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n"
IMAGE = b"Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"
IN_FRAME = b"Sec-Fetch-Storage-Access: active\r\n"
BLOCKED = b"Sec-Fetch-Storage-Access: none\r\n"


@pytest.mark.parametrize(
    ("method", "lines", "withheld_by"),
    [
        (b"GET", b"", ""),
        (b"POST", b"", ""),
        (b"POST", CROSS + PAGE, "Lax Strict"),
        (b"GET", CROSS + PAGE, "Strict"),
        (b"GET", CROSS + FRAME, "Lax Strict"),
        (b"GET", CROSS + IMAGE, "Lax Strict"),
        (b"GET", SAME + PAGE, ""),
        (b"POST", SAME + PAGE, ""),
        (b"GET", b"Sec-Fetch-Site: none\r\n" + PAGE, ""),
        (b"POST", b"Sec-Fetch-Site: same-site\r\n" + PAGE, ""),
        (b"GET", SAME + IN_FRAME + IMAGE, "Lax Strict"),
        (b"GET", CROSS + BLOCKED + FRAME, "Lax Strict None"),
        (b"POST", b"Origin: https://bank.example\r\n", "Lax Strict"),
        (b"POST", b"Origin: null\r\n", "Lax Strict"),
        (b"POST", b"Origin: https://shop.test:8443\r\n", ""),
        (b"POST", b"Origin: https://api.shop.test\r\n", ""),
        (b"GET", b"Origin: https://bank.example\r\n", ""),
        (b"POST", b"Origin: https://bank.example\r\n" + SAME, ""),
    ],
)
def test_cookies_that_browsers_withhold(method: bytes, lines: bytes, withheld_by: str) -> None:
    head = method + b" / HTTP/1.1\r\nHost: www.shop.test\r\n" + lines + b"\r\n"
    peer = Peer("127.0.0.1", b"https", False, b"localhost")
    request = RequestParser(b"\r\n").parse(head, peer)
    found = [
        name
        for name in ("Lax", "Strict", "None")
        if CookieJar(Sticky.model_validate({"same_site": name})).is_withheld(request)
    ]
    assert " ".join(found) == withheld_by


def test_a_partitioned_cookie_can_be_set_where_others_are_blocked() -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + CROSS + BLOCKED + FRAME + b"\r\n"
    peer = Peer("127.0.0.1", b"https", False, b"localhost")
    request = RequestParser(b"\r\n").parse(head, peer)
    jar = CookieJar(Sticky.model_validate({"same_site": "None", "partitioned": True}))
    assert not jar.is_withheld(request)
    assert jar.set_cookie(b"k", secure=False).endswith(b"; SameSite=None; Partitioned; Secure\r\n")


@pytest.mark.parametrize("name", ["__Host-user", "__Secure-user", "__host-user"])
def test_cookies_with_a_prefix_are_secure(name: str) -> None:
    line = CookieJar(Sticky.model_validate({"cookie": name})).set_cookie(b"k", secure=False)
    assert b"; Path=/;" in line
    assert line.endswith(b"; Secure\r\n")
    assert b"Domain" not in line


@given(st.sampled_from([b"Cookie", b"cookie", b"cOOkie"]), pieces, st.booleans())
@settings(max_examples=500)
def test_a_cookie_line_is_read_the_same_alone_and_among_known_lines(
    name: bytes, value: bytes, first: bool
) -> None:
    peer = Peer("127.0.0.1", b"http", False, b"localhost")
    other, line = b"Host: h\r\nX-Cookie: y\r\n", name + b": " + value + b"\r\n"
    head = b"GET / HTTP/1.1\r\n" + (line + other if first else other + line) + b"\r\n"
    parser = RequestParser(b"\r\n")
    cache = RequestHeadCache(parser)
    for _ in range(2):
        cached, parsed = cache.parse(head, peer), parser.parse(head, peer)
        assert cached.head == parsed.head
        assert cached.headers.cookie == parsed.headers.cookie
        assert cached.headers.field(b"cookie") == parsed.headers.field(b"cookie")
