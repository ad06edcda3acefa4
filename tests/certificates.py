"""Certificates for tests: one authority, made anew in each run."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of a certificate and its key."""

    cert: Path
    key: Path

    def yaml(self, more: str = "") -> str:
        """Return the item of ``certificates``."""
        return f"{{cert: {self.cert}, key: {self.key}{more}}}"


class Authority:
    """Signs certificates; ``ca`` is its own, as a file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def pair(
        self,
        *names: str,
        file: str = "server",
        until: datetime.datetime | None = None,
        rsa: bool = False,
    ) -> Pair:
        """Write a certificate for these names (of the loopback by default) and its key."""
        kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
        made = self._ca.issue_cert(*(names or NAMES), not_after=until, key_type=kind)
        pair = Pair(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        # A file that is watched must never be seen by halves.
        for path, blobs in ((pair.cert, made.cert_chain_pems), (pair.key, [made.private_key_pem])):
            beside = path.with_suffix(".new")
            beside.write_bytes(b"".join(blob.bytes() for blob in blobs))
            beside.replace(path)
        return pair

    def client(self, pair: Pair | None = None, *, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """Return a context for clients that trust this authority, with a certificate of their own or not."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def server(self, pair: Pair, *, clients: bool = False) -> ssl.SSLContext:
        """Return a context for servers; ``clients``: they must show a certificate of this authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.cert, pair.key)
        if clients:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@cache
def authority() -> Authority:
    """Return one for the whole run: making keys takes time."""
    return Authority(Path(mkdtemp(prefix="canaryproxy-tls-")))


@cache
def loopback() -> Pair:
    """Return a certificate for the loopback, for the whole run."""
    return authority().pair(file="loopback")
