"""What holds over plain TCP holds over TLS: tests of other modules, run again with TLS on both sides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest

from . import test_bodies as bodies
from . import test_long_lived as long_lived
from . import test_patience as patience
from . import test_tunnels as tunnels
from . import test_websockets as websockets
from .harness import SECURED

AGAIN = {
    "length": bodies.test_a_body_of_known_length_is_passed_on_as_it_comes,
    "chunks": partial(
        bodies.test_a_chunked_body_is_passed_on_without_extensions_and_with_trailers, 7
    ),
    "trailers": bodies.test_a_chunked_answer_keeps_its_trailers,
    "http_1_0": bodies.test_an_http_1_0_client_gets_a_chunked_answer_ended_by_closing,
    "without_length": bodies.test_an_answer_without_length_is_chunked_for_the_client,
    "continue": bodies.test_expect_100_continue_is_passed_both_ways,
    "early_answer": bodies.test_an_early_answer_to_an_unfinished_upload_arrives,
    "events": bodies.test_events_are_flushed_as_they_come,
    "slow_reader": bodies.test_a_slow_reader_stops_the_upstream,
    "slow_upstream": bodies.test_a_slow_upstream_stops_the_client,
    "never_reads": patience.test_who_never_reads_the_last_answer_does_not_keep_a_connection_for_ever,
    "tunnel_client_full": tunnels.test_a_client_that_does_not_read_stops_the_upstream,
    "tunnel_upstream_full": tunnels.test_an_upstream_that_does_not_read_stops_the_client,
    "tunnel_early_bytes": tunnels.test_bytes_sent_with_the_handshake_go_first_and_none_is_lost,
    "tunnel_reset": tunnels.test_a_client_that_resets_ends_the_upstreams_side,
    "websocket_messages": partial(websockets.test_messages_come_back, "deflate"),
    "websocket_pings": websockets.test_pings_of_both_sides_are_answered_by_the_other,
    "websocket_fragments": websockets.test_fragments_stay_fragments,
    "websocket_close": partial(websockets.test_the_server_closes_with_a_code, 4000, "over"),
    "websocket_many": websockets.test_many_tunnels_at_once_do_not_mix,
    "websocket_moves": partial(
        long_lived.test_a_trip_closes_a_websocket_with_1012_on_both_sides, "deflate"
    ),
    "websocket_client_full": long_lived.test_a_client_that_never_reads_keeps_nothing_on_the_canary,
    "websocket_no_reply": long_lived.test_a_client_that_does_not_reply_keeps_nothing_on_the_canary,
    "events_move": (
        long_lived.test_an_event_stream_ends_after_its_event_and_the_connection_goes_on
    ),
    "tunnel_rescue": tunnels.test_an_upgrade_that_fails_on_the_canary_is_rescued,
}


@pytest.fixture
def _secured() -> Iterator[None]:
    SECURED.downstream = SECURED.upstream = True
    yield
    SECURED.downstream = SECURED.upstream = False


@pytest.mark.usefixtures("_secured")
@pytest.mark.parametrize("test", AGAIN.values(), ids=AGAIN)
async def test_the_same_over_tls(test: Callable[[], Awaitable[None]]) -> None:
    await test()
