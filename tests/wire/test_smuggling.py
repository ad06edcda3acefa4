"""Every way to smuggle that is known to us, in all its spellings, on sockets.

Each case is a connection of its own. Behind what it tries comes a request that must not be taken for a part
of anything, and must not pass where the one before it was refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product

import pytest

from canaryproxy.http1.chunked import FORBIDDEN_TRAILERS
from canaryproxy.http1.fields import HARMLESS, REQUEST_KINDS
from canaryproxy.measure.counters import REFUSED, ROUTED

from ..fuzz.recorder import Recorded, Recorder
from .harness import OK, Link, Upstream, always, proxy, status_of, variants

HOST = b"Host: h\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]")
EVERY_BYTE = [bytes([value]) for value in range(256)]


def get(lines: bytes = b"", target: bytes = b"/", host: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + host + lines + b"\r\n"


def post(lines: bytes, body: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + lines + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


async def none_passes(cases: Iterable[bytes], status: int = 400) -> None:
    """Each is answered with this status and a closed connection, and not a byte reaches the upstream."""
    count = 0
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        for case in cases:
            count += 1
            answer = await running.ask(case + SMUGGLED)
            assert status_of(answer) == status, (case, answer)
            assert b"\r\nConnection: close\r\n" in answer, case
            assert answer.count(b"HTTP/1.1 ") == 1, (case, answer)
            assert upstream.links == [], case
        assert running.counters.proxy[REFUSED + status] == count
        assert running.counters.stable[ROUTED] == 0
    assert count


async def none_ends(cases: Iterable[bytes]) -> None:
    """Their heads are good, their bodies are not: 400 and a closed connection, and no request comes whole."""
    async with Recording() as upstream, proxy(variants(upstream.port)) as running:
        for case in cases:
            answer = await running.ask(case + SMUGGLED)
            assert status_of(answer) == 400, (case, answer)
            assert answer.count(b"HTTP/1.1 ") == 1, (case, answer)
        assert upstream.requests == []


async def all_pass(cases: Iterable[bytes]) -> Mapping[bytes, Recorded]:
    """Each is forwarded as one request, and so is the one behind it; return them by case."""
    found: dict[bytes, Recorded] = {}
    async with Recording() as upstream, proxy(variants(upstream.port)) as running:
        for case in cases:
            upstream.requests.clear()
            answer = await running.ask(case + LAST)
            assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"200"], (case, answer)
            found[case], last = upstream.requests
            assert last.target == b"/last"
    return found


class Recording:
    """An upstream that reads strictly (``Recorder``) and answers 200."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self._serving = Upstream(self._serve).serving()
        self.port = 0

    async def __aenter__(self) -> Recording:
        self.port = (await self._serving.__aenter__()).port
        return self

    async def __aexit__(self, *args: object) -> None:
        await self._serving.__aexit__(None, None, None)

    async def _serve(self, link: Link) -> None:
        recorder = Recorder()
        while data := await link.read():
            for _ in range(recorder.feed(data)):
                self.requests.append(recorder.requests[-1])
                await link.send(OK)


# Names


def spellings(name: bytes) -> list[bytes]:
    """Return a name with some or all of its hyphens as underscores, in three cases."""
    found = {
        b"".join(part + mark for part, mark in zip(name.split(b"-"), (*marks, b""), strict=True))
        for marks in product((b"-", b"_"), repeat=name.count(b"-"))
    } - {name}
    return sorted(found | {one.title() for one in found} | {one.upper() for one in found})


DANGEROUS = [name for name, kind in REQUEST_KINDS.items() if kind not in HARMLESS]


@pytest.mark.parametrize("name", [one for one in DANGEROUS if b"-" in one])
async def test_names_that_a_server_takes_for_another(name: bytes) -> None:
    """CGI and WSGI make the same variable of ``-`` and ``_``."""
    assert spellings(name)
    await none_passes(get(one + b": 1\r\n") for one in spellings(name))


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection"])
async def test_names_with_a_byte_too_many(name: bytes) -> None:
    """Whatever byte is put before, into or behind a name: it is another name, or none at all."""
    value = {b"Transfer-Encoding": b"chunked", b"Content-Length": b"5"}.get(name, b"h")
    cases = []
    for byte in EVERY_BYTE:
        for odd in (byte + name, name[:4] + byte + name[4:], name + byte):
            legal = TOKEN.fullmatch(byte) and odd.lower().replace(b"_", b"-") not in REQUEST_KINDS
            if not legal and byte != b":":
                cases.append(get(odd + b": " + value + b"\r\n"))
    await none_passes(cases)


# Values of framing fields


CODINGS = [
    b"", b"identity", b"gzip", b"gzip, x, y", b"gzip; chunked", b"gzip, chunked;", b"chunked, gzip",
    b"chunked, chunked", b"chunked,", b",chunked", b", chunked", b"chunked;", b"chunked;a=b", b"chunked a",
    b"chunked\tchunked", b'"chunked"', b"'chunked'", b"xchunked", b"chunkedx", b"chunke", b"chun ked",
    b"chunked\\", b"[chunked]", b"chunked=1", b"c\xc4\xa7unked", b"\xc3\xa7hunked", b"\xef\xbb\xbfchunked",
    b"\xffchunked", b"gzip, , chunked", b"chunked, identity", b"trailers", b"gzip, chunked, chunked",
    b"gzip,, chunked", b"0", b"*", b"chunKed\xcc\x81", b"%63hunked",
]  # fmt: skip
UNKNOWN_CODINGS = [
    b"gzip, chunked", b"identity, chunked", b"close,chunked", b"x;a=b , \tchunked", b'x;a=";",chunked',
    b"GZIP,deflate,Chunked",
]  # fmt: skip
CONTROLS = [byte for byte in EVERY_BYTE if byte < b" " and byte not in b"\t"] + [b"\x7f"]


async def test_a_coding_before_chunked_is_not_implemented() -> None:
    """RFC 9112 §6.1: 501, as the end of the body is clear; where it is not, 400 (§6.3)."""
    cases = [post(b"Transfer-Encoding: " + one + b"\r\n", b"0\r\n\r\n") for one in UNKNOWN_CODINGS]
    await none_passes(cases, 501)


async def test_codings_that_are_not_chunked() -> None:
    await none_passes(
        [
            *(
                post(b"Transfer-Encoding:" + blank + value + b"\r\n", b"0\r\n\r\n")
                for value in CODINGS
                for blank in (b"", b" ", b" \t ")
            ),
            *(
                post(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n")
                for byte in CONTROLS
                for value in (byte + b"chunked", b"chu" + byte + b"nked", b"chunked" + byte)
                if byte != b"\r" or not value.endswith(byte)  # CR CR LF is tried below
            ),
            *(
                post(first + b"Transfer-Encoding: chunked\r\n" + second, b"0\r\n\r\n")
                for one in (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
                            b"TRANSFER-ENCODING:",
                            b"Content-Length: 5", b"content-length: 0", b"Content-Length:")
                for first, second in ((one + b"\r\n", b""), (b"", one + b"\r\n"))
            ),
        ]
    )  # fmt: skip


LENGTHS = [
    b"", b"+5", b"-5", b"-0", b"+0", b"5 5", b"5,5", b"5, 5", b"5,", b",5", b"5;", b"5.", b"5.0", b"0x5",
    b"0o5",
    b"0b1", b"5h", b"5_0", b"5e0", b"1e1", b"five", b"\xd9\xa5", b"\xef\xbc\x95", b"\xb2", b"'5'", b'"5"',
    b"(5)",
    b"5 \xa0", b"\xa05", b"5\xa0", b"9" * 19, b"9" * 400, b"18446744073709551621", b"%35", b"NaN", b"inf",
    b"5 6",
]  # fmt: skip


async def test_lengths_that_are_not_plain_digits() -> None:
    await none_passes(
        [
            *(post(b"Content-Length: " + value + b"\r\n", b"12345") for value in LENGTHS),
            *(
                post(b"Content-Length: " + value + b"\r\n", b"12345")
                for byte in CONTROLS
                for value in (byte + b"5", b"1" + byte + b"2", b"5" + byte)
                if byte != b"\r" or not value.endswith(byte)
            ),
            *(
                post(b"Content-Length: 5\r\n" + second + b"\r\n", b"12345")
                for second in (b"Content-Length: 5", b"Content-Length: 6", b"CONTENT-LENGTH: 5",
                               b"content-length:", b"Content-Length: 05", b"Content-Length: 0")
            ),
        ]
    )  # fmt: skip


# Lines


async def test_lines_that_end_or_go_on_in_other_ways() -> None:
    field = b"Transfer-Encoding: chunked"
    await none_passes(
        [
            *(
                post(b"A: b" + mark + field + b"\r\n", b"0\r\n\r\n")
                for mark in (b"\n", b"\r", b"\n\r", b"\r\r", b"\x00", b"\x0b", b"\x0c", b"\r\n ", b"\r\n\t",
                             b"\r\r\n", b"\n\r\n", b"\x1c", b"\x1e")
            ),
            *(
                post(name + fold + value + b"\r\n", b"0\r\n\r\n")
                for name, value in ((b"Transfer-Encoding:", b"chunked"), (b"Content-Length:", b"5"),
                    (b"A:", b"b"))
                for fold in (b"\r\n ", b"\r\n\t", b" \r\n  ", b"\n ", b"\r ")
            ),
            *(
                post(name + b": 5" + end, b"12345")
                for name in (b"Content-Length", b"A")
                for end in (b"\n", b"\r\r\n", b" \n", b"\x00\r\n", b"\x0b\r\n")
            ),
            *(
                b"GET / HTTP/1.1" + end + HOST + b"\r\n"
                for end in (b"\n", b"\r", b"\r\r\n", b" \r\n", b"\t\r\n", b"\x00\r\n", b"\x0b\r\n", b"\r\n ")
            ),
            *(get()[:-2] + end for end in (b"\n", b"\r\r\n", b" \r\n\r\n", b"\t\r\n\r\n", b"\n\r\n")),
        ]
    )  # fmt: skip


# Every byte at every place


async def test_every_byte_in_a_value() -> None:
    legal = [byte for byte in EVERY_BYTE if byte == b"\t" or (byte >= b" " and byte != b"\x7f")]
    await none_passes(get(b"A: b" + byte + b"c\r\n") for byte in EVERY_BYTE if byte not in legal)
    found = await all_pass(get(b"A: b" + byte + b"c\r\n") for byte in legal)
    for byte in legal:
        assert found[get(b"A: b" + byte + b"c\r\n")].all(b"a") == [b"b" + byte + b"c"]


async def test_every_byte_in_a_name() -> None:
    legal = [byte for byte in EVERY_BYTE if TOKEN.fullmatch(byte)]
    await none_passes(
        get(b"A" + byte + b"b: c\r\n") for byte in EVERY_BYTE if byte not in (*legal, b":")
    )
    found = await all_pass(get(b"A" + byte + b"b: c\r\n") for byte in legal)
    for byte in legal:
        assert found[get(b"A" + byte + b"b: c\r\n")].all((b"A" + byte + b"b").lower()) == [b"c"]


async def test_every_byte_in_a_path_and_in_a_query() -> None:
    in_path = re.compile(rb"[!$&-;=@-Z\[\]_a-z|~?]")
    in_query = re.compile(rb"[!$-;=?-Z\[\\\]^_`a-z{|}~]")
    for start, legal in ((b"/a", in_path), (b"/?a", in_query)):
        targets = {byte: start + byte + b"b" for byte in EVERY_BYTE}
        await none_passes(
            get(target=target) for byte, target in targets.items() if not legal.fullmatch(byte)
        )
        found = await all_pass(
            get(target=target) for byte, target in targets.items() if legal.fullmatch(byte)
        )
        assert [one.target for one in found.values()] == [
            target for byte, target in targets.items() if legal.fullmatch(byte)
        ]


async def test_every_byte_in_a_host() -> None:
    legal = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+;=:\t ]")
    hosts = {byte: b"Host: h" + byte + b"\r\n" for byte in EVERY_BYTE}
    await none_passes(get(host=host) for byte, host in hosts.items() if not legal.fullmatch(byte))
    found = await all_pass(get(host=host) for byte, host in hosts.items() if legal.fullmatch(byte))
    for byte, host in hosts.items():
        if legal.fullmatch(byte):
            one = found[get(host=host)]
            assert one.all(b"host") == [(b"h" + byte).strip()]
            # What a host may hold ends no parameter of Forwarded.
            assert len(re.sub(rb'"[^"]*"', b"", one.all(b"forwarded")[0]).split(b";")) == 3


async def test_every_byte_in_a_method_and_in_a_version() -> None:
    legal = re.compile(rb"[A-Z0-9_-]")
    methods = {byte: b"GE" + byte + b"T" for byte in EVERY_BYTE if byte != b" "}
    rest = b" / HTTP/1.1\r\n" + HOST + b"\r\n"
    await none_passes(method + rest for byte, method in methods.items() if not legal.match(byte))
    found = await all_pass(method + rest for byte, method in methods.items() if legal.match(byte))
    assert all(one.method + rest == asked for asked, one in found.items())
    await none_passes(b"GET / HTTP/1.1" + byte + b"\r\n" + HOST + b"\r\n" for byte in EVERY_BYTE)


# Targets


async def test_targets_that_name_a_host() -> None:
    await none_passes(
        get(target=target)
        for target in (
            b"http://u@h/", b"http://u:p@h/", b"http://@h/", b"http://h@/", b"http://u%40h@i/", b"http://",
            b"http:///", b"http://:80/", b"http:/h", b"http:h", b"http//h/", b"//", b"http://h\\@i/",
            b"http://h#/",
            b"http://h:80:81/", b"http://[::1/", b"http://::1/", b"http://h,i/", b"ws://h/",
            b"gopher://h/", b"h:80",
            b"http://h:-1/", b"http://h:65536/", b"http://h /", b"\\\\h\\", b"*", b"?x", b"#", b"http://h/\\",
        )
        if target != b"//"
    )  # fmt: skip


async def test_the_authority_of_the_target_is_the_only_host() -> None:
    for target, host, rest in (
        (b"http://real.example/x", b"real.example", b"/x"),
        (b"http://real.example", b"real.example", b"/"),
        (b"http://real.example?a=http://other/", b"real.example", b"/?a=http://other/"),
        (b"HTTP://REAL.example:8080//other/", b"REAL.example:8080", b"//other/"),
        (b"https://[2001:db8::1]:443/", b"[2001:db8::1]:443", b"/"),
    ):
        request = get(target=target, host=b"A: 1\r\nHost: other.example\r\nB: 2\r\n")
        (one,) = (await all_pass([request])).values()
        assert one.target == rest
        assert one.all(b"host") == one.all(b"x-forwarded-host") == [host]
        assert b"other.example" not in b"".join(value for _, value in one.fields)


async def test_what_is_written_in_percents_stays_so() -> None:
    targets = (b"/%00", b"/a%0d%0aHost:%20i", b"/%2e%2e/%2F", b"/?%00%0A", b"/%25%30%30")
    for target in targets:
        (one,) = (await all_pass([get(target=target)])).values()
        assert one.target == target
    (one,) = (await all_pass([get(host=b"Host: a%00b\r\n")])).values()
    assert one.all(b"host") == [b"a%00b"]


# Chunks and trailers


SIZES = [
    b"", b" ", b"+5", b"-5", b"-0", b"0x5", b"5h", b"5 5", b"5,5", b"5.", b"5_", b"_5", b"g", b"\xd9\xa5",
    b"\xff",
    b" 5", b"\t5", b"5 ", b"5\t", b"5\x00", b"5\x0b", b"5\xa0", b"1" * 16, b"f" * 16, b"0" * 17 + b"5",
    b"f" * 100,
    b"10000000000000005", b"ffffffffffffffff", b"5\n", b"5\r", b"\n5", b"5;\n", b'5;a="', b'5;a="\r',
    b'5;a="\n"',
    b'5;a="\r\n"', b"5;a=\x00", b"5;a=\x7f", b"5;\x0ba", b'5;a="\\', b'5;a="b"c', b"5;=b", b"5;a=;",
    b"5 a", b"5\\",
]  # fmt: skip


async def test_chunk_sizes_that_are_none() -> None:
    await none_ends(chunked(size + b"\r\n12345\r\n0\r\n\r\n") for size in SIZES)
    await none_ends(chunked(b"3\r\nabc\r\n" + size + b"\r\n12345\r\n0\r\n\r\n") for size in SIZES)


async def test_chunks_that_are_longer_shorter_or_do_not_end() -> None:
    await none_ends(
        chunked(body)
        for body in (
            b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nab\r\n0\r\n\r\n", b"3\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabc\r0\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\r\nabc\r\n\r\n", b"3\r\nabc\r\n0\n\n",
            b"0\r\n\n",
            b"0\r\n\r", b"0\n\r\n", b"0\r\r\n\r\n", b"0;\x00\r\n\r\n", b"\r\n0\r\n\r\n", b"0\r\n \r\n\r\n",
        )
    )  # fmt: skip


async def test_extensions_that_look_like_chunks_are_dropped() -> None:
    sizes = [
        b"5;a", b"5 ; a", b"5\t;\ta=b", b"05", b"000000000000005", b'5;a="0;b=c"', b'5;a="\\"0"',
        b"5;a=b;c=d",
        b'5;a="\xff"', b"5;0=0", b"5;0;0", b'5;a=""', b'5;a="\\\\"', b"5;" + b"a" * 4000,
    ]  # fmt: skip
    found = await all_pass(chunked(size + b"\r\n0\r\n\r\n\r\n0;x=y\r\n\r\n") for size in sizes)
    assert [(one.body, one.trailers) for one in found.values()] == [(b"0\r\n\r\n", ())] * len(sizes)


async def test_trailers_that_frame_route_or_authenticate_are_dropped() -> None:
    names = sorted(
        spelling
        for name in FORBIDDEN_TRAILERS
        for spelling in (name, name.upper(), name.title(), *spellings(name))
    )
    found = await all_pass(
        chunked(b"2\r\nab\r\n0\r\nX-Ok: 1\r\n" + name + b": 5\r\nX-Too: 2\r\n\r\n")
        for name in names
    )
    for one in found.values():
        assert one.body == b"ab"
        assert one.trailers == ((b"x-ok", b"1"), (b"x-too", b"2"))
        assert len(one.all(b"host")) == 1


async def test_trailers_that_are_malformed() -> None:
    await none_ends(
        chunked(b"0\r\n" + line + b"\r\n\r\n")
        for line in (
            b"A", b"A b: c", b"A : b", b" A: b", b"\tA: b", b": b", b"A: b\r\n c", b"A: b\nC: d",
            b"A: b\rC: d",
            b"A: \x00", b"A: \x7f", b"A\xff: b", b"Transfer-Encoding : chunked", b"GET / HTTP/1.1",
            b"A: " + b"b" * (16 * 1024),
        )
    )  # fmt: skip


# Upgrades


@pytest.mark.parametrize(
    "upgrade",
    [
        b"h2c", b"H2C", b"h2c, websocket", b"websocket, h2c", b"websocket,h2c", b"h2c/1", b"websocket, H2c/2",
        b"h2", b"HTTP/2.0", b"http/2", b"TLS/1.0", b"TLS/1.2, HTTP/1.1", b"h2c,", b", h2c",
    ],
)  # fmt: skip
async def test_upgrades_to_what_would_hide_requests_are_not_passed_on(upgrade: bytes) -> None:
    lines = (
        b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        b"Upgrade: " + upgrade + b"\r\n"
    )
    (one,) = (await all_pass([get(lines)])).values()
    assert one.all(b"upgrade") == one.all(b"connection") == one.all(b"http2-settings") == []


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\n12345",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
    ],
)
async def test_an_upgrade_with_a_body_is_none_even_if_the_upstream_thinks_so(body: bytes) -> None:
    """What follows the body is a request to us, and would be the tunnel's to the upstream."""
    switch = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    async with (
        Upstream(always(switch)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        answer = await running.ask(head + body + LAST)
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"502", b"502"]
        assert upstream.got.count(b"GET /last") == 1
        assert len(upstream.links) == 2
        assert b"pgrade" not in upstream.got


# Early answers


async def test_what_follows_an_early_answer_is_no_request() -> None:
    """The upload ends with what looks like a request: neither it nor the one behind it is taken for one."""

    async def early(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(OK)

    async with Upstream(early).serving() as upstream, proxy(variants(upstream.port)) as running:
        for body in (b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n"):
            client = await running.connect()
            await client.send(b"POST / HTTP/1.1\r\n" + HOST + body)
            await client.take(b"ok")
            await client.send(SMUGGLED + bytes(500) + SMUGGLED)
            answer = await client.to_end()
            assert answer.count(b"HTTP/1.1 ") == 1
            assert b"\r\nConnection: close\r\n" in answer
        assert b"smuggled" not in upstream.got
        assert len(upstream.links) == 2
