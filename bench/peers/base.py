"""What a peer is: a proxy that can be configured, started and asked for its version."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = {"PYTHONPATH": str(ROOT)}
"""Environment in which ``python -m bench…`` and ``python -m canaryproxy`` are found anywhere."""

ALL = frozenset(("tls", "websocket", "idle", "http2", "http2-upstream"))
"""What a peer may be able to do; "idle" are 10,000 connections."""
"""Everything that not all peers can do."""

MAX_CONNECTIONS = 24_000
"""Client connections that every peer is configured to take."""

_VERSION_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is to run.

    folder: its own, for all its files.
    port, stable, canary: its port on the loopback and those of the upstreams.
    weight: percent of users on the canary.
    tls: whether clients speak TLS, with the certificate in ``folder``.
    tls_port: a second port on which they do; 0: none. Only canaryproxy has it.
    http2: whether clients speak HTTP/2: with TLS by ALPN, else by prior knowledge.
    http2_upstream: whether the upstreams do, by prior knowledge.
    """

    folder: Path
    port: int
    stable: int
    canary: int
    weight: float = 10.0
    tls: bool = False
    http2: bool = False
    http2_upstream: bool = False
    tls_port: int = 0

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def pair(self) -> Path:
        """The certificate and its key in one file."""
        return self.folder / "pair.pem"


class Peer(Protocol):
    """A proxy to measure. All listen on the loopback and split by the sticky cookie."""

    @property
    def name(self) -> str:
        """Return the short name, for ``--only`` and the tables."""

    @property
    def title(self) -> str:
        """Return what it is and how it is set up, for the report."""

    @property
    def splits(self) -> bool:
        """Whether it sends ``weight`` percent of the users to the canary, always the same ones."""

    @property
    def features(self) -> frozenset[str]:
        """Return what it can of ``ALL``."""

    def missing(self) -> str | None:
        """Return why it cannot run here with a hint how to install it, or None."""

    def version(self) -> str:
        """Return the version that would run."""

    def render_config(self, site: Site) -> str:
        """Return the text of its configuration file ("" if it needs none)."""

    def command(self, site: Site, config: Path) -> list[str]:
        """Return the command that runs it in the foreground with the file at ``config``."""


def find(program: str) -> str | None:
    """Return the path of a program: beside this Python (a virtual environment) or on PATH."""
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.exists() else shutil.which(program)


def required(program: str) -> str:
    """Return the path of a program that ``missing()`` found before."""
    path = find(program)
    if path is None:
        raise FileNotFoundError(program)
    return path


def missing_program(program: str, hint: str) -> str | None:
    """Return why ``program`` cannot run, or None if it is there."""
    return None if find(program) else f"{program} is not installed ({hint})"


def ask(*command: str) -> str:
    """Return what a version command prints, standard error included."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_VERSION_SECONDS,
        check=True,
    )
    return done.stdout.strip()
