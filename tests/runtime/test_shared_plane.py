"""The workers as the control plane sees them: endpoints that are out of service."""

from __future__ import annotations

from canaryproxy import config as configuration
from canaryproxy.measure.endpoint_cells import MOST_ENDPOINTS
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.measure.shared_memory import CHECK, Block
from canaryproxy.runtime.shared_plane import SharedPlane
from canaryproxy.runtime.workers import Workers

SAID = "check failed: status 503"


def plane(stable: list[str], canary: list[str] | None = None) -> SharedPlane:
    second = "" if canary is None else f", canary: {{endpoints: {canary}}}"
    text = f"variants: {{stable: {{endpoints: {stable}}}{second}}}"
    block = Block(1)
    return SharedPlane(
        configuration.parse(text, file="test"), block.service(0), Workers(block), block.addresses
    )


def states(shared: SharedPlane, variant: int = STABLE) -> list[str]:
    return [f"{one.state} {one.out}".strip() for one in shared.endpoints(variant)]


def test_endpoints_that_share_a_row_are_out_if_all_of_them_are_and_then_it_is_a_panic() -> None:
    urls = [f"http://10.0.{at >> 8}.{at & 255}:80" for at in range(MOST_ENDPOINTS + 3)]
    shared = plane(urls)
    shared.outs.put(CHECK, STABLE, dict.fromkeys(urls[:-1], SAID))
    assert states(shared) == [f"down {SAID}"] * MOST_ENDPOINTS + ["up"]
    assert shared.endpoints(STABLE)[-1].url == "3 more endpoints"
    shared.outs.put(CHECK, STABLE, dict.fromkeys(urls, SAID))
    assert states(shared) == [f"panic {SAID}"] * (MOST_ENDPOINTS + 1)


def test_canary_endpoints_that_fail_their_checks_hold_in_few_words() -> None:
    urls = [f"http://10.0.0.{at}:80" for at in range(1, 6)]
    shared = plane(["http://10.1.0.1:80"], urls)
    assert shared.holds() == ()
    shared.outs.put(CHECK, STABLE, {"http://10.1.0.1:80": SAID})
    assert shared.holds() == (), "stable holds nothing"
    shared.outs.put(CHECK, CANARY, {urls[1]: SAID})
    assert shared.holds() == (f"1 of 5 canary endpoints is out of service: {urls[1]} ({SAID})",)
    shared.outs.put(CHECK, CANARY, dict.fromkeys(urls, SAID))
    (said,) = shared.holds()
    assert said.startswith(f"5 of 5 canary endpoints are out of service: {urls[0]} ({SAID}), ")
    assert said.endswith(f"{urls[2]} ({SAID}) and 2 more")
