"""The two upstreams behind every proxy: stable and canary, quick enough not to be the limit."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import probe, process
from bench.loads import ANSWER_BYTES
from bench.peers.base import PYTHONPATH
from bench.peers.nginx import Nginx, worker_config
from bench.ports import HOST
from bench.process import Process

VARIANTS = ("stable", "canary")
READY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The running upstreams: what they are, their ports, their processes."""

    kind: str
    stable: int
    canary: int
    processes: list[Process]


def nginx_config(folder: Path, stable: int, canary: int) -> str:
    """Return a configuration that answers on two ports with a body of 103 bytes."""
    servers = "".join(
        f"""
    server {{
        listen {HOST}:{port} backlog=1024;
        default_type text/plain;
        location / {{ return 200 "{variant.ljust(ANSWER_BYTES, ".")}"; }}
    }}"""
        for port, variant in zip((stable, canary), VARIANTS, strict=True)
    )
    return worker_config(folder, servers)


def start(
    stable: int, canary: int, *, core: int, folder: Path, started: list[Process]
) -> Upstreams:
    """Start both upstreams on one core and wait until they answer.

    nginx if it is installed, else two small Python servers. Processes are added to ``started``.
    """
    nginx = shutil.which("nginx")
    mine: list[Process] = []
    if nginx is not None:
        config = folder / "upstream.conf"
        config.write_text(nginx_config(folder, stable, canary))
        commands = {"upstream": [nginx, "-p", str(folder), "-c", str(config)]}
    else:
        commands = {
            f"upstream-{variant}": [sys.executable, "-m", "bench.fixed_answer", str(port), variant]
            for port, variant in zip((stable, canary), VARIANTS, strict=True)
        }
    for name, command in commands.items():
        one = process.start(name, command, core=core, folder=folder, env=PYTHONPATH)
        mine.append(one)
        started.append(one)
    for port in (stable, canary):
        mine[-1].wait_until(partial(probe.answers, port), READY_SECONDS)
    kind = (
        f"nginx {Nginx().version()}"
        if nginx is not None
        else "bench.fixed_answer (nginx is not installed)"
    )
    return Upstreams(kind=kind, stable=stable, canary=canary, processes=mine)
