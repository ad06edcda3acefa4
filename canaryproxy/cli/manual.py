"""The manual page, made from the commands: ``python -m canaryproxy.cli.manual > PAGE`` (``make man``)."""

from __future__ import annotations

import sys
from inspect import cleandoc

import click

from canaryproxy import __version__
from canaryproxy.cli import SECTIONS, main

_LITERAL = "\b"
"""The line before a paragraph that click does not wrap."""


def page() -> str:
    """Return the manual page of all commands in the man macros (groff_man(7))."""
    root = click.Context(main, info_name="canaryproxy")
    about, *rest = _paragraphs(main)
    lines = [
        f'.TH CANARYPROXY 1 "" "canaryproxy {__version__}" "User Commands"',
        ".nh",  # options and variables are to be copied
        ".ad l",
        ".SH NAME",
        "canaryproxy \\- " + _escaped(about[:1].lower() + about[1:].rstrip(".")),
        ".SH SYNOPSIS",
        ".B canaryproxy",
        ".I COMMAND",
        r"[\fIOPTION\fR]...",
        ".SH DESCRIPTION",
        *_described(rest),
        ".SH COMMANDS",
    ]
    for commands in SECTIONS.values():
        for name in (path.partition(".")[2] for path in commands):
            command = main.get_command(root, name)
            assert command is not None
            lines += _command(command, click.Context(command, parent=root, info_name=name))
    return "\n".join(lines) + "\n"


def _command(command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join(
        ["canaryproxy", context.info_name or "", *command.collect_usage_pieces(context)]
    )
    lines = [f'.SS "{_escaped(usage)}"', *_described(_paragraphs(command))]
    for param in command.get_params(context):
        record = param.get_help_record(context) if isinstance(param, click.Option) else None
        if record is not None and "--help" not in param.opts:
            lines += [".TP", rf"\fB{_escaped(record[0])}\fR", _escaped(" ".join(record[1].split()))]
    return lines


def _paragraphs(command: click.Command) -> list[str]:
    return cleandoc(command.help or "").split("\n\n")


def _described(paragraphs: list[str]) -> list[str]:
    """Return paragraphs in macros; one that begins with ``_LITERAL`` keeps its lines."""
    lines = []
    for one in paragraphs:
        if one.startswith(_LITERAL):
            kept = [_escaped(line) for line in one.splitlines()[1:]]
            lines += [".PP", ".nf", *kept, ".fi"]
        else:
            lines += [".PP", _escaped(" ".join(one.split()))]
    return lines


def _escaped(text: str) -> str:
    """Return text that groff prints as it is."""
    safe = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{safe}" if safe.startswith((".", "'")) else safe


if __name__ == "__main__":
    sys.stdout.write(page())
