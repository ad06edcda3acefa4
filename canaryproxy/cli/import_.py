"""``canaryproxy import``: the configuration of another tool as ours."""

from __future__ import annotations

import sys
from glob import glob
from pathlib import Path

import click

from canaryproxy.cli.common import EXIT_CONFIG, fail, read_text, refuse
from canaryproxy.config.errors import ConfigError

KINDS = ("nginx", "ingress-nginx", "flagger", "argo", "traefik", "envoy")


@click.command("import")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--from",
    "kind",
    type=click.Choice(KINDS),
    help="The tool whose configuration it is; default: recognised by its content.",
)
@click.option("--only", metavar="NAME", help="Import this split alone, if there are several.")
@click.option(
    "--canary",
    metavar="NAME",
    help="The version that is the canary; default: by names and weights.",
)
def import_(files: tuple[str, ...], kind: str | None, only: str | None, canary: str | None) -> None:
    """Convert the configuration of another tool, and print it as one of ours.

    Reads nginx (split_clients, upstream), ingress-nginx (canary annotations), Flagger (Canary), Argo
    Rollouts (Rollout), Traefik (weighted services) and Envoy (weighted clusters) from files or standard
    input (-). Give all objects that belong to the split, such as both Ingresses. Relative includes of nginx
    are relative to the folder of the first file. Several splits become services of one configuration, each
    with its hosts and paths.

    Each line says where it is from. A comment names each thing that has no equivalent or behaves
    differently, and what to do. The result is valid; read its comments, then run canaryproxy check. Exit
    status 0: printed; 2: it cannot be imported.

    \b
    Examples:
      canaryproxy import /etc/nginx/nginx.conf > canaryproxy.yaml
      kubectl get ingress -o yaml | canaryproxy import -
    """
    from canaryproxy.importing import Wanted, convert  # noqa: PLC0415 - it loads the model

    if not files and sys.stdin.isatty():
        fail("name the files to import, or - for standard input", EXIT_CONFIG)
    sources = [_read(name) for name in files or ("-",)]
    folder = Path(next((name for name in files if name != "-"), "./-")).parent
    try:
        done = convert(
            sources, lambda pattern: _included(folder, pattern), kind, Wanted(only, canary)
        )
    except ConfigError as error:
        refuse(error)
    click.echo(done.text, nl=False)
    if done.notes:
        things = "one thing has" if done.notes == 1 else f"{done.notes} things have"
        click.echo(
            f"canaryproxy: {things} no equivalent or behave differently: read the comments",
            err=True,
        )


def _read(name: str) -> tuple[str, str]:
    """Return name and text of a file, or of standard input."""
    if name != "-":
        return name, read_text(Path(name))
    try:
        return "stdin", sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        fail(f"standard input is not UTF-8 text (byte {error.start})", EXIT_CONFIG)


def _included(folder: Path, pattern: str) -> list[tuple[str, str]]:
    """Return the files that an include of nginx means: a pattern may mean none, a name may not."""
    path = str(folder / pattern)
    names = sorted(glob(path)) if any(c in pattern for c in "*?[") else [path]  # noqa: PTH207
    return [(name, Path(name).read_text(encoding="utf-8")) for name in names]
