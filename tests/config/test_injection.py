"""Whatever a configuration says: it adds no line to a head, to a log, or to what people are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from canaryproxy import config
from canaryproxy.config import ConfigError, yaml_reader
from canaryproxy.config.yaml_reader import read

FULL = """
listen:
  - address: 127.0.0.1:8443
    tls: {certificates: [{cert: a.pem, key: a.key, names: [a.example]}], client_ca: c.pem}
  - {address: "unix:/tmp/x.sock", proxy_protocol: "off"}
admin:
  {socket: ./admin.sock, listen: "127.0.0.1:9900", token_file: token, hosts: [h.example],
   overview: [{address: "http://h.example:1", name: n, dashboard: "http://h.example/d"}]}
variants:
  stable:
    endpoints: ["https://h.example:1"]
    tls: {ca: ca.pem, server_name: s.example, cert: a.pem, key: a.key}
    health: {path: /up, host: s.example}
  canary: {endpoints: ["unix:/tmp/y.sock"], health: {grpc: shop.Cart}}
dns: {interval: 5s, family: ipv4, servers: ["127.0.0.1:53"]}
split:
  salt: plain
  variant_header: X-Variant
  sticky: {cookie: c, domain: h.example, same_site: Lax, sign: {key_file: k}}
  match:
    - {variant: canary, header: {name: X-Beta, equals: "yes"}}
    - {variant: canary, header: {name: X-Beta, prefix: "y"}}
    - {variant: canary, header: {name: X-Beta, regex: "y"}}
    - {variant: canary, cookie: {name: beta, equals: "yes"}}
    - {variant: stable, path: {equals: /a}}
    - {variant: stable, path: {prefix: /a}}
    - {variant: stable, path: {regex: /a}}
    - {variant: stable, method: [GET]}
    - {variant: canary, host: h.example, query: {name: a, equals: "b"}, network: 10.0.0.0/8}
    - {variant: canary, all: [{not: {host: ["*.h.example"]}}], any: [{query: {name: a, prefix: "b"}}]}
  cohorts: {beta: {header: {name: X-Beta, equals: "yes"}}}
  probes: {agents: [Monitor], paths: [/health], networks: ["10.0.0.0/8"]}
release:
  id: cart-2.4
  steps: [{cohort: beta, weight: 5}, {weight: 1%, bake: 5m}, {weight: 100}]
  gates: [{webhook: "http://h.example/", secret_file: s}]
judge:
  metrics: {business: {outcome: signup}}
  outcomes:
    signup: {match: {method: POST, path: {prefix: /s}}, when: {status: 2xx}}
    header: {when: {header: {name: A, prefix: b}}}
    value: {when: {json: {pointer: /a, equals: b}}}
    text: {when: {regex: b}}
rescue:
  {statuses: ["503"], methods: [GET], after: 1s, budget: {share: 1%}, assets: {path: {prefix: /a}}}
circuit: {streams: [application/x-ndjson]}
mirror: {percent: 1%}
forwarded: {trust: ["10.0.0.0/8"], client_from: Forwarded, via: me}
notify:
  - {webhook: "http://h.example/hook", secret_file: s, events: [tripped], links: ["http://h.example/a"]}
access_log: {path: a.log, format: json}
state: ./state.json
environment: production
fleet:
  {redis: "rediss://h.example:1/0", group: cart, replica: one, username: u, password_file: p, ca_file: c.pem}
"""
OTHER = """
admin: {listen: "127.0.0.1:9900", token_env: TOKEN}
variants: {stable: {endpoints: ["http://127.0.0.1:1"]}}
split: {sticky: {header: X-User}}
notify: [{webhook: "http://h.example/hook", secret_env: SECRET}]
fleet: {redis: "redis://h.example", group: cart, password_env: PASSWORD}
"""
TRIES = (
    "{}\r\nEvil: 1",
    "{}\nEvil: 1",
    "\r\nEvil: 1\r\n{}",
    "{}\rEvil: 1",
    "{}\x00",
    "{}\x1b[2J",
    "{}\u2028x",
    "{}\x85x",
)
BEHIND = """
variants: {stable: {endpoints: ["http://127.0.0.1:1"]}}
propagate: {header: X-Front, sign: {key_file: /etc/keys}}
split:
  follow:
    header: X-Canary
    version: v3
    from: [10.0.0.0/8]
    sign: {key_file: /etc/keys}
    tell: {redis: "redis://h.example", group: shop, service: cart}
"""
NEVER_SENT = {"salt", "equals", "prefix", "regex", "pointer"}
"""Text that is compared with what others send, or hashed."""


def plain(text: str) -> Any:
    return json.loads(json.dumps(read(text, "f.yaml").value))


EXAMPLES = [plain(FULL), plain(OTHER), plain(BEHIND)]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, (dict, list)):
            yield from leaves(item, (*path, key))
        elif isinstance(item, str):
            yield (*path, key)


def example_with(example: int, path: tuple[Any, ...], try_: str) -> str:
    copy = json.loads(json.dumps(EXAMPLES[example]))
    here = copy
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = try_.replace("{}", here[path[-1]])
    return json.dumps(copy)


@pytest.mark.parametrize("text", [FULL, OTHER, BEHIND])
def test_the_examples_are_valid(text: str) -> None:
    config.parse(text, file="f.yaml")


@pytest.mark.parametrize(
    ("example", "path"),
    [
        (number, path)
        for number, one in enumerate(EXAMPLES)
        for path in leaves(one)
        if path[-1] not in NEVER_SENT
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_no_text_of_a_configuration_can_end_a_line(
    example: int, path: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # How a file is read does not matter here, and PyYAML's own parser takes longer than all the rest.
    monkeypatch.setattr(yaml_reader, "_LARGE", 0)
    for try_ in TRIES:
        text = example_with(example, path, try_)
        with pytest.raises(ConfigError) as caught:
            config.parse(text, file="f.yaml")
        problems = caught.value.problems
        assert any(problem.path[: len(path)] == path for problem in problems)
        assert all(str(problem).isprintable() for problem in problems)


def names_of_texts(schema: Any) -> Iterator[str]:
    """Yield the keys whose values are text of people's own: not one of a few words, nor with a unit."""
    if isinstance(schema, dict):
        for name, one in schema.get("properties", {}).items():
            kinds = [one, *one.get("anyOf", []), one.get("items", {})]
            text = any(kind.get("type") == "string" and "enum" not in kind for kind in kinds)
            if text and not any("$comment" in kind for kind in kinds):
                yield name
    for item in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(item, (dict, list)):
            yield from names_of_texts(item)


def test_every_text_of_the_model_is_tried() -> None:
    paths = [path for one in EXAMPLES for path in leaves(one)]
    tried = {part for path in paths for part in path}
    assert set(names_of_texts(config.schema())) <= tried
