"""Whatever an upstream lets caches keep: a private head lets shared ones keep nothing, and keeps all else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.http1.cacheability import IMMUTABLE, SHARED, UNSHARED
from canaryproxy.http1.response import (
    AS_IT_IS,
    NEVER,
    UNLESS_IMMUTABLE,
    VARYING,
    Response,
    ResponseParser,
)

DIRECTIVES = st.sampled_from(
    [
        *(
            "public",
            "private",
            "no-store",
            "no-cache",
            "max-age=60",
            "s-maxage=600",
            "S-MaxAge=600",
        ),
        *("immutable", "must-revalidate", "proxy-revalidate", "stale-while-revalidate=5"),
        *('private="Set-Cookie"', "Public"),
    ]
)
FIELDS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["Cache-Control", "cache-control", "CDN-Cache-Control"]),
            st.lists(DIRECTIVES, min_size=1, max_size=3).map(", ".join),
        ),
        st.sampled_from(
            [
                *(
                    ("Cloudflare-CDN-Cache-Control", "max-age=9"),
                    ("Surrogate-Control", "max-age=9"),
                ),
                *(("X-Accel-Expires", "60"), ("Vary", "Accept"), ("vary", "*"), ("Vary", "COOKIE")),
                *(("X-Other", "public, s-maxage=1"), ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")),
            ]
        ),
    ),
    max_size=5,
)
CACHES_FIELDS = {b"cache-control", b"surrogate-control", b"x-accel-expires"}


def parse(fields: list[tuple[str, str]], policy: int = AS_IT_IS) -> Response:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    head = f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n".encode()
    return ResponseParser(b"", policy, (b"Cookie", b"X-Beta")).parse(head)


def fields_of(head: bytes) -> list[tuple[bytes, bytes]]:
    pairs = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:-1]]
    return [(name.lower(), value) for name, value in pairs]


def may_be_kept(fields: list[tuple[bytes, bytes]]) -> bool:
    """Tell whether a shared cache may keep it: an independent reading of RFC 9111 and RFC 9213."""
    said = [value for name, value in fields if name == b"cache-control"]
    words = [word.strip().lower() for value in said for word in value.split(b",")]
    own = any(
        n in CACHES_FIELDS - {b"cache-control"} or n.endswith(b"cdn-cache-control")
        for n, _ in fields
    )
    return own or not (b"private" in words or b"no-store" in words)


def others(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [
        (name, value)
        for name, value in fields
        if name not in CACHES_FIELDS and not name.endswith(b"cdn-cache-control") and name != b"vary"
    ]


@given(FIELDS)
def test_a_response_with_our_cookie_is_kept_by_no_shared_cache(
    fields: list[tuple[str, str]],
) -> None:
    response = parse(fields)
    received = fields_of(response.head)
    assert (response.sharing == UNSHARED) is not may_be_kept(received)
    if response.sharing != IMMUTABLE:  # which goes without our cookie
        assert not may_be_kept(fields_of(response.private_head))
    assert others(fields_of(response.private_head)) == others(received)


@given(FIELDS)
def test_while_users_are_divided_only_what_is_immutable_is_kept(
    fields: list[tuple[str, str]],
) -> None:
    received = parse(fields)
    divided = parse(fields, UNLESS_IMMUTABLE)
    assert may_be_kept(fields_of(divided.head)) is (received.sharing == IMMUTABLE)
    assert not may_be_kept(fields_of(parse(fields, NEVER).head))
    assert others(fields_of(divided.head)) == others(fields_of(received.head))


@given(FIELDS)
def test_a_varying_response_names_all_that_the_variant_depends_on(
    fields: list[tuple[str, str]],
) -> None:
    received, varying = parse(fields), parse(fields, VARYING)
    if received.sharing != SHARED:
        assert varying.head == received.head
        return
    names = {
        word.strip().lower()
        for name, value in fields_of(varying.head)
        if name == b"vary"
        for word in value.split(b",")
    }
    assert b"*" in names or {b"cookie", b"x-beta"} <= names
    before = [v for n, v in fields_of(received.head) if n == b"vary"]
    assert {one.lower() for one in before} <= names
    assert not may_be_kept(fields_of(varying.private_head))


def test_browsers_may_keep_it_as_long_as_before() -> None:
    given_ = [
        ("Cache-Control", "public, max-age=60, s-maxage=600"),
        ("CDN-Cache-Control", "max-age=9"),
    ]
    assert fields_of(parse(given_).private_head) == [
        (b"content-length", b"0"),
        (b"cache-control", b"private, max-age=60"),
    ]


def test_an_interim_response_is_left_alone() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert ResponseParser(b"", NEVER).parse(early).head == early[:-2]
