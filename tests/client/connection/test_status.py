"""A failed call becomes the most specific error, with all that the server said."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from kshot import client as package
from kshot.client import Client

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.zeros((2, 6, 5), np.uint8)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nothing listens on, held so that nothing can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_all_violations_arrive(client: Client, servicer: FakeServicer) -> None:
    info = ErrorInfo(reason="INVALID_REQUEST", domain="kshot", metadata={"got": "9"})
    bad = BadRequest()
    bad.field_violations.add(field="options.step_count", description="expected 1 to 1000, got 9000")
    bad.field_violations.add(field="support_set", description="expected 2 classes, got 1")
    servicer.refuse(Code.INVALID_ARGUMENT, "2 fields are invalid", info, bad)

    with pytest.raises(package.InvalidArgumentError, match="2 fields are invalid") as caught:
        client.adapt(IMAGES, [0, 1], model="omniglot", step_count=9000)

    assert caught.value.reason == "INVALID_REQUEST"
    assert caught.value.metadata == {"got": "9"}
    assert caught.value.request_id == "r-1"
    assert caught.value.code is not None
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert [str(violation) for violation in caught.value.violations] == [
        "options.step_count: expected 1 to 1000, got 9000",
        "support_set: expected 2 classes, got 1",
    ]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.INVALID_ARGUMENT, "ADAPTATION_DIVERGED", package.AdaptationDivergedError),
        (Code.NOT_FOUND, "ADAPTED_MODEL_EXPIRED", package.AdaptedModelExpiredError),
        (Code.NOT_FOUND, "A_REASON_OF_NEXT_YEAR", package.NotFoundError),
        (Code.RESOURCE_EXHAUSTED, "STORE_FULL", package.StoreFullError),
        (Code.DATA_LOSS, "ADAPTED_MODEL_DAMAGED", package.DataLossError),
        (Code.INTERNAL, "INTERNAL", package.ServerError),
    ],
)
def test_the_reason_decides_and_then_the_status(
    client: Client, servicer: FakeServicer, code: int, reason: str, kind: type[Exception]
) -> None:
    servicer.refuse(code, "no", ErrorInfo(reason=reason, domain="kshot"))

    with pytest.raises(package.KshotError, match=r"^no$") as caught:
        client.predict("am-0", IMAGES)

    assert type(caught.value) is kind


def test_the_time_to_wait_arrives(client: Client, servicer: FakeServicer) -> None:
    retry = RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    info = ErrorInfo(reason="QUEUE_FULL", domain="kshot")
    servicer.refuse(Code.UNAVAILABLE, "too many calls are waiting", info, retry)

    with pytest.raises(package.UnavailableError) as caught:
        client.adapt(IMAGES, [0, 1], model="omniglot")

    assert caught.value.retry_after == 1.5


def test_a_status_without_details_names_the_server(client: Client, servicer: FakeServicer) -> None:
    """gRPC itself refuses a message that is too large."""
    servicer.refuse(
        Code.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (300 vs. 100)"
    )

    with pytest.raises(package.ResourceExhaustedError) as caught:
        client.predict("am-0", IMAGES)

    assert str(caught.value) == (
        f"the call is too large for {client.address}: expected at most 100 bytes, got 300; "
        "send fewer or smaller images, or serve with --max-message-bytes"
    )


def test_nobody_listening_names_the_address(closed_port: int) -> None:
    address = f"127.0.0.1:{closed_port}"

    with (
        Client(address) as client,
        pytest.raises(
            package.UnavailableError,
            match=f"cannot reach a kshot server at {address}: nothing listens there; start `k",
        ),
    ):
        client.capabilities()


def test_time_over_names_the_time(address: str, servicer: FakeServicer) -> None:
    servicer.slow = True

    with (
        Client(address, timeout=0.2) as client,
        pytest.raises(package.DeadlineExceededError, match=r"within 0\.2 s"),
    ):
        client.capabilities()


def test_a_refused_file_is_named(client: Client, servicer: FakeServicer, tmp_path: Path) -> None:
    """Not by its index alone: the caller gave files, an array or bytes, and labels."""
    paths = [tmp_path / "a.png", str(tmp_path / "b.png"), b"", b""]
    for path in paths[:2]:
        Path(str(path)).write_bytes(b"no image")
    bad = BadRequest()
    for field in ("support_set.images.encoded.items[1]", "queries.encoded.items[10]"):
        bad.field_violations.add(field=field, description="is damaged")
    bad.field_violations.add(field="support_set.class_names[0]", description="is long")
    bad.field_violations.add(field="options.seed", description="is odd")
    refused = "; ".join(f"{each.field}: {each.description}" for each in bad.field_violations)
    info = ErrorInfo(reason="INVALID_REQUEST", domain="kshot")
    servicer.refuse(Code.INVALID_ARGUMENT, refused, info, bad)

    with pytest.raises(package.InvalidArgumentError) as caught:
        client.adapt_and_predict(paths, ["x", "y"] * 2, [*paths, *paths, *paths], model="omniglot")

    names = [str(paths[1]), "query 10", "label 'x'", ""]
    assert [each.subject for each in caught.value.violations] == names
    assert caught.value.violations[1].field == "queries.encoded.items[10]"
    said = [f"{paths[1]}: is damaged", "query 10: is damaged", "label 'x': is long"]
    assert str(caught.value) == "; ".join([*said, "options.seed: is odd"])
    assert [str(each) for each in caught.value.violations] == [*said, "options.seed: is odd"]
