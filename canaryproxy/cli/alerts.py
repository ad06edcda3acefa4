"""``canaryproxy alerts``: the alerting rules for Prometheus, with the addresses of runbook and dashboard."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

import click

_SERVICE: Final = "{{ with $labels.service }}%s{{ end }}"
_PROXY: Final = (
    _SERVICE % "service {{ . }} of " + "{{ $labels.job }} on {{ $labels.instance }}"
    "{{ with $labels.environment }} ({{ . }}){{ end }}"
)
_DASHBOARD: Final = "http://{{ $labels.instance }}/" + _SERVICE % "services/{{ . }}/"
_FIGURES: Final = (
    ("5xx", "variant:canaryproxy_requests_5xx:ratio_rate5m{%s}", "humanizePercentage", "variant"),
    (
        "P95 to first byte",
        "variant:canaryproxy_first_byte_seconds:p95_rate5m{%s} > 0",
        "humanizeDuration",
        "variant",
    ),
    (
        "Failed requests by canary endpoint",
        "topk(3, increase(canaryproxy_endpoint_failed_total{%s,variant='canary'}[5m]) >= 1)",
        'printf "%.0f"',
        "endpoint",
    ),
)
"""What a message says of the last five minutes: subject, query, format and label of its values."""
_OF_RELEASE: Final = (
    "* on (job, instance, service) group_left (release, environment) canaryproxy_release_info"
)
_OF_PROXY: Final = (
    "* on (job, instance) group_left (environment)"
    " max by (job, instance, environment) (canaryproxy_release_info)"
)
"""The services of a proxy have one environment."""


@click.command()
@click.option(
    "--runbook",
    metavar="URL",
    required=True,
    help="Where docs/runbook.md is published: runbook_url is this and #NAME-OF-THE-ALERT.",
)
@click.option(
    "--dashboard",
    metavar="URL",
    help="The dashboard that messages link; default: the address that is scraped.",
)
def alerts(runbook: str, dashboard: str | None) -> None:
    """Print the alerting rules for Prometheus.

    Example: canaryproxy alerts --runbook https://wiki.example.com/runbook > alerts.yml
    """
    for name, url in (("--runbook", runbook), ("--dashboard", dashboard)):
        if url is not None and not re.fullmatch(r"https?://[!#-\[\]-~]+", url):
            raise click.UsageError(f"{name} must be an absolute http(s) URL, found {url!r}")
    click.echo(rules(runbook, dashboard or _DASHBOARD), nl=False)


def rules(runbook: str, dashboard: str) -> str:
    """Return the rules as YAML."""
    template = (files(__package__) / "alerts.template.yml").read_text()
    lines, alert = [], ""
    for line in template.splitlines():
        indent, _, rest = line.rpartition("  ")
        alert = rest.removeprefix("- alert: ") if rest.startswith("- alert: ") else alert
        links = (f'dashboard: "{dashboard}"', f'runbook_url: "{runbook}#{alert.lower()}"')
        parts = {"<links>": links, "<runbook>": links[1:], "<figures>": _figures()}
        lines += [f"{indent}  {part}" for part in parts[rest]] if rest in parts else [line]
    text = "\n".join(lines) + "\n"
    release = "{{ with $labels.release }}{{ . }}{{ else }}canary{{ end }} of " + _PROXY
    for macro, meaning in (
        ("<release>", release),
        ("<proxy>", _PROXY),
        ("<option>", _SERVICE % " --service {{ . }}"),
        ("<of_release>", _OF_RELEASE),
        ("<of_proxy>", _OF_PROXY),
        ("<base>", runbook),
    ):
        text = text.replace(macro, meaning)
    return re.sub(r'<query ("[^"]*")>', _query, text)


def _figures() -> tuple[str, ...]:
    lines: list[str] = []
    for subject, query, shown, label in _FIGURES:
        lines += (
            f'{{{{ with <query "{query}"> -}}}}',
            f"{subject} in the last 5 minutes:",
            f'{{{{- range $i, $one := sortByLabel "{label}" . }}}}{{{{ if $i }}}},{{{{ end }}}} '
            f"{{{{ $one.Value | {shown} }}}} on {{{{ $one.Labels.{label} }}}}{{{{ end }}}}.",
            "{{ end -}}",
        )
    return tuple(lines)


def _query(found: re.Match[str]) -> str:
    asked = found[1].replace("%s", "job='%s',instance='%s',service='%s'")
    return f"printf {asked} $labels.job $labels.instance $labels.service | query"
