"""The OpenAPI document says what the server does: its routes, its answers, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from canaryproxy.admin import openapi
from canaryproxy.admin.app import application
from canaryproxy.admin.connection import BOUNDS
from canaryproxy.admin.guard import Guard
from canaryproxy.admin.stream import Hubs
from tests.admin.fake import TOKEN, FakeProxy, Served
from tests.admin.real import Proxy, proxy
from tests.admin.test_stream import stream

DOCUMENT = openapi.description()
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
"""For each operation, and a fifth of them for its twin below a service: that differs by the name only."""


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxy(tmp_path) as running:
        yield running


def validator(name: str) -> Draft202012Validator:
    """Return what checks values against a schema of the document; a key that it does not name is a fault."""
    document = json.loads(json.dumps(DOCUMENT))
    for schema in _objects(document["components"]["schemas"]):
        schema.setdefault("additionalProperties", False)
    return Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield schema
        for value in schema.values():
            yield from _objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _objects(value)


async def test_routes_and_paths_are_the_same() -> None:
    app = application(CollectorRegistry(), FakeProxy(), Guard(None), Hubs(1), BOUNDS)
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    paths = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert routes == paths
    assert isinstance(app, web.Application)


async def test_a_path_below_a_service_is_the_same_but_for_the_name() -> None:
    app = application(CollectorRegistry(), FakeProxy(), Guard(None), Hubs(1), BOUNDS)
    handlers = {
        (route.resource.canonical, route.method.lower()): _handler(route)
        for route in app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/v1/")
    }
    twins = {path: item for path, item in DOCUMENT["paths"].items() if _is_twin(path)}
    assert len(twins) == 18
    for path, item in twins.items():
        sibling = DOCUMENT["paths"][_sibling(path)]
        assert item.keys() == sibling.keys()
        for method, operation in item.items():
            other = sibling[method]
            named, *_ = operation["parameters"]
            assert (named["in"], named["name"]) == ("path", "name")
            responses = {**other["responses"], "404": operation["responses"]["404"]}
            assert operation == other | {
                "operationId": f"service_{other['operationId']}",
                "parameters": [named, *other["parameters"]],
                "responses": responses,
            }
            assert handlers[path, method] == handlers[_sibling(path), method]


def _handler(route: web.AbstractRoute) -> str:
    """Return the name of what handles it, for one service or for any."""
    function = getattr(route.handler, "__func__", route.handler)
    wrapped = inspect.getclosurevars(function).nonlocals
    name: str = wrapped.get("handler", route.handler).__qualname__
    return name


def _is_twin(path: str) -> bool:
    return path.startswith(f"{openapi.PREFIX}/")


def _sibling(path: str) -> str:
    return path.replace(openapi.PREFIX, "/v1", 1)


def test_it_is_a_valid_document() -> None:
    """Schemas that are some, references that lead somewhere, examples that fit, names used once."""
    schemas = DOCUMENT["components"]["schemas"]
    text = json.dumps(DOCUMENT)
    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        assert f'"#/components/schemas/{name}"' in text, f"{name} is not used"
    names = []
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            names.append(operation["operationId"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for example in content.get("examples", {}).values():
                    resolved = {**DOCUMENT, **content["schema"]}
                    Draft202012Validator(resolved).validate(example["value"])
            assert operation["responses"], path
    assert len(names) == len(set(names))
    for reference in set(_references(DOCUMENT)):
        assert reference.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


async def test_what_a_real_proxy_says_fits(real: Proxy) -> None:
    """Before, during and after: with traffic, tripped, reset, aborted."""
    admin = real
    release, record, point = validator("Release"), validator("Record"), validator("Point")

    async def look() -> dict[str, Any]:
        answer = await admin.ask("GET", "/v1/release")
        release.validate(answer.json)
        document: dict[str, Any] = answer.json
        return document

    await look()
    await real.wait_for(weight=5.0)
    await real.traffic(120)
    async with asyncio.timeout(60):
        while not (await look())["metrics"]:  # noqa: ASYNC110  # until the judge's next tick
            await asyncio.sleep(0.01)
    tripped = await admin.ask("POST", "/v1/release/trip", '{"by": "ann", "cause": "look"}')
    release.validate(tripped.json)
    assert tripped.json["weight"] == 0.0
    assert tripped.json["circuit"]["state"] == "open"
    await look()
    release.validate((await admin.ask("POST", "/v1/release/reset")).json)
    validator("Drill").validate((await admin.ask("POST", "/v1/release/drill")).json)
    for name in ("pause", "resume", "promote", "abort", "start"):
        answer = await admin.ask("POST", f"/v1/release/{name}", '{"by": "ann"}')
        assert answer.status == 200, answer.body
        release.validate(answer.json)
    accepted = await admin.ask("POST", "/v1/events", '{"variant": "canary", "count": 3}')
    validator("Accepted").validate(accepted.json)
    history = (await admin.ask("GET", "/v1/history")).json
    validator("History").validate(history)
    for entry in history["records"]:
        record.validate(entry)
    assert {entry["what"] for entry in history["records"]} >= {
        "started", "tripped", "stopped", "reset", "restored", "drill", "paused", "resumed",
        "promoted", "aborted",
    }  # fmt: skip
    series = (await admin.ask("GET", "/v1/series")).json
    validator("Series").validate(series)
    validator("Config").validate((await admin.ask("GET", "/v1/config")).json)
    validator("Change").validate((await admin.ask("POST", "/v1/reload")).json)
    async with stream(admin, "unix", Last_Event_ID="0") as client:
        seen: set[str] = set()
        while seen != {"release", "record", "point"}:
            event = await client.next()
            if event.kind:
                {"release": release, "record": record, "point": point}[event.kind].validate(
                    event.data
                )
                seen.add(event.kind)


CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
]


REJECTED = ["400", "403", "404", "405", "409", "412", "413", "415", "422"]


@pytest.mark.slow
async def test_fuzzed_requests_get_answers_that_fit(real: Proxy) -> None:
    """Bodies, queries and conditions by the schema, and against it; no 5xx, nothing undocumented."""
    base = f"http://127.0.0.1:{real.port}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    rejected = {"negative_data_rejection": {"expected-statuses": REJECTED}}
    document = json.loads(json.dumps(DOCUMENT))
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                if parameter.get("description") == "Name of the service.":
                    parameter["schema"]["enum"] = ["default", "nobody"]
    schema = schemathesis.openapi.from_dict(
        document, config=schemathesis.Config.from_dict({"checks": rejected})
    )
    tried: dict[str, Counter[int]] = {}

    def fuzz(operation: Any, mode: schemathesis.GenerationMode, session: requests.Session) -> None:
        examples = max(1, EXAMPLES // 5) if _is_twin(operation.path) else EXAMPLES

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            answer = case.call(base_url=base, session=session, headers=headers, timeout=60)
            tried.setdefault(operation.label, Counter())[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        one()

    def fuzz_all() -> None:
        with requests.Session() as session:
            for found in schema.get_all_operations():
                assert isinstance(found, Ok)
                operation: Any = found.ok()
                if operation.path.endswith(("/stream", "/release/drill")):
                    continue  # the one does not end, the other takes its time
                for mode in (
                    schemathesis.GenerationMode.POSITIVE,
                    schemathesis.GenerationMode.NEGATIVE,
                ):
                    if mode.is_negative and not (operation.body or operation.query):
                        continue
                    fuzz(operation, mode, session)

    await asyncio.to_thread(fuzz_all)
    assert len(tried) == sum(len(item) for item in DOCUMENT["paths"].values()) - 4
    print(tried)
    assert (await real.ask("GET", "/v1/release")).status == 200


async def test_it_is_served(served: Served) -> None:
    answer = await served.ask("GET", "/v1/openapi.json")
    assert answer.json == DOCUMENT
