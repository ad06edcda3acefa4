"""HTTP/2 in Chromium, over TLS as browsers speak it: pages, the sticky cookie, uploads and downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.conftest import launch
from tests.certificates import loopback
from tests.ports import free_port
from tests.system import processes
from tests.system.test_tls import running, secure

_FETCH = """
const [path, size, done] = arguments;
const options = size ? {method: "POST", body: new Uint8Array(size)} : {};
fetch(path, options).then((response) => response.text()).then(done, (error) => done(String(error)));
"""
_PROTOCOLS = """
return performance.getEntries().map((one) => one.nextHopProtocol).filter((one) => one);
"""


def test_chromium_over_tls(tmp_path: Path) -> None:
    port = free_port()
    with (
        processes.upstream(tmp_path, "stable") as (_, behind),
        running(tmp_path, secure(loopback(), port), behind) as proxy,
    ):
        driver = launch(tmp_path / "profile", "--ignore-certificate-errors")
        try:
            driver.set_script_timeout(60)
            driver.get(f"https://localhost:{port}/")
            assert "stable" in driver.page_source
            cookie = driver.get_cookie("canary_id")
            assert cookie is not None
            assert cookie["secure"]

            def fetch(path: str, size: int = 0) -> Any:
                return driver.execute_async_script(_FETCH, path, size)

            assert f"canary_id={cookie['value']}" in fetch("/head")
            assert fetch("/", 64 * 1024) == str(64 * 1024)
            assert len(fetch(f"/zeros?{1 << 20}")) == 1 << 20
            assert set(driver.execute_script(_PROTOCOLS)) == {"h2"}
            metrics = proxy.metrics()
            assert metrics['canaryproxy_http2_requests_total{variant="stable"}'] >= 4
            opened = metrics["canaryproxy_http2_connections_total"]
            assert 1 <= opened <= metrics["canaryproxy_connections_total"]
        finally:
            driver.quit()
