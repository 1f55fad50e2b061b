"""Bodies become messages within bounds of memory, or a sentence that names the field."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64encode
from typing import Any, cast

import pytest

from kshot.gateway.errors import RequestError
from kshot.gateway.messages import read_request
from kshot.gateway.routes import ROUTES, SERVICE

ADAPT = next(route for route in ROUTES if route.rpc == "Adapt")


def items(*texts: str) -> bytes:
    return json.dumps({"support_set": {"images": {"encoded": {"items": texts}}}}).encode()


def test_a_large_image_is_there_twice_at_most() -> None:
    """Beside the body, 0.75 of it for what is decoded; the message's own copy is not counted."""
    body = items(b64encode(bytes(2**22)).decode())
    read_request(ADAPT, items("AAAA"), {}, {})
    tracemalloc.start()
    try:
        read_request(ADAPT, body, {}, {})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1.1 * len(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"support_set": {"class_indices": [' + b"0," * 2**18 + b"0]}}", "at most 262144 values"),
        (b'{"model": "' + b"a " * 2**22 + b'"}', "at most 8388608 bytes besides base64"),
        (items("A" * 65), r"support_set\.images\.encoded\.items\[0\]: expected base64"),
        (b'{"options": {"step_count": 1' + b"0" * 5000 + b"}}", "as JSON"),
        (b'{"model": "\\ud800"}', "half of one"),
        (b'{"options": {"batch_norm_mode": "\\uDC00"}}', "half of one"),
        (b"[" * 5000 + b'"\\ud800"', "as JSON"),
        (b'{"model": 1e999}', "model"),
        (b'{"options": {"step_count": "' + b"a " * 5000 + b'"}}', "step_count"),
        (b"\x00", "as JSON"),
    ],
    ids=[
        "values",
        "texts",
        "length",
        "number",
        "surrogate",
        "surrogate of an enum",
        "deep",
        "infinite",
        "long",
        "nul",
    ],
)
def test_other_bodies_are_refused(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read_request(ADAPT, body, {}, {})

    assert len(str(caught.value)) < 800


def test_characters_of_two_escapes_are_read() -> None:
    message = read_request(ADAPT, b'{"model": "\\ud83d\\ude00"}', {}, {})

    assert cast(Any, message).model == "\N{GRINNING FACE}"


def test_no_request_has_a_map() -> None:
    """Long texts are put back into fields; keys and values of maps would keep their marks."""
    for method in SERVICE.methods:
        waiting, seen = [method.input_type], set()
        while waiting:
            message = waiting.pop()
            assert not message.GetOptions().map_entry, message.full_name
            if message.full_name not in seen:
                seen.add(message.full_name)
                waiting += [field.message_type for field in message.fields if field.message_type]
