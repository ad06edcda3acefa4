"""Sources that cannot be imported, or only in part: the error names file, line and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy import config
from canaryproxy.config.errors import ConfigError
from canaryproxy.importing import KINDS, Wanted, convert
from tests.importing.cases import CASES, SOURCES, read_files

SPLIT = 'split_clients "$remote_addr" $v { 5% b; * a; }\n'
NGINX = """\
upstream a { server 127.0.0.1:1; }
upstream b { server 127.0.0.1:2; }
%s
server { listen 127.0.0.1:80; location / { proxy_pass http://%s; } }
"""
MAIN = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: main}
spec: {rules: [{http: {paths: [{path: /, backend: {service: {name: a, port: {number: 80}}}}]}}]}
---
"""
CANARY = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: canary
  annotations:
    nginx.ingress.kubernetes.io/canary: "true"
    nginx.ingress.kubernetes.io/%s
spec: {rules: [{http: {paths: [{path: /, backend: {service: {name: b, port: {number: 80}}}}]}}]}
"""
FLAGGER = """\
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: a}
spec:
  targetRef: {name: a}
  service: {port: 80}
  analysis: %s
"""
ROLLOUT = """\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: a}
spec: {strategy: %s}
"""
TRAEFIK = """\
http:
  routers: {r: {rule: %s, service: w}}
  services:
    w: {weighted: {services: [{name: a, weight: %s}, {name: b, weight: 1}]}}
    a: {loadBalancer: {servers: [{url: "http://127.0.0.1:1"}]}}
    b: {loadBalancer: {servers: [{url: "http://127.0.0.1:2"}]}}
"""
ROUTES = """\
virtual_hosts:
  - name: v
    domains: ["*"]
    routes:
      - match: {prefix: /}
        route: {weighted_clusters: {clusters: [%s]}}
"""

REFUSED = {
    "nothing": ("", "source:1:1: expected a configuration of nginx, ingress-nginx,"),
    "another kind": ("kind: Deployment\n", "found kind 'Deployment'"),
    "ours": ("variants: {stable: {endpoints: []}}\n", "found a mapping of variants. --from KIND"),
    "a list": ("- a\n", "found a list"),
    "broken YAML": ("http: {routers: {\n", "source:2:1: not valid YAML"),
    "broken TOML": ("[http.services]\na = \n", "source:2:5: not valid TOML: Invalid value"),
    "a tag": ("kind: !Rollout x\n", "source:1:7: kind: expected a value without a tag"),
    "an alias of itself": ("kind: Rollout\na: &a [*a]\n", "the alias refers to a value that contains it"),
    "a duplicate key": ("kind: a\nkind: b\n", "source:2:1: duplicate key 'kind', already on line 1"),
    "Helm": (
        "kind: Ingress\nname: {{ .Values.name }}\n",
        "source:2:7: found the template '{{ .Values.name }}', expected the rendered file",
    ),
    "Helm in nginx": (NGINX % ("{{- if .Values.x }}", "a"), "source:3:1: found the template"),
    "Jinja": ("upstream a {\n{% for x in y %}\n}\n", "source:2:1: found the template"),
    "huge": ("a: 1\n" * 250_000, "found 1,250,000 characters, at most 1,000,000 are allowed"),
    "deep": ("a: " + "[" * 100 + "]" * 100, "nested deeper than 32 levels"),
    "many aliases": (
        "a: &a [" + "0," * 99 + "0]\nb: &b [" + "*a," * 99 + "*a]\nc: [" + "*b," * 99 + "*b]\n",
        "aliases expand this file to more than 100,000 values",
    ),
    "nginx: no semicolon": ("upstream a { server b }\n", "source:1:23: expected ; after 'server b', found }"),
    "nginx: an open block": ("server {\n listen 80;\n", "source:1:1: expected } of server"),
    "nginx: a brace too many": ("upstream a { }\n}\n", "source:2:1: found } without {"),
    "nginx: an open quote": ('upstream a { server "x; }\n', 'source:1:21: expected " at the end'),
    "nginx: no server": (SPLIT + "upstream a { server b; }\n", "expected a server with a location"),
    "nginx: no split": (NGINX % ("", "a"), "source:4:1: found no split; expected a location"),
    "nginx: no variable": (
        NGINX % ("", "$upstream_from_lua"),
        "source:4:44: proxy_pass: expected a variable of split_clients, map or set, found $upstream",
    ),
    "nginx: no scheme": (
        (NGINX % (SPLIT, "a")).replace("http://a;", "$v;"),
        "proxy_pass: expected http:// or https:// and an upstream or a variable",
    ),
    "nginx: over 100%": (
        NGINX % ("split_clients $remote_addr $v { 60% b; 50% a; }", "$v"),
        "source:3:1: split_clients: expected at most 100%, found 110%",
    ),
    "nginx: under 100%": (
        NGINX % ("split_clients $remote_addr $v { 60% b; 30% a; }", "$v"),
        "split_clients: expected * for the other 10%, found none",
    ),
    "nginx: no percentage": (
        NGINX % ("split_clients $remote_addr $v { 5 b; * a; }", "$v"),
        "source:3:33: split_clients: expected a percentage with at most two decimals or *, found '5'",
    ),
    "nginx: a circle of maps": (
        NGINX % ("map $x $v { default $w; }\nmap $x $w { default $v; }", "$v"),
        "the variable $v is defined by itself: $v -> $w -> $v",
    ),
    "nginx: maps of maps": (
        NGINX % ("\n".join(f"map $x $v{n} {{ default $v{n + 1}; }}" for n in range(99)), "$v0"),
        "variables are defined by more than 32 others",
    ),
    "nginx: maps that multiply": (
        NGINX
        % (
            "\n".join(
                f"map $http_x $v{n} {{ a $v{n + 1}; b $v{n + 1}; default $v{n + 1}; }}"
                for n in range(30)
            )
            + "\nmap $http_x $v30 { default a; }",
            "$v0",
        ),
        "variables lead to more than 1,000 branches",
    ),
    "deep TOML": ("[http]\n" + ".".join("a" * 5000) + " = 1\n", "nested deeper than 32 levels"),
    "Traefik: a chain": (
        "http:\n  routers: {r: {service: s0}}\n  services:\n"
        + "".join(f"    s{n}: {{mirroring: {{service: s{n + 1}}}}}\n" for n in range(99)),
        "services are nested deeper than 16 levels",
    ),
    "nginx: a map without default": (NGINX % ("map $http_a $v { x a; }", "$v"), "expected a default"),
    "nginx: a time": (
        (NGINX % (SPLIT, "$v")).replace("; } }", "; proxy_read_timeout soon; } }"),
        "proxy_read_timeout: expected a time such as 60s, found 'soon'",
    ),
    "nginx: an include that is missing": ("include gone/x.conf;\n", "source:1:1: cannot include 'gone"),
    "nginx: an include of itself": ("include circle.conf;\n", "circle.conf includes itself"),
    "ingress-nginx: only the canary": (
        CANARY % 'canary-weight: "5"',
        "source:1:1: expected the main Ingress for host * and path / beside the canary's, found none",
    ),
    "ingress-nginx: no number": (
        MAIN + CANARY % "canary-weight: many",
        "source:12:5: metadata.annotations",
    ),
    "ingress-nginx: over the total": (
        MAIN + CANARY % 'canary-weight: "150"',
        "canary-weight: expected a number from 0 to 100, found 150",
    ),
    "Flagger: no steps": (FLAGGER % "{interval: 1m}", "source:7:13: spec.analysis: expected stepWeight"),
    "Flagger: no analysis": (FLAGGER % "null", "spec: expected analysis, found none"),
    "Flagger: a duration": (FLAGGER % "{interval: soon, stepWeight: 5}", "expected a duration such as"),
    "Argo: blue-green": (
        ROLLOUT % "{blueGreen: {activeService: a}}",
        "expected strategy.canary, found blueGreen: blueGreen has no weights",
    ),
    "Argo: no steps": (ROLLOUT % "{canary: {}}", "expected steps with a setWeight above 0, found none"),
    "Argo: a weight": (
        ROLLOUT % "{canary: {steps: [{setWeight: 120}]}}",
        "expected a number from 0 to 100, found 120",
    ),
    "Argo: no mapping": (ROLLOUT % "[a]", "spec.strategy: expected a mapping, found a list"),
    "Traefik: weights of 0": (
        (TRAEFIK % ("'PathPrefix(`/`)'", 0)).replace("weight: 1", "weight: 0"),
        "expected weights whose sum is above 0, found 0",
    ),
    "Traefik: a negative weight": (TRAEFIK % ("'PathPrefix(`/`)'", -1), "expected a number from 0"),
    "Traefik: a rule": (TRAEFIK % ("'PathPrefix(`/`) &&'", 1), "expected a matcher such as PathPrefix"),
    "Traefik: parentheses": (TRAEFIK % ("'" + "(" * 90 + "'", 1), "nested deeper than 16 levels"),
    "Traefik: no such service": (
        (TRAEFIK % ("'PathPrefix(`/`)'", 1)).replace("name: b,", "name: gone,"),
        "expected a service of this file, found 'gone' (known: w, a, b)",
    ),
    "Traefik: a circle": (
        "http: {routers: {r: {service: m}}, services: {m: {mirroring: {service: m}}}}\n",
        "the service m leads to itself: m -> m",
    ),
    "Envoy: one cluster": (
        ROUTES % "{name: a, weight: 1}",
        "found no split; expected weighted_clusters of two clusters",
    ),
    "Envoy: a weight": (ROUTES % "{name: a, weight: x}, {name: b}", "expected a number from 0"),
    "Envoy: no match": ("virtual_hosts: [{name: a, routes: [{route: {}}]}]\n", "expected the key 'match'"),
}  # fmt: skip


def included(pattern: str) -> list[tuple[str, str]]:
    if pattern == "circle.conf":
        return [(pattern, "include circle.conf;\n")]
    raise FileNotFoundError(2, "No such file or directory")


@pytest.mark.parametrize("name", REFUSED)
def test_error_names_the_place_and_what_is_allowed(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        convert([("source", text)], included)
    assert message in str(refused.value)
    assert str(refused.value).startswith(("source:", "circle.conf:"))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_source_is_refused_for_every_kind(kind: str) -> None:
    with pytest.raises(ConfigError) as refused:
        convert([("source", "# nothing\n")], included, kind)
    assert str(refused.value).startswith("source:1:1: ")
    assert "expected" in str(refused.value)


NOTED = {
    "an unknown annotation": (MAIN + CANARY % 'limit-rps: "5"', "no equivalent: limit-rps (source:12)"),
    "an expression that RE2 refuses": (
        MAIN
        + CANARY.replace(
            "/%s",
            "/canary-by-header: X\n"
            '    nginx.ingress.kubernetes.io/canary-by-header-pattern: "(?!a)b"',
        ),
        "no equivalent: canary-by-header (source:12), because canaryproxy refuses it",
    ),
    "a variable in another location": (
        NGINX.replace("location /", "location /x { proxy_pass http://$host; } location /") % (SPLIT, "$v"),
        "no equivalent: location /x (source:5), because it is unknown where it leads to",
    ),
    "a third version": (
        ROUTES % "{name: a, weight: 90}, {name: b, weight: 8}, {name: c, weight: 2}",
        "no equivalent: the version c with 2% (source:6), because a proxy has two versions",
    ),
    "a third of the users": (TRAEFIK % ("'PathPrefix(`/`)'", 2), "33.3333% became 33.33%"),
    "clusters elsewhere": (
        ROUTES % "{name: a, weight: 90}, {name: b, weight: 10}",
        "no equivalent: the endpoints of the cluster b",
    ),
    "anchors and merge keys": (
        TRAEFIK % ("'PathPrefix(`/`)'", 9) + "x: &x {y: 1}\nz: {<<: *x, w: 2}\n",
        "no equivalent: z (source:8)",
    ),
    "a comment that would end": (
        MAIN
        + (CANARY % 'canary-weight: "5"').replace(
            "annotations:\n", 'annotations:\n    "x\\nlisten: 0.0.0.0:80": "5"\n'
        ),
        "no equivalent: x listen: 0.0.0.0:80 (source:11), because",
    ),
    "no timeout": (
        (NGINX % (SPLIT, "$v")).replace("; } }", "; proxy_read_timeout 0; } }"),
        "no equivalent: proxy_read_timeout without a limit",
    ),
    "a falling weight": (
        ROLLOUT % "{canary: {steps: [{setWeight: 20}, {setWeight: 10}]}}",
        "no equivalent: setWeight 10 after 20 (source:4), because weights rise",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTED)
def test_comment_names_what_has_no_equivalent(name: str) -> None:
    text, comment = NOTED[name]
    done = convert([("source", text)], included)
    comments = " ".join(line.strip("# ") for line in done.text.splitlines() if line.startswith("#"))
    assert comment in comments
    assert config.parse(done.text, file="import").variants.canary is not None


def test_only_and_canary_choose() -> None:
    both = (ROUTES % "{name: a, weight: 60}, {name: b, weight: 40}") + (
        ROUTES.partition("\n")[2].replace("name: v", "name: other")
        % "{name: c, weight: 1}, {name: d}"
    )
    for only, why in (
        (Wanted(), "v and other both would get what no other service takes.*--only NAME"),
        (Wanted(canary="b"), r"found 2 splits: v \(line 2\), other \(line 7\)"),
    ):
        with pytest.raises(ConfigError, match=why):
            convert([("source", both)], included, wanted=only)
    with pytest.raises(ConfigError, match="--only: expected one of v, other, found 'x'"):
        convert([("source", both)], included, wanted=Wanted(only="x"))
    with pytest.raises(ConfigError, match="--canary: expected one of a, b, found 'c'"):
        convert([("source", both)], included, wanted=Wanted("v", "c"))
    assert "weight: 40 " in convert([("source", both)], included, wanted=Wanted("v")).text
    assert "weight: 60 " in convert([("source", both)], included, wanted=Wanted("v", "a")).text


def test_two_tools_in_one_input_need_from() -> None:
    text = f"{FLAGGER % '{stepWeight: 5}'}---\n{ROLLOUT % '{canary: {steps: [{setWeight: 5}]}}'}"
    with pytest.raises(ConfigError, match="choose one with --from flagger or --from argo"):
        convert([("source", text)], included)
    assert convert([("source", text)], included, "argo").kind == "argo"
    assert convert([("source", text)], included, "flagger").kind == "flagger"


TEXTS = [(case.file, (SOURCES / case.file).read_text().splitlines()) for case in CASES]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, str]:
    """Return a source with some lines removed, doubled, cut, or replaced by another's."""
    file, lines = draw(st.sampled_from(TEXTS))
    lines = list(lines)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        lines[at] = draw(
            st.sampled_from(("", f"{line}\n{line}", line[: len(line) // 2], line.replace(":", " ")))
            | st.sampled_from(draw(st.sampled_from(TEXTS))[1])
            | st.builds(
                line.replace, st.sampled_from(line or " "), st.sampled_from("{}[];:\"'$&*\\0-~")
            ),
        )
    return file, "\n".join(lines)


@settings(max_examples=60)
@given(damaged(), st.sampled_from((None, *KINDS)))
def test_damaged_source_is_refused_or_imported_as_valid(
    source: tuple[str, str], kind: str | None
) -> None:
    file, text = source
    try:
        done = convert(
            [(file, text)], lambda one: read_files(one, SOURCES / Path(file).parent), kind
        )
    except ConfigError as refused:
        (problem,) = refused.problems
    else:
        config.parse(done.text, file="import")
        return
    assert problem.line >= 1
    assert problem.message


GRPC = {
    "nginx": (NGINX % (SPLIT, "$v")).replace("proxy_pass http://", "grpc_pass grpc://"),
    "nginx without a scheme": (NGINX % (SPLIT, "a"))
    .replace("proxy_pass http://a", "grpc_pass w")
    .replace(
        "server {", "upstream w { server 127.0.0.1:3 weight=9; server 127.0.0.1:4; }\nserver {"
    ),
    "ingress-nginx": MAIN.replace(
        "{name: main}",
        "{name: main, annotations: {nginx.ingress.kubernetes.io/backend-protocol: GRPC}}",
    )
    + CANARY % 'canary-weight: "5"',
    "Traefik": (TRAEFIK % ("'PathPrefix(`/`)'", 9)).replace("http://", "h2c://"),
    "Envoy": (
        ROUTES.replace("virtual_hosts:", "clusters: [CLUSTERS]\nvirtual_hosts:")
        % "{name: a, weight: 9}, {name: b, weight: 1}"
    ).replace(
        "CLUSTERS",
        ", ".join(
            f"{{name: {name}, {options}, load_assignment: {{endpoints: [{{lb_endpoints: [{{endpoint:"
            " {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}}]}]}}"
            for name, options in (
                ("a", "http2_protocol_options: {}"),
                (
                    "b",
                    "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3."
                    "HttpProtocolOptions: {explicit_http_config: {http2_protocol_options: {}}}}",
                ),
            )
        ),
    ),
}


@pytest.mark.parametrize("name", GRPC)
def test_endpoints_of_http2_stay_so(name: str) -> None:
    done = convert([("source", GRPC[name])], included)
    variants = config.parse(done.text, file="import").variants
    assert variants.canary is not None
    schemes = {one.scheme for one in (*variants.stable.endpoints, *variants.canary.endpoints)}
    assert schemes == {"h2c"}
