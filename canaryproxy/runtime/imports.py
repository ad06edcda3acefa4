"""Imports aiohttp and prometheus_client without the parts that the proxy does not use.

With any of their modules come aiohttp's client and several web servers of prometheus_client. They would be
a sixth of the processor time of a start, and 4 MiB of each process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from canaryproxy.deferred import defer


def prepare() -> None:
    """Call it before anything imports aiohttp or prometheus_client."""
    # aiohttp's client loads the certificate authorities of the system into the TLS context of sessions that
    # name no other. The only client here, ``notify.outgoing``, has a context of its own. The version is part
    # of headers that the proxy replaces by its own.
    no_authorities = _environment(SSL_CERT_FILE=os.devnull, SSL_CERT_DIR=os.devnull)
    defer("aiohttp", no_authorities, __version__="")
    defer("prometheus_client")
    # frozenlist's extension needs libstdc++, which nothing else here does: 1 MiB for aiohttp's signals.
    with _environment(FROZENLIST_NO_EXTENSIONS="1"):
        from aiohttp import web  # noqa: F401, PLC0415


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
