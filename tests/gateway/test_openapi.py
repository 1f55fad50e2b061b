"""The description of the HTTP interface is whole, and says what the .proto says."""

from __future__ import annotations

from typing import Any

import pytest

from kshot.gateway.comments import read_comments
from kshot.gateway.openapi import describe
from kshot.gateway.routes import ROUTES, Body


@pytest.fixture(scope="module")
def document() -> Any:  # noqa: ANN401 -- JSON
    return describe(ROUTES, read_comments())


@pytest.fixture
def schemas(document: Any) -> Any:  # noqa: ANN401 -- JSON
    return document["components"]["schemas"]


def test_it_has_every_route_and_resolves(document: Any, schemas: Any) -> None:  # noqa: ANN401 -- JSON
    def check(value: object) -> None:
        if isinstance(value, list):
            for item in value:
                check(item)
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/components/schemas/") in schemas
            for item in value.values():
                check(item)

    check(document)
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["operationId"] == route.rpc
        assert ("requestBody" in operation) == (route.body in (Body.JSON, Body.FILE))


def test_schemas_say_how_fields_are_written(schemas: Any) -> None:  # noqa: ANN401 -- JSON
    def written(message: str, field: str) -> Any:  # noqa: ANN401 -- JSON
        schema = dict(schemas[message]["properties"][field])
        assert schema.pop("description")
        return schema

    assert written("AdaptOptions", "ttl") == {"type": "string", "examples": ["3600s"]}
    assert written("AdaptOptions", "seed") == {"type": "string"}
    assert written("EncodedImages", "items") == {
        "type": "array",
        "items": {"type": "string", "contentEncoding": "base64"},
    }
    assert "SCOPE_HEAD" in schemas["Scope"]["enum"]
    versions = {"type": "object", "additionalProperties": {"type": "string"}}
    assert written("AdaptedModel", "library_versions") == versions


def test_everything_is_described(document: Any, schemas: Any) -> None:  # noqa: ANN401 -- JSON
    """By the comments of the .proto, which say units, defaults and what fails."""
    described = [*schemas.values()]
    for schema in schemas.values():
        described += schema.get("properties", {}).values() if schema is not schemas["Error"] else ()
    for path in document["paths"].values():
        for operation in path.values():
            described += [operation, *operation["parameters"]]
    assert all(each["description"] for each in described)
    assert len(described) > 250
    assert "Required" in schemas["SupportSet"]["properties"]["class_names"]["description"]
    assert "- `SCOPE_HEAD`: " in schemas["Scope"]["description"]
    assert "QUEUE_FULL" in document["info"]["description"]
