"""JSON and messages of the wire, with the names of the fields in the .proto."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kshot.gateway.base64_texts import Base64Texts
from kshot.gateway.errors import invalid
from kshot.gateway.routes import Route

# An object takes 26 times its bytes once it is parsed. A thousand images are a few thousand values.
_MOST_VALUES = 2**18
# Of what is not base64; a text takes up to ten times as much.
_MOST_REST = 2**23
_MOST_HALF = 300
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PHASES = ("queue", "decode", "compute", "store")


class Timed(Protocol):
    """An answer that tells its timing."""

    timing: Any


def read_request(
    route: Route, content: bytes | bytearray, parameters: Mapping[str, str], path: Mapping[str, str]
) -> Message:
    """Make a route's message of a body, of parameters and of the path; raise `RequestError`."""
    message: Message = GetMessageClass(route.descriptor.input_type)()
    expected = f"expected a {route.descriptor.input_type.full_name} as JSON"
    try:
        for name, text in parameters.items():
            json_format.ParseDict({name: text}, message)
    except json_format.ParseError as error:
        raise invalid(f"{expected}: {first_line(error)}") from error
    if content:
        _check_size(content)
        texts = Base64Texts(content)
        try:
            if len(texts.rest) > _MOST_REST:
                problem = f"expected at most {_MOST_REST} bytes besides base64 texts, got more"
                raise ValueError(problem)
            _check_characters(texts.rest)
            json_format.Parse(texts.rest, message, max_recursion_depth=20)
            texts.put_into(message)
        except (json_format.ParseError, ValueError) as error:
            raise invalid(f"{expected}: {texts.hide_marks(first_line(error))}") from error
    for name, text in path.items():
        if getattr(message, name) not in ("", text):
            raise invalid(f"{name}: expected none, or that of the path, got another")
        setattr(message, name, text)
    return message


def _check_characters(content: bytes) -> None:
    """Raise `ValueError` for half of a character: parser and answers would fail at it."""
    if _SURROGATE.search(content) is None:
        return
    try:
        json.dumps(json.loads(content), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        problem = "expected characters, got half of one: a surrogate without its other"
        raise ValueError(problem) from error
    except RecursionError:
        return  # the parser says so


def _check_size(content: bytes | bytearray) -> None:
    """Raise `RequestError` for a document of too many values; those in texts count too."""
    if sum(content.count(mark) for mark in (b",", b"{", b"[")) > _MOST_VALUES:
        raise invalid(f"body: expected at most {_MOST_VALUES} values, got more; send fewer images")


def first_line(error: Exception) -> str:
    """Return what an error says, without what there would have been to choose from.

    In the middle it may quote all of what was sent: the field is named before and behind.
    """
    line = str(error).partition("\n")[0]
    if len(line) <= 2 * _MOST_HALF:
        return line
    return f"{line[:_MOST_HALF]} \N{HORIZONTAL ELLIPSIS} {line[-_MOST_HALF:]}"


def write_message(message: Message) -> str:
    """Write a message as one line of JSON."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def server_timing(message: Timed) -> str:
    """Return the header `Server-Timing` of an answer: the parts of its time, in milliseconds."""
    parts = ((name, getattr(message.timing, name)) for name in _PHASES)
    return ", ".join(f"{name};dur={duration.ToNanoseconds() / 1e6:.3f}" for name, duration in parts)
