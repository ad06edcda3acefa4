"""The fuzzers' targets, fed with the corpus and with mutants of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .grammar import LINES, chunks, mutant, request
from .targets import TARGETS

CORPUS = Path(__file__).parent.parent / "wire" / "corpus"
MUTANTS = 1500
COOKIES = (
    b"id=1; a=b; id=2",
    b'a=1;id="x"; b',
    b"id=",
    b"; ;id=a;;",
    b"xid=1; id =2",
    b'a="; id=3"',
)
FORWARDED = (
    b"192.0.2.7, ::1\nfor=192.0.2.7;proto=https\nhttp",
    b'for="[::1]:4711", for=_x\n,,\n\n',
)

MARK = b"\r\n\r\n\0\r\nQUIT\n"
PROXIES = (
    b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\nGET",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n",
    b"PROXY UNKNOWN ffff:f...f:ffff\r\n",
    MARK + b"\x21\x11\0\x0c\xc0\0\2\1\xc6\x33\x64\2\x30\x39\1\xbbGET",
    MARK + b"\x21\x21\0\x24" + bytes(36),
    MARK + b"\x20\0\0\0",
    MARK + b"\x21\x11\0\x14\xc0\0\2\1\xc6\x33\x64\2\x30\x39\1\xbb\4\0\5hello",
    MARK + b"\x21\x31\0\xd8" + bytes(216),
)


def seeds(name: str, source: random.Random) -> list[bytes]:
    """Return valid and odd inputs of a target."""
    if name in ("requests", "answers"):
        return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    if name == "chunks":
        return [chunks(source, bytes(range(60, 120)) * 4) for _ in range(20)]
    return list({"cookies": COOKIES, "forwarded": FORWARDED, "proxy-protocol": PROXIES}[name])


@pytest.mark.parametrize("name", TARGETS)
def test_what_must_hold_holds(name: str) -> None:
    source = random.Random(name)
    target = TARGETS[name]
    known = seeds(name, source)
    for data in known:
        target(data)
    for number in range(MUTANTS):
        if name == "requests" and number % 2:
            data, _ = request(source)
            if number % 4 == 1:
                at = data.find(b"\r\n") + 2
                data = data[:at] + source.choice(LINES) + b"\r\n" + data[at:]
        else:
            data = source.choice(known)[:3000]
        target(mutant(source, data) if source.random() < 0.8 else data)
