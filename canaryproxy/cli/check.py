"""Commands about the configuration, ``check`` and ``schema``. They import nothing that serves requests."""

from __future__ import annotations

import json
from pathlib import Path

import click

from canaryproxy import config as configuration
from canaryproxy.cli.common import config_option, load_with_files


@click.command()
@config_option
def check(path: Path) -> None:
    """Check a configuration file: exit status 0 if it is valid, 2 if not.

    Prints every error as file:line:column: field: what was found and what is allowed, and warns about plans
    that are valid but risky. The files of TLS are looked into, too: keys must fit their certificates, and
    what has expired or soon will is warned about.

    Example: canaryproxy check -c config/example.yaml
    """
    load_with_files(path)
    click.echo(f"{path}: ok")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Example: canaryproxy schema > canaryproxy.schema.json
    """
    click.echo(json.dumps(configuration.schema(), indent=2))
