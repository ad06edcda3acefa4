"""The two upstreams behind every proxy: stable and canary, quick enough not to be the limit."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.harness import probe, process
from bench.harness.ports import address, free
from bench.harness.process import Process
from bench.loads import ANSWER_BYTES, BODIES, GRPC_MESSAGE, open_model
from bench.peers.base import PYTHONPATH
from bench.peers.nginx import Nginx, worker_config

VARIANTS = ("stable", "canary")
READY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The running upstreams: what they are, their ports, their processes.

    sender: the port at which they take jobs of the open model; 0 for those that only answer.
    """

    kind: str
    stable: int
    canary: int
    processes: list[Process]
    sender: int = 0


def nginx_config(
    folder: Path, stable: int, canary: int, addresses: int = 1, *, http2: bool = False
) -> str:
    """Return a configuration that answers on two ports, each on so many loopback addresses.

    A body of 103 bytes, or a file of the folder ``www`` for the paths of ``BODIES``.
    """
    servers = "".join(
        f"""
    server {{
{_listen(port, addresses, http2=http2)}
        default_type text/plain;
        client_max_body_size 0;
        client_body_buffer_size 128k;
        root {folder}/www;
        location / {{ return 200 "{variant.ljust(ANSWER_BYTES, ".")}"; }}
        location = /10k {{ }}
        location = /1m {{ sendfile on; }}
        location = /chunked {{ ssi on; ssi_types *; }}
        location = /grpc {{
            default_type application/grpc;
            add_trailer grpc-status 0 always;
            error_page 405 =200 $uri;
        }}
    }}"""
        for port, variant in zip((stable, canary), VARIANTS, strict=True)
    )
    return worker_config(folder, "    open_file_cache max=16;\n" + servers)


def _listen(port: int, addresses: int, *, http2: bool) -> str:
    return "\n".join(
        f"        listen {address(number)}:{port}{' http2' * http2} backlog=1024;"
        for number in range(addresses)
    )


def start_sender(
    stable: int, canary: int, *, core: int, folder: Path, started: list[Process]
) -> Upstreams:
    """Start both upstreams in the program that sends, on one core, and wait until it answers."""
    control = free(1)[0]
    bodies = {
        port: variant.ljust(ANSWER_BYTES, ".")
        for port, variant in zip((stable, canary), VARIANTS, strict=True)
    }
    one = process.start("open_model", open_model.command(control, bodies), core=core, folder=folder)
    started.append(one)
    one.wait_until(partial(probe.answers, stable), READY_SECONDS)
    return Upstreams("bench.loads.open_model", stable, canary, [one], control)


def start(
    stable: int,
    canary: int,
    *,
    core: int,
    folder: Path,
    started: list[Process],
    addresses: int = 1,
    python: bool = False,
    http2: bool = False,
) -> Upstreams:
    """Start both upstreams on one core and wait until they answer.

    nginx if it is installed, else (or with ``python``) two small Python servers, which have one address
    and echo WebSockets. With ``http2`` they speak only that, without TLS. Processes are added to ``started``.
    """
    nginx = None if python else shutil.which("nginx")
    mine: list[Process] = []
    if nginx is not None:
        www = folder / "www"
        www.mkdir(exist_ok=True)
        for path, length in BODIES.items():
            (www / path.removeprefix("/")).write_text("x" * length)
        (www / "grpc").write_bytes(GRPC_MESSAGE)
        config = folder / "upstream.conf"
        config.write_text(nginx_config(folder, stable, canary, addresses, http2=http2))
        commands = {"upstream": [nginx, "-p", str(folder), "-c", str(config)]}
    else:
        commands = {
            f"upstream-{variant}": [
                sys.executable,
                "-m",
                "bench.peers.fixed_answer",
                str(port),
                variant,
            ]
            for port, variant in zip((stable, canary), VARIANTS, strict=True)
        }
    for name, command in commands.items():
        one = process.start(name, command, core=core, folder=folder, env=PYTHONPATH)
        mine.append(one)
        started.append(one)
    for port in (stable, canary):
        mine[-1].wait_until(partial(probe.answers, port, http2=http2), READY_SECONDS)
    kind = f"nginx {Nginx().version()}" if nginx is not None else "bench.peers.fixed_answer"
    return Upstreams(kind=kind, stable=stable, canary=canary, processes=mine)
