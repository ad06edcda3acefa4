"""Who is checked when, and who is out of service for failing, against real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from canaryproxy import config as configuration
from canaryproxy.config import Config, Endpoint
from canaryproxy.config import Health as Rules
from canaryproxy.control.outs import Outs
from canaryproxy.measure.resolved import Addresses
from canaryproxy.measure.shared_memory import CHECK, OutCell
from canaryproxy.proxy.health_check import HealthCheck
from canaryproxy.runtime import health_checks
from canaryproxy.runtime.health_checks import HealthChecks
from tests.certificates import Authority
from tests.ports import free_port

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BAD = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
SAID = "check failed: status 503, wanted 2xx"
FAST = "path: /up, interval: 20ms, timeout: 1s, rise: 2, fall: 2"


class Service:
    """Answers each connection with ``answer``; with ``None`` not at all."""

    def __init__(self, answer: bytes | None = GOOD) -> None:
        self.answer = answer
        self.asked = 0
        self.open = 0
        self.most = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.answer is None:
                await reader.read()
            else:
                writer.write(self.answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Service]:
        server = await asyncio.start_server(self._serve, host, port, backlog=128)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


def config(urls: list[str], health: str = FAST, more: str = "") -> Config:
    found = f", health: {{{health}}}" if health else ""
    text = f"variants: {{stable: {{endpoints: {urls}{found}}}}}\n{more}"
    return configuration.parse(text, file="test")


@asynccontextmanager
async def checking(
    first: Config | None = None, cell: OutCell | None = None, addresses: Addresses | None = None
) -> AsyncIterator[tuple[HealthChecks, Outs]]:
    outs = Outs(cell or OutCell())
    checks = HealthChecks(outs, addresses or {})
    if first is not None:
        checks.configure(first, {})
    try:
        yield checks, outs
    finally:
        checks.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - of the code under test, which has no event for it
            await asyncio.sleep(0.005)


async def asks(service: Service, times: int) -> None:
    """Return when it was asked so often from now on."""
    before = service.asked
    await until(lambda: service.asked >= before + times)


async def test_an_endpoint_that_fails_is_out_until_it_rises() -> None:
    async with (
        Service().serving() as good,
        Service().serving() as bad,
        checking() as (checks, outs),
    ):
        checks.configure(config([good.url, bad.url]), {})
        await asks(bad, 3)
        assert not outs.causes(CHECK, 0)
        bad.answer = BAD
        await until(lambda: outs.cause(0, bad.url) == SAID)
        assert outs.causes(CHECK, 0).keys() == {bad.url}
        bad.answer = GOOD
        await until(lambda: not outs.causes(CHECK, 0))
        failed, passed = checks.counts[0]
        assert failed >= 2
        assert passed >= 5
        assert failed + passed <= good.asked + bad.asked
        assert checks.counts[1] == [0, 0]


async def test_a_reload_keeps_the_state_of_what_stays_and_forgets_the_rest() -> None:
    async with (
        Service().serving() as good,
        Service(BAD).serving() as bad,
        checking() as (checks, outs),
    ):
        checks.configure(config([good.url, bad.url]), {})
        await until(lambda: bad.url in outs.causes(CHECK, 0))
        task = checks._checked[next(key for key in checks._checked if key[1].port == bad.port)]
        checks.configure(config([bad.url]), {})
        assert outs.causes(CHECK, 0) == {bad.url: SAID}
        assert [one.task for one in checks._checked.values()] == [task.task], "it goes on"
        asked = good.asked
        await asks(bad, 3)
        assert good.asked <= asked + 1, "the one that was under way"
        # Other rules: the state stays, and what they say is checked at once, not after an hour.
        checks.configure(config([bad.url], FAST.replace("20ms", "1h")), {})
        await asks(bad, 1)
        bad.answer = GOOD
        checks.configure(config([bad.url], FAST.replace("rise: 2", "rise: 3")), {})
        assert outs.causes(CHECK, 0) == {bad.url: SAID}
        await until(lambda: not outs.causes(CHECK, 0))
        bad.answer = BAD
        await until(lambda: bool(outs.causes(CHECK, 0)))
        checks.configure(config([bad.url], ""), {})
        assert not outs.causes(CHECK, 0), "without checks nothing is out"
        asked = bad.asked
        await asyncio.sleep(0.06)
        assert bad.asked <= asked + 1


async def test_after_a_restart_it_stays_out_until_it_has_risen() -> None:
    memory = bytearray(OutCell.SIZE)
    async with Service().serving() as service:
        Outs(OutCell(memory)).put(CHECK, 0, {service.url: SAID})
        wanted = config([service.url], FAST.replace("rise: 2", "rise: 3"))
        async with checking(wanted, OutCell(memory)) as (checks, outs):
            assert outs.causes(CHECK, 0) == {service.url: "check failed before a restart"}
            await until(lambda: not outs.causes(CHECK, 0))
            assert service.asked >= 3
            # What was out then says nothing of an endpoint that comes later.
            checks.configure(config(["http://127.0.0.1:1"], "path: /, interval: 1h"), {})
            checks.configure(config([service.url], "path: /, interval: 1h"), {})
            assert not outs.causes(CHECK, 0)


async def test_each_address_of_a_name_is_checked_by_itself_and_followed() -> None:
    name, port = "http://cart.test:", free_port()

    def url(address: str) -> str:
        return f"{name}{port} ({address})"

    here, there = "127.0.0.2", "127.0.0.3"
    async with (
        Service().serving(here, port) as good,
        Service(BAD).serving(there, port) as bad,
        checking(config([f"{name}{port}"])) as (checks, outs),
    ):
        await asyncio.sleep(0.05)
        assert good.asked + bad.asked == 0
        assert not checks._checked, "nothing is checked before the first look-up"
        checks.resolve({f"{name}{port}": ((here, port),)})
        await asks(good, 1)
        checks.resolve({f"{name}{port}": ((here, port), (there, port))})
        await until(lambda: outs.causes(CHECK, 0) == {url(there): SAID})
        checks.resolve({f"{name}{port}": ((here, port),)})
        assert not outs.causes(CHECK, 0), "the address is gone"
        asked = bad.asked
        await asks(good, 3)
        assert bad.asked <= asked + 1
        good.answer = BAD
        await until(lambda: outs.causes(CHECK, 0) == {url(here): SAID})
        checks.resolve({f"{name}{port}": ()})
        await until(
            lambda: (
                "check failed: host name not resolved" in outs.cause(0, f"{name}{port}")
                and url(here) not in outs.causes(CHECK, 0)
            )
        )


async def test_srv_records_are_checked_at_their_ports() -> None:
    srv = "dns+srv://_http._tcp.pods.test"
    async with Service(BAD).serving() as pod, checking(config([srv])) as (checks, outs):
        checks.resolve({"http+srv://_http._tcp.pods.test": (("127.0.0.1", pod.port),)})
        said = {f"http://pods.test:{pod.port} (127.0.0.1)": SAID}
        await until(lambda: outs.causes(CHECK, 0) == said)


async def test_a_reload_of_the_authority_is_used_from_the_next_check_on(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(GOOD)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=ours.server(ours.pair()))
    async with server, checking() as (checks, outs):
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        text = f"variants: {{stable: {{endpoints: ['{url}'], tls: {{ca: ca.pem}}, health: {{{FAST}}}}}}}"
        found = configuration.parse(text, file="test")
        name = found.variants.stable.tls.ca if found.variants.stable.tls else None
        assert name is not None
        checks.configure(found, {name: other.ca.read_bytes()})
        why = "check failed: certificate not verified (unable to get local issuer certificate)"
        await until(lambda: outs.causes(CHECK, 0) == {url: why})
        checks.configure(found, {name: ours.ca.read_bytes()})
        assert outs.causes(CHECK, 0) == {url: why}
        await until(lambda: not outs.causes(CHECK, 0))


async def test_checks_of_a_variant_that_hangs_are_bounded_and_delay_no_other_variant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging:
        under_way = 0
        most = 0
        may_end = asyncio.Event()

        def secure(self, *_: object) -> None:
            pass

        async def ask(self) -> str:
            Hanging.under_way += 1
            Hanging.most = max(Hanging.most, Hanging.under_way)
            try:
                await Hanging.may_end.wait()
            finally:
                Hanging.under_way -= 1
            return "no response within 1s"

    def make(
        endpoint: Endpoint, rules: Rules, loop: asyncio.AbstractEventLoop
    ) -> HealthCheck | Hanging:
        return Hanging() if endpoint.host == "hangs" else HealthCheck(endpoint, rules, loop)

    monkeypatch.setattr(health_checks, "_AT_ONCE", 8)
    monkeypatch.setattr(health_checks, "HealthCheck", make)
    many = [f"http://hangs:{port}" for port in range(1, 31)]
    async with Service().serving() as good:
        text = (
            f"variants: {{stable: {{endpoints: ['{good.url}'], health: {{{FAST}}}}},"
            f" canary: {{endpoints: {many}, health: {{path: /, interval: 1h}}}}}}"
        )
        async with checking() as (checks, outs):
            addresses = {url: (("127.0.0.1", int(url[13:])),) for url in many}
            checks.resolve(addresses)
            checks.configure(configuration.parse(text, file="test"), {})
            await until(lambda: Hanging.under_way == 8)
            await asks(good, 5)
            assert Hanging.most == 8
            Hanging.may_end.set()
            await until(lambda: len(outs.causes(CHECK, 1)) == 30)
            assert not outs.causes(CHECK, 0)


async def test_many_changes_at_a_time_are_few_publications(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_checks, "_TELL_WITHIN", 0.3)
    cell = OutCell()
    many = [f"http://127.0.0.1:{port}" for port in range(1, 301)]  # nobody listens there
    async with checking(config(many, "path: /, interval: 1h"), cell) as (_, outs):
        await until(lambda: len(outs.causes(CHECK, 0)) == 300)
    assert cell.sequence[0] / 2 < 150


async def test_after_stop_nothing_is_checked_or_told() -> None:
    async with Service(BAD).serving() as service:
        cell = OutCell()
        async with checking(config([service.url]), cell) as (checks, outs):
            await until(lambda: bool(outs.causes(CHECK, 0)))
            checks.stop()
            published, asked = cell.sequence[0], service.asked
            service.answer = GOOD
            checks.resolve({"http://x:1": (("127.0.0.1", 1),)})
            await asyncio.sleep(0.06)
            assert (cell.sequence[0], outs.causes(CHECK, 0)) == (published, {service.url: SAID})
            assert service.asked <= asked + 1


def test_a_timeout_longer_than_the_interval_is_warned_of() -> None:
    found = config(["http://h:1"], "path: /, interval: 1s, timeout: 3s")
    assert configuration.warnings(found) == (
        "variants.stable.health.timeout (3s) is longer than its interval (1s): an endpoint that hangs is"
        " checked less often",
    )
