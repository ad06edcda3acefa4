"""``canaryproxy demo``."""

from __future__ import annotations

import sys

import click

from canaryproxy.demo.run import demo as run_demo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.2, 10),
    help="2: bakes half as long.",
)
@click.option("--seed", default=1, show_default=True, help="Chooses the users' moves.")
@click.option(
    "--dashboard",
    is_flag=False,
    flag_value=9900,
    type=click.IntRange(0, 65535),
    help="Serve the dashboard on this port (9900 if none is given, 0: a free one), until Ctrl-C.",
)
def demo(as_json: bool, speed: float, seed: int, dashboard: int | None) -> None:
    """Show four releases, three of which go wrong, and what the proxy does about it.

    Needs no configuration: starts two small services, the proxy and some users on 127.0.0.1, and ends by
    itself in about a minute.

    Example: canaryproxy demo --speed 2
    """
    sys.exit(run_demo(as_json=as_json, speed=speed, seed=seed, dashboard=dashboard))
