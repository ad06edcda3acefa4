"""The OpenAPI 3.1 document of the admin API, served at ``/v1/openapi.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter

import canaryproxy
from canaryproxy.admin import bodies
from canaryproxy.config.model import EventName
from canaryproxy.release import circuit, rollout

Schema = dict[str, Any]

_METRIC_LEVELS = ["ok", "suspect", "breach"]
_OPERATIONS = (
    "start", "pause", "resume", "promote", "abort", "reset", "weight", "trip", "drill",
)  # fmt: skip
_STREAM_EXAMPLE = (
    "retry: 1000\n\n"
    'event: release\ndata: {"release":"cart-2.4","state":"running", ...}\n\n'
    'id: 17\nevent: record\ndata: {"id":17,"time":1790000000.1,"what":"step", ...}\n\n'
    'event: point\ndata: {"t":1790000001.0,"weight":5.0, ...}\n\n'
)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _number(description: str, **more: Any) -> Schema:
    return {"type": "number", "description": description, **more}


def _integer(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _boolean(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def _list(items: Schema, description: str) -> Schema:
    return {"type": "array", "items": items, "description": description}


def _or_null(schema: Schema) -> Schema:
    if "type" in schema and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: Mapping[str, Schema], description: str = "", **more: Any) -> Schema:
    """Return the schema of an object that has all of these."""
    return {
        "type": "object",
        **({"description": description} if description else {}),
        "properties": dict(properties),
        "required": list(properties),
        **more,
    }


_TIME = "seconds since the epoch"
_SECONDS = "in seconds to the first byte"
_COUNTS = _object(
    {"trials": _integer("What is compared."), "events": _integer("Of these, the bad ones.")}
)
_FIGURES = {"type": "object", "description": "Numbers and names that belong to it."}

_SCHEMAS: dict[str, Schema] = {
    "Release": _object(
        {
            "release": _or_null(_text("Id of the release.")),
            "state": {"enum": [state.value for state in rollout.State]},
            "weight": _number("Percent of users on the canary, as published to the data path."),
            "step": _integer("Number of the step, from 1; 0 without a plan."),
            "steps": _list(_ref("Step"), "The plan."),
            "promote": {"enum": ["bake", "proof", "manual"]},
            "since": _number(f"When the state or the step began, {_TIME}."),
            "baked": _number("Seconds of the bake time that have counted."),
            "requests": _integer("Canary requests of this step that were judged."),
            "hold": _or_null(_text("Why the step is not left yet.")),
            "ready": _boolean("An operator may resume: the step could be left."),
            "gate": _or_null(
                _object(
                    {
                        "state": {"enum": ["asked", "refused", "passed"]},
                        "cause": _or_null(_text("Who said what.")),
                    }
                )
            ),
            "allowed": _list({"enum": list(_OPERATIONS)}, "What an operator may do now."),
            "circuit": _object(
                {
                    "state": {"enum": [state.value for state in circuit.State]},
                    "cause": _or_null(_text("Why it is not closed.")),
                    "trips": _integer("Trips since the start or the last reset."),
                    "since": _number(f"Time of the last change, {_TIME}."),
                    "cooldown_left": _or_null(_number("Seconds until it probes.")),
                }
            ),
            "level": {"enum": _METRIC_LEVELS},
            "quiet": _or_null(_text("Why nothing can be compared.")),
            "judged": _integer("Canary requests that were compared."),
            "answered": _integer("Canary requests that were answered."),
            "metrics": _list(_ref("Metric"), "What the judge compares."),
            "variants": _object(
                {"stable": _ref("Variant"), "canary": _or_null(_ref("Variant"))},
            ),
            "config": _object(
                {
                    "file": _or_null(_text("The configuration file.")),
                    "loaded_at": _number(f"When it was read, {_TIME}."),
                    "error": _or_null(_text("Why the file is not in force.")),
                    "restart_needed": _list({"type": "string"}, "Fields that wait for a restart."),
                }
            ),
            "unsaved": _or_null(_text("Why the state file cannot be written.")),
            "history_id": _integer("Number of the newest record."),
            "version": _text("Version of canaryproxy."),
            "pid": _integer("Process that steers."),
            "main_pid": _integer("Process that takes signals."),
            "time": _number(f"Now, {_TIME}."),
        },
        "Where the release is.",
    ),
    "Fleet": _object(
        {
            "group": _text("Name of the fleet."),
            "replica": _text("This process in the fleet."),
            "connected": _boolean("Redis is reached."),
            "error": _or_null(_text("Why it is not.")),
            "leader": _or_null(_text("Who takes the steps.")),
            "leads": _boolean("This replica does."),
            "replicas": _integer("Replicas heard of within a lease; 0: not known."),
            "version": _integer("Version of the release document."),
            "judging": {"enum": ["sums", "own"]},
            "conflict": _or_null(
                _text("How this replica's configuration differs from the fleet's.")
            ),
            "propagation": _or_null(_number("Seconds from another replica's act to this one's.")),
            "silent": _or_null(_number("Seconds since Redis last answered.")),
        },
        "How the fleet is, as this replica sees it.",
    ),
    "Step": _object(
        {
            "weight": _number("Percent of users."),
            "bake": _number("Seconds that it is watched at least."),
            "min_requests": _integer("Canary requests to be judged at least."),
        }
    ),
    "Metric": _object(
        {
            "metric": _text("Its name."),
            "level": {"enum": _METRIC_LEVELS},
            "evidence": _or_null(_number("E-value that the canary is worse; null: beyond floats.")),
            "log_evidence": _or_null(_number("Its natural logarithm.")),
            "limit": _or_null(_number("Logarithm that trips; null: never.")),
            "hold_limit": _or_null(_number("Logarithm that holds the step.")),
            "log_proof": _or_null(_number("Logarithm of the evidence that it is not worse.")),
            "proven": _boolean("The canary is not worse by the margin."),
            "comparable": _boolean("There is traffic to compare."),
            "stable": _COUNTS,
            "canary": _COUNTS,
            "difference": _or_null(_number("Canary's rate less stable's.")),
            "ratio": _or_null(_number("Canary's rate over stable's.")),
            "interval": {
                "type": "array",
                "items": {"type": ["number", "null"]},
                "minItems": 2,
                "maxItems": 2,
                "description": "Anytime-valid interval of the ratio; null: unbounded.",
            },
            "reason": _text("What the level says, in plain words."),
        }
    ),
    "Variant": _object(
        {
            "requests": _integer("Requests that ended."),
            "failed": _integer("Of these, failed."),
            "in_flight": {"type": "integer", "description": "Requests that have not ended."},
            "rate": _number("Requests a second over the last 10 s."),
            "error_rate": _or_null(_number("Of these, the fraction that failed.")),
            "p50": _or_null(_number(f"Median {_SECONDS} over the last 10 s.")),
            "p95": _or_null(_number(f"95 % quantile {_SECONDS}.")),
            "p99": _or_null(_number(f"99 % quantile {_SECONDS}.")),
            "endpoints": _list(
                _object(
                    {
                        "url": _text("Where it is."),
                        "usable": _boolean("It gets requests."),
                        "in_flight": {"type": "integer", "description": "Its open requests."},
                    }
                ),
                "The processes of the variant.",
            ),
        }
    ),
    "Record": _object(
        {
            "id": {"type": "integer", "minimum": 1, "description": "From 1, without gaps."},
            "time": _number(f"{_TIME.capitalize()}."),
            "what": {"type": "string", "description": "What happened.", "examples": ["tripped"]},
            "cause": _text("Why, in plain words."),
            "figures": _FIGURES,
        },
        f"An entry of the history; what is one of: {', '.join(sorted(get_args(EventName)))}.",
    ),
    "Course": _object(
        {
            "rate": _number("Requests a second over the trailing 30 s."),
            "error_rate": _or_null(_number("Fraction that failed.")),
            "error_low": _or_null(_number("Lower edge of its anytime-valid 95 % band.")),
            "error_high": _or_null(_number("Upper edge.")),
            "p50": _or_null(_number(f"Median {_SECONDS}.")),
            "p95": _or_null(_number(f"95 % quantile {_SECONDS}.")),
            "p95_low": _or_null(_number("Lower edge of its band.")),
            "p95_high": _or_null(_number("Upper edge.")),
            "p99": _or_null(_number(f"99 % quantile {_SECONDS}.")),
        }
    ),
    "Point": _object(
        {
            "t": _number(f"{_TIME.capitalize()}."),
            "weight": _number("Percent of users on the canary."),
            "share": _or_null(_number("Fraction of requests that went to the canary.")),
            "stable": _ref("Course"),
            "canary": _ref("Course"),
            "evidence": {
                "type": "object",
                "additionalProperties": {"type": ["number", "null"]},
                "description": "Natural logarithm of the evidence by metric.",
            },
        },
        "One second of the course.",
    ),
    "History": _object(
        {
            "records": _list(_ref("Record"), "Oldest first."),
            "history_id": _integer("Number of the newest record."),
        }
    ),
    "Series": _object({"points": _list(_ref("Point"), "Oldest first.")}),
    "Drill": _object(
        {
            "drill": _object(
                {
                    "seconds_to_last_request": _or_null(
                        _number("From the trip to the canary's last request; null: it went on.")
                    ),
                    "requests_after": _integer("Requests that the canary got after the trip."),
                    "weight": _number("Percent of users on the canary before."),
                    "users_seen": _or_null(_integer("Users on the canary just before.")),
                    "in_flight": {
                        "type": "integer",
                        "description": "Canary requests from before the trip that had not ended.",
                    },
                }
            ),
            "release": _ref("Release"),
        }
    ),
    "Accepted": _object({"accepted": _integer("Events that were counted.")}),
    "Config": _object(
        {
            "file": _or_null(_text("The configuration file.")),
            "text": _or_null(
                _text(
                    "The file as it was read last; null on TCP without the token: it has secrets."
                )
            ),
            "effective": {"type": "object", "description": "What is in force, with defaults."},
            "restart_needed": _list({"type": "string"}, "Fields that wait for a restart."),
            "error": _or_null(_text("Why the file is not in force.")),
        }
    ),
    "Change": _object(
        {
            "changed": _list({"type": "string"}, "Fields that are in force now."),
            "restart_needed": _list({"type": "string"}, "Fields that wait for a restart."),
        }
    ),
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "properties": {
            "type": {"const": "about:blank"},
            "title": _text("The status in words."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": _text("What is wrong and what helps."),
            "errors": _list(
                {
                    "type": "object",
                    "properties": {
                        "path": _text("The field."),
                        "line": _integer("From 1; of the configuration."),
                        "column": _integer("From 1."),
                        "message": _text("What is wrong with it."),
                    },
                    "required": ["path", "message"],
                },
                "Each mistake of a body, a query or a configuration.",
            ),
        },
        "required": ["type", "title", "status", "detail"],
        "examples": [
            {
                "type": "about:blank",
                "title": "Conflict",
                "status": 409,
                "detail": "resume is not possible while the release is tripped",
            }
        ],
    },
}
_SCHEMAS["Release"]["properties"]["fleet"] = {
    "$ref": "#/components/schemas/Fleet",
    "description": "Only in a fleet.",
}

_PROBLEMS = {
    "400": "Malformed: the head, a condition or the JSON.",
    "401": "A change on TCP without the token or with another one.",
    "403": "The request comes from another origin, or the address is read-only.",
    "404": "There is nothing here.",
    "405": "Not with this method.",
    "408": "The body did not come in time.",
    "409": "Refused by the state of the release; detail says why.",
    "412": "If-Match does not fit: look again. ETag is the one of now.",
    "413": "The body is too large.",
    "415": "Another Content-Type is needed.",
    "417": "An expectation other than 100-continue.",
    "421": "The Host is not served here.",
    "422": "Invalid values; errors names them.",
    "500": "A mistake of the proxy; its log says more.",
    "503": "Too many streams, the proxy drains, or a replica cannot reach Redis.",
    "507": "The state cannot be written; detail says what holds.",
}
_ALWAYS = ("400", "417", "421", "500")
_CHANGING = ("401", "403", "408", "412", "413", "415", "422", "503", "507")
_ETAG = {"ETag": {"schema": {"type": "string"}, "description": "Version of what is shown."}}


def _answers(good: Mapping[str, Schema], *problems: str) -> Schema:
    found: Schema = dict(good)
    for status in sorted({*_ALWAYS, *problems}):
        headers: Schema = {}
        if status == "401":
            headers = {"WWW-Authenticate": {"schema": {"type": "string"}}}
        elif status == "412":
            headers = _ETAG
        found[status] = {
            "description": _PROBLEMS[status],
            **({"headers": headers} if headers else {}),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
    return found


def _json(schema: Schema, description: str, *, etag: bool = True) -> Schema:
    return {
        "description": description,
        **({"headers": _ETAG} if etag else {}),
        "content": {"application/json": {"schema": schema}},
    }


_IF_MATCH: Schema = {
    "name": "If-Match",
    "in": "header",
    "description": "ETags that may be changed, or *; else 412.",
    "schema": {"type": "string", "pattern": r'^(\*|"[!#-~]*"(, *"[!#-~]*")*)$'},
    "examples": {"seen": {"value": '"b3f2-42"'}},
}
_IF_NONE_MATCH: Schema = {
    "name": "If-None-Match",
    "in": "header",
    "description": "ETags that the client has: 304 if it is one of them.",
    "schema": {"type": "string", "pattern": r'^(\*|"[!#-~]*"(, *"[!#-~]*")*)$'},
}


def _look(
    name: str, summary: str, schema: Schema, *parameters: Schema, problems: tuple[str, ...] = ()
) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "security": [{}],
        "parameters": [*parameters, _IF_NONE_MATCH],
        "responses": _answers(
            {
                "200": _json(schema, summary),
                "304": {"description": "The client has it.", "headers": _ETAG},
            },
            "422",
            *problems,
        ),
    }


def _change(
    name: str,
    summary: str,
    body: Schema | None,
    good: Mapping[str, Schema],
    *problems: str,
    required: bool = False,
    parameters: tuple[Schema, ...] = (),
) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [*parameters, _IF_MATCH],
        **({"requestBody": {"required": required, "content": body}} if body else {}),
        "responses": _answers(good, *_CHANGING, *problems),
    }


def _json_body(schema: Schema, example: Any) -> Schema:
    return {"application/json": {"schema": schema, "examples": {"one": {"value": example}}}}


def _parameter(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _plain(name: str, summary: str, content_type: str, *, drains: bool = False) -> Schema:
    text = {"content": {content_type: {"schema": {"type": "string"}}}}
    responses: Schema = {"200": {"description": summary, **text}}
    for status in ("400", "417", "500"):
        responses[status] = _answers({}, status)[status]
    if drains:
        responses["503"] = {"description": "The proxy takes no new requests.", **text}
    return {"operationId": name, "summary": summary, "security": [{}], "responses": responses}


def _operations() -> Schema:
    summaries = {
        "start": "Begin with the first step.",
        "pause": "Stay at this weight.",
        "resume": "Go on; in a step that is ready, to the next.",
        "promote": "End the release with every user on the canary.",
        "abort": "End the release with every user on stable.",
        "reset": "Close the circuit.",
    }
    done = {"200": _json(_ref("Release"), "Done and on the disk.")}
    return {
        f"/v1/release/{name}": {
            "post": _change(
                name,
                summary,
                _json_body(_ref("Who"), {"by": "ann", "reason": "all is well"}),
                done,
                "409",
            )
        }
        for name, summary in summaries.items()
    }


def _paths() -> Schema:
    done = {"200": _json(_ref("Release"), "Done and on the disk.")}
    change = {"200": _json(_ref("Change"), "What it does.")}
    stream: Schema = {
        "operationId": "stream",
        "summary": "Follow the release: events release, point and record.",
        "description": (
            "release comes at once, whenever something happens, and each second; point each second; record "
            "with its id, so that Last-Event-ID resumes. A client that does not read is cut off."
        ),
        "security": [{}],
        "parameters": [
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Send the records after this one first.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "responses": _answers(
            {
                "200": {
                    "description": "Server-sent events, without end.",
                    "content": {
                        "text/event-stream": {
                            "schema": {"type": "string"},
                            "examples": {"some": {"value": _STREAM_EXAMPLE}},
                        }
                    },
                }
            },
            "422",
            "503",
        ),
    }
    page = {"200": {"description": "The page.", "content": {"text/html": {}}}}
    file = {"200": {"description": "A file of the page.", "content": {"*/*": {}}}}
    unchanged = {"304": {"description": "The client has it."}}
    return {
        "/v1/release": {"get": _look("release", "Where the release is.", _ref("Release"))},
        "/v1/weight": {
            "put": _change(
                "weight",
                "Set the weight by hand; a running release is paused.",
                _json_body(_ref("SetWeight"), {"weight": 5, "by": "ann"}),
                done,
                "409",
                required=True,
            )
        },
        **_operations(),
        "/v1/release/trip": {
            "post": _change(
                "trip",
                "Open the circuit: every user is on stable from the next request on.",
                _json_body(_ref("Trip"), {"cause": "customers complain", "by": "ann"}),
                done,
                "409",
            )
        },
        "/v1/release/drill": {
            "post": _change(
                "drill",
                "Trip for real, measure, and reset.",
                _json_body(_ref("DrillBy"), {"by": "ann"}),
                {"200": _json(_ref("Drill"), "What was measured.")},
                "409",
            )
        },
        "/v1/events": {
            "post": _change(
                "events",
                "Report business events.",
                _json_body(
                    {
                        "anyOf": [
                            _ref("Events"),
                            {
                                "type": "array",
                                "items": _ref("Events"),
                                "minItems": 1,
                                "maxItems": 1000,
                            },
                        ]
                    },
                    {"variant": "canary", "count": 1},
                ),
                {"202": _json(_ref("Accepted"), "Counted.", etag=False)},
                "409",
                required=True,
            )
        },
        "/v1/history": {
            "get": _look(
                "history",
                "What happened.",
                _ref("History"),
                _parameter(
                    "after",
                    "Only records after this one; without it the newest.",
                    {"type": "integer", "minimum": 0, "maximum": 10**15},
                ),
                _parameter(
                    "limit",
                    "How many at most.",
                    {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
                ),
            )
        },
        "/v1/series": {
            "get": _look(
                "series",
                "The course, point by point.",
                _ref("Series"),
                _parameter("since", f"Only points after this time, {_TIME}.", {"type": "number"}),
            )
        },
        "/v1/stream": {"get": stream},
        "/v1/config": {
            "get": _look("config", "The configuration.", _ref("Config")),
            "put": _change(
                "put_config",
                "Put another configuration into the file and in force.",
                {"application/yaml": {"schema": {"type": "string"}}},
                change,
                "409",
                required=True,
                parameters=(
                    _parameter(
                        "dry_run", "Only say what it would do.", {"enum": ["true", "false"]}
                    ),
                    *(
                        _parameter(
                            name,
                            bodies.Who.model_fields[name].description or "",
                            TypeAdapter(kind).json_schema(),
                        )
                        for name, kind in (("by", bodies.Name), ("reason", bodies.Text))
                    ),
                ),
            ),
        },
        "/v1/reload": {
            "post": _change(
                "reload",
                "Read the configuration file again.",
                _json_body(_ref("Who"), {"by": "ann"}),
                change,
                "409",
            )
        },
        "/v1/openapi.json": {
            "get": _look("openapi", "This document.", {"type": "object"}),
        },
        "/metrics": {
            "get": _plain("metrics", "Metrics for Prometheus.", "text/plain"),
        },
        "/livez": {"get": _plain("livez", "The process answers.", "text/plain")},
        "/readyz": {
            "get": _plain("readyz", "The proxy takes requests.", "text/plain", drains=True)
        },
        "/": {
            "get": {
                "operationId": "dashboard",
                "summary": "The dashboard.",
                "security": [{}],
                "responses": _answers({**page, **unchanged}),
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
                "responses": _answers({**file, **unchanged}, "404"),
            }
        },
    }


def _models() -> dict[str, Schema]:
    kinds: tuple[type[BaseModel], ...] = (
        bodies.Who, bodies.SetWeight, bodies.Trip, bodies.DrillBy, bodies.Events,
    )  # fmt: skip
    return {kind.__name__: kind.model_json_schema() for kind in kinds}


def document() -> Schema:
    """Return the document as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "canaryproxy",
            "version": canaryproxy.__version__,
            "summary": "See and steer a canary release.",
            "description": (
                "On the Unix socket everything is allowed to whoever can open it. On TCP everybody may look, "
                "and changes need the token."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": _paths(),
        "components": {
            "schemas": {**_SCHEMAS, **_models()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "admin.token_file or admin.token_env; on TCP only.",
                }
            },
        },
    }
