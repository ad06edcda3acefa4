"""Errors of a TLS connection beside those that OpenSSL finds."""

from __future__ import annotations


class Truncated(ConnectionError):
    """The connection ended without ``close_notify``: data may be missing (RFC 8446 §6.1)."""
