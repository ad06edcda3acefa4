"""OpenSSL contexts from TLS settings: certificates by server name, authorities, versions, ALPN."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from canaryproxy.config import ClientTls, Endpoint, ServerTls
from canaryproxy.tls.tickets import SECRET, Secret, scope_of, set_keys

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_PROTOCOLS: Final = ["http/1.1"]


def server_context(
    tls: ServerTls,
    files: Mapping[str, bytes],
    names: Sequence[tuple[str, ...]],
    *,
    protocols: Sequence[str] = _PROTOCOLS,
) -> ssl.SSLContext:
    """Return the context for a listener; ``names`` are the server names of each certificate.

    ``protocols`` are those of ALPN (RFC 7301), the preferred one first.

    The certificate is chosen by the client's server name (RFC 6066 §3): the whole name, else ``*`` in place
    of its first label, else the first certificate of the list. Certificates with the same names and different
    kinds of keys share a context, and the client's algorithms decide. Raises ``OSError`` (also
    ``ssl.SSLError``), or ``KeyError`` if a file is missing in ``files``.
    """
    contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
    by_name: dict[str, ssl.SSLContext] = {}
    for pair, its_names in zip(tls.certificates, names, strict=True):
        context = contexts.get(its_names)
        if context is None:
            context = contexts[its_names] = _new_server_context(tls, files, protocols)
        _load_chain(context, files[pair.cert], files[pair.key])
        for name in its_names:
            by_name.setdefault(name.rstrip("."), context)
    first = next(iter(contexts.values()))

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            name = name.lower().rstrip(".")
            wild = "*." + name.partition(".")[2]
            connection.context = by_name.get(name) or by_name.get(wild) or first

    if len(contexts) > 1:
        first.sni_callback = choose
    return first


def _new_server_context(
    tls: ServerTls, files: Mapping[str, bytes], protocols: Sequence[str]
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(protocols))
    if tls.client_ca is not None:
        required = tls.client_auth == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=_text(files[tls.client_ca]))
    return context


def client_context(
    tls: ClientTls | None, files: Mapping[str, bytes], *, http2: bool = False
) -> ssl.SSLContext:
    """Return the context for connections to endpoints; certificate and name are verified by default.

    Raises the same errors as ``server_context``.
    """
    own_ca = None if tls is None or tls.ca is None else _text(files[tls.ca])
    context = ssl.create_default_context(cadata=own_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"] if http2 else _PROTOCOLS)
    if tls is not None:
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert is not None and tls.key is not None:
            _load_chain(context, files[tls.cert], files[tls.key])
    return context


class ContextCache:
    """Contexts by what they were made of; one that has not changed is kept, with its clients' sessions."""

    def __init__(self, before: ContextCache | None = None, secret: Secret = SECRET) -> None:
        self._before = {} if before is None else before._made
        self._secret = secret
        self._made: dict[object, ssl.SSLContext] = {}
        self._scopes: list[tuple[ssl.SSLContext, bytes]] = []
        """What the keys of tickets are derived from, by context."""
        self._period = secret.period

    def get(self, key: object, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """Return the context for ``key``."""
        context = self._made.get(key) or self._before.get(key) or make()
        self._made[key] = context
        return context

    def server(
        self,
        tls: ServerTls,
        files: Mapping[str, bytes],
        protocols: Sequence[str],
        names: Callable[[], Sequence[tuple[str, ...]]],
    ) -> ssl.SSLContext:
        """Return the ``server_context`` by these settings and files, whose tickets all workers can read."""
        paths = [path for pair in tls.certificates for path in (pair.cert, pair.key)]
        contents = [files.get(path) for path in (*paths, tls.client_ca or "")]
        protocols = tuple(protocols)
        context = self.get(
            (tls, protocols, *contents),
            lambda: server_context(tls, files, names(), protocols=protocols),
        )
        settings = repr((tls, protocols)).encode()
        scope = scope_of((settings, *(content or b"" for content in contents)))
        set_keys(context, self._secret.keys(scope))
        self._scopes.append((context, scope))
        return context

    def renew_keys(self, now: float) -> None:
        """Renew the keys of tickets if it is time, ``now`` being the seconds of the wall clock."""
        secret = self._secret
        secret.advance(now)
        if secret.period != self._period:
            self._period = secret.period
            for context, scope in self._scopes:
                set_keys(context, secret.keys(scope))

    def client(
        self, endpoint: Endpoint, tls: ClientTls | None, files: Mapping[str, bytes]
    ) -> ssl.SSLContext | None:
        """Return the ``client_context`` for an endpoint by these settings and files, if it has TLS."""
        if not endpoint.is_tls:
            return None
        names = () if tls is None else (tls.ca or "", tls.cert or "", tls.key or "")
        http2 = endpoint.is_http2
        return self.get(
            (tls, http2, *map(files.get, names)), lambda: client_context(tls, files, http2=http2)
        )


def _text(pem: bytes) -> str:
    """Decode a PEM file. Comments may contain any bytes; OpenSSL only accepts ASCII."""
    return pem.decode("ascii", errors="replace").replace("�", "?")


def _load_chain(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Load a certificate and its key from memory; ``load_cert_chain`` only reads files."""
    with _MemoryFile(cert) as certificate, _MemoryFile(key) as private:
        # Without this OpenSSL prompts for a passphrase on the terminal.
        context.load_cert_chain(certificate.path, private.path, password=lambda: b"")


class _MemoryFile:
    """A file in memory (memfd) that exists inside the ``with`` block."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> _MemoryFile:
        self._descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self._descriptor}"
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(self._data)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
