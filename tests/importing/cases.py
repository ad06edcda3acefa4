"""Configurations of other tools as their users have them, and what each of them does with a request.

``python -m tests.importing.cases`` writes the expected imports anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from canaryproxy.importing import Imported, convert

HERE = Path(__file__).parent
SOURCES = HERE / "sources"
EXPECTED = HERE / "expected"


@dataclass(frozen=True)
class Case:
    """A source, and what it says."""

    file: str
    kind: str
    weight: float
    """Percent on the canary; with steps, at the first one."""
    forced: tuple[tuple[str, dict[str, str], str], ...] = ()
    """Method and path, header fields, and the version that the source forces."""
    salt: str = ""
    key: str = "canary_id"
    """The cookie that identifies a user, or ``address``."""
    path: str = "/"
    """A path that is split."""
    steps: tuple[float, ...] = field(default=())


CASES = (
    Case(
        "nginx-split.conf",
        "nginx",
        2.5,
        (
            ("GET /", {"X-Canary": "always"}, "canary"),
            ("GET /", {"X-Canary": "Always"}, "canary"),  # nginx: a map ignores case
            ("GET /", {"X-Canary": "never"}, "stable"),
            ("GET /admin/users", {"X-Canary": "always"}, "stable"),
        ),
        salt="cart-2.4",
        key="address",
    ),
    Case(
        "nginx-include/nginx.conf",
        "nginx",
        20,
        (
            ("GET /shop/1", {"Cookie": "beta=yes"}, "canary"),
            ("GET /shop/1", {"User-Agent": "Internal-Test/1"}, "canary"),
            ("GET /shop", {"Cookie": "beta=yesterday; a=b"}, ""),
            ("GET /shoe", {"Cookie": "beta=yes"}, "stable"),
            ("GET /", {"Cookie": "beta=yes"}, "stable"),
        ),
        key="uid",
        path="/shop/cart",
    ),
    Case("nginx-weights.conf", "nginx", 10),
    Case(
        "ingress-weight.yaml",
        "ingress-nginx",
        2.5,
        (
            ("GET /", {"X-Canary": "always"}, "canary"),
            ("GET /", {"X-Canary": "never", "Cookie": "cart_canary=always"}, "stable"),
            ("GET /", {"X-Canary": "other", "Cookie": "cart_canary=always"}, "canary"),
            ("GET /", {"Cookie": "cart_canary=never"}, "stable"),
        ),
    ),
    Case(
        "ingress-affinity.yaml",
        "ingress-nginx",
        40,
        (("GET /", {"X-Region": "uk-2"}, "canary"), ("GET /", {"X-Region": "us-eu-1"}, "")),
        key="search_route",
    ),
    Case(
        "flagger-weight.yaml",
        "flagger",
        20,
        salt="podinfo-1",
        steps=(20, 40, 50, 100),
    ),
    Case(
        "flagger-ab.yaml",
        "flagger",
        0,
        (
            ("GET /", {"X-User-Type": "insider"}, "canary"),
            ("GET /", {"X-User-Type": "insiders"}, "stable"),
            (
                "GET /",
                {"Cookie": "a=b; canary=always; c=d"},
                "stable",
            ),  # the pattern wants no blank
            ("GET /", {"Cookie": "a=b;canary=always"}, "canary"),
            ("GET /", {"User-Agent": "Mozilla/5.0 Firefox/140"}, "canary"),
            ("GET /", {"X-Region": "eu-2", "X-Plan": "gold"}, "canary"),
            ("GET /", {"X-Region": "eu-2", "X-Plan": "free"}, "stable"),
        ),
    ),
    Case(
        "argo-istio.yaml",
        "argo",
        5,
        (("GET /", {"X-Staff": "1"}, "canary"), ("GET /", {"X-Staff": "11"}, "")),
        salt="checkout-3.7.0",
        steps=(5, 20, 60, 100),
    ),
    Case("argo-manual.yaml", "argo", 10, salt="api-1", steps=(10, 50, 100)),
    Case(
        "traefik-file.yaml",
        "traefik",
        25,
        (("GET /", {"X-Beta": "yes"}, "canary"), ("GET /", {"X-Beta": "no"}, "")),
    ),
    Case(
        "traefik-mirror.toml",
        "traefik",
        33.33,
        (
            ("GET /", {}, "stable"),
            ("GET /ap", {}, "stable"),
            ("GET /docs/api", {"X-Team": "core-1"}, "stable"),
            ("GET /api/x", {"X-Team": "core-1"}, "canary"),
            ("GET /api/x?a=b&debug=1", {}, "canary"),
            ("GET /api/x?debug=10", {}, ""),
        ),
        path="/api/items",
    ),
    Case("traefik-crd.yaml", "traefik", 10, (("GET /", {"Cookie": "preview=1"}, "canary"),)),
    Case(
        "envoy-weights.yaml",
        "envoy",
        12.5,
        (
            ("GET /", {"X-Beta": "YES"}, "canary"),
            ("DELETE /orders/7", {}, "stable"),
            ("DELETE /orders/7", {"X-Beta": "yes"}, "canary"),  # the first route wins
        ),
        key="cart_user",
    ),
    Case(
        "envoy-fraction.yaml",
        "envoy",
        30,
        (
            ("GET /search", {"X-Tester": ""}, "canary"),
            ("GET /", {"X-Tester": "1"}, "stable"),
            ("GET /searc", {}, "stable"),
        ),
        path="/search?q=x",
    ),
)


def read_files(pattern: str, folder: Path = SOURCES) -> list[tuple[str, str]]:
    """Return the files that an include means, as the command does."""
    if pattern.startswith("/"):
        return []
    return [(str(path), path.read_text()) for path in sorted(folder.glob(pattern))]


def imported(case: Case) -> Imported:
    """Return the import of a case."""
    path = SOURCES / case.file
    return convert([(str(path), path.read_text())], lambda one: read_files(one, path.parent))


def expected(case: Case) -> Path:
    """Return the file with the expected import."""
    return EXPECTED / f"{Path(case.file).with_suffix('').as_posix().replace('/', '-')}.yaml"


if __name__ == "__main__":
    EXPECTED.mkdir(exist_ok=True)
    for one in CASES:
        expected(one).write_text(imported(one).text)
