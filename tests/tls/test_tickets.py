"""Session tickets: which workers resume which sessions."""

from __future__ import annotations

import ssl

import pytest

from canaryproxy.config import ServerTls
from canaryproxy.tls import files as certificates
from canaryproxy.tls.contexts import ContextCache
from canaryproxy.tls.tickets import LIFETIME, Secret, set_keys

from ..certificates import Pair, authority, loopback

NOW = 1_800_000_000.0
VALUE = b"s" * 32
pytestmark = pytest.mark.skipif(
    not set_keys(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), b"k" * 80),
    reason="this Python does not let the keys of tickets be set",
)


class Worker:
    """The contexts of one worker, which has a copy of the secret, and the one for ``pair``."""

    def __init__(self, pair: Pair | None = None, value: bytes = VALUE) -> None:
        self.contexts = ContextCache(None, Secret(value, NOW))
        pair = pair or loopback()
        tls = ServerTls.model_validate(
            {"certificates": ({"cert": str(pair.cert), "key": str(pair.key)},)}
        )
        files = {str(path): path.read_bytes() for path in (pair.cert, pair.key)}
        self.context = self.contexts.server(
            tls, files, ["http/1.1"], lambda: certificates.server_names(tls, files)
        )


class Client:
    """A client that comes again with its session."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        self._context = authority().client()
        self._context.minimum_version = self._context.maximum_version = version
        self._session: ssl.SSLSession | None = None

    def resumes_at(self, worker: Worker) -> bool:
        """Connect to a worker; tell whether it resumes the session of the connection before."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = self._context.wrap_bio(
            to_client, to_server, server_hostname="localhost", session=self._session
        )
        theirs = worker.context.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(3):
            for side in (ours, theirs):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        theirs.write(b"x")
        assert ours.read(1) == b"x"  # the tickets of TLS 1.3 came before it
        self._session = ours.session
        return bool(ours.session_reused)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.param)


def test_a_worker_resumes_the_sessions_of_another(client: Client) -> None:
    workers = [Worker(), Worker()]
    assert [client.resumes_at(workers[at % 2]) for at in range(5)] == [
        False,
        True,
        True,
        True,
        True,
    ]


def test_another_secret_resumes_nothing(client: Client) -> None:
    assert not client.resumes_at(Worker())
    assert not client.resumes_at(Worker(value=b"t" * 32))


def test_another_certificate_resumes_nothing(client: Client) -> None:
    assert not client.resumes_at(Worker())
    assert not client.resumes_at(Worker(authority().pair(file="renewed")))


def test_keys_are_replaced_after_their_lifetime_in_all_workers_alike(client: Client) -> None:
    one, other = Worker(), Worker()
    assert not client.resumes_at(one)
    later = NOW + LIFETIME
    one.contexts.renew_keys(later)
    assert not client.resumes_at(one)
    assert not client.resumes_at(other)  # whose clock is late
    other.contexts.renew_keys(later)
    assert client.resumes_at(one) is False
    assert client.resumes_at(other)


def test_a_process_that_takes_over_has_the_same_keys() -> None:
    before, after = Secret(VALUE, NOW), Secret(b"", 0.0)
    before.advance(NOW + 3 * LIFETIME)
    after.take_over(before.write())
    assert after.keys(b"scope") == before.keys(b"scope")
    assert after.period == before.period


def test_a_clock_that_is_set_back_changes_no_keys() -> None:
    secret = Secret(VALUE, NOW)
    keys = secret.keys(b"scope")
    secret.advance(NOW - 10 * LIFETIME)
    assert secret.keys(b"scope") == keys
    secret.advance(NOW + LIFETIME)
    assert secret.keys(b"scope") != keys
