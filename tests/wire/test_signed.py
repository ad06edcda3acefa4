"""Sticky cookies that are signed: nobody makes one, and keys are replaced without moving a user."""

from __future__ import annotations

from pathlib import Path

from canaryproxy import config
from canaryproxy.measure import counters
from canaryproxy.measure.routing import bucket_of
from canaryproxy.proxy.signing import Signer

from .harness import Proxy, Upstream, proxy, variants
from .test_split_wire import CANARY, STABLE, cookie_in, get

OLD, NEW = b"o" * 32, b"n" * 40


def sticky(keys: Path, more: str = "") -> str:
    return f"split: {{weight: 50, sticky: {{sign: {{key_file: {keys}}}{more}}}}}"


def in_canary(start: bytes) -> bytes:
    """Return a key that the canary would get, if one could choose."""
    return next(
        key for key in (b"%b%d" % (start, n) for n in range(100)) if bucket_of(b"", key) < 5000
    )


async def ask(running: Proxy, cookie: bytes | None = None) -> bytes:
    line = b"" if cookie is None else b"Cookie: canary_id=%b\r\n" % cookie
    client = await running.connect()
    await client.send(get(line))
    while not client.got.endswith((b"stable", b"canary")):
        assert await client.read(), client.got
    client.close()
    return client.got


async def test_only_what_we_signed_is_a_users_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(NEW)
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, sticky(keys))) as running,
    ):
        seen = set()
        for _ in range(20):
            value = cookie_in(await ask(running))
            assert value is not None
            key = Signer((NEW,), b"canary_id").verify(value)
            assert key is not None
            expected = b"canary" if bucket_of(b"", key) < 5000 else b"stable"
            for _ in range(2):  # parsed, then remembered
                answer = await ask(running, value)
                assert cookie_in(answer) is None
                assert answer.endswith(expected)
            seen.add(expected)
        assert seen == {b"stable", b"canary"}
        chosen = in_canary(b"chosen")
        for forged in (
            chosen,
            chosen + b"." + b"A" * 22,
            Signer((OLD,), b"canary_id").sign(chosen),
            Signer((NEW,), b"session").sign(chosen),
            Signer((NEW,), b"canary_id").sign(chosen) + b".",
        ):
            for _ in range(2):
                fresh = cookie_in(await ask(running, forged))
                assert fresh is not None
                assert chosen not in fresh
    # The upstream got what the client sent: signing changes nothing for the service.
    assert b"canary_id=" in stable.got + canary.got


async def test_keys_are_replaced_and_nobody_moves(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(OLD)
    old, new = (Signer((key,), b"canary_id") for key in (OLD, NEW))
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, sticky(keys))) as running,
    ):
        users = [value for _ in range(10) if (value := cookie_in(await ask(running)))]
        before = [(await ask(running, value))[-6:] for value in users]
        keys.write_bytes(NEW + b"\n" + OLD)
        text = variants(stable.port, canary.port, sticky(keys))
        made = config.parse(text, file="f")
        running.reconfigure(made, counters.slots([], {}))
        for value, side in zip(users, before, strict=True):
            for _ in range(2):  # until the client has taken the new one
                answer = await ask(running, value)
                renewed = cookie_in(answer)
                assert renewed is not None
                assert new.verify(renewed) == old.verify(value)
                assert answer.endswith(side)
            answer = await ask(running, renewed)
            assert cookie_in(answer) is None
            assert answer.endswith(side)
        keys.write_bytes(NEW)
        running.reconfigure(made, counters.slots([], {}))
        assert cookie_in(await ask(running, users[0])) is not None  # too late: a new user


async def test_marked_for_the_release_and_signed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(NEW)
    more = (
        f"release: {{id: r1, steps: [{{weight: 100}}]}}\n"
        f"split: {{admit: new_sessions, sticky: {{sign: {{key_file: {keys}}}}}}}"
    )
    async with (
        Upstream(STABLE).serving() as stable,
        Upstream(CANARY).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        answer = await ask(running)
        value = cookie_in(answer)
        assert value is not None
        key = Signer((NEW,), b"canary_id").verify(value)
        assert key is not None
        assert key.endswith(b"." + running.service.context.router.table.tag)
        assert (await ask(running, value)).endswith(b"canary") == answer.endswith(b"canary")
