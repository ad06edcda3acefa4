"""The way from a command to a running proxy: its address, the token, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import errno
import getpass
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from pydantic import ValidationError

from canaryproxy import config as configuration
from canaryproxy.cli.common import (
    EXIT_CONFIG,
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    fail,
    read_text,
    refuse,
)
from canaryproxy.client.api import Address, Client, Refused, Unreachable
from canaryproxy.client.text import clean
from canaryproxy.config import Admin, ConfigError
from canaryproxy.config.model import DEFAULT_SOCKET
from canaryproxy.config.yaml_reader import read

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """The proxy that a command talks to."""

    address: Address
    token: str | None = None

    def talk(
        self, work: Callable[[Client], Awaitable[T]], *, interrupted: int = EXIT_INTERRUPTED
    ) -> T:
        """Return what ``work`` returns, or exit with one line about what went wrong.

        ``interrupted`` is the exit status for Ctrl-C.
        """

        async def whole() -> T:
            async with Client(self.address, self.token) as client:
                return await work(client)

        for stream in (sys.stdout, sys.stderr):
            if hasattr(
                stream, "reconfigure"
            ):  # a terminal may know fewer characters than a cause has
                stream.reconfigure(errors="replace")
        try:
            return asyncio.run(whole())
        except Unreachable as error:
            fail(self._unreachable(str(error)), EXIT_UNREACHABLE)
        except Refused as error:
            self._refused(error)
        except KeyboardInterrupt:
            sys.exit(interrupted)

    def _unreachable(self, why: str) -> str:
        if why == os.strerror(13):
            return f"{self.address} may not be opened by {login()}: only who runs the proxy may steer it"
        return (
            f"no proxy answers on {self.address} ({clean(why, 200)}): is it running? start it with"
            " canaryproxy run -c FILE; or name its socket with --admin"
        )

    def _refused(self, error: Refused) -> NoReturn:
        if len(error.errors) > 1:
            for one in error.errors:
                click.echo(
                    f"{clean(one.get('line'))}:{clean(one.get('column'))}: {clean(one.get('path'))}:"
                    f" {clean(one.get('message'))}",
                    err=True,
                )
        hint = {
            401: " (give the token with --token-file or CANARYPROXY_TOKEN)",
            412: ": nothing was done; look at canaryproxy status and try again",
            421: f" ({self.address} must be a name in admin.hosts, or an address)",
        }.get(error.status, "")
        fail(clean(error) + hint)


def reaching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the proxy is, and a ``Target`` as its first argument."""

    @click.option(
        "--admin",
        envvar="CANARYPROXY_ADMIN",
        metavar="ADDRESS",
        show_envvar=True,
        help=f"Path of the admin socket, or http://host:port.  [default: {DEFAULT_SOCKET}]",
    )
    @click.option(
        "-c",
        "--config",
        "config_path",
        envvar="CANARYPROXY_CONFIG",
        show_envvar=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="The proxy's configuration file, to find its socket.",
    )
    @click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Holds the token for http://; or set CANARYPROXY_TOKEN.",
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
        except OSError as error:  # of files and connections each is told where it happens
            if error.errno == errno.EPIPE:
                raise  # who reads has seen enough: click ends quietly
            fail(f"the output cannot be written: {error.strerror}")

    return found


def _admin_of(path: Path) -> Admin:
    """Return a file's admin section, also if something else is wrong: that is when people want to look."""
    text = read_text(path)
    try:
        return configuration.parse(text, file=str(path)).admin
    except ConfigError as error:
        value = read(text, str(path)).value
        section = value.get("admin") if isinstance(value, dict) else None
        try:
            found = Admin.model_validate(section or {})
        except ValidationError:
            refuse(error)
        click.echo(f"canaryproxy: {path} is not valid now; its admin address is used", err=True)
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
            fail(f"{config_path}: names no admin address", EXIT_CONFIG)
    else:
        address = Address(socket=DEFAULT_SOCKET)
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            fail(f"{token_file}: cannot be read: {error.strerror}", EXIT_CONFIG)
        except UnicodeDecodeError:
            fail(f"{token_file}: is not a token", EXIT_CONFIG)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        fail("the token has characters that no token has", EXIT_CONFIG)
    return Target(address, token or None)


def login() -> str:
    """Return who does it, for the history."""
    try:
        name = clean(getpass.getuser(), 100)
    except (KeyError, OSError):  # a container's user without a name
        name = ""
    return name or f"uid {os.getuid()}"
