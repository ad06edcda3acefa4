"""nghttpx, the proxy of nghttp2: the reference of HTTP/2. It has no split by cookie: all goes to stable."""

from __future__ import annotations

from dataclasses import dataclass

from bench.harness.ports import HOST
from bench.peers.base import Site, ask, missing_program, required


@dataclass(frozen=True, slots=True)
class Nghttpx:
    """nghttpx as Debian ships it."""

    name: str = "nghttpx"
    title: str = "nghttpx, one backend without a split, 1 worker"
    splits: bool = False
    features: frozenset[str] = frozenset(("http2", "http2-upstream", "tls"))

    def missing(self) -> str | None:
        return missing_program("nghttpx", "Debian, Ubuntu: apt-get install nghttp2-proxy")

    def version(self) -> str:
        return ask(required("nghttpx"), "--version").rpartition("/")[2]

    def render_config(self, site: Site) -> str:
        tls = "" if site.tls else ";no-tls"
        pair = f"private-key-file={site.key}\ncertificate-file={site.certificate}\n"
        return f"""\
frontend={HOST},{site.port}{tls}
backend={HOST},{site.stable}{";/;proto=h2" * site.http2_upstream}
{pair if site.tls else ""}workers=1
single-process=yes
accesslog-file=/dev/null
errorlog-file=/dev/stderr
add-x-forwarded-for=yes
"""

    def command(self, site: Site, config: object) -> list[str]:  # noqa: ARG002
        return [required("nghttpx"), f"--conf={config}"]
