"""Content codings are undone in pieces, and never to more than asked for."""

from __future__ import annotations

import gzip
import resource
import zlib
from collections.abc import Callable
from functools import partial
from random import Random

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.content_coding import SLICE, CodingError, decoder

WINDOW = zstd.CompressionParameter.window_log


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


PACKERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "identity": (b"", bytes),
    "named identity": (b"identity", bytes),
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "upper case": (b" GZip ", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "deflate without a header": (b"deflate", raw_deflate),
    "br": (b"br", partial(brotli.compress, quality=5)),
    "zstd": (b"zstd", zstd.compress),
}
packers = pytest.mark.parametrize("packer", PACKERS)


def unpack(coding: bytes, data: bytes, size: int = SLICE) -> tuple[bytes, bool]:
    """Decode a body that comes in pieces; return the text, and whether it is complete."""
    made = decoder(coding)
    assert made is not None
    found = []
    for at in range(0, len(data), size):
        found.append(made.decode(data[at : at + size]))
        while not made.hungry:
            found.append(made.decode(b""))
            assert len(found[-1]) <= 1.5 * SLICE
    return b"".join(found), made.complete


@packers
@given(
    text=st.binary(max_size=500) | st.text(max_size=500).map(str.encode), size=st.integers(1, 600)
)
def test_bodies_are_unpacked_however_they_are_cut(packer: str, text: bytes, size: int) -> None:
    coding, pack = PACKERS[packer]
    assert unpack(coding, pack(text), size) == (text, True)


@packers
@pytest.mark.parametrize("size", [1000, SLICE, 10 * SLICE])
def test_large_bodies_are_unpacked(packer: str, size: int) -> None:
    coding, pack = PACKERS[packer]
    draw = Random(1).randrange
    text = b"".join(b"%d," % draw(n) for n in range(1, 100_000))
    assert unpack(coding, pack(text), size) == (text, True)
    assert unpack(coding, pack(bytes(3 * SLICE)), size) == (bytes(3 * SLICE), True)


@packers
def test_a_body_that_is_cut_off_is_not_complete(packer: str) -> None:
    coding, pack = PACKERS[packer]
    if "identity" in packer:
        return
    text = Random(1).randbytes(1000)
    for end in (0, 1, 500, -1):
        found, complete = unpack(coding, pack(text)[:end])
        assert text.startswith(found)
        assert not complete or packer == "deflate without a header"


@packers
def test_a_body_of_another_kind_is_refused(packer: str) -> None:
    if "identity" in packer:
        return
    with pytest.raises(CodingError):
        unpack(PACKERS[packer][0], b"\x07garbage, and more of it" * 10)


@pytest.mark.parametrize("coding", [b"gzip, gzip", b"compress", b"exi", b"gzip,br", b"br;q=1"])
def test_other_codings_are_not_known(coding: bytes) -> None:
    assert decoder(coding) is None


@pytest.mark.parametrize(("coding", "pack"), [(b"gzip", gzip.compress), (b"zstd", zstd.compress)])
def test_members_follow_one_another(coding: bytes, pack: Callable[[bytes], bytes]) -> None:
    two = pack(b"first") + pack(b"second")
    for size in (1, 7, 1000):
        assert unpack(coding, two, size) == (b"firstsecond", True)
    with pytest.raises(CodingError):
        unpack(coding, pack(b"") * 1000)
    with pytest.raises(CodingError):
        unpack(coding, pack(b"first") + b"and more" * 10)


@pytest.mark.parametrize(
    ("coding", "pack"), [(b"br", brotli.compress), (b"deflate", zlib.compress)]
)
def test_nothing_follows_the_end(coding: bytes, pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CodingError):
        unpack(coding, pack(b"first") + b"and more" * 10)


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        (b"gzip", gzip.compress),
        (b"deflate", zlib.compress),
        (b"br", partial(brotli.compress, quality=5)),
        (b"zstd", zstd.compress),
    ],
    ids=["gzip", "deflate", "br", "zstd"],
)
def test_a_bomb_gives_a_slice_at_a_time(coding: bytes, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(100 << 20))
    made = decoder(coding)
    assert made is not None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = len(made.decode(bomb))
    while seen < 20 << 20:
        text = made.decode(b"")
        assert 0 < len(text) <= 1.5 * SLICE
        seen += len(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10


def test_a_zstd_window_over_eight_mebibytes_is_refused() -> None:
    text = Random(1).randbytes(9 << 20)
    large = zstd.compress(text, options={int(WINDOW): 25})
    with pytest.raises(CodingError):
        unpack(b"zstd", large)
    assert unpack(b"zstd", zstd.compress(text, options={int(WINDOW): 23})) == (text, True)
