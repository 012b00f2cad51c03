"""docs/openapi.json is the routes' own and complete, and every answer is one of those that it describes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from api_worlds import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from ratchet.api.app import document
from ratchet.domain.event_schemas import render
from ratchet.domain.events import INBOUND
from ratchet.settings import load_settings

DOCUMENT = document()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
IN_JSON = [each for each in OPERATIONS if each[1] != "/v1/metrics"]
REGISTRY: Registry[Any] = Registry().with_resource("urn:api", Resource.from_contents(DOCUMENT, DRAFT202012))
KNOWN = {"model": "flight_delay", "number": 1, "attempt": "flight_delay.1", "system": "alertmanager"}


def test_the_file_is_as_the_routes_are_now() -> None:
    found = (load_settings().root / "docs" / "openapi.json").read_text()
    assert found == render(DOCUMENT), "docs/openapi.json is stale. Run: make schemas"


def test_everything_is_described() -> None:
    assert len({operation["operationId"] for _, _, operation in OPERATIONS}) == len(OPERATIONS)
    for method, path, operation in OPERATIONS:
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        assert operation["security"], where
        assert {"401", "403", "422", "503"} <= operation["responses"].keys(), where
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (where, parameter["name"])
        for status, response in operation["responses"].items():
            right = {"text/plain"} if path == "/v1/metrics" else {"application/json"}
            kinds = right if int(status) < 400 else {"application/problem+json"}
            assert response["content"].keys() == kinds, (where, status)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name


def test_the_description_knows_every_type_of_event() -> None:
    assert set(DOCUMENT["components"]["schemas"]["CloudEvent"]["properties"]["type"]["enum"]) == set(INBOUND)


def test_the_description_is_there_for_those_who_are_known(api: Client) -> None:
    assert api.get("/v1/openapi.json", "vic").json() == json.loads(render(DOCUMENT))


# -- asked at random ---------------------------------------------------------------------------------------------------


def resolved(schema: Any) -> Any:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


NASTY = st.sampled_from(["", " ", "\0", "'", '"', "%", "_", "../x", "<script>", "𝔘", "a" * 300, "\ud800", "-1", "null"])


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of the schema, mostly, and now and then something else."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return st.one_of(*(values(each) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.one_of(st.sampled_from(schema.get("enum") or [schema["const"]]), NASTY)
    kind = schema.get("type")
    if kind == "string" and schema.get("format") == "date-time":
        return st.one_of(st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"), NASTY)
    if kind == "string":
        return st.one_of(st.text(max_size=20), NASTY)
    if kind == "integer":
        return st.one_of(st.integers(schema.get("minimum"), schema.get("maximum")), st.integers(), NASTY)
    if kind == "number":
        return st.one_of(st.floats(allow_nan=False, allow_infinity=False), NASTY)
    if kind == "boolean":
        return st.one_of(st.booleans(), NASTY)
    if kind == "null":
        return st.none()
    if kind == "array":
        return st.lists(values(schema["items"]), max_size=3)
    if kind == "object" and "properties" in schema:
        parts = {name: values(each) for name, each in schema["properties"].items()}
        needed = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {name: parts[name] for name in needed},
            optional={name: each for name, each in parts.items() if name not in needed},
        )
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | NASTY,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )


def text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace").decode()


@st.composite
def requests(draw: st.DrawFn, path: str, operation: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    query: list[tuple[str, str]] = []
    for parameter in operation.get("parameters", ()):
        name, known = parameter["name"], KNOWN.get(parameter["name"])
        drawn = values(parameter["schema"])
        if parameter["in"] == "path":
            value = draw(st.just(known) | drawn if known is not None else drawn)
            path = path.replace(f"{{{name}}}", quote(text(value), safe="") or "x")
        elif draw(st.booleans()):
            value = draw(drawn)
            query += [(name, text(each)) for each in (value if isinstance(value, list) else [value])]
    options: dict[str, Any] = {"params": query}
    if body := operation.get("requestBody"):
        kind = draw(st.sampled_from(sorted(body["content"])))
        content = json.dumps(draw(values(body["content"][kind]["schema"]))).encode()
        options |= {"content": content, "headers": {"Content-Type": "text/x" if kind == "*/*" else kind}}
    return path, options


@pytest.mark.parametrize(("method", "path", "operation"), IN_JSON, ids=[f"{m} {p}" for m, p, _ in IN_JSON])
def test_every_answer_is_one_that_is_described(
    api: Client, method: str, path: str, operation: dict[str, Any], world_with_history: None
) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(requests(path, operation))
    def ask(request: tuple[str, dict[str, Any]]) -> None:
        where, options = request
        answer = api.ask(method, where, **options)
        assert answer.status_code < 500, (where, options, answer.text)
        described = operation["responses"].get(str(answer.status_code))
        assert described is not None, (answer.status_code, where, options, answer.text)
        kind = answer.headers["content-type"]
        reference = f"urn:api#/paths/{path.replace('~', '~0').replace('/', '~1')}/{method.lower()}/responses/"
        schema = {"$ref": f"{reference}{answer.status_code}/content/{kind.replace('/', '~1')}/schema"}
        Draft202012Validator(schema, registry=REGISTRY).validate(answer.json())

    ask()
