"""Adapted models that a server keeps: their description, their age, and files of them."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kshot.client import AdaptedModel, Client, EtagMismatchError, InputError
from kshot.v1 import adaptation_pb2 as wire

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.zeros((2, 6, 5), np.uint8)


@pytest.fixture
def adapted(client: Client) -> AdaptedModel:
    return client.adapt(IMAGES, [3, 4])


def test_a_description_says_where_a_model_is_from(adapted: AdaptedModel) -> None:
    described = adapted.description

    assert (described.etag, described.model_version, described.parent) == ("e", 2, "")
    assert (described.support_count, described.support_kept) == (2, True)
    assert described.support_digest == "cd" * 32
    assert described.library_versions == {"torch": "2.13"}
    assert pickle.loads(pickle.dumps(described)) == described  # noqa: S301 -- our own
    assert hash(described)


def test_a_model_is_renewed_by_seconds_or_to_a_time(
    adapted: AdaptedModel, client: Client, servicer: FakeServicer
) -> None:
    """The new handle knows the caller's labels, and the old one stays as it was."""
    hour = timezone(timedelta(hours=1))
    first = adapted.renew(ttl=timedelta(minutes=2))
    second = first.renew(
        expire_at=datetime(2030, 1, 1, 1, tzinfo=hour), etag=first.description.etag
    )
    third = client.renew(adapted.id, ttl=0.5)

    assert first.expire_time == datetime(1970, 1, 1, 0, 2, tzinfo=UTC)
    assert second.expire_time == datetime(2030, 1, 1, tzinfo=UTC)
    assert (second.labels, second.report, third.labels) == ((3, 4), adapted.report, None)
    assert adapted.expire_time == datetime(2026, 12, 1, 10, tzinfo=UTC)
    request = servicer.requests[-1]
    assert isinstance(request, wire.UpdateAdaptedModelRequest)
    assert request.ttl.nanos == 500_000_000
    with pytest.raises(EtagMismatchError, match="it was changed"):
        adapted.renew(ttl=5, etag="e")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "ttl and expire_at: expected one of them, got both or none"),
        ({"ttl": 1, "expire_at": datetime.now(UTC)}, "ttl and expire_at: expected one of them"),
        ({"ttl": "1"}, "ttl: expected a finite number of seconds or a timedelta, got '1'"),
        ({"ttl": float("nan")}, "ttl: expected a finite number of seconds"),
        ({"ttl": 1e12}, "ttl: expected at most 315576000000 seconds"),
        ({"expire_at": datetime(2030, 1, 1)}, "expire_at: expected a datetime with a time zone"),
        ({"expire_at": "2030-01-01"}, "expire_at: expected a datetime with a time zone, got '2030"),
        ({"ttl": 1, "etag": 7}, "etag: expected a string, got 7"),
    ],
)  # fmt: skip
def test_no_time_or_a_wrong_one_is_refused(
    adapted: AdaptedModel, servicer: FakeServicer, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        adapted.renew(**given)

    assert len(servicer.requests) == 1


def test_a_zero_ttl_is_sent(adapted: AdaptedModel, servicer: FakeServicer) -> None:
    """The server says what is wrong with it."""
    adapted.renew(ttl=0)

    request = servicer.requests[-1]
    assert isinstance(request, wire.UpdateAdaptedModelRequest)
    assert request.WhichOneof("expiration") == "ttl"


def test_lists_are_filtered_on_every_page(client: Client, servicer: FakeServicer) -> None:
    for _ in range(3):
        client.adapt(IMAGES, [3, 4])
    del servicer.requests[:]
    assert len(list(client.list(filter='class_name = "3"', model="omniglot"))) == 3

    for request in servicer.requests:
        assert isinstance(request, wire.ListAdaptedModelsRequest)
        assert (request.filter, request.model) == ('class_name = "3"', "omniglot")
    with pytest.raises(InputError, match="filter: expected a string, got None"):
        list(client.list(filter=None))  # type: ignore[arg-type]  # what is tested


def test_a_file_is_imported_in_parts(
    adapted: AdaptedModel, client: Client, servicer: FakeServicer, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "mine.onnx"
    exported = client.export(adapted, path, progress=lambda *bytes_: told.append(bytes_))
    assert told[-1] == (exported.stat().st_size, exported.stat().st_size)
    del told[:]
    large = tmp_path / "large.onnx"
    large.write_bytes(b"x" * 2_500_000)

    assert client.import_model(exported).description.size_bytes == exported.stat().st_size
    imported = client.import_model(
        str(large), ttl=60, timeout=9, progress=lambda *bytes_: told.append(bytes_)
    )
    assert imported.description.size_bytes == 2_500_000
    assert told == [(sent, 2_500_000) for sent in (1_000_000, 2_000_000, 2_500_000)]
    header = servicer.requests[-1]
    assert isinstance(header, wire.ImportAdaptedModelRequest)
    assert header.header.ttl.seconds == 60
    assert servicer.remaining[-1] < 9.1


def test_a_file_that_cannot_be_read_is_named(
    client: Client, servicer: FakeServicer, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    cases: list[tuple[Any, str]] = [
        (tmp_path / "no", "no: No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "empty", "empty: expected a file of up to 2147483648 bytes, got an empty file"),
        ("a\0b", "embedded null byte"),
        (b"a", "path: expected the path of a file, got b'a'"),
        ("", "path: expected the path of a file, got ''"),
    ]
    for path, words in cases:
        with pytest.raises(InputError, match=re.escape(words)):
            client.import_model(path)

    assert servicer.requests == []


def test_a_temporary_model_is_deleted_after_its_block(
    client: Client, servicer: FakeServicer
) -> None:
    with client.adapt(IMAGES, [3, 4]) as model:
        assert model.id in servicer.kept
    assert servicer.kept == {}

    with client.adapt(IMAGES, [3, 4]) as model:
        model.delete()


def test_what_went_wrong_in_a_block_is_told(client: Client) -> None:
    """Not that the model could not be deleted at its end."""
    with pytest.raises(ZeroDivisionError), client.adapt(IMAGES, [3, 4]):
        client.close()
        raise ZeroDivisionError
