"""``canaryproxy demo``."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.2, 10),
    help="Speed factor; 2 halves the bake times.",
)
@click.option("--seed", default=1, show_default=True, help="Random seed.")
@click.option(
    "--dashboard",
    is_flag=False,
    flag_value=9900,
    type=click.IntRange(0, 65535),
    help="Serve the dashboard until Ctrl-C, on this port (default 9900; 0: any free port).",
)
def demo(as_json: bool, speed: float, seed: int, dashboard: int | None) -> None:
    """Run four simulated releases, three of which are rolled back.

    Needs no configuration: it starts two small services, the proxy and a load generator on 127.0.0.1, and
    ends in under a minute.

    Example: canaryproxy demo --speed 2
    """
    from canaryproxy.demo.run import demo as run_demo  # noqa: PLC0415 - it loads all of the proxy

    sys.exit(run_demo(as_json=as_json, speed=speed, seed=seed, dashboard=dashboard))
