"""Imports aiohttp without the certificate authorities of the system.

At import, aiohttp loads all of them into the TLS context of client sessions that name no other. The proxy's
only client, ``notify.outgoing``, has a context of its own, so they would cost each start 0.08 s and each
process 2 MiB for nothing. A session without a context of its own trusts no certificate at all afterwards.
"""

from __future__ import annotations

import os

_AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for them: SSL_CTX_set_default_verify_paths(3)."""


def import_aiohttp() -> None:
    """Import aiohttp; call it before any module that imports it."""
    before = {name: os.environ.get(name) for name in _AUTHORITIES}
    os.environ.update(dict.fromkeys(_AUTHORITIES, os.devnull))
    try:
        import aiohttp  # noqa: F401, PLC0415
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
