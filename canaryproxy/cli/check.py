"""``canaryproxy check`` and ``canaryproxy schema``. They import nothing that serves requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from canaryproxy import config as configuration
from canaryproxy.cli.common import EXIT_CONFIG, config_option, read_text, read_with_files, refuse
from canaryproxy.cli.service_lines import ServiceLine, services_of, summary, table
from canaryproxy.config.errors import ConfigError, Problem, dotted
from canaryproxy.config.errors import Path as FieldPath
from canaryproxy.config.service_names import release_path

if TYPE_CHECKING:
    from canaryproxy.config import Config

_SHOWN = 8
"""Addresses of a name that are printed."""


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print errors and warnings as JSON.")
def check(path: Path, as_json: bool) -> None:
    """Check a configuration file. Exit status 0: valid; 2: invalid.

    Prints every error as file:line:column: field: message, and warnings about risky settings. TLS files are
    checked too: keys must match their certificates, and expired or soon expiring certificates are warned
    about. So are files of secrets that cannot be read, and host names of endpoints that do not resolve here.
    With the proxy's state file at hand, a release id that has ended before is an error if it comes again with
    another canary, and a step is warned about that would bring the canary more requests than endpoints have
    carried, at the most traffic that stable had. It prints what the file does: the steps of the release and
    who is drawn, of several services also their hosts and paths.

    Example: canaryproxy check -c config/example.yaml
    """
    from canaryproxy.config.secret_files import unusable  # noqa: PLC0415 - it loads the model

    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    services: tuple[ServiceLine, ...] = ()
    try:
        config, _, warnings = read_with_files(path)
        services = services_of(config)
        warnings += tuple(unusable(config))
        warnings += _unresolved(config, quiet=as_json)
        for at, one in _each(config):
            of = "" if one.service is None else f"service {one.service}: "
            warnings += tuple(f"{of}release.steps: {words}" for words in _over(one))
            if (why := _reused(one)) is not None:
                message = of + why.removeprefix("release.id: ")
                text = read_text(path)
                problems += (
                    configuration.problem(text, file=str(path), path=(*at, "id"), message=message),
                )
    except ConfigError as error:
        problems = error.problems
    if as_json:
        errors = [
            {"path": dotted(p.path), "line": p.line, "column": p.column, "message": p.message}
            for p in problems
        ]
        found = {"file": str(path), "valid": not problems, "errors": errors}
        listed = {"services": [_as_json(one) for one in services]} if services else {}
        click.echo(json.dumps({**found, "warnings": list(warnings), **listed}))
    for line in () if as_json else warnings:
        click.echo(f"{path}: warning: {line}", err=True)
    if problems and as_json:
        raise SystemExit(EXIT_CONFIG)
    if problems:
        refuse(ConfigError(problems))
    if not as_json:
        for line in table(services) if config.services else summary(services):
            click.echo(line)
        click.echo(f"{path}: ok")


def _as_json(service: ServiceLine) -> dict[str, Any]:
    return {**asdict(service), "drawn": dict(service.drawn)}


def _each(config: Config) -> Iterator[tuple[FieldPath, Config]]:
    """Yield each service's configuration, with the path of its release in the file."""
    for name, one in config.by_service().items():
        yield release_path(config, name), one


def _over(config: Config) -> tuple[str, ...]:
    """Return the steps that are too large for the canary, as far as the state file knows."""
    if config.release is None or config.release.capacity == "off":
        return ()
    from canaryproxy.cli.capacity import outlook_of  # noqa: PLC0415 - it loads the model

    ahead = outlook_of(config)
    return () if ahead is None else ahead.over


def _reused(config: Config) -> str | None:
    """Return why the state file at hand forbids the release id; ``None`` too if there is none to read."""
    from canaryproxy.control.ended import refusal_of  # noqa: PLC0415 - it loads the model
    from canaryproxy.control.state_file import StateError, StateFile  # noqa: PLC0415

    try:
        document = StateFile(Path(config.state)).load()
        return None if document is None else refusal_of(document, config)
    except (StateError, KeyError, TypeError, ValueError, AttributeError):
        return None  # a start reports it


def _unresolved(config: Config, *, quiet: bool) -> tuple[str, ...]:
    """Say what the names of endpoints resolve to now, and return warnings about those that do not."""
    from canaryproxy.measure.resolved import names  # noqa: PLC0415 - it loads the model

    wanted = names(config.endpoints)
    if not wanted:
        return ()
    from canaryproxy.runtime.resolver import look_up_all  # noqa: PLC0415 - it loads asyncio

    warnings = []
    for name, (found, why) in look_up_all(wanted, config.dns).items():
        if not found:
            warnings.append(f"{name} does not resolve here: {why}")
        elif not quiet:
            shown = ", ".join(place[0] for place in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            click.echo(f"{name}: {shown}{more}")
    return tuple(warnings)


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Example: canaryproxy schema > canaryproxy.schema.json
    """
    click.echo(json.dumps(configuration.schema(), indent=2))
