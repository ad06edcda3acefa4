"""Files of certificates and keys: every problem is reported with file, line and field."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from canaryproxy import config
from canaryproxy.config import Config, ConfigError
from canaryproxy.control.reload import Reloader, live
from canaryproxy.tls import files as certificates

from ..certificates import Authority, Pair

TEXT = """
listen:
  - address: 127.0.0.1:8443
    tls:
      certificates:
        - cert: {cert}
          key: {key}
      {more}
variants: {{stable: {{endpoints: ["https://a:1"], tls: {{{client}}}}}}}
"""


@pytest.fixture
def own(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def text(pair: Pair, more: str = "", client: str = "") -> str:
    return TEXT.format(cert=pair.cert, key=pair.key, more=more, client=client)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [str(problem) for problem in caught.value.problems]


def load(text: str) -> tuple[Config, certificates.Files]:
    made = config.parse(text, file="f.yaml")
    return made, certificates.load(made, text, file="f.yaml")


def test_load_returns_the_content_of_valid_files(own: Authority) -> None:
    pair = own.pair("www.example")
    ours = own.pair("us.example", file="us")
    client = f"ca: {own.ca}, cert: {ours.cert}, key: {ours.key}"
    made, files = load(text(pair, f"client_ca: {own.ca}", client))
    assert files == {
        str(path): path.read_bytes() for path in (pair.cert, pair.key, own.ca, ours.cert, ours.key)
    }
    assert set(certificates.expiries(made, files)) == {"www.example", "us.example"}
    assert (
        list(certificates.warnings(made, files, datetime.datetime.now(datetime.UTC).timestamp()))
        == []
    )


def encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def other_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


CERT = "f.yaml:6:17: listen[0].tls.certificates[0].cert: {cert} "
KEY = "f.yaml:7:16: listen[0].tls.certificates[0].key: {key} "


@pytest.mark.parametrize(
    ("which", "data", "said"),
    [
        ("cert", None, CERT + "cannot be read: No such file or directory"),
        ("key", None, KEY + "cannot be read: No such file or directory"),
        ("cert", b"hello", CERT + "contains no certificate in PEM format"),
        ("key", b"hello", KEY + "contains no private key in PEM format"),
        ("key", encrypted(), KEY + "has a passphrase; use a key without one"),
        ("key", other_key(), KEY + "does not belong to the certificate in {cert}"),
        ("key", bytes(certificates.MAX_TOTAL + 1), KEY + "is larger than 1,048,576 bytes"),
    ],
)
def test_load_reports_a_bad_file_at_its_field(
    own: Authority, which: str, data: bytes | None, said: str
) -> None:
    pair = own.pair()
    file: Path = getattr(pair, which)
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    assert problems(text(pair)) == [said.format(cert=pair.cert, key=pair.key)]


def test_load_reports_all_problems_and_no_content_of_keys(own: Authority) -> None:
    pair = own.pair()
    pair.key.write_bytes(b"TOP SECRET")
    found = problems(text(pair, f"client_ca: {own.folder}/none.pem", f"ca: {pair.key}"))
    assert [one.split(": ")[1] for one in found] == [
        "listen[0].tls.client_ca",
        "listen[0].tls.certificates[0].key",
        "variants.stable.tls.ca",
    ]
    assert "TOP SECRET" not in "".join(found)


def test_load_refuses_two_certificates_for_one_name(own: Authority) -> None:
    first, second = own.pair("a.example"), own.pair("a.example", file="second")
    made = f"""
listen:
  address: 127.0.0.1:8443
  tls: {{certificates: [{first.yaml()}, {second.yaml()}]}}
variants: {{stable: {{endpoints: ["http://a:1"]}}}}
"""
    (found,) = problems(made)
    assert found.endswith("tls.certificates[1]: an earlier certificate already serves a.example")


def test_warnings_name_certificates_that_expire(own: Authority) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for days, words in ((-1, "expired on"), (3, "expires on"), (100, None)):
        until = (now + datetime.timedelta(days=days)).replace(microsecond=0)
        made, files = load(text(own.pair(until=until)))
        (end,) = certificates.expiries(made, files).values()
        assert end == until.timestamp()
        found = list(certificates.warnings(made, files, now.timestamp()))
        assert len(found) == (words is not None)
        if words is not None:
            assert f"{words} {until:%Y-%m-%d %H:%M} UTC" in found[0]
            assert found[0].startswith("listen[0].tls.certificates[0].cert: ")


# While the proxy runs


class World:
    """A reloader of a file and its certificates."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        path.write_text(text)
        self.applied: list[Config] = []
        self.notes: list[str] = []
        self.reloader = Reloader(
            path,
            config.parse(text, file=str(path)),
            lambda _wanted: None,
            self.applied.append,
            lambda what, cause, _figures: self.notes.append(f"{what}: {cause}"),
            lambda: 0.0,
        )


def test_reload_takes_new_files_without_a_new_configuration(own: Authority, tmp_path: Path) -> None:
    pair = own.pair()
    world = World(tmp_path / "f.yaml", text(pair))
    assert world.reloader.reload().changed == ()
    own.pair()
    change = world.reloader.reload()
    assert change.changed == (
        "listen[0].tls.certificates[0].cert",
        "listen[0].tls.certificates[0].key",
    )
    assert len(world.applied) == 1
    assert world.reloader.files[str(pair.cert)] == pair.cert.read_bytes()


def test_reload_with_bad_files_changes_nothing(own: Authority, tmp_path: Path) -> None:
    pair = own.pair()
    world = World(tmp_path / "f.yaml", text(pair))
    before = dict(world.reloader.files)
    pair.key.write_bytes(other_key())
    world.path.write_text(text(pair) + "split: {weight: 5}\n")
    world.reloader.try_reload()
    assert world.applied == []
    assert world.reloader.files == before
    assert "does not belong to the certificate" in (world.reloader.error or "")
    own.pair()
    world.reloader.try_reload()
    assert world.reloader.error is None
    assert len(world.applied) == 1


def test_reload_changes_what_an_address_does_but_not_the_addresses(own: Authority) -> None:
    pair = own.pair()
    running = config.parse(text(pair), file="f.yaml")
    plain = 'variants: {stable: {endpoints: ["http://a:1"]}}'
    wanted = config.parse(
        f"listen: [{{address: 127.0.0.1:8443, proxy_protocol: true}}, 127.0.0.1:8080]\n{plain}",
        file="f.yaml",
    )
    (kept,) = live(running, wanted).listen
    assert kept.tls is None
    assert kept.proxy_protocol == "required"
    other = config.parse(f"listen: 127.0.0.1:9\n{plain}", file="f.yaml")
    assert live(running, other).listen == running.listen


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"secret", ": line 1 has 6 bytes: a key has at least 32"),
        (b"", ": holds no key"),
    ],
)
def test_load_reports_bad_signing_keys(tmp_path: Path, data: bytes | None, said: str) -> None:
    keys = tmp_path / "keys"
    if data is not None:
        keys.write_bytes(data)
    (found,) = problems(
        'variants: {stable: {endpoints: ["http://127.0.0.1:1"]}}\n'
        f"split: {{sticky: {{sign: {{key_file: {keys}}}}}}}\n"
    )
    where = "f.yaml:2:35: split.sticky.sign.key_file: "
    assert found == where + str(keys) + ("" if said.startswith(":") else " ") + said
