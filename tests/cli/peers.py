"""What else may be at an address that is taken for an admin API. Each keeps what it received."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientError, ClientSession, web

from tests.cli.fake import DEADLINE
from tests.ports import free_port


@dataclass
class Peer:
    """A server at ``address``; ``received`` are the methods and the headers of its requests."""

    address: str
    received: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    @property
    def wrongly(self) -> list[str]:
        """Return what must not have been sent."""
        return [
            f"{method} {dict(headers)}"
            for method, headers in self.received
            if method != "GET" or "authorization" in {name.lower() for name in headers}
        ]


@asynccontextmanager
async def echo(
    *, tls: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Peer]:
    """Serve 200 and JSON to everything, with whatever was sent in it and in the headers."""
    peer = Peer("")

    async def answer(request: web.Request) -> web.Response:
        peer.received.append((request.method, dict(request.headers)))
        sent = {f"X-Echo-{name}": value for name, value in request.headers.items()}
        body = {
            "method": request.method, "path": request.path, "headers": dict(request.headers),
            "release": "cart-2.4", "state": "running", "weight": 5.0, "allowed": ["trip"],
        }  # fmt: skip
        return web.json_response(body, headers={**sent, **(headers or {})})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    peer.address = f"http://127.0.0.1:{port}"
    try:
        yield peer
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Peer]:
    """Serve bytes that are not HTTP."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Peer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


@asynccontextmanager
async def process(*command: str, port: int) -> AsyncIterator[None]:
    """Run a server until the block ends, from when it responds on the port."""
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(DEADLINE), ClientSession() as session:
            while True:
                assert running.returncode is None, f"{command[0]} has ended"
                try:
                    async with session.get(f"http://127.0.0.1:{port}/"):
                        break
                except ClientError:
                    await asyncio.sleep(0.02)
        yield
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()


_NGINX = """\
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    log_format sent '$request_method authorization=$http_authorization';
    access_log {folder}/access.log sent;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location / {{ default_type application/json; return 200 '{{"state": "running", "weight": 5}}'; }}
    }}
    server {{
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {folder}/a.pem; ssl_certificate_key {folder}/a.key;
    }}
}}
"""


@asynccontextmanager
async def nginx(folder: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    """Run nginx: 200 and JSON on one port, TLS on another. ``folder`` has a certificate."""
    port, tls = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, tls=tls))
    peers = Peer(f"http://127.0.0.1:{port}"), Peer(f"http://127.0.0.1:{tls}")
    async with process("nginx", "-c", str(config), "-e", str(folder / "error.log"), port=port):
        yield peers
    for line in (folder / "access.log").read_text().splitlines():
        method, _, token = line.partition(" authorization=")
        if method == "-":  # bytes that are not HTTP
            continue
        headers = {} if token == "-" else {"authorization": token}
        peers[0].received.append((method, headers))


@asynccontextmanager
async def traffic_port(folder: Path, python: str) -> AsyncIterator[Peer]:
    """Run a canaryproxy in front of ``echo``: the peer has its traffic port and what the service received."""
    port = free_port()
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(echo())
        config = folder / "proxy.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{port}\nstate: {folder}/state.json\n"
            f"admin: {{socket: {folder}/proxy.sock}}\n"
            f"variants: {{stable: {{endpoints: ['{service.address}']}}}}\n"
        )
        run = (python, "-m", "canaryproxy", "run", "-c", str(config))
        await stack.enter_async_context(process(*run, port=port))
        service.received.clear()
        yield Peer(f"http://127.0.0.1:{port}", service.received)


@asynccontextmanager
async def prometheus(folder: Path) -> AsyncIterator[Peer]:
    """Run a Prometheus."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text("scrape_configs: []\n")
    run = (
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    async with process(*run, port=port):
        yield Peer(f"http://127.0.0.1:{port}")
