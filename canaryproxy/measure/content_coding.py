"""Undoes content codings (RFC 9110 §8.4.1) piece by piece, with bounds on what comes out.

A small body can unpack to gigabytes, so a decoder gives ``SLICE`` bytes at a time and goes on when asked.
Windows are bounded, too: 16 MiB for br by its format, 8 MiB for zstd (RFC 9659).

br and zstd are imported when the first such body is read.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

SLICE: Final = 64 * 1024
"""Bytes that a decoder gives at a time; br may give half as many more."""

_ZSTD_WINDOW: Final = 23
_MOST_MEMBERS: Final = 100
"""Members or frames of one body; thousands of empty ones would cost time and give nothing."""


class CodingError(Exception):
    """The bytes are not of that coding."""


class Decoder(Protocol):
    """Decodes one body."""

    @property
    def hungry(self) -> bool:
        """Whether it needs more input; until then ``decode`` takes none."""

    @property
    def complete(self) -> bool:
        """Whether what came can be all of the body."""

    def decode(self, data: bytes) -> bytes:
        """Take the next piece of the body and return the next bytes. Raises ``CodingError``."""


def decoder(coding: bytes) -> Decoder | None:
    """Return a decoder for the value of Content-Encoding, empty without one; ``None`` if it is not known.

    Codings that are applied one after the other are not known.
    """
    make = _DECODERS.get(coding.strip().lower())
    return None if make is None else make()


class Identity:
    """No coding."""

    complete = True

    def __init__(self) -> None:
        self._rest = b""

    @property
    def hungry(self) -> bool:
        """Whether it needs more input."""
        return not self._rest

    def decode(self, data: bytes) -> bytes:
        """Return the next bytes."""
        data = self._rest + data if self._rest else data
        self._rest = data[SLICE:]
        return data[:SLICE]


class _Packed:
    """A coding whose body has one or more members, each of which says where it ends."""

    most_members = _MOST_MEMBERS

    def __init__(self) -> None:
        self._member: Any = None
        """The decompressor of the member that is being read."""
        self._members = 0
        self._rest = b""
        """Input that was not taken yet."""
        self._more = False
        """The decompressor holds more output."""

    @property
    def hungry(self) -> bool:
        """Whether it needs more input."""
        return not (self._rest or self._more)

    @property
    def complete(self) -> bool:
        """Whether the last member has ended."""
        return self._members > 0 and self._member is None and not self._rest

    def decode(self, data: bytes) -> bytes:
        """Return the next bytes, of one member. Raises ``CodingError``."""
        data = self._rest + data
        if self._member is None:
            if not data:
                return b""
            self._members += 1
            if self._members > self.most_members:
                raise CodingError
            self._member = self.begin()
        out, ended = self.unpack(data)
        if ended:
            self._member, self._more = None, False
        return out

    def begin(self) -> Any:
        """Return a decompressor for the next member."""
        raise NotImplementedError

    def unpack(self, data: bytes) -> tuple[bytes, bool]:
        """Return the next bytes of the member, and whether it has ended; keep what else there is."""
        raise NotImplementedError


class _Gzip(_Packed):
    """Members may follow one another (RFC 1952 §2.2)."""

    wbits = zlib.MAX_WBITS + 16

    def begin(self) -> Any:
        return zlib.decompressobj(self.wbits)

    def unpack(self, data: bytes) -> tuple[bytes, bool]:
        member = self._member
        try:
            out = member.decompress(data, SLICE)
        except zlib.error:
            raise CodingError from None
        self._rest = member.unused_data if member.eof else member.unconsumed_tail
        self._more = len(out) >= SLICE  # perhaps: all input may have been taken
        return out, member.eof


class _Deflate(_Gzip):
    """zlib's format, or, as some servers send it, without its header."""

    wbits = zlib.MAX_WBITS
    most_members = 1

    def __init__(self) -> None:
        super().__init__()
        self._first: bytes | None = b""
        """What came before the first output, as long as it is not known which of the two it is."""

    def unpack(self, data: bytes) -> tuple[bytes, bool]:
        first = self._first
        try:
            out, ended = super().unpack(data)
        except CodingError:
            if first is None:
                raise
            self._first = None
            self.wbits = -zlib.MAX_WBITS
            self._member = self.begin()
            return super().unpack(first + data)
        if first is not None:
            self._first = None if out or len(first) > 1024 else first + data
        return out, ended


class _Brotli(_Packed):
    most_members = 1

    def begin(self) -> Any:
        import brotli  # noqa: PLC0415 - only where there are such bodies

        self._error = brotli.error
        return brotli.Decompressor()

    def unpack(self, data: bytes) -> tuple[bytes, bool]:
        member = self._member
        try:
            out = member.process(data, output_buffer_limit=SLICE)
        except self._error:
            raise CodingError from None
        self._rest = b""
        self._more = len(out) >= SLICE or not member.can_accept_more_data()
        return out, member.is_finished()


class _Zstd(_Packed):
    """Frames may follow one another (RFC 8878 §3)."""

    def begin(self) -> Any:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415
        else:
            from backports import zstd  # noqa: PLC0415

        self._error = zstd.ZstdError
        limit = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW}
        return zstd.ZstdDecompressor(options=limit)

    def unpack(self, data: bytes) -> tuple[bytes, bool]:
        member = self._member
        try:
            out = member.decompress(data, SLICE)
        except self._error:
            raise CodingError from None
        self._rest = member.unused_data if member.eof else b""
        self._more = not (member.eof or member.needs_input)
        return out, member.eof


_DECODERS: Final[dict[bytes, Callable[[], Decoder]]] = {
    b"": Identity,
    b"identity": Identity,
    b"gzip": _Gzip,
    b"x-gzip": _Gzip,
    b"deflate": _Deflate,
    b"br": _Brotli,
    b"zstd": _Zstd,
}
