"""The split as clients see it: cookies, keys, match rules, weights."""

from __future__ import annotations

import asyncio
import re

import pytest

from canaryproxy.measure.counters import ROUTED
from canaryproxy.measure.routing import bucket_of, release_tag

from .harness import Upstream, always, proxy, variants

HOST = b"Host: h\r\n"
STABLE = always(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstable")
CANARY = always(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary")


async def asked(more: str, *requests: bytes) -> list[bytes]:
    """Send requests, each on a new connection, and return the answers."""
    answers = []
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        for request in requests:
            client = await running.connect()
            await client.send(request)
            while not client.got.endswith((b"stable", b"canary")):
                assert await client.read(), client.got
            answers.append(client.got)
    return answers


def get(*lines: bytes, target: bytes = b"/") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"".join(lines) + b"\r\n"


def cookie_in(answer: bytes) -> bytes | None:
    match = re.search(rb"\r\nSet-Cookie: canary_id=([^;\r]*)", answer)
    return match[1] if match else None


async def test_a_new_user_gets_a_cookie_and_is_routed_by_it_at_once() -> None:
    answers = await asked("split: {weight: 50}", *[get()] * 40)
    for answer in answers:
        line = re.search(rb"\r\nSet-Cookie: ([^\r]*)\r\n", answer)
        assert line
        assert re.fullmatch(
            rb"canary_id=[0-9a-f]{32}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax", line[1]
        )
        key = cookie_in(answer)
        assert key
        expected = b"canary" if bucket_of(b"", key) < 5000 else b"stable"
        assert answer.endswith(expected)
    assert len({cookie_in(answer) for answer in answers}) == 40
    assert {answer[-6:] for answer in answers} == {b"stable", b"canary"}


async def test_a_user_with_a_cookie_gets_no_other_and_stays() -> None:
    for user in range(20):
        key = b"user%d" % user
        request = get(b"Cookie: a=1; canary_id=%b; b=2\r\n" % key)
        expected = b"canary" if bucket_of(b"", key) < 3000 else b"stable"
        for answer in await asked("split: {weight: 30}", request, request):
            assert cookie_in(answer) is None
            assert answer.endswith(expected)


@pytest.mark.parametrize(
    "cookies", [b"canary_id=", b"xcanary_id=a", b"canary_idx=a", b'other="canary_id=a"', b""]
)
async def test_what_only_looks_like_our_cookie_is_none(cookies: bytes) -> None:
    (answer,) = await asked("split: {weight: 50}", get(b"Cookie: " + cookies + b"\r\n"))
    assert cookie_in(answer) is not None


async def test_the_cookie_is_secure_when_a_trusted_proxy_says_https() -> None:
    request = get(b"X-Forwarded-Proto: https\r\n")
    (plain,) = await asked("", request)
    (trusted,) = await asked('forwarded: {trust: ["127.0.0.1/32"]}', request)
    assert b"; Secure\r\n" not in plain
    assert b"; SameSite=Lax; Secure\r\n" in trusted


async def test_cookie_attributes_are_configurable() -> None:
    sticky = "{cookie: c, max_age: 1h, same_site: None, domain: example.org}"
    (answer,) = await asked(f"split: {{sticky: {sticky}}}", get())
    assert re.search(
        rb"\r\nSet-Cookie: c=\w{32}; Path=/; Max-Age=3600; HttpOnly; SameSite=None; "
        rb"Domain=example\.org; Secure\r\n",
        answer,
    )


async def test_the_cookie_can_be_kept_from_the_upstream() -> None:
    for forward, expected in (
        (True, b"Cookie: a=1; canary_id=k; b=2"),
        (False, b"Cookie: a=1; b=2"),
    ):
        text = f"split: {{sticky: {{cookie: canary_id, forward: {str(forward).lower()}}}}}"
        async with (
            Upstream(STABLE).serving() as stable,
            proxy(variants(stable.port, more=text)) as running,
        ):
            client = await running.connect()
            await client.send(get(b"Cookie: a=1; canary_id=k; b=2\r\n"))
            await client.take(b"stable")
            assert b"\r\n" + expected + b"\r\n" in stable.got


async def test_the_only_cookie_can_be_kept_from_the_upstream() -> None:
    text = "split: {sticky: {cookie: canary_id, forward: false}}"
    async with (
        Upstream(STABLE).serving() as stable,
        proxy(variants(stable.port, more=text)) as running,
    ):
        client = await running.connect()
        await client.send(get(b"Cookie: canary_id=k\r\n"))
        await client.take(b"stable")
        assert b"ookie" not in stable.got


@pytest.mark.parametrize(
    ("sticky", "line"),
    [
        ("{header: X-User-Id}", b"x-user-id: %b\r\n"),
        ("{cookie: app, set: false}", b"Cookie: app=%b\r\n"),
    ],
)
async def test_a_key_of_the_application_is_used_and_no_cookie_is_set(
    sticky: str, line: bytes
) -> None:
    more = f"split: {{weight: 40, sticky: {sticky}}}"
    keys = [b"u%d" % n for n in range(30)]
    answers = await asked(more, *[get(line % key) for key in keys], get())
    for key, answer in zip(keys, answers, strict=False):
        assert b"Set-Cookie" not in answer
        assert answer.endswith(b"canary" if bucket_of(b"", key) < 4000 else b"stable")
    assert answers[-1].endswith(b"stable")  # without a key


async def test_the_address_can_be_the_key() -> None:
    bucket = bucket_of(b"", b"127.0.0.1")
    for weight, expected in (((bucket + 1) / 100, b"canary"), (bucket / 100, b"stable")):
        (answer,) = await asked(
            f"split: {{weight: {weight:.2f}, sticky: {{address: true}}}}", get()
        )
        assert answer.endswith(expected)
        assert b"Set-Cookie" not in answer


async def test_the_address_behind_a_trusted_proxy_is_the_one_that_it_names() -> None:
    named = b"203.0.113.9"
    bucket = bucket_of(b"", named)
    # A proxy that adds a line of its own, and not to the client's: the client must not choose its bucket.
    request = get(b"X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 10.9.9.9, 203.0.113.9\r\n")
    trust = '\nforwarded: {trust: ["127.0.0.0/8"]}'
    for weight, expected in (((bucket + 1) / 100, b"canary"), (bucket / 100, b"stable")):
        more = f"split: {{weight: {weight:.2f}, sticky: {{address: true}}}}{trust}"
        (answer,) = await asked(more, request)
        assert answer.endswith(expected)


async def test_only_new_sessions_enter_where_configured() -> None:
    more = "split: {weight: 100, admit: new_sessions, salt: r2}"
    tag = release_tag(b"r2")
    (new,) = await asked(more, get())
    key = cookie_in(new)
    assert key
    assert new.endswith(b"canary")
    assert key.endswith(b"." + tag)
    old, again = await asked(
        more, get(b"Cookie: canary_id=%b\r\n" % key[:32]), get(b"Cookie: canary_id=%b\r\n" % key)
    )
    assert old.endswith(b"stable")
    assert again.endswith(b"canary")


MATCH = """
split:
  weight: 0
  match:
    - {variant: stable, path: {prefix: /admin}}
    - {variant: canary, header: {name: X-Beta, equals: "yes"}}
    - {variant: canary, cookie: {name: team, regex: "^(red|blue)$"}}
    - {variant: canary, method: [PUT, PATCH], path: {regex: "^/v[0-9]+/"}}
    - {variant: canary, header: {name: X-Debug, present: true}}
"""


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get(), b"stable"),
        (get(b"X-Beta: yes\r\n"), b"canary"),
        (get(b"x-beta: yes\r\n"), b"canary"),
        (get(b"X-Beta: yess\r\n"), b"stable"),
        (get(b"X-Beta: yes\r\n", target=b"/admin/x"), b"stable"),
        (get(b"X-Beta: yes\r\n", target=b"/x?/admin"), b"canary"),
        (get(b"Cookie: a=b; team=blue\r\n"), b"canary"),
        (get(b"Cookie: team=bluegreen\r\n"), b"stable"),
        (b"PUT /v2/a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", b"canary"),
        (get(target=b"/v2/a"), b"stable"),
        (get(b"X-Debug:\r\n"), b"canary"),
    ],
)
async def test_a_match_rule_decides_before_the_weight(request_: bytes, expected: bytes) -> None:
    (answer,) = await asked(MATCH, request_)
    assert answer.endswith(expected)


COMPOSED = """
forwarded: {trust: ["127.0.0.0/8"]}
split:
  weight: 0
  match:
    - {variant: canary, host: [shop.example, "*.beta.example"]}
    - {variant: canary, query: {name: pre view, equals: "é"}}
    - {variant: canary, network: [192.0.2.0/24, "2001:db8::/32"]}
    - variant: canary
      header: {name: X-Team, present: true}
      any: [{path: {prefix: /a}}, {all: [{path: {prefix: /b}}, {method: PUT}]}]
      not: {any: [{header: {name: X-Team, equals: red}}, {query: {name: plain, present: true}}]}
"""


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: SHOP.example:8080\r\n\r\n", b"canary"),
        (b"GET / HTTP/1.1\r\nHost: shop.example.\r\n\r\n", b"canary"),
        (b"GET http://shop.example/ HTTP/1.1\r\nHost: h\r\n\r\n", b"canary"),
        (b"GET / HTTP/1.1\r\nHost: a.b.beta.example\r\n\r\n", b"canary"),
        (b"GET / HTTP/1.1\r\nHost: beta.example\r\n\r\n", b"stable"),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b"stable"),
        (get(target=b"/?a=b&pre+view=%C3%A9"), b"canary"),
        (get(target=b"/?pre%20view=1&pre+view=%c3%a9&c"), b"canary"),
        (get(target=b"/?pre+view=%C3%A9x"), b"stable"),
        (get(target=b"/pre+view=%C3%A9"), b"stable"),
        (get(b"X-Forwarded-For: 192.0.2.7\r\n"), b"canary"),
        (get(b"X-Forwarded-For: 192.0.2.7, 198.51.100.1\r\n"), b"stable"),
        (get(b"X-Forwarded-For: [2001:db8::1]:4711\r\n"), b"canary"),
        (get(b"X-Forwarded-For: unknown\r\n"), b"stable"),
        (get(b"X-Team: blue\r\n", target=b"/a"), b"canary"),
        (get(b"X-Team: blue\r\n", target=b"/b"), b"stable"),
        (get(target=b"/a"), b"stable"),
        (get(b"X-Team: red\r\n", target=b"/a"), b"stable"),
        (get(b"X-Team: blue\r\n", target=b"/a?plain"), b"stable"),
    ],
)
async def test_conditions_are_put_together(request_: bytes, expected: bytes) -> None:
    (answer,) = await asked(COMPOSED, request_)
    assert answer.endswith(expected)


async def test_requests_alike_but_for_query_or_client_are_told_apart() -> None:
    """What the rules say of a request is remembered, by what they read."""
    plain = get(b"X-Team: blue\r\n", target=b"/a")
    but_for_query = get(b"X-Team: blue\r\n", target=b"/a?plain=1")
    for first, second in ((plain, but_for_query), (but_for_query, plain)):
        answers = await asked(COMPOSED, first, second, first)
        expected = [b"canary" if one is plain else b"stable" for one in (first, second, first)]
        assert [answer[-6:] for answer in answers] == expected


async def test_the_client_of_each_connection_counts() -> None:
    more = "split: {match: [{variant: canary, network: 127.0.0.2}]}"
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        for address, expected in (("127.0.0.2", b"canary"), ("127.0.0.1", b"stable")) * 2:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", running.port, local_addr=(address, 0)
            )
            writer.write(get(b"Connection: close\r\n"))
            assert (await reader.read()).endswith(expected)
            writer.close()


async def test_a_published_weight_acts_on_the_next_request_and_moves_only_who_must() -> None:
    users = [b"user-%d" % n for n in range(60)]
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 0}")) as running,
    ):
        client = await running.connect()
        before: set[bytes] = set()
        for weight in (0, 5, 25, 50, 100):
            running.weight(weight)
            on_canary = set()
            for user in users:
                client.got = b""
                await client.send(get(b"Cookie: canary_id=%b\r\n" % user))
                while not client.got.endswith((b"stable", b"canary")):
                    await client.read()
                if client.got.endswith(b"canary"):
                    on_canary.add(user)
            assert before <= on_canary
            assert on_canary == {user for user in users if bucket_of(b"", user) < weight * 100}
            before = on_canary
        assert running.counters.canary[ROUTED] + running.counters.stable[ROUTED] == 300
