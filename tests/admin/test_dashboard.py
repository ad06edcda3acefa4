"""The dashboard's files: complete, typed, cacheable, and nothing else."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from canaryproxy.admin import dashboard
from tests.docs.acts_table import previews, states


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    dashboard.add_routes(app)
    running = TestServer(app)
    await running.start_server()
    yield running
    await running.close()


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/overview", "text/html; charset=utf-8"),
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/main.js", "text/javascript; charset=utf-8"),
        ("/static/favicon.svg", "image/svg+xml; charset=utf-8"),
    ],
)
async def test_each_file_of_the_dashboard_has_its_content_type(
    server: TestServer, session: ClientSession, path: str, content_type: str
) -> None:
    async with session.get(server.make_url(path)) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_unchanged_is_not_sent_again(server: TestServer, session: ClientSession) -> None:
    async with session.get(server.make_url("/")) as answer:
        etag = answer.headers["ETag"]
    for known, status in ((etag, 304), (f'"other", {etag}', 304), ("*", 304), ('"other"', 200)):
        async with session.get(server.make_url("/"), headers={"If-None-Match": known}) as answer:
            assert answer.status == status, known
            assert answer.headers["ETag"] == etag
            assert (await answer.read() == b"") == (status == 304)


async def test_head_is_get_without_body(server: TestServer, session: ClientSession) -> None:
    async with session.head(server.make_url("/static/page.css")) as answer:
        assert answer.status == 200
        assert int(answer.headers["Content-Length"]) == len(dashboard.load()["page.css"].body)


@pytest.mark.parametrize(
    "target",
    [
        "/static/../dashboard.py",
        "/static/..%2fdashboard.py",
        "/static/%2e%2e/dashboard.py",
        "/static/..%5cdashboard.py",
        "/static/%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/",
        "/static/nothing.js",
        "/static/main.js%00",
    ],
)
async def test_nothing_else_is_served(server: TestServer, target: str) -> None:
    """On a raw socket: clients would tidy the path up."""
    assert server.port is not None
    assert await _status(server.port, target) in (400, 404)


async def _status(port: int, target: str) -> int:
    import asyncio

    reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    line = await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    await writer.wait_closed()
    return int(line.split()[1])


@pytest.fixture
async def several() -> AsyncIterator[TestServer]:
    app = web.Application()
    dashboard.add_routes(app, lambda: True)
    running = TestServer(app)
    await running.start_server()
    yield running
    await running.close()


async def test_several_services_have_an_overview_at_the_root_and_a_page_each(
    several: TestServer, session: ClientSession
) -> None:
    async with session.get(several.make_url("/")) as answer:
        assert "<h1>Services</h1>" in await answer.text()
    async with session.get(several.make_url("/services/cart/")) as answer:
        assert answer.status == 200
        text = await answer.text()
        links = _Links()
        links.feed(text)
        assert 'data-root="../../"' in text
        assert len(links.found) == 4
        for link in links.found:
            found = urljoin(str(several.make_url("/services/cart/")), link)
            async with session.get(found) as part:
                assert part.status == 200, link
        again = {"If-None-Match": answer.headers["ETag"]}
    async with session.get(several.make_url("/services/cart/"), headers=again) as answer:
        assert answer.status == 304


async def test_the_page_of_the_only_service_is_at_the_root_alone(
    server: TestServer, session: ClientSession
) -> None:
    for path in ("/services/cart/", "/services/cart", "/services/"):
        async with session.get(server.make_url(path)) as answer:
            assert answer.status == 404, path


async def test_the_page_of_a_service_is_a_folder(
    several: TestServer, session: ClientSession
) -> None:
    longest = "a" * 63
    for name in ("cart", longest, "cart.v3", f"{longest}.{longest}"):
        url = several.make_url(f"/services/{name}")
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status == 308
            found = urljoin(str(url), answer.headers["Location"])
            assert found == str(several.make_url(f"/services/{name}/"))


@pytest.mark.parametrize(
    "target",
    [
        "/services/https:elsewhere.example",
        "/services/javascript:alert(1)",
        "/services/%2f%2felsewhere.example",
        "/services/..%2f..",
        "/services/" + "a" * 64,
        "/services/Cart/",
        "/services/cart.v3.v4/",
        "/services/.v3/",
        "/services/cart./",
        "/services/a%0d%0ab/",
        "/services//",
    ],
)
async def test_nothing_but_a_name_is_a_service(several: TestServer, target: str) -> None:
    assert several.port is not None
    assert await _status(several.port, target) in (400, 404)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self._in: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        link = named.get("src") or (named.get("href") if tag == "link" else None)
        if link is not None:
            self.found.append(link)
        self.inline.extend(name for name in named if name == "style" or name.startswith("on"))
        self._in = tag

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, _tag: str) -> None:
        self._in = None


def test_everything_that_is_named_is_there_and_nothing_comes_from_elsewhere() -> None:
    served = dashboard.load()
    links = _Links()
    for page in (dashboard.PAGE, dashboard.OVERVIEW, dashboard.SERVICES):
        links.feed(served[page].body.decode())
    assert links.inline == [], "the content security policy forbids these"
    modules = {
        urljoin(f"/static/{name}", module)
        for name, file in served.items()
        if name.endswith(".js")
        for module in re.findall(r'from "([^"]+)"', file.body.decode())
    }
    named = {urljoin("/", link) for link in links.found} | modules
    assert {name.removeprefix("/static/") for name in named} <= set(served)
    for name, file in served.items():
        elsewhere = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s\"']*", file.body.decode())
        assert [url for url in elsewhere if url != "http://www.w3.org/2000/svg"] == [], name
    unused = set(served) - {name.removeprefix("/static/") for name in named}
    assert unused <= {dashboard.PAGE, dashboard.OVERVIEW, dashboard.SERVICES, "favicon-tripped.svg"}


def test_the_page_warns_of_the_acts_that_ask_and_of_no_others() -> None:
    """The page and ``release.acts`` have one table: an act is safe there if it does not ask in any state.

    An irreversible release is judged by ``isReturn`` of the page.
    """
    script = (Path(dashboard.__file__).parent / "static" / "actions.js").read_text()
    entries = dict(re.findall(r"^  (\w+): \{\n(.*?)^  \},$", script, re.MULTILINE | re.DOTALL))
    asking: dict[str, set[bool]] = {}
    for here in (one for one in states().values() if one.plan.reversible):
        for typed, _, said in previews(here):
            if said.refusal is None and not typed.startswith("weight"):
                asking.setdefault(said.act, set()).add(said.asks)
    asking.pop("accept")  # not on the page
    assert {name for name, body in entries.items() if "\n    safe: true," in body} == {
        name for name, asks in asking.items() if asks == {False}
    }
    assert "lowers:" in entries["weight"]
