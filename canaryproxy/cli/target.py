"""The running proxy that a command talks to: its address, the token, and errors on the way."""

from __future__ import annotations

import asyncio
import errno
import getpass
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from canaryproxy import API_VERSION, DEFAULT_SOCKET, __version__
from canaryproxy import config as configuration
from canaryproxy.cli.common import (
    EXIT_CONFIG,
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    fail,
    read_text,
    refuse,
)
from canaryproxy.client.api import (
    TIMEOUT,
    Address,
    Client,
    Denied,
    HandshakeFailed,
    NobodyListens,
    NotAdmin,
    OtherVersion,
    PlainHttp,
    Refused,
    ServiceRemoved,
    Silent,
    SpeaksTls,
    TrafficPort,
    Unreachable,
    WrongService,
)
from canaryproxy.client.text import clean
from canaryproxy.config.errors import ConfigError

if TYPE_CHECKING:
    from canaryproxy.config import Admin

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """A running proxy and the token for it."""

    address: Address
    token: str | None = None
    service: str | None = None
    """The service whose release is meant; ``None``: the only one."""

    def talk(
        self,
        work: Callable[[Client], Awaitable[T]],
        *,
        interrupted: int = EXIT_INTERRUPTED,
        any_version: bool = False,
    ) -> T:
        """Return the result of ``work``, or print one line about the error and exit.

        ``interrupted`` is the exit status after Ctrl-C.
        """

        async def whole() -> T:
            async with Client(
                self.address, self.token, service=self.service, any_version=any_version
            ) as client:
                return await work(client)

        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # its encoding may lack characters of a cause
                stream.reconfigure(errors="replace")
        try:
            return asyncio.run(whole())
        except Unreachable as error:
            fail(self.unreachable(error), EXIT_UNREACHABLE)
        except NotAdmin as error:
            fail(self._stranger(error), EXIT_UNREACHABLE)
        except Refused as error:
            self._refused(error)
        except KeyboardInterrupt:
            sys.exit(interrupted)

    def unreachable(self, error: Unreachable) -> str:
        """Return the error and what to do about it."""
        address = self.address
        if isinstance(error, Denied):
            return (
                f"permission denied: {address} belongs to {_owner(address)}, you are {login()}."
                " Use sudo, or --admin http://HOST:PORT with a token"
            )
        if isinstance(error, PlainHttp):
            return f"{address} speaks plain HTTP, not TLS. Use http://"
        if isinstance(error, SpeaksTls):
            return f"{address} speaks TLS, not plain HTTP. Use https://"
        if isinstance(error, Silent):
            return (
                f"{address} accepted the connection but did not respond within {TIMEOUT:g}s (is the proxy"
                " hung or overloaded?). Do not start a second one; see its log"
            )
        if isinstance(error, HandshakeFailed):
            return (
                f"{address}: {clean(error, 200)}. Use the name that its certificate is for, and set"
                " SSL_CERT_FILE to the certificate of its authority"
            )
        if isinstance(error, NobodyListens):
            return (
                f"no proxy answers on {address} ({clean(error, 200)}). Is it running? Start it with"
                " canaryproxy run -c FILE, or name its address with --admin"
            )
        return f"cannot reach {address}: {clean(error, 200)}"

    def _stranger(self, error: NotAdmin) -> str:
        """Return what is at the address instead of the admin API that this command line speaks."""
        if isinstance(error, OtherVersion):
            return (
                f"the proxy on {self.address} has version {clean(error, 20)} of the admin API, and"
                f" canaryproxy {__version__} speaks version {API_VERSION}. Nothing was changed; use the"
                " canaryproxy command of the proxy's own version"
            )
        is_traffic = isinstance(error, TrafficPort)
        what = "is a canaryproxy traffic port, not an" if is_traffic else "is not a canaryproxy"
        return (
            f"{self.address} {what} admin address ({clean(error, 200)}). Nothing was changed;"
            " the right one is admin.socket or admin.listen of the proxy's configuration"
        )

    def _refused(self, error: Refused) -> NoReturn:
        if len(error.errors) > 1:
            for one in error.errors:
                click.echo(
                    f"{clean(one.get('line'))}:{clean(one.get('column'))}: {clean(one.get('path'))}:"
                    f" {clean(one.get('message'))}",
                    err=True,
                )
        if error.status == 401:
            what = "an admin token is needed" if self.token is None else "wrong admin token"
            fail(f"{what}. Pass it with --token-file FILE or CANARYPROXY_TOKEN")
        if error.status == 421:
            fail(
                f"{clean(error)}: add the name in {self.address} to admin.hosts, or use an IP address"
            )
        if isinstance(error, WrongService):
            self._wrong_service(error)
        if (
            error.status == 404
            and self.service is not None
            and not isinstance(error, ServiceRemoved)
        ):
            fail(
                f"the proxy on {self.address} is of a version without services: leave out --service",
                EXIT_CONFIG,
            )
        if error.status == 412:
            fail(f"{clean(error)}. Nothing was changed; run the command again")
        fail(clean(error))

    def _wrong_service(self, error: WrongService) -> NoReturn:
        """Exit with the services that there are."""
        names = [clean(one, 100) for one in error.names]
        if self.service is not None:
            fail(
                f"no service {clean(self.service, 100)!r} on {self.address}; {_there(names)}",
                EXIT_CONFIG,
            )
        context = click.get_current_context(silent=True)
        command = "canaryproxy" if context is None else context.command_path
        given = [] if context is None else context.find_root().meta.get("canaryproxy.arguments", [])
        example = " ".join([names[0] if names else "NAME", shlex.join(given[1:])]).rstrip()
        fail(
            f"the proxy on {self.address} has several services: name one, as in"
            f" {command} --service {example}; {_there(names)}",
            EXIT_CONFIG,
        )


def _there(names: list[str]) -> str:
    """``there are cart, pay and search``; of many the first ones."""
    if len(names) > _NAMED:
        return f"there are {', '.join(names[:_NAMED])} and {len(names) - _NAMED} more (canaryproxy status)"
    if len(names) > 1:
        return f"there are {', '.join(names[:-1])} and {names[-1]}"
    return f"there is {''.join(names)}"


_NAMED = 20
"""Names of services in an error."""


def _owner(address: Address) -> str:
    """Return the owner of a socket, or of the nearest folder that is visible."""
    for path in (Path(address.socket or "."), *Path(address.socket or ".").parents):
        try:
            return path.owner()
        except (OSError, KeyError):  # not visible either, or a user without a name
            continue
    return "another user"


def reaching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that locate the proxy, and pass the ``Target`` as the first argument."""

    @click.option(
        "--admin",
        envvar="CANARYPROXY_ADMIN",
        metavar="ADDRESS",
        show_envvar=True,
        help=f"Admin socket (path), or http://host:port.  [default: {DEFAULT_SOCKET}]",
    )
    @click.option(
        "-c",
        "--config",
        "config_path",
        envvar="CANARYPROXY_CONFIG",
        show_envvar=True,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The proxy's configuration file, to read its admin address from.",
    )
    @click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="File that contains the token for http://; or set CANARYPROXY_TOKEN.",
    )
    @wraps(command)
    def found(
        *args: Any,
        admin: str | None,
        config_path: Path | None,
        token_file: Path | None,
        **options: Any,
    ) -> Any:
        try:
            return command(_target(admin, config_path, token_file), *args, **options)
        except OSError as error:  # errors of files and connections are handled where they occur
            if error.errno == errno.EPIPE:
                raise  # the reader has closed the pipe: click ends quietly
            fail(f"cannot write the output: {error.strerror}")

    return found


def reaching_service(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that locate the proxy and one of its services; pass the ``Target`` as ``reaching``."""

    @click.option(
        "--service",
        envvar="CANARYPROXY_SERVICE",
        metavar="NAME",
        show_envvar=True,
        help="The service, of a proxy with several.",
    )
    @reaching
    @wraps(command)
    def found(target: Target, *args: Any, service: str | None, **options: Any) -> Any:
        return command(replace(target, service=service or None), *args, **options)

    return found


def _admin_of(path: Path) -> Admin:
    """Return the admin section of a file, even if the rest of the file is invalid."""
    from pydantic import ValidationError  # noqa: PLC0415 - what reads no file needs neither

    from canaryproxy.config.yaml_reader import read  # noqa: PLC0415

    text = read_text(path)
    try:
        return configuration.parse(text, file=str(path)).admin
    except ConfigError as error:
        value = read(text, str(path)).value
        section = value.get("admin") if isinstance(value, dict) else None
        try:
            found = configuration.Admin.model_validate(section or {})
        except ValidationError:
            refuse(error)
        click.echo(
            f"canaryproxy: warning: {path} is currently invalid; only its admin address was used"
            f" (run `canaryproxy check -c {path}`)",
            err=True,
        )
        return found


def _target(admin: str | None, config_path: Path | None, token_file: Path | None) -> Target:
    token = os.environ.get("CANARYPROXY_TOKEN") or None
    if admin:
        address = Address.of(admin)
    elif config_path is not None:
        section = _admin_of(config_path)
        if section.socket is not None:
            address = Address(socket=str(section.socket))
        elif section.listen is not None:
            address = Address(url=f"http://{section.listen}")
            if section.token_file is not None and token_file is None and token is None:
                token_file = Path(section.token_file)
            if section.token_env is not None:
                token = token or os.environ.get(section.token_env)
        else:
            fail(
                f"{config_path} has no admin address: set admin.socket or admin.listen", EXIT_CONFIG
            )
    else:
        address = Address(socket=DEFAULT_SOCKET)
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            fail(f"cannot read {token_file}: {error.strerror}", EXIT_CONFIG)
        except UnicodeDecodeError:
            fail(f"{token_file} does not contain a token: it is not ASCII text", EXIT_CONFIG)
    return Target(address, _own(token))


def _own(text: str | None) -> str | None:
    """Return the token in a file or variable, which may be the proxy's, with the name of who holds it."""
    lines = (text or "").strip().splitlines()
    if len(lines) > 1:
        fail("several tokens: put yours alone into a file, for --token-file", EXIT_CONFIG)
    token = lines[0].split(maxsplit=1)[-1] if lines else ""
    if not (token.isascii() and token.isprintable() and " " not in token):
        fail(
            "invalid token: it contains spaces or characters other than printable ASCII",
            EXIT_CONFIG,
        )
    return token or None


def login() -> str:
    """Return the name of the user, for the history."""
    try:
        name = clean(getpass.getuser(), 100)
    except (KeyError, OSError):  # a user without a name, as in containers
        name = ""
    return name or f"uid {os.getuid()}"
