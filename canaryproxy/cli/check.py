"""``canaryproxy check`` and ``canaryproxy schema``. They import nothing that serves requests."""

from __future__ import annotations

import json
from pathlib import Path

import click

from canaryproxy import config as configuration
from canaryproxy.cli.common import config_option, load_with_files


@click.command()
@config_option
def check(path: Path) -> None:
    """Check a configuration file. Exit status 0: valid; 2: invalid.

    Prints every error as file:line:column: field: message, and warnings about risky settings. TLS files are
    checked too: keys must match their certificates, and expired or soon expiring certificates are warned
    about.

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
