"""JSON and messages of the wire, with the names of the fields in the .proto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kshot.gateway.errors import invalid
from kshot.gateway.routes import Route

_PHASES = ("queue", "decode", "compute", "store")


class Timed(Protocol):
    """An answer that tells its timing."""

    timing: Any


def read_request(
    route: Route, content: bytes, parameters: Mapping[str, str], path: Mapping[str, str]
) -> Message:
    """Make a route's message of a body, of parameters and of the path; raise `RequestError`."""
    message: Message = GetMessageClass(route.descriptor.input_type)()
    try:
        if content:
            json_format.Parse(content, message, max_recursion_depth=20)
        for name, text in parameters.items():
            json_format.ParseDict({name: text}, message)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        kind = route.descriptor.input_type.full_name
        raise invalid(f"expected a {kind} as JSON: {first_line(error)}") from error
    for name, text in path.items():
        if getattr(message, name) not in ("", text):
            raise invalid(f"{name}: expected none, or that of the path, got another")
        setattr(message, name, text)
    return message


def first_line(error: Exception) -> str:
    """Return what an error says, without what there would have been to choose from."""
    return str(error).partition("\n")[0]


def write_message(message: Message) -> str:
    """Write a message as one line of JSON."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def server_timing(message: Timed) -> str:
    """Return the header `Server-Timing` of an answer: the parts of its time, in milliseconds."""
    parts = ((name, getattr(message.timing, name)) for name in _PHASES)
    return ", ".join(f"{name};dur={duration.ToNanoseconds() / 1e6:.3f}" for name, duration in parts)
