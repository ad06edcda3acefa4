"""Who may do what: tokens, hosts, origins; and what browsers are told."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from canaryproxy.admin.guard import Guard
from canaryproxy.admin.tokens import Tokens, check_tokens
from canaryproxy.config import Admin
from canaryproxy.config.secrets import SecretError, SecretSource
from canaryproxy.release import rollout
from tests.admin.fake import TOKEN, FakeControl, FakeProxy, FakeService, Served, serve

WEIGHT = '{"weight": 7}'
OTHER = "another-token-of-good-length"


async def put_weight(served: Served, token: str | None, **headers: str) -> int:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return (await served.ask("PUT", "/v1/weight", WEIGHT, over="tcp", **headers)).status


async def test_on_tcp_a_change_needs_the_token(served: Served) -> None:
    answer = await served.ask("PUT", "/v1/weight", WEIGHT, over="tcp")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in answer.body.decode()
    assert served.control.acts == []
    assert await put_weight(served, TOKEN) == 200
    assert served.control.weight == 7.0


async def test_on_the_unix_socket_it_needs_none(served: Served) -> None:
    assert (await served.ask("PUT", "/v1/weight", WEIGHT)).status == 200
    # A token that is sent all the same does not matter.
    wrong = await served.ask("PUT", "/v1/weight", WEIGHT, Authorization="Bearer wrong")
    assert wrong.status == 200
    assert await asyncio.to_thread(_mode, served.unix) == 0o600


def _mode(path: str) -> int:
    return Path(path).stat().st_mode & 0o777


@pytest.mark.parametrize(
    "presented",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f'Bearer "{TOKEN}"',
        f"Bearer {TOKEN} {TOKEN}",
        f"Bearer\t{TOKEN}",
        f"Bearer {TOKEN}\xff",
        "Bearer None",
    ],
)
async def test_a_wrong_token_changes_nothing(served: Served, presented: str) -> None:
    head = (
        "PUT /v1/weight HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(WEIGHT)}\r\nAuthorization: {presented}\r\n\r\n{WEIGHT}"
    )
    (answer,) = await served.raw(head.encode("latin-1"))
    assert answer.status == 401
    assert served.control.acts == []


async def test_the_scheme_in_any_case(served: Served) -> None:
    assert await put_weight(served, None, Authorization=f"bEARER {TOKEN}") == 200


async def test_without_a_token_tcp_is_read_only(tmp_path: Path) -> None:
    async with serve(tmp_path, token=None) as served:
        for token in (None, "", "None", TOKEN):
            assert await put_weight(served, token) == 403
        answer = await served.ask("POST", "/v1/release/abort", over="tcp")
        assert "admin.token_file" in answer.json["detail"]
        assert "admin.token_env" in answer.json["detail"]
        assert (await served.ask("GET", "/v1/release", over="tcp")).status == 200
        assert served.control.acts == []


@pytest.mark.parametrize("content", ["", " \n\t\n", None])
async def test_an_empty_token_allows_nothing(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    async with serve(tmp_path, token=None, token_file=str(file)) as served:
        for token in (None, "", " ", "\t", "None", "x" * 20):
            assert await put_weight(served, token) == 403
        assert served.control.acts == []


async def test_a_token_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_TOKEN", OTHER)
    async with serve(tmp_path, token=None, token_env="CANARY_TOKEN") as served:
        assert await put_weight(served, TOKEN) == 401
        assert await put_weight(served, OTHER) == 200
    monkeypatch.delenv("CANARY_TOKEN")
    async with serve(tmp_path, token=None, token_env="CANARY_TOKEN") as served:
        assert await put_weight(served, OTHER) == 403


async def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    async with serve(tmp_path) as served:
        assert await put_weight(served, TOKEN) == 200
        file.write_text(OTHER)
        assert await put_weight(served, TOKEN) == 401
        assert await put_weight(served, OTHER) == 200
        replaced = tmp_path / "replaced"
        replaced.write_text(TOKEN)
        replaced.replace(file)
        assert await put_weight(served, OTHER) == 401
        assert await put_weight(served, TOKEN) == 200
        for content in ("short", "", "with a space in its middle"):
            file.write_text(content)
            assert await put_weight(served, TOKEN) == 403
            assert await put_weight(served, content) == 403
        file.write_text(TOKEN)
        assert await put_weight(served, TOKEN) == 200
        file.unlink()
        assert await put_weight(served, TOKEN) == 403
        file.mkdir()
        assert await put_weight(served, TOKEN) == 403
        file.rmdir()
        os.mkfifo(file)  # reading it would wait for ever
        assert await put_weight(served, TOKEN) == 403
        file.unlink()
        file.write_text(TOKEN)
        assert await put_weight(served, TOKEN) == 200


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("fifteen-letters", "at least 16"),
        ("two words of a token", "only letters, digits and punctuation"),
        ("ann token-of-ann-of-good-length\nben short", "at least 16"),
        ("ann token-of-ann-of-good-length\nben two words of a token", "lines of NAME TOKEN"),
        ("ann: token-of-ann-of-good-length", "a name in .* only letters, digits and"),
        ("ann the-token-of-both-of-them\nben the-token-of-both-of-them", "the same token twice"),
        ("x" * 5000, "longer than 4096"),  # of a secret; tokens of many may be longer
        ("t\u00f6ken-with-sixteen", "only letters, digits and punctuation"),
    ],
)
def test_a_bad_token_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, why: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    with pytest.raises(SecretError, match=why) as caught:
        Tokens(SecretSource(file=str(file)))
    assert str(file) in str(caught.value)
    assert content not in str(caught.value)
    if len(content) < 4096:
        monkeypatch.setenv("CANARY_TOKEN", content)
        with pytest.raises(SecretError, match="CANARY_TOKEN"):
            Tokens(SecretSource(env="CANARY_TOKEN"))


def test_the_check_at_the_start_leaves_a_missing_token_to_the_control_plane(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    admin = Admin(token_file=str(file))
    check_tokens(admin)
    assert not caplog.records
    Guard.of_tcp(admin)
    assert len(caplog.records) == 1
    file.write_text("short")
    with pytest.raises(SecretError, match="too short"):
        check_tokens(admin)


@pytest.mark.parametrize(
    ("token", "said", "recorded"),
    [
        ("token-of-ann-of-good-length", None, "ann"),
        ("token-of-ann-of-good-length", "ann", "ann"),
        ("another-of-ann-for-a-new-laptop", "ann", "ann"),
        ("token-of-the-pipeline-in-use", "ann", "ann (token ci)"),
        ("token-of-the-pipeline-in-use", "ann (token ann)", "ann [token ann] (token ci)"),
        ("nobody-knows-who-holds-it", "ann", "ann"),
        ("nobody-knows-who-holds-it", "ben (token ann)", "ben [token ann]"),
        ("nobody-knows-who-holds-it", None, "operator"),
    ],
)
async def test_the_history_has_the_name_of_the_token(
    tmp_path: Path, token: str, said: str | None, recorded: str
) -> None:
    file = tmp_path / "tokens"
    file.write_text(
        "ann token-of-ann-of-good-length\nann  another-of-ann-for-a-new-laptop\n\n"
        "ci\ttoken-of-the-pipeline-in-use\nnobody-knows-who-holds-it\n"
    )
    async with serve(tmp_path, token=None, token_file=str(file)) as served:
        body = "{}" if said is None else json.dumps({"by": said})
        auth = f"Bearer {token}"
        done = await served.ask("POST", "/v1/release/pause", body, over="tcp", Authorization=auth)
        assert done.status == 200
        assert served.control.acts == [rollout.Pause(by=recorded)]
        for wrong in ("ann", f"ann {token}", "ann:token-of-ann-of-good-length"):
            assert await put_weight(served, wrong) == 401


def test_sixteen_characters_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("sixteen-letters!\r\n")
    tokens = Tokens(SecretSource(file=str(file)))
    assert tokens.find("sixteen-letters!") is not None
    assert tokens.find("sixteen-letters!\r\n") is None


# Hosts


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9900", 200),
        ("localhost.", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:9900", 200),
        ("[::1]", 200),
        ("[::1]:9900", 200),
        ("10.1.2.3:80", 200),
        ("canary", 200),
        ("canary-proxy_1:9900", 200),
        ("canary.example", 200),
        ("Canary.Example:443", 200),
        ("canary.example.", 200),
        ("evil.example", 421),
        ("evil.example:9900", 421),
        ("canary.example.evil.example", 421),
        ("notcanary.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("evil.localhost", 421),
        ("127.0.0.1.", 200),
        ("1.2.3", 421),
        ("::1", 421),
        ("[::1", 421),
        ("", 421),
        (".", 421),
        ("user@localhost", 421),
        ("localhost:", 421),
        ("localhost:x", 421),
        ("localhost/evil", 421),
        ("local host", 421),
        ("localhost, evil.example", 421),
        ("xn--lclhost-0ra.example", 421),
        ("l\u00f6calhost", 421),
    ],
)
async def test_only_names_of_this_address_are_served_over_tcp(
    tmp_path: Path, host: str, status: int
) -> None:
    async with serve(tmp_path, hosts=("canary.example",)) as served:
        for method, body in (("GET", None), ("PUT", WEIGHT)):
            answer = await served.ask(
                method,
                "/v1/release" if body is None else "/v1/weight",
                body,
                over="tcp",
                host=host,
                Authorization=f"Bearer {TOKEN}",
            )
            # What aiohttp itself refuses is refused with 400.
            assert answer.status == status or (status == 421 and answer.status == 400), method
        assert bool(served.control.acts) == (status == 200)
        for target in ("/livez", "/readyz", "/metrics"):
            answer = await served.ask("GET", target, over="tcp", host=host)
            assert answer.status in (200, 400 if status == 421 else 200)
        if status == 421:
            page = await served.ask("GET", "/", over="tcp", host=host)
            assert page.status in (400, 421)


async def test_probes_answer_to_any_host(served: Served) -> None:
    for target in ("/livez", "/readyz", "/metrics"):
        for method in ("GET", "HEAD"):
            answer = await served.ask(method, target, over="tcp", host="pod.cluster.example")
            assert answer.status == 200
        # but only to look
        answer = await served.ask("POST", target, over="tcp", host="pod.cluster.example")
        assert answer.status == 421
    (old,) = await served.raw(b"GET /livez HTTP/1.0\r\n\r\n")
    assert old.status == 200
    (old,) = await served.raw(b"GET /v1/release HTTP/1.0\r\n\r\n")
    assert old.status == 421


# Origins


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:9900", "http://localhost:9900", 200),
        ("localhost", "http://localhost", 200),
        ("localhost:80", "http://localhost", 200),
        ("LOCALHOST", "http://localhost:80", 200),
        ("canary", "https://canary", 200),
        ("canary:443", "https://canary", 200),
        ("[::1]:9900", "http://[::1]:9900", 200),
        ("localhost:9900", "http://localhost", 403),
        ("localhost", "http://localhost:9900", 403),
        ("localhost:9900", "http://127.0.0.1:9900", 403),
        ("localhost:9900", "http://evil.example", 403),
        ("localhost:9900", "null", 403),
        ("localhost:9900", "", 403),
        ("localhost:9900", "localhost:9900", 403),
        ("localhost:9900", "file://", 403),
        ("localhost:9900", "ftp://localhost:9900", 403),
        ("localhost:9900", "http://localhost:9900/", 403),
        ("localhost:9900", "http://localhost:9900 http://evil.example", 403),
        ("localhost:9900", "http://localhost:9900@evil.example", 403),
        ("localhost:9900", "http://evil.example#localhost:9900", 403),
        ("localhost:9900", "chrome-extension://localhost:9900", 403),
        ("canary:80", "https://canary", 403),
    ],
)
@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_a_change_from_another_origin_is_refused(
    served: Served, over: str, host: str, origin: str, status: int
) -> None:
    answer = await served.ask(
        "PUT",
        "/v1/weight",
        WEIGHT,
        over=over,
        host=host,
        Origin=origin,
        Authorization=f"Bearer {TOKEN}",
    )
    assert answer.status == status
    assert bool(served.control.acts) == (status == 200)
    # To look is no change.
    assert (await served.ask("GET", "/v1/release", over=over, Origin=origin)).status == 200


@pytest.mark.parametrize(
    ("site", "status"),
    [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403), ("x", 403)],
)
@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_a_change_from_another_site_is_refused(
    served: Served, over: str, site: str, status: int
) -> None:
    answer = await served.ask(
        "POST",
        "/v1/release/abort",
        over=over,
        Sec_Fetch_Site=site,
        Authorization=f"Bearer {TOKEN}",
    )
    assert answer.status == status
    assert bool(served.control.acts) == (status == 200)


# What browsers are told

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "server": "canaryproxy",
    "canaryproxy-api-version": "1",
}


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_every_answer_has_them(served: Served, over: str) -> None:
    asked = [
        await served.ask(method, target, over=over, Origin="http://evil.example")
        for method, target in (
            ("GET", "/"),
            ("GET", "/static/main.js"),
            ("GET", "/static/nothing"),
            ("GET", "/v1/release"),
            ("HEAD", "/v1/release"),
            ("GET", "/metrics"),
            ("GET", "/livez"),
            ("GET", "/nothing"),
            ("OPTIONS", "/v1/weight"),
            ("POST", "/v1/weight"),
        )
    ]
    asked.append(await served.ask("GET", "/v1/release", over=over, Expect="miracles"))
    asked.append(await served.ask("GET", "/v1/release", over=over, If_None_Match="*"))
    asked += await served.raw(b"nonsense\r\n\r\n", over)
    served.control.refusal = ZeroDivisionError()
    asked.append(await served.ask("POST", "/v1/release/abort", over="unix"))
    assert {answer.status for answer in asked} >= {200, 304, 400, 403, 404, 417, 500}
    for answer in asked:
        for name, value in ALWAYS.items():
            assert answer.headers[name] == value
            assert answer.count[name] == 1
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        policy = answer.headers["content-security-policy"]
        assert answer.count["content-security-policy"] == 1
        for directive in ("default-src 'none'", "base-uri 'none'", "form-action 'none'",
                          "frame-ancestors 'none'"):  # fmt: skip
            assert directive in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
    page, module, *others = asked
    for answer in (page, module):
        assert (
            "script-src 'self'; style-src 'self'; connect-src 'self'"
            in (answer.headers["content-security-policy"])
        )
    assert others[2].headers["cache-control"] == "no-store"


TEAMS = """
all   token-of-the-operators-here
carts token-of-the-cart-team-here services=cart,search
nobody-knows-who-holds-it-all
"""


@pytest.mark.parametrize(
    ("token", "path", "status"),
    [
        ("token-of-the-cart-team-here", "/v1/services/cart/release/pause", 200),
        ("token-of-the-cart-team-here", "/v1/services/cart.v3/release/pause", 200),
        ("token-of-the-cart-team-here", "/v1/services/pay/release/pause", 403),
        ("token-of-the-cart-team-here", "/v1/services/cart-2/release/pause", 403),
        ("token-of-the-cart-team-here", "/v1/services/nobody/release/pause", 403),
        ("token-of-the-cart-team-here", "/v1/services/%63art/release/pause", 200),
        ("token-of-the-cart-team-here", "/v1/services/pay%2f..%2fcart/release/pause", 403),
        ("token-of-the-cart-team-here", "/v1/release/pause", 403),
        ("token-of-the-cart-team-here", "/v1/reload", 403),
        ("token-of-the-cart-team-here", "/v1/nothing", 403),
        ("token-of-the-operators-here", "/v1/services/pay/release/pause", 200),
        ("token-of-the-operators-here", "/v1/reload", 200),
        ("nobody-knows-who-holds-it-all", "/v1/services/pay/release/pause", 200),
    ],
)
async def test_a_token_may_be_limited_to_services(
    tmp_path: Path, token: str, path: str, status: int
) -> None:
    file = tmp_path / "tokens"
    file.write_text(TEAMS)
    proxy = FakeProxy(cart=FakeService(FakeControl()), pay=FakeService(FakeControl()))
    proxy.services |= {name: FakeService(FakeControl()) for name in ("cart.v3", "cart-2")}
    async with serve(tmp_path, control=proxy, token=None, token_file=str(file)) as served:
        auth = f"Bearer {token}"
        found = await served.ask("POST", path, "{}", over="tcp", Authorization=auth)
        assert found.status == status
        acts = [act for one in proxy.services.values() for act in one.control.acts]
        assert bool([*acts, *proxy.acts]) == (status == 200)
        if status == 403:
            assert found.json["detail"] == (
                "the token carts permits changes of cart, search only, below /v1/services/cart/;"
                " nothing was changed"
            )


async def test_a_token_of_some_services_changes_and_shows_no_configuration(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(TEAMS)
    async with serve(tmp_path, token=None, token_file=str(file)) as served:
        auth = "Bearer token-of-the-cart-team-here"
        shown = await served.ask("GET", "/v1/config", over="tcp", Authorization=auth)
        assert (shown.status, shown.json["text"]) == (200, None)
        put = await served.ask(
            "PUT", "/v1/config", served.proxy.text, over="tcp",
            Authorization=auth, Content_Type="application/yaml",
        )  # fmt: skip
        assert put.status == 403


@pytest.mark.parametrize(
    "line",
    [
        "token-without-any-name-here services=cart",
        "carts token-of-the-cart-team-here services=",
        "carts token-of-the-cart-team-here services=cart,",
        "carts token-of-the-cart-team-here services=Cart",
        "carts token-of-the-cart-team-here services=cart.v3",
        "carts token-of-the-cart-team-here services=*",
    ],
)
def test_a_limit_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(line)
    with pytest.raises(SecretError, match=r"is NAME TOKEN services=cart,pay") as caught:
        check_tokens(Admin(token_file=str(file)))
    assert "token-" not in str(caught.value)


def test_tokens_of_many_teams_fit_into_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(
        "".join(f"team-{n} token-of-team-number-{n:05} services=s{n}\n" for n in range(500))
    )
    tokens = Tokens.of(Admin(token_file=str(file)))
    found = tokens.find("token-of-team-number-00499")
    assert found is not None
    assert (found.name, found.permits("s499"), found.permits("s1")) == ("team-499", True, False)
    file.write_text("x" * 70_000)
    with pytest.raises(SecretError, match="longer than 65536"):
        check_tokens(Admin(token_file=str(file)))
