"""``python -m canaryproxy``: the command line."""

from canaryproxy.cli import main

main(prog_name="canaryproxy")
