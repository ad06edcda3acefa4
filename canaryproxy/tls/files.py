"""The files that a configuration names: certificates, authorities and keys of TLS, and keys for signatures.

They are read and checked together with the configuration, and both are passed on together: a worker that
starts later serves with the content that was checked, not with what is in the folder by then.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from canaryproxy import config as configuration
from canaryproxy.config import Certificate, ClientTls, Config, ConfigError, ServerTls
from canaryproxy.config.errors import Path as FieldPath
from canaryproxy.config.errors import dotted
from canaryproxy.config.secrets import signing_keys

if TYPE_CHECKING:  # a proxy without TLS does without it: 8 MiB of memory, 0.05 s at start
    from cryptography import x509

Files = Mapping[str, bytes]
"""Contents of files, by their paths in the configuration."""

MAX_TOTAL: Final = 1024 * 1024
"""Maximum size of all files of a configuration together, in bytes."""
EXPIRES_SOON: Final = 14 * 86400.0
"""Seconds before its expiry from which on a certificate causes a warning."""


class _Mistake(NamedTuple):
    at: FieldPath
    message: str


def named(config: Config) -> Iterator[tuple[FieldPath, str]]:
    """Yield every field that names a file, with the file's path."""
    for at, listener in enumerate(config.listen):
        if listener.tls is None:
            continue
        here: FieldPath = ("listen", at, "tls")
        for number, pair in enumerate(listener.tls.certificates):
            yield (*here, "certificates", number, "cert"), pair.cert
            yield (*here, "certificates", number, "key"), pair.key
        if listener.tls.client_ca is not None:
            yield (*here, "client_ca"), listener.tls.client_ca
    for path, tls in _client_sections(config):
        for name in ("ca", "cert", "key"):
            file: str | None = getattr(tls, name)
            if file is not None:
                yield (*path, name), file
    yield from _signing_keys(config)


def _client_sections(config: Config) -> Iterator[tuple[FieldPath, ClientTls]]:
    for path, variants in config.in_use("variants"):
        for version, variant in variants.each():
            if variant.tls is not None:
                yield (*path, *version, "tls"), variant.tls


def _signing_keys(config: Config) -> Iterator[tuple[FieldPath, str]]:
    for path, split in config.in_use("split"):
        if split.sticky.sign is not None:
            yield (*path, "sticky", "sign", "key_file"), split.sticky.sign.key_file
        if split.follow is not None and split.follow.sign is not None:
            yield (*path, "follow", "sign", "key_file"), split.follow.sign.key_file
    for path, propagate in config.in_use("propagate"):
        if propagate.sign is not None:
            yield (*path, "sign", "key_file"), propagate.sign.key_file


def read(config: Config) -> Files:
    """Return the files of a configuration that can be read; ``load`` reports the others."""
    return {file: found for file, found in _read(config).items() if isinstance(found, bytes)}


def _read(config: Config) -> dict[str, bytes | str]:
    """Return the content of each file, or as text why it cannot be read."""
    found: dict[str, bytes | str] = {}
    for _, file in named(config):
        if file in found:
            continue
        try:
            with Path(file).open("rb") as opened:
                data = opened.read(MAX_TOTAL + 1)
        except OSError as error:
            found[file] = f"{file} cannot be read: {error.strerror or error}"
        else:
            too_large = len(data) > MAX_TOTAL
            found[file] = f"{file} is larger than {MAX_TOTAL:,} bytes" if too_large else data
    return found


def load(config: Config, text: str, *, file: str) -> Files:
    """Read and check the files of a valid configuration; ``text`` is the content of ``file``.

    Raises ``ConfigError`` with every problem, each at the field that names the file.
    """
    found = _read(config)
    mistakes = [
        _Mistake(at, what) for at, path in named(config) if isinstance(what := found[path], str)
    ]
    files = {path: what for path, what in found.items() if isinstance(what, bytes)}
    if sum(map(len, files.values())) > MAX_TOTAL:
        at = next(at for at, _ in named(config))
        mistakes.append(_Mistake(at, f"the files together are larger than {MAX_TOTAL:,} bytes"))
    mistakes += _mistakes(config, files)
    if mistakes:
        raise ConfigError(
            tuple(
                configuration.problem(text, file=file, path=mistake.at, message=mistake.message)
                for mistake in mistakes
            )
        )
    return files


def kept(config: Config, files: Files) -> Files:
    """Return the files that a configuration still names."""
    return {file: files[file] for _, file in named(config) if file in files}


def changed(config: Config, old: Files, new: Files) -> tuple[str, ...]:
    """Return the fields whose files have changed."""
    return tuple(
        dotted(at) for at, file in named(config) if file in old and old[file] != new.get(file)
    )


def expiries(config: Config, files: Files) -> dict[str, float]:
    """Return the expiry of our own certificates, in seconds since the epoch, by their first names.

    Authorities are not included. Of several certificates with the same first name the earliest expiry counts.
    """
    ends: dict[str, float] = {}
    for _, pair in _pairs(config):
        leaf = _certificates(files.get(pair.cert, b""))
        if leaf:
            name = next(iter((*pair.names, *names_of(leaf[0]))), pair.cert)
            end = leaf[0].not_valid_after_utc.timestamp()
            ends[name] = min(end, ends.get(name, end))
    return ends


def warnings(config: Config, files: Files, now: float) -> Iterator[str]:
    """Yield a warning for each certificate that has expired, expires soon or is not valid yet."""
    for at, pair in _pairs(config):
        where = dotted((*at, "cert"))
        for one in _certificates(files.get(pair.cert, b""))[:1]:
            begin, end = one.not_valid_before_utc, one.not_valid_after_utc
            if end.timestamp() < now:
                yield f"{where}: the certificate in {pair.cert} expired on {_date(end)}"
            elif begin.timestamp() > now:
                yield f"{where}: the certificate in {pair.cert} is not valid before {_date(begin)}"
            elif end.timestamp() < now + EXPIRES_SOON:
                yield f"{where}: the certificate in {pair.cert} expires on {_date(end)}"


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the server names of a certificate: its subjectAltName, else its common name (RFC 6125)."""
    from cryptography import x509  # noqa: PLC0415 - only where there are certificates

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(str(one.value).lower() for one in common)
    return tuple(name.lower() for name in found.value.get_values_for_type(x509.DNSName))


def _date(when: datetime.datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


def _pairs(config: Config) -> Iterator[tuple[FieldPath, Certificate]]:
    """Yield our own certificates, those of listeners first."""
    for at, listener in enumerate(config.listen):
        for number, pair in enumerate(listener.tls.certificates if listener.tls else ()):
            yield ("listen", at, "tls", "certificates", number), pair
    for path, tls in _client_sections(config):
        if tls.cert is not None and tls.key is not None:
            yield path, Certificate(cert=tls.cert, key=tls.key)


def _certificates(data: bytes) -> list[x509.Certificate]:
    from cryptography import x509  # noqa: PLC0415 - only where there are certificates

    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        return []


def _mistakes(config: Config, files: Files) -> Iterator[_Mistake]:
    broken = False
    for at, pair in _pairs(config):
        if pair.cert in files and pair.key in files:
            for mistake in _pair_mistakes(at, pair, files):
                broken = True
                yield mistake
    for at, file in named(config):
        if at[-1] in ("ca", "client_ca") and file in files and not _certificates(files[file]):
            broken = True
            yield _Mistake(at, f"{file} contains no certificate in PEM format")
        if at[-2:] == ("sign", "key_file") and file in files:
            try:
                signing_keys(files[file])
            except ValueError as error:
                broken = True
                yield _Mistake(at, f"{file}: {error}")
    uses_tls = any(listener.tls for listener in config.listen) or any(_client_sections(config))
    if uses_tls and not broken and all(file in files for _, file in named(config)):
        yield from _context_mistakes(config, files)


def _pair_mistakes(at: FieldPath, pair: Certificate, files: Files) -> Iterator[_Mistake]:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    chain = _certificates(files[pair.cert])
    if not chain:
        yield _Mistake((*at, "cert"), f"{pair.cert} contains no certificate in PEM format")
    try:
        key = serialization.load_pem_private_key(files[pair.key], None)
    except TypeError:
        yield _Mistake((*at, "key"), f"{pair.key} has a passphrase; use a key without one")
    except ValueError:
        yield _Mistake((*at, "key"), f"{pair.key} contains no private key in PEM format")
    else:
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if chain and chain[0].public_key().public_bytes(*form) != key.public_key().public_bytes(
            *form
        ):
            what = f"{pair.key} does not belong to the certificate in {pair.cert}"
            yield _Mistake((*at, "key"), what)


def _context_mistakes(config: Config, files: Files) -> Iterator[_Mistake]:
    """Find mistakes by building the contexts: names that appear twice, keys that OpenSSL refuses."""
    from canaryproxy.tls.contexts import (  # noqa: PLC0415 - OpenSSL, only where there is TLS
        client_context,
        server_context,
    )

    for at, listener in enumerate(config.listen):
        if listener.tls is not None:
            path: FieldPath = ("listen", at, "tls")
            owners: dict[tuple[str, str], int] = {}
            for number, names in enumerate(server_names(listener.tls, files)):
                (leaf, *_) = _certificates(files[listener.tls.certificates[number].cert])
                here = (*path, "certificates", number)
                if not names and number:
                    yield _Mistake(
                        (*here, "cert"),
                        "no client would get this certificate: it has no server name; set `names`",
                    )
                for name in names:
                    kind = type(leaf.public_key()).__name__
                    if owners.setdefault((name, kind), number) != number:
                        yield _Mistake(here, f"an earlier certificate already serves {name}")
            try:
                server_context(listener.tls, files, server_names(listener.tls, files))
            except (OSError, ValueError) as error:
                yield _Mistake(path, f"OpenSSL refuses it: {error}")
    for section, tls in _client_sections(config):
        try:
            client_context(tls, files)
        except (OSError, ValueError) as error:
            yield _Mistake(section, f"OpenSSL refuses it: {error}")


def server_names(tls: ServerTls, files: Files) -> list[tuple[str, ...]]:
    """Return the server names of each certificate: as configured, else those in it."""
    return [
        tuple(name.lower() for name in pair.names)
        or _first_names(_certificates(files.get(pair.cert, b"")))
        for pair in tls.certificates
    ]


def _first_names(chain: Iterable[x509.Certificate]) -> tuple[str, ...]:
    for leaf in chain:
        return names_of(leaf)
    return ()
