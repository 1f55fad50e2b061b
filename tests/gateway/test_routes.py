from kshot.gateway.openapi import describe
from kshot.gateway.routes import ROUTES, SERVICE, Body


def test_every_rpc_has_one_route() -> None:
    assert sorted(route.rpc for route in ROUTES) == sorted(SERVICE.methods_by_name)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_only_requests_that_change_something_have_a_body() -> None:
    for route in ROUTES:
        assert (route.body in (Body.JSON, Body.FILE)) == (route.method in ("POST", "PATCH"))


def test_the_description_has_every_route_and_resolves() -> None:
    document = describe(ROUTES)
    schemas = document["components"]["schemas"]

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


def test_schemas_say_how_fields_are_written() -> None:
    schemas = describe(ROUTES)["components"]["schemas"]

    assert schemas["AdaptOptions"]["properties"]["ttl"]["type"] == "string"
    assert schemas["AdaptOptions"]["properties"]["seed"] == {"type": "string"}
    assert schemas["EncodedImages"]["properties"]["items"] == {
        "type": "array",
        "items": {"type": "string", "contentEncoding": "base64"},
    }
    assert "SCOPE_HEAD" in schemas["Scope"]["enum"]
    versions = schemas["AdaptedModel"]["properties"]["library_versions"]
    assert versions == {"type": "object", "additionalProperties": {"type": "string"}}
