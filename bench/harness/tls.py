"""A certificate for the loopback, for the peers that listen with TLS."""

from __future__ import annotations

import subprocess

from bench.harness.ports import HOST
from bench.peers.base import Site, required

_SECONDS = 20


def write_certificate(site: Site) -> None:
    """Write a new self-signed P-256 certificate, its key, and both in one file (openssl)."""
    subprocess.run(
        [
            *(required("openssl"), "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-keyout", str(site.key), "-out", str(site.certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=_SECONDS,
    )
    site.pair.write_text(site.certificate.read_text() + site.key.read_text())
