"""The description of the HTTP interface: OpenAPI 3.1, made of the routes and of the messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from kshot.gateway.routes import Body, Route

_NUMBERS = {"TYPE_DOUBLE", "TYPE_FLOAT"}
# As text: JSON's numbers have 53 bits.
_LONG = {"TYPE_INT64", "TYPE_UINT64", "TYPE_SINT64", "TYPE_FIXED64", "TYPE_SFIXED64"}
_TYPES = {value: name for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Duration": {"type": "string", "examples": ["3600s"]},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["expireTime"]},
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "integer"},
                "status": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
            },
        }
    },
}


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Describe routes; the schemas are those of the messages in the .proto."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kshot",
            "version": "v1",
            "description": "JSON over HTTP for kshot.v1.AdaptationService. Fields are described in "
            "adaptation.proto; bytes are base64.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    takes, gives = route.descriptor.input_type, route.descriptor.output_type
    in_path = "{adapted_model}" in route.path
    parameters = [_parameter("timeout", "query", {"type": "number", "default": 30})]
    if in_path:
        parameters.append(_parameter("adapted_model", "path", {"type": "string"}))
    if route.body is Body.QUERY:
        parameters += [
            _parameter(field.name, "query", _field_schema(field, schemas))
            for field in takes.fields
            if not (in_path and field.name == "adapted_model")
        ]
    if route.body is Body.FILE:
        parameters += [_parameter(name, "query", {"type": "string"}) for name in ("sha256", "ttl")]
    operation: dict[str, Any] = {
        "operationId": route.rpc,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": _content(route, gives, schemas)},
            "default": {
                "description": "Failed.",
                "content": {"application/json": {"schema": _reference("Error")}},
            },
        },
    }
    if route.body is Body.JSON:
        content = {"application/json": {"schema": _message_schema(takes, schemas)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.body is Body.FILE:
        operation["requestBody"] = {"required": True, "content": _binary()}
    return operation


def _content(route: Route, gives: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.rpc == "ExportAdaptedModel":
        return _binary()
    kind = "application/x-ndjson" if route.descriptor.server_streaming else "application/json"
    return {kind: {"schema": _message_schema(gives, schemas)}}


def _binary() -> dict[str, Any]:
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _message_schema(message: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if message.full_name in _WELL_KNOWN:
        return _WELL_KNOWN[message.full_name]
    if message.name not in schemas:
        schema: dict[str, Any] = {"type": "object", "properties": {}}
        schemas[message.name] = schema
        schema["properties"] |= {
            field.name: _field_schema(field, schemas) for field in message.fields
        }
    return _reference(message.name)


def _field_schema(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {"type": "object", "additionalProperties": _value_schema(value, schemas)}
    schema = _value_schema(field, schemas)
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _value_schema(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        return _message_schema(field.message_type, schemas)
    if field.enum_type is not None:
        return _enum_schema(field.enum_type, schemas)
    kind = _TYPES[field.type]
    if kind == "TYPE_BYTES":
        return {"type": "string", "contentEncoding": "base64"}
    if kind == "TYPE_STRING" or kind in _LONG:
        return {"type": "string"}
    if kind == "TYPE_BOOL":
        return {"type": "boolean"}
    return {"type": "number" if kind in _NUMBERS else "integer"}


def _enum_schema(enum: EnumDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    schemas[enum.name] = {"type": "string", "enum": [value.name for value in enum.values]}
    return _reference(enum.name)
