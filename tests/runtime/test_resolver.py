"""The resolver with look-ups that a test answers."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

import pytest
import trustme

from canaryproxy.config import Dns, Endpoint
from canaryproxy.config.addresses import endpoint, name_server
from canaryproxy.measure.resolved import Addresses, expand
from canaryproxy.proxy.dialer import Dialer
from canaryproxy.runtime.resolver import NotResolvedError, Resolver, look_up_now
from tests.name_server import NameServer

NAME = endpoint("http://cart.test:80")
FAST = Dns.model_validate({"interval": "10ms"})
Found = tuple[tuple[str, int], ...]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Look:
    """Answers look-ups, and keeps what was published."""

    def __init__(self, answer: Found | Exception) -> None:
        self.answer = answer
        self.asked = 0
        self.published: list[Addresses] = []

    async def up(self, endpoint: Endpoint, settings: Dns) -> Found:
        assert (endpoint, settings.interval >= 0.01) == (NAME, True)
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def resolver(self, found: Addresses | None = None) -> Resolver:
        def publish(new: Addresses) -> None:
            self.published.append(dict(new))

        return Resolver(publish, found or {}, self.up)


async def test_only_changes_are_published_and_a_failure_keeps_the_addresses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    one, other = (("10.0.0.7", 80),), (("10.0.0.7", 80), ("10.0.0.8", 80))
    look = Look(one)
    resolver = look.resolver()
    resolver.configure([NAME], FAST)
    await until(lambda: look.asked > 2)
    assert look.published == [{str(NAME): one}]
    (good,) = resolver.states()
    assert (good.addresses, good.failures, good.why, good.said) == (1, 0, "", "")
    look.answer = NotResolvedError("SERVFAIL")
    asked = look.asked
    await until(lambda: look.asked > asked + 3)
    (bad,) = resolver.states()
    assert (bad.addresses, bad.why) == (1, "SERVFAIL")
    assert bad.failures >= 3
    assert bad.age > good.age
    assert bad.said.endswith(": SERVFAIL; 1 address of its last answer in use")
    look.answer = other
    await until(lambda: len(look.published) > 1)
    resolver.stop()
    (again,) = resolver.states()
    assert (again.addresses, again.why) == (2, "")
    assert resolver.failing() == []
    assert again.failures >= bad.failures
    assert look.published == [{str(NAME): one}, {str(NAME): other}]
    assert [record.getMessage().partition(" after ")[0] for record in caplog.records] == [
        "http://cart.test:80 has 1 address",
        "http://cart.test:80 cannot be resolved: SERVFAIL; 1 address of its last answer in use",
        "http://cart.test:80 is resolved again",
        "http://cart.test:80 has 2 addresses (1 new, 0 gone)",
    ]


async def test_the_first_answer_is_asked_for_again_before_the_interval() -> None:
    look = Look(OSError("no answer"))
    resolver = look.resolver()
    resolver.configure([NAME], Dns.model_validate({"interval": "1h"}))
    await until(lambda: look.asked > 2)
    assert look.published == [{str(NAME): ()}]  # looked up, so nobody waits for it
    (state,) = resolver.states()
    (said,) = resolver.failing()
    assert said.startswith("http://cart.test:80 has not been resolved for ")
    assert (state.addresses, state.failures, state.why) == (0, look.asked, "no answer")
    assert state.said.startswith("http://cart.test:80 has not been resolved for ")
    assert state.said.endswith(": no answer; it has no address yet")
    resolver.stop()


async def test_a_resolver_after_another_one_begins_with_its_addresses() -> None:
    before = {str(NAME): (("10.0.0.7", 80),), "http://gone:80": (("10.0.0.9", 80),)}
    look = Look(NotResolvedError("SERVFAIL"))
    resolver = look.resolver(before)
    resolver.configure([NAME], FAST)
    await until(lambda: look.asked > 2)
    assert look.published == []
    look.answer = (("10.0.0.8", 80),)
    await until(lambda: look.published)
    assert look.published == [{str(NAME): (("10.0.0.8", 80),)}]
    resolver.configure([], FAST)
    asked = look.asked
    await asyncio.sleep(0.05)
    assert look.asked == asked


async def test_tls_of_one_address_is_that_of_the_name() -> None:
    """SNI and the certificate's check are those of the name, not of the address that is dialled."""
    asked: list[str] = []

    def note_name(_: object, name: str, __: object) -> None:
        asked.append(name)

    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("cart.test").configure_cert(server_context)
    server_context.sni_callback = note_name
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.9", 0, ssl=server_context
    )
    port = server.sockets[0].getsockname()[1]
    name = endpoint(f"https://cart.test:{port}")
    (one,) = expand([name], {str(name): (("127.0.0.9", port),)})
    dialer = Dialer(one, asyncio.get_running_loop(), _Link)  # type: ignore[arg-type]
    dialer.secure(client_context, None)
    link = await dialer.dial()
    assert asked == ["cart.test"]
    link.close()
    dialer.secure(client_context, "127.0.0.9")
    with pytest.raises(ssl.SSLCertVerificationError):
        await dialer.dial()
    server.close()


class _Link(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def close(self) -> None:
        self._transport.close()


def asking(server: NameServer, **more: str) -> Dns:
    return Dns.model_validate({"servers": (f"127.0.0.1:{server.port}",), **more})


async def test_both_families_and_services_with_priorities_and_weights() -> None:
    with NameServer() as server:
        server.records = {
            ("cart.test.", "A"): ["10.0.0.8", "10.0.0.7"],
            ("cart.test.", "AAAA"): ["fd00::7"],
            ("_http._tcp.cart.test.", "SRV"): [
                "5 0 8080 a.test.",
                "5 9 8081 b.test.",
                "9 1 80 cart.test.",
                "5 1 80 missing.test.",
            ],
            ("a.test.", "A"): ["10.0.0.1"],
            ("b.test.", "A"): ["10.0.0.2"],
        }
        all_of_it = (("10.0.0.7", 80), ("10.0.0.8", 80), ("fd00::7", 80))
        assert await look_up_now(NAME, asking(server)) == all_of_it
        assert await look_up_now(NAME, asking(server, family="ipv4")) == all_of_it[:2]
        assert await look_up_now(NAME, asking(server, family="ipv6")) == all_of_it[2:]
        service = endpoint("dns+srv://_http._tcp.cart.test")
        assert await look_up_now(service, asking(server)) == (
            ("10.0.0.1", 8080, 0, 0.001),
            ("10.0.0.2", 8081, 0, 2.0),
            ("10.0.0.7", 80, 1, 1.0),  # one record, three addresses
            ("10.0.0.8", 80, 1, 1.0),
            ("fd00::7", 80, 1, 1.0),
        )
        server.fails = True
        for one in (NAME, service):
            with pytest.raises(NotResolvedError, match="SERVFAIL"):
                await look_up_now(one, asking(server))


async def test_a_name_of_another_family_only_is_not_resolved() -> None:
    with NameServer() as server:
        server.records = {("cart.test.", "AAAA"): ["fd00::7"]}
        with pytest.raises(NotResolvedError, match="no addresses"):
            await look_up_now(NAME, asking(server, family="ipv4"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.0.0.10", "10.0.0.10:53"),
        ("127.0.0.1:8600", "127.0.0.1:8600"),
        ("::1", "[::1]:53"),
        ("[::1]", "[::1]:53"),
        ("[::1]:5353", "[::1]:5353"),
    ],
)
def test_name_servers_have_addresses_and_perhaps_ports(text: str, found: str) -> None:
    assert str(name_server(text)) == found


@pytest.mark.parametrize("text", ["consul:8600", "10.0.0", "10.0.0.1:0", 53, "[fe80]", ""])
def test_a_name_server_by_name_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="an IP address"):
        name_server(text)
