"""The description of the HTTP interface: OpenAPI 3.1, made of the routes and of the .proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from kshot.gateway.routes import SERVICE, Body, Route

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
    "description": "Why a request failed: `status` is a code of gRPC; the ErrorInfo of `details` "
    "has the `reason`.",
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


_TIMEOUT = "Seconds that the answer may take."
_FILE_FIELDS = {"sha256": "kshot.v1.ImportHeader.sha256", "ttl": "kshot.v1.ImportHeader.ttl"}


def describe(routes: Sequence[Route], comments: Mapping[str, str]) -> dict[str, Any]:
    """Describe routes; `comments` has those of the .proto by full name."""
    return _Description(comments).document(routes)


class _Description:
    """A document that is being made: `schemas` grows with each message that is met."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self._schemas: dict[str, Any] = {"Error": _ERROR}

    def document(self, routes: Sequence[Route]) -> dict[str, Any]:
        """Return the whole document."""
        paths: dict[str, Any] = {}
        for route in routes:
            paths.setdefault(route.path, {})[route.method.lower()] = self._operation(route)
        words = f"JSON over HTTP for {SERVICE.full_name}; bytes are base64."
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "kshot",
                "version": "v1",
                "description": f"{words}\n\n{self._comments[SERVICE.full_name]}",
            },
            "paths": paths,
            "components": {
                "schemas": self._schemas,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"key": []}],
        }

    def _operation(self, route: Route) -> dict[str, Any]:
        takes, gives = route.descriptor.input_type, route.descriptor.output_type
        operation: dict[str, Any] = {
            "operationId": route.rpc,
            "summary": route.summary,
            "description": self._comments[route.descriptor.full_name],
            "parameters": self._parameters(route),
            "responses": {
                "200": {"description": "Done.", "content": self._content(route, gives)},
                "default": {
                    "description": "Failed.",
                    "content": {"application/json": {"schema": _reference("Error")}},
                },
            },
        }
        if route.body is Body.JSON:
            content = {"application/json": {"schema": self._message(takes)}}
            operation["requestBody"] = {"required": True, "content": content}
        if route.body is Body.FILE:
            operation["requestBody"] = {"required": True, "content": _binary()}
        return operation

    def _parameters(self, route: Route) -> list[dict[str, Any]]:
        fields = route.descriptor.input_type.fields
        in_path = "{adapted_model}" in route.path
        timeout = {"type": "number", "default": 30, "description": _TIMEOUT}
        parameters = [_parameter("timeout", "query", timeout)]
        for field in fields:
            if in_path and field.name == "adapted_model":
                parameters.append(_parameter(field.name, "path", self._field(field)))
            elif route.body is Body.QUERY:
                parameters.append(_parameter(field.name, "query", self._field(field)))
        if route.body is Body.FILE:
            for name, full_name in _FILE_FIELDS.items():
                schema = {"type": "string", "description": self._comments[full_name]}
                parameters.append(_parameter(name, "query", schema))
        return parameters

    def _content(self, route: Route, gives: Descriptor) -> dict[str, Any]:
        if route.rpc == "ExportAdaptedModel":
            return _binary()
        kind = "application/x-ndjson" if route.descriptor.server_streaming else "application/json"
        return {kind: {"schema": self._message(gives)}}

    def _message(self, message: Descriptor) -> dict[str, Any]:
        if message.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[message.full_name]
        if message.name not in self._schemas:
            schema: dict[str, Any] = {
                "type": "object",
                "description": self._comments[message.full_name],
                "properties": {},
            }
            self._schemas[message.name] = schema
            schema["properties"] |= {field.name: self._field(field) for field in message.fields}
        return _reference(message.name)

    def _field(self, field: FieldDescriptor) -> dict[str, Any]:
        schema = self._several(field)
        return {**schema, "description": self._comments[field.full_name]}

    def _several(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._value(value)}
        schema = self._value(field)
        return {"type": "array", "items": schema} if field.is_repeated else schema

    def _value(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None:
            return self._message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        kind = _TYPES[field.type]
        if kind == "TYPE_BYTES":
            return {"type": "string", "contentEncoding": "base64"}
        if kind == "TYPE_STRING" or kind in _LONG:
            return {"type": "string"}
        if kind == "TYPE_BOOL":
            return {"type": "boolean"}
        return {"type": "number" if kind in _NUMBERS else "integer"}

    def _enum(self, enum: EnumDescriptor) -> dict[str, Any]:
        names = [value.name for value in enum.values]
        lines = [f"- `{name}`: {self._comments[f'{enum.full_name}.{name}']}" for name in names]
        about = "\n".join([self._comments[enum.full_name], "", *lines])
        self._schemas[enum.name] = {"type": "string", "enum": names, "description": about}
        return _reference(enum.name)


def _binary() -> dict[str, Any]:
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a parameter by a schema, whose description becomes its own."""
    about = schema.pop("description")
    return {
        "name": name,
        "in": place,
        "description": about,
        "required": place == "path",
        "schema": schema,
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
