"""The OpenAPI 3.1 description of the admin API, served at ``/v1/openapi.json``.

Its schemas are those of the models in ``bodies``, ``schemas`` and ``control.release_view``; what is written
here are the paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

import canaryproxy
from canaryproxy.admin import bodies, overview, schemas
from canaryproxy.control import endpoint_view, release_view, route_view
from canaryproxy.release import acts

Schema = dict[str, Any]

_MODELS: tuple[type[BaseModel], ...] = (
    endpoint_view.Endpoints, route_view.Routes,
    release_view.Release, release_view.Record, release_view.Point, release_view.Act, schemas.Acts,
    schemas.History, schemas.Series, schemas.Drill, schemas.Accepted, schemas.Config,
    schemas.Change, schemas.Problem, overview.Overview, schemas.Services, schemas.Service,
    bodies.Who, bodies.SetWeight, bodies.Abort, bodies.Accept, bodies.Trip, bodies.DrillBy,
    bodies.Events,
)  # fmt: skip
PREFIX = "/v1/services/{name}"
"""What takes the place of ``/v1`` in the paths of one service's release."""
OPERATIONS: Final[Mapping[acts.Operation, str]] = {
    "start": "Begin with the first step.",
    "pause": "Stay at the current weight.",
    "resume": "Continue after a pause; if the step is ready, begin the next one.",
    "promote": "End the release with every user on the canary.",
    "reset": "Close the circuit: users go back to the canary.",
}
"""Operations whose body is only who and why, and what they do."""
_STREAM_EXAMPLE = (
    "retry: 1000\n\n"
    'event: release\ndata: {"release":"cart-2.4","state":"running", ...}\n\n'
    'id: 17\nevent: record\ndata: {"id":17,"time":1790000000.1,"what":"step", ...}\n\n'
    'event: point\ndata: {"t":1790000001.0,"weight":5.0, ...}\n\n'
)
_PROBLEMS = {
    "400": "Malformed request, condition or JSON.",
    "401": "A change over TCP needs the admin token.",
    "403": "The request comes from another origin, or this address is read-only.",
    "404": "Nothing at this path: no such service, or several and the path names none; services lists them.",
    "405": "The path does not support this method.",
    "408": "The body did not arrive in time.",
    "409": "The state of the release forbids it; detail says why.",
    "412": "If-Match does not match: read the resource again. ETag is its current version.",
    "413": "The body is too large.",
    "415": "The body has the wrong Content-Type.",
    "417": "An expectation other than 100-continue.",
    "421": "The Host is not served here.",
    "422": "Invalid values; errors lists them.",
    "500": "Internal error; the proxy's log has more.",
    "503": "Too many streams, the proxy is shutting down, or Redis is unreachable.",
    "507": "The state file cannot be written; detail says what is in force.",
}
_ANY_REQUEST = ("400", "417", "421", "500")
_ANY_CHANGE = ("401", "403", "408", "412", "413", "415", "422", "503", "507")
_ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Version of the resource."}}
_PROBLEM_HEADERS: Mapping[str, Schema] = {
    "401": {"WWW-Authenticate": {"schema": {"type": "string"}}},
    "412": _ETAG,
}
_TAGS = {"type": "string", "pattern": r'^(\*|"[!#-~]*"(, *"[!#-~]*")*)$'}
_IF_MATCH: Schema = {
    "name": "If-Match",
    "in": "header",
    "description": (
        "Change it only if its ETag is one of these, or *; otherwise 412. Not evaluated for an act towards"
        " stable (trip, abort, pause, a lower weight): that never loses a race."
    ),
    "schema": _TAGS,
    "examples": {"seen": {"value": '"b3f2-42"'}},
}
_DRY_RUN: Schema = {
    "name": "dry_run",
    "in": "query",
    "description": "Only return what it would do.",
    "schema": {"enum": ["true", "false"]},
}
_IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "description": "ETags that the client already has; 304 if one of them is current.",
    "schema": _TAGS,
}


_SERVICE: Schema = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "Name of the service.",
    "schema": {"type": "string", "minLength": 1, "examples": ["default"]},
}


@cache
def description() -> Schema:
    """Return the OpenAPI description as JSON values."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in _MODELS],
        ref_template="#/components/schemas/{model}",
    )
    releases = {**_release_paths(), **_table_paths(), **_record_paths()}
    for item in releases.values():
        for operation in item.values():
            operation["responses"]["404"] = _problem("404")  # with several services
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "canaryproxy",
            "version": canaryproxy.__version__,
            "summary": "Watch and operate a canary release.",
            "description": (
                "Over the Unix socket everything is allowed: its file permissions decide who can connect. "
                "Over TCP reading is open, and changes need the admin token. A proxy with several services "
                "has the paths of a release below /v1/services/{name} only."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": {
            **releases,
            **_service_paths(releases),
            **_overview_paths(),
            **_config_paths(),
            **_probe_paths(),
            **_page_paths(),
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "admin.token_file or admin.token_env; needed over TCP only.",
                }
            },
        },
    }


def _release_paths() -> Schema:
    done = {
        "200": _json(
            {"anyOf": [_ref(release_view.Release), _ref(release_view.Act)]},
            "The release after it, saved to disk; with dry_run, what the act would do.",
        )
    }
    who = _json_body(bodies.Who, {"by": "ann", "reason": "all is well"})
    return {
        "/v1/release": {
            "get": _read("release", "Get the state of the release.", release_view.Release)
        },
        "/v1/acts": _acts(),
        "/v1/weight": {
            "put": _change(
                "weight",
                "Set the weight by hand; this pauses a running release.",
                _json_body(bodies.SetWeight, {"weight": 5, "by": "ann"}),
                done,
                "409",
                required=True,
            )
        },
        **{
            f"/v1/release/{name}": {"post": _change(name, summary, who, done, "409")}
            for name, summary in OPERATIONS.items()
        },
        "/v1/release/abort": {
            "post": _change(
                "abort",
                "End the release with every user on stable: over release.ramp_down, or at once.",
                _json_body(bodies.Abort, {"by": "ann", "now": True}),
                done,
                "409",
            )
        },
        "/v1/release/accept": {
            "post": _change(
                "accept",
                "Accept a difference that is wanted: the metric neither holds nor trips in this release.",
                _json_body(
                    bodies.Accept,
                    {"metric": "client_errors", "reason": "401 is wanted", "by": "ann"},
                ),
                done,
                "409",
                required=True,
            )
        },
        "/v1/release/trip": {
            "post": _change(
                "trip",
                "Open the circuit: every user is on stable from the next request on.",
                _json_body(bodies.Trip, {"cause": "customers complain", "by": "ann"}),
                done,
                "409",
            )
        },
        "/v1/release/drill": {
            "post": _change(
                "drill",
                "Rehearse a rollback with live traffic: trip, time it, reset.",
                _json_body(bodies.DrillBy, {"by": "ann"}),
                {
                    "200": _json(
                        {"anyOf": [_ref(schemas.Drill), _ref(release_view.Act)]},
                        "What the drill measured; with dry_run, what it would do.",
                    )
                },
                "409",
            )
        },
    }


def _acts() -> Schema:
    return {
        "get": _read(
            "acts",
            "Preview every act: who would move, whether to ask before, or why it is refused.",
            schemas.Acts,
            _query(
                "weight",
                "Weight that the act `weight` would set; without it, the present one.",
                {"type": "number", "minimum": 0, "maximum": 100},
            ),
            _query(
                "metric",
                "Metric, or metric and route, that the act `accept` would accept.",
                TypeAdapter(bodies.MetricName).json_schema(),
            ),
            _query(
                "now",
                "Whether the act `abort` would take every user back at once.",
                {"enum": ["true", "false"]},
            ),
        )
    }


def _table_paths() -> Schema:
    return {
        "/v1/endpoints": {
            "get": _read("endpoints", "Get the figures of each endpoint.", endpoint_view.Endpoints)
        },
        "/v1/routes": {"get": _read("routes", "Get the figures of each route.", route_view.Routes)},
    }


def _overview_paths() -> Schema:
    return {
        "/v1/overview": {
            "get": _read(
                "overview",
                "Get the services of this proxy and of those of admin.overview, what needs a person first.",
                overview.Overview,
            )
        },
    }


def _service_paths(releases: Schema) -> Schema:
    """Describe the list of services, and every path of one release for each of them."""
    service = _read("service", "Get a service and where its release is, in short.", schemas.Service)
    of_one = {
        path.replace("/v1", PREFIX, 1): {
            method: _for_one_service(operation) for method, operation in item.items()
        }
        for path, item in releases.items()
    }
    return {
        "/v1/services": {
            "get": _read(
                "services",
                "Get the services of this proxy, what needs a person first.",
                schemas.Services,
            )
        },
        PREFIX: {"get": {**service, **_with_name(service)}},
        **of_one,
    }


def _for_one_service(operation: Schema) -> Schema:
    return {
        **operation,
        "operationId": f"service_{operation['operationId']}",
        **_with_name(operation),
    }


def _with_name(operation: Schema) -> Schema:
    return {
        "parameters": [_SERVICE, *operation["parameters"]],
        "responses": {**operation["responses"], "404": _problem("404")},
    }


def _record_paths() -> Schema:
    events = _ref(bodies.Events)
    several = {"type": "array", "items": events, "minItems": 1, "maxItems": 1000}
    return {
        "/v1/events": {
            "post": _change(
                "events",
                "Report business events.",
                _json_body(
                    {"anyOf": [events, several]}, {"key": "5d41402abc4b2a76b9719d911017c592"}
                ),
                {"202": _json(schemas.Accepted, "Counted.", etag=False)},
                "409",
                required=True,
            )
        },
        "/v1/history": {
            "get": _read(
                "history",
                "List records of the history.",
                schemas.History,
                _query(
                    "after",
                    "Return records after this number; without it, the newest ones.",
                    {"type": "integer", "minimum": 0, "maximum": bodies.MAX_ID},
                ),
                _query(
                    "limit",
                    "Maximum number of records.",
                    {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
                ),
            )
        },
        "/v1/series": {
            "get": _read(
                "series",
                "Get the time series of both variants.",
                schemas.Series,
                _query(
                    "since",
                    "Return points after this time, in seconds since the epoch.",
                    {"type": "number"},
                ),
            )
        },
        "/v1/stream": {"get": _stream()},
    }


def _stream() -> Schema:
    example = {"schema": {"type": "string"}, "examples": {"some": {"value": _STREAM_EXAMPLE}}}
    return {
        "operationId": "stream",
        "summary": "Follow the release: server-sent events release, point and record.",
        "description": (
            "release arrives at once, after every change and every second; point every second; record as "
            "it happens, with its id, so that Last-Event-ID resumes; removed at the end, if a reload removes "
            "the service. A client that does not read is cut off."
        ),
        "security": [{}],
        "parameters": [
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Send the records after this number first.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "responses": _responses(
            {
                "200": {
                    "description": "Server-sent events, without end.",
                    "content": {"text/event-stream": example},
                }
            },
            "422",
            "503",
        ),
    }


def _config_paths() -> Schema:
    changed = {"200": _json(schemas.Change, "What it changed.")}
    who = (
        _query(name, bodies.Who.model_fields[name].description or "", schema)
        for name, schema in (
            ("by", TypeAdapter(bodies.Name).json_schema()),
            ("reason", TypeAdapter(bodies.Text).json_schema()),
        )
    )
    return {
        "/v1/config": {
            "get": _read("config", "Get the configuration.", schemas.Config),
            "put": _change(
                "put_config",
                "Replace the configuration file and load it.",
                {"application/yaml": {"schema": {"type": "string"}}},
                changed,
                "409",
                required=True,
                parameters=(
                    _query(
                        "dry_run", "Only report what would change.", {"enum": ["true", "false"]}
                    ),
                    *who,
                ),
            ),
        },
        "/v1/reload": {
            "post": _change(
                "reload",
                "Read the configuration file again.",
                _json_body(bodies.Who, {"by": "ann"}),
                changed,
                "409",
            )
        },
        "/v1/openapi.json": {
            "get": _read("openapi", "Get this description.", {"type": "object"}),
        },
    }


def _probe_paths() -> Schema:
    return {
        "/metrics": {"get": _plain("metrics", "Metrics for Prometheus.")},
        "/livez": {"get": _plain("livez", "The process responds.")},
        "/readyz": {"get": _plain("readyz", "The proxy accepts requests.", drains=True)},
    }


def _page_paths() -> Schema:
    unchanged = {"304": {"description": "The client has the current version."}}
    page = {"200": {"description": "The page.", "content": {"text/html": {}}}}
    file = {"200": {"description": "A file of the page.", "content": {"*/*": {}}}}
    return {
        "/": {
            "get": {
                "operationId": "dashboard",
                "summary": "The dashboard; of several services their overview.",
                "security": [{}],
                "responses": _responses({**page, **unchanged}),
            }
        },
        "/services/{name}/": {
            "get": {
                "operationId": "service_page",
                "summary": "The dashboard of one of several services.",
                "security": [{}],
                "parameters": [_SERVICE],
                "responses": _responses({**page, **unchanged}, "404"),
            }
        },
        "/services/{name}": {
            "get": {
                "operationId": "service_page_folder",
                "summary": "Redirect to the dashboard of one of several services.",
                "security": [{}],
                "parameters": [_SERVICE],
                "responses": _responses({"308": {"description": "It ends with a slash."}}, "404"),
            }
        },
        "/overview": {
            "get": {
                "operationId": "overview_page",
                "summary": "The overview of several proxies.",
                "security": [{}],
                "responses": _responses({**page, **unchanged}),
            }
        },
        "/static/{name}": {
            "get": {
                "operationId": "static",
                "summary": "A file of the dashboard.",
                "security": [{}],
                "parameters": [
                    {
                        "name": "name",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string", "examples": ["main.js"]},
                    }
                ],
                "responses": _responses({**file, **unchanged}, "404"),
            }
        },
    }


def _read(name: str, summary: str, schema: type[BaseModel] | Schema, *parameters: Schema) -> Schema:
    """Describe a GET that anyone may do."""
    return {
        "operationId": name,
        "summary": summary,
        "security": [{}],
        "parameters": [*parameters, _IF_NONE_MATCH],
        "responses": _responses(
            {
                "200": _json(schema, summary),
                "304": {"description": "The client has the current version.", "headers": _ETAG},
            },
            "422",
        ),
    }


def _change(
    name: str,
    summary: str,
    body: Schema,
    good: Mapping[str, Schema],
    *problems: str,
    required: bool = False,
    parameters: tuple[Schema, ...] = (),
) -> Schema:
    """Describe a change, which needs the token over TCP."""
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [*parameters, *((_DRY_RUN,) if name in acts.OPERATIONS else ()), _IF_MATCH],
        "requestBody": {"required": required, "content": body},
        "responses": _responses(good, *_ANY_CHANGE, *problems),
    }


def _plain(name: str, summary: str, *, drains: bool = False) -> Schema:
    """Describe a GET whose response is plain text."""
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    responses: Schema = {"200": {"description": summary, **text}}
    for status in ("400", "417", "500"):
        responses[status] = _problem(status)
    if drains:
        responses["503"] = {"description": "The proxy is shutting down.", **text}
    return {"operationId": name, "summary": summary, "security": [{}], "responses": responses}


def _responses(good: Mapping[str, Schema], *problems: str) -> Schema:
    return {**good, **{status: _problem(status) for status in sorted({*_ANY_REQUEST, *problems})}}


def _problem(status: str) -> Schema:
    headers = _PROBLEM_HEADERS.get(status)
    return {
        "description": _PROBLEMS[status],
        **({"headers": headers} if headers else {}),
        "content": {"application/problem+json": {"schema": _ref(schemas.Problem)}},
    }


def _json(schema: type[BaseModel] | Schema, description: str, *, etag: bool = True) -> Schema:
    return {
        "description": description,
        **({"headers": _ETAG} if etag else {}),
        "content": {"application/json": {"schema": _ref(schema)}},
    }


def _json_body(schema: type[BaseModel] | Schema, example: Any) -> Schema:
    return {"application/json": {"schema": _ref(schema), "examples": {"one": {"value": example}}}}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _ref(schema: type[BaseModel] | Schema) -> Schema:
    """Return the reference to a model's schema; other schemas as they are."""
    if isinstance(schema, dict):
        return schema
    return {"$ref": f"#/components/schemas/{schema.__name__}"}
