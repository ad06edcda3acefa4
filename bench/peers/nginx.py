"""nginx: split_clients by the cookie, kept-alive upstream connections, one worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.loads import COOKIE
from bench.peers.base import Site, ask, missing_program, required
from bench.ports import HOST

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def worker_config(folder: Path, http: str) -> str:
    """Return a configuration of one worker in the foreground with all files in ``folder``."""
    paths = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in _TEMPORARY)
    return f"""\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
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
    """nginx as Debian ships it."""

    name: str = "nginx"
    title: str = "nginx, split_clients by cookie, upstream keepalive, 1 worker"
    splits: bool = True

    def missing(self) -> str | None:
        return missing_program("nginx", "Debian, Ubuntu: apt-get install nginx-light")

    def version(self) -> str:
        return ask(required("nginx"), "-v").rpartition("/")[2]

    def render_config(self, site: Site) -> str:
        return worker_config(
            site.folder,
            f"""
    upstream stable {{
        server {HOST}:{site.stable};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    upstream canary {{
        server {HOST}:{site.canary};
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    split_clients "$cookie_{COOKIE}" $variant {{
        {site.weight:g}% canary;
        * stable;
    }}
    server {{
        listen {HOST}:{site.port} backlog=1024;
        location / {{
            proxy_pass http://$variant;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}""",
        )

    def command(self, site: Site, config: Path) -> list[str]:
        return [required("nginx"), "-p", str(site.folder), "-c", str(config)]
