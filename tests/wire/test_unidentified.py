"""Requests of no known user: probes, and requests from which the browser withheld its cookie."""

from __future__ import annotations

from collections import Counter

import pytest

from canaryproxy.measure.counters import PROBES, WITHHELD

from .harness import Upstream, proxy, until, variants
from .test_split_wire import CANARY, HOST, STABLE, asked, cookie_in, get

KUBE = b"User-Agent: kube-probe/1.29\r\n"
BROWSER = b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
BANK = (
    b"Origin: https://bank.example\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-Dest: document\r\n"
)


def post(*lines: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n" + b"".join(lines) + b"\r\n"


def variants_of(answers: list[bytes]) -> Counter[bytes]:
    return Counter(answer[-6:] for answer in answers)


@pytest.mark.parametrize(
    "request_",
    [get(KUBE), get(BROWSER, target=b"/healthz"), b"OPTIONS / HTTP/1.0\r\n\r\n"],
)
async def test_probes_go_to_stable_and_get_no_cookie(request_: bytes) -> None:
    answers = await asked("split: {weight: 99}", *[request_] * 20)
    assert variants_of(answers) == {b"stable": 20}
    assert not any(b"Set-Cookie" in answer for answer in answers)
    assert all(b"\r\nCache-Control: private\r\n" in answer for answer in answers)


async def test_probes_follow_all_users_to_the_canary() -> None:
    """At 100% stable may be on its way out: its failures say nothing of what users get."""
    (answer,) = await asked("split: {weight: 100}", get(KUBE))
    assert answer.endswith(b"canary")


async def test_a_match_rule_sends_a_probe_where_it_says() -> None:
    rule = "{variant: canary, header: {name: X-Beta, equals: 'yes'}}"
    (answer,) = await asked(f"split: {{weight: 0, match: [{rule}]}}", get(KUBE, b"X-Beta: yes\r\n"))
    assert answer.endswith(b"canary")


async def test_a_probe_with_a_users_cookie_is_that_user() -> None:
    answers = await asked(
        "split: {weight: 50}", *[get(KUBE, b"Cookie: canary_id=u%d\r\n" % at) for at in range(40)]
    )
    assert variants_of(answers).keys() == {b"stable", b"canary"}


async def test_probes_can_be_treated_as_users() -> None:
    answers = await asked("split: {weight: 50, probes: false}", *[get(KUBE)] * 40)
    assert variants_of(answers).keys() == {b"stable", b"canary"}
    assert len({cookie_in(answer) for answer in answers}) == 40


async def test_probes_by_address_are_no_trials() -> None:
    """With a sticky address even a probe has a key."""
    more = "split: {weight: 50, sticky: {address: true}}"
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        for request in (get(KUBE), get(BROWSER), get(KUBE, target=b"/a")):
            client = await running.connect()
            await client.send(request)
            await client.take(b"Content-Length: 6\r\n")
        await until(lambda: len(running.records()) == 1, "one record")
        assert running.counters.service[PROBES] == 2


async def test_no_cookie_is_set_over_one_that_the_browser_withheld() -> None:
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 99}")) as running,
    ):
        for _ in range(20):
            client = await running.connect()
            await client.send(post(BROWSER, BANK))
            await client.take(b"stable")
            assert b"Set-Cookie" not in client.got
            assert b"\r\nCache-Control: private\r\n" in client.got
        assert running.counters.service[WITHHELD] == 20
        assert running.records() == []


async def test_a_user_who_opens_a_page_from_elsewhere_gets_a_cookie() -> None:
    (answer,) = await asked("split: {weight: 50}", get(BROWSER, BANK))
    assert cookie_in(answer)


async def test_a_client_that_is_no_browser_gets_a_cookie_by_post() -> None:
    (answer,) = await asked("split: {weight: 50}", post())
    assert cookie_in(answer)


async def test_users_behind_two_trusted_proxies_are_told_apart() -> None:
    """A CDN and a load balancer in front: the user is neither of their nodes."""
    more = (
        "split: {weight: 20, sticky: {address: true}}\n"
        'forwarded: {trust: ["127.0.0.0/8", "198.51.100.0/24"]}'
    )
    answers = await asked(
        more,
        *[
            get(
                b"X-Forwarded-For: 203.0.113.%d\r\n" % at,
                b"X-Forwarded-For: 198.51.100.%d\r\n" % (at % 2),
            )
            for at in range(200)
        ],
    )
    assert 20 <= variants_of(answers)[b"canary"] <= 60
    again = await asked(more, get(b"X-Forwarded-For: 203.0.113.9, 198.51.100.1\r\n"))
    assert again[0][-6:] == answers[9][-6:]


async def test_json_in_an_applications_cookie_is_a_user() -> None:
    answers = await asked(
        "split: {weight: 50, sticky: {cookie: app, set: false}}",
        *[get(b'Cookie: app={"user": %d}\r\n' % at) for at in range(60)],
    )
    assert 10 <= variants_of(answers)[b"canary"] <= 50
