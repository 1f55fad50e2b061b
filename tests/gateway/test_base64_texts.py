"""Base64 leaves a document before it is parsed, and comes to the same message."""

from __future__ import annotations

import json
import os
from base64 import b64encode, urlsafe_b64encode

import pytest
from google.protobuf import json_format

from kshot.gateway.base64_texts import Base64Texts
from kshot.v1 import adaptation_pb2 as wire

CONTENT = bytes(range(256)) * 2
BASE64 = b64encode(CONTENT).decode()


def read(content: bytes) -> wire.AdaptRequest:
    """Parse a document, with its texts taken out."""
    texts = Base64Texts(content)
    message = json_format.Parse(texts.rest, wire.AdaptRequest())
    texts.put_into(message)
    return message


def with_items(*items: object) -> bytes:
    return json.dumps({"support_set": {"images": {"encoded": {"items": items}}}}).encode()


@pytest.mark.parametrize(
    "item",
    [
        BASE64,
        BASE64.rstrip("="),
        urlsafe_b64encode(CONTENT).decode(),
        urlsafe_b64encode(CONTENT[:-1]).decode().rstrip("="),
        "\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76)) + "\r\n",
        BASE64[:63] + "=",
        BASE64[:63],
        "",
    ],
    ids=["padded", "bare", "of addresses", "of addresses, bare", "in lines", "64", "63", "empty"],
)
def test_it_is_read_as_protobuf_reads_it(item: str) -> None:
    document = with_items("AAAA", item, item)

    assert read(document) == json_format.Parse(document, wire.AdaptRequest())


def test_long_texts_are_not_parsed() -> None:
    texts = Base64Texts(with_items(*[BASE64] * 3))

    assert len(texts.rest) < 200


@pytest.mark.parametrize(
    "name",
    [BASE64, f'"{BASE64}', f'{BASE64}"', f"\\{BASE64}", f'\\"{BASE64}"', f"a\n{BASE64}", "é" * 80],
)
def test_names_stay_as_they_are(name: str) -> None:
    """A name may look like base64, begin like it behind a quote, or end like it."""
    document = json.dumps({"model": name, "support_set": {"class_names": ["a", name]}})

    message = read(document.encode())

    assert message.model == name
    assert message.support_set.class_names == ["a", name]


def test_tensors_are_put_where_they_stood() -> None:
    document = {"support_set": {"images": {"tensor": {"shape": ["512"], "data": BASE64}}}}

    assert read(json.dumps(document).encode()).support_set.images.tensor.data == CONTENT


def test_what_is_no_base64_is_named() -> None:
    with pytest.raises(ValueError, match=r"support_set\.images\.encoded\.items\[1\]: expected "):
        read(with_items(BASE64, "A" * 65))


def test_errors_of_the_parser_show_no_marks() -> None:
    texts = Base64Texts(json.dumps({BASE64: 1}).encode())

    with pytest.raises(json_format.ParseError) as caught:
        json_format.Parse(texts.rest, wire.AdaptRequest())

    assert f'no field named "{len(BASE64)} characters"' in texts.hide_marks(str(caught.value))


def test_any_bytes_are_parsed_or_refused() -> None:
    """Broken documents, cut anywhere, fail as they fail without this."""
    document = with_items(BASE64, 'a\\"' + BASE64)
    for end in range(0, len(document), 7):
        with pytest.raises((ValueError, json_format.ParseError)):
            read(document[:end] + os.urandom(2))
