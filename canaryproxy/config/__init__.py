"""The configuration: YAML to frozen values, errors with file, line and column, and the JSON Schema.

``yaml_reader`` reads YAML and keeps positions, ``units`` and ``addresses`` parse single values, ``types`` and
``model`` define what is valid, ``patterns`` compiles regular expressions, ``explain`` reports errors,
``variables`` replaces environment variables, and ``advice`` warns about valid but risky settings.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping

from canaryproxy.config.addresses import Endpoint, TcpAddress, UnixAddress
from canaryproxy.config.advice import warnings
from canaryproxy.config.errors import ConfigError, Path, Problem, dotted, shown
from canaryproxy.config.explain import problem_at, validate
from canaryproxy.config.json_schema import schema
from canaryproxy.config.model import (
    AccessLog,
    Admin,
    Assets,
    Business,
    Certificate,
    Circuit,
    ClientTls,
    Condition,
    Config,
    Dns,
    Errors,
    Fleet,
    Follow,
    Forwarded,
    Gate,
    GuardRails,
    HeaderMatch,
    Health,
    Http2Limits,
    JsonWhen,
    Judge,
    Latency,
    Limits,
    Listener,
    MatchRule,
    Metrics,
    Mirror,
    Outcome,
    OutcomeMatch,
    PathMatch,
    Probes,
    Propagate,
    Release,
    Reload,
    Rescue,
    RetryBudget,
    ServerTls,
    Service,
    Split,
    Step,
    Sticky,
    Tell,
    Throughput,
    Trace,
    Variant,
    Variants,
    Webhook,
    When,
)
from canaryproxy.config.yaml_reader import ParsedYaml, read

__all__ = [
    "AccessLog",
    "Admin",
    "Assets",
    "Business",
    "Certificate",
    "Circuit",
    "ClientTls",
    "Condition",
    "Config",
    "ConfigError",
    "Dns",
    "Endpoint",
    "Errors",
    "Fleet",
    "Follow",
    "Forwarded",
    "Gate",
    "GuardRails",
    "HeaderMatch",
    "Health",
    "Http2Limits",
    "JsonWhen",
    "Judge",
    "Latency",
    "Limits",
    "Listener",
    "MatchRule",
    "Metrics",
    "Mirror",
    "Outcome",
    "OutcomeMatch",
    "PathMatch",
    "Probes",
    "Problem",
    "Propagate",
    "Release",
    "Reload",
    "Rescue",
    "RetryBudget",
    "ServerTls",
    "Service",
    "Split",
    "Step",
    "Sticky",
    "TcpAddress",
    "Tell",
    "Throughput",
    "Trace",
    "UnixAddress",
    "Variant",
    "Variants",
    "Webhook",
    "When",
    "parse",
    "problem",
    "schema",
    "warnings",
]


def parse(text: str, *, file: str, environment: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration that YAML ``text`` describes; ``file`` is its name in messages.

    Variables of ``environment`` are replaced (``variables``).
    Raises ``ConfigError`` with every problem, in order of position, and no other exception for any text.
    """
    collecting = gc.isenabled()
    gc.disable()  # it would look through the values of a large file again and again
    try:
        return _parsed(read(text, file, environment))
    finally:
        if collecting:
            gc.enable()


def _parsed(source: ParsedYaml) -> Config:
    problems = source.problems
    config: Config | None = None
    if isinstance(source.value, dict):
        config, more = validate(source)
        problems = [*problems, *more]
    elif not problems:
        found = "an empty file" if source.value is None else shown(source.value)
        message = f"expected a mapping with at least 'variants', found {found}"
        problems = [source.problem((), message, found=found)]
    if config is None or problems:
        unique = {(p.line, p.column, dotted(p.path), p.message): p for p in problems}
        raise ConfigError(tuple(unique[key] for key in sorted(unique)))
    return config


def problem(text: str, *, file: str, path: Path, message: str) -> Problem:
    """Return a problem of a field of a valid configuration that only the world around it shows."""
    return problem_at(read(text, file), path, message)
