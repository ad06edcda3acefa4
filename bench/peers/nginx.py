"""nginx: split_clients by the cookie, kept-alive upstream connections, one worker."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path

from bench.harness.ports import HOST, address
from bench.loads import COOKIE
from bench.peers.base import ALL, MAX_CONNECTIONS, Site, ask, missing_program, required

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def worker_config(folder: Path, http: str) -> str:
    """Return a configuration of one worker in the foreground with all files in ``folder``."""
    paths = "\n".join(f'    {kind}_temp_path "{folder}/{kind}";' for kind in _TEMPORARY)
    # A master that is root gives its worker another user, who may not read the folder.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    return f"""\
daemon off;
{user}
worker_processes 1;
pid "{folder}/nginx.pid";
error_log stderr error;
events {{ worker_connections {MAX_CONNECTIONS}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
{paths}
{http}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx as Debian ships it.

    endpoints: number of servers of each variant, each with an address of its own; the better of two drawn at
        random gets a request, as with canaryproxy.
    """

    name: str = "nginx"
    title: str = "nginx, split_clients by cookie, upstream keepalive, 1 worker"
    splits: bool = True
    features: frozenset[str] = ALL
    endpoints: int = 1

    def missing(self) -> str | None:
        return missing_program("nginx", "Debian, Ubuntu: apt-get install nginx-light")

    def version(self) -> str:
        return ask(required("nginx"), "-v").rpartition("/")[2]

    def render_config(self, site: Site) -> str:
        ssl = " ssl" * site.tls + " http2" * site.http2
        # The module for gRPC is how nginx speaks HTTP/2 to upstreams, whatever the request is.
        passes = (
            "grpc_pass grpc://$variant;" if site.http2_upstream else "proxy_pass http://$variant;"
        )
        certificate = (
            f"ssl_certificate {site.certificate}; ssl_certificate_key {site.key};"
            " ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;"
            if site.tls
            else ""
        )
        return worker_config(
            site.folder,
            f"""
    upstream stable {{
{self._servers(site.stable)}
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    upstream canary {{
{self._servers(site.canary)}
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    split_clients "$cookie_{COOKIE}" $variant {{
        {site.weight:g}% canary;
        * stable;
    }}
    map $http_upgrade $upgrading {{
        default upgrade;
        "" "";
    }}
    server {{
        listen {HOST}:{site.port}{ssl} backlog=1024;
        {certificate}
        client_max_body_size 0;
        location / {{
            {passes}
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_buffers 8 32k;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $upgrading;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}""",
        )

    def command(self, site: Site, config: Path) -> list[str]:
        return [required("nginx"), "-p", str(site.folder), "-c", str(config)]

    def _servers(self, port: int) -> str:
        servers = [f"        server {address(number)}:{port};" for number in range(self.endpoints)]
        return "\n".join(
            (*(["        random two least_conn;"] if len(servers) > 1 else []), *servers)
        )
