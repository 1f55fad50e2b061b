"""The client against a real server on loopback."""

from __future__ import annotations

import copy
import os
import pickle
import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from google.rpc.code_pb2 import Code

from kshot.client import AdaptedModel, Client, InputError, TailReport, UnavailableError
from kshot.client.capabilities import decode_capabilities
from kshot.client.errors import DataLossError
from kshot.v1 import adaptation_pb2 as wire

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)


def adapted(client: Client, labels: list[str] | list[int] | None = None) -> AdaptedModel:
    """Adapt to four images of two classes."""
    return client.adapt(IMAGES, labels or ["cat", "dog", "dog", "cat"], model="omniglot")


def test_adapt_sends_labels_as_sorted_classes(client: Client, servicer: FakeServicer) -> None:
    adapted(client, ["dog", "cat", "cat", "dog"])

    (request,) = servicer.requests
    assert isinstance(request, wire.AdaptRequest)
    assert request.model == "omniglot"
    assert list(request.support_set.class_names) == ["cat", "dog"]
    assert list(request.support_set.class_indices) == [1, 0, 0, 1]
    assert request.support_set.images.tensor.datatype == "UINT8"
    assert list(request.support_set.images.tensor.shape) == [4, 6, 5]
    assert request.support_set.images.tensor.data == IMAGES.tobytes()
    assert request.options == wire.AdaptOptions()


def test_adapt_sends_the_options_that_are_set(client: Client, servicer: FakeServicer) -> None:
    """An option of 0 or False is set; None is not."""
    client.adapt(
        IMAGES,
        [0, 1, 0, 1],
        model="omniglot",
        step_count=None,
        learning_rate=0.5,
        batch_norm_mode="support_and_query",
        head="zero",
        seed=0,
        ttl=timedelta(minutes=1),
        time_budget=2.5,
        scope="auto",
        allow_partial=False,
    )

    (request,) = servicer.requests
    assert isinstance(request, wire.AdaptRequest)
    assert {field.name for field, _ in request.options.ListFields()} == {
        "learning_rate",
        "batch_norm_mode",
        "head",
        "seed",
        "ttl",
        "time_budget",
        "scope",
        "allow_partial",
    }
    assert request.options.batch_norm_mode == wire.BATCH_NORM_MODE_SUPPORT_AND_QUERY
    assert request.options.ttl.seconds == 60
    assert request.options.time_budget.ToMilliseconds() == 2500
    assert request.options.scope == wire.SCOPE_AUTO


def test_a_call_may_last_longer_by_its_time_budget(client: Client, servicer: FakeServicer) -> None:
    labels = [0, 1, 0, 1]
    client.adapt(IMAGES, labels, time_budget=timedelta(seconds=100))
    client.adapt_and_predict(IMAGES, labels, IMAGES, time_budget=100)
    client.adapt(IMAGES, labels, time_budget=np.float32(100), timeout=50)

    longer, also, named = servicer.remaining
    assert named < 51 < 100 < min(longer, also)
    assert max(longer, also) < 101 + client.timeout


def test_the_report_tells_what_became_of_the_tail(client: Client, servicer: FakeServicer) -> None:
    """A server of an earlier release does not."""
    assert (before := adapted(client).report) is not None
    servicer.tail = wire.TailReport(weight=0.25, step_count=20, fold_step_count=6)
    servicer.tail.needed_time.FromMilliseconds(9500)
    assert (after := adapted(client).report) is not None

    assert before.tail is None
    assert after.tail == TailReport(0.25, 20, 6, 9.5)


DURATION = "expected a finite number of seconds or a timedelta"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "neck"}, "head: expected one of trained, prototype, zero, ridge, got 'neck'"),
        ({"step_count": "many"}, "step_count: expected a whole number, got 'many'"),
        (
            {"step_count": 1 << 40},
            "step_count: expected a whole number from -2147483648 to 2147483647",
        ),
        ({"ttl": "an hour"}, f"ttl: {DURATION}, got 'an hour'"),
        ({"ttl": float("inf")}, f"ttl: {DURATION}, got inf"),
        ({"time_budget": True}, f"time_budget: {DURATION}, got True"),
        ({"time_budget": "1"}, f"time_budget: {DURATION}, got '1'"),
        ({"time_budget": 10**400}, f"time_budget: {DURATION}, got 1000"),
        ({"ttl": np.float64("nan")}, f"ttl: {DURATION}, got np.float64(nan)"),
        ({"ttl": np.timedelta64("NaT")}, f"ttl: {DURATION}, got np.timedelta64('NaT')"),
        ({"ttl": np.timedelta64(1, "Y")}, f"ttl: {DURATION}, got np.timedelta64(1,'Y')"),
        ({"ttl": 1e12}, "ttl: expected at most 315576000000 seconds, got 1000000000000.0"),
        ({"step_count": 5.0}, "step_count: expected a whole number, got 5.0"),
        ({"step_count": True}, "step_count: expected a whole number, got True"),
        ({"seed": 10**5000}, "seed: expected a whole number from -9223372036854775808 to "),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number, got nan"),
        ({"learning_rate": "0.1"}, "learning_rate: expected a finite number, got '0.1'"),
        ({"allow_partial": 2}, "allow_partial: expected True or False, got 2"),
        ({"head": b"zero"}, "head: expected one of trained, prototype, zero, ridge, got b'zero'"),
        ({"steps": 3}, "unknown option 'steps'; expected one of step_count, "),
    ],
)
def test_an_option_that_cannot_be_sent_is_named(
    client: Client, servicer: FakeServicer, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        client.adapt(IMAGES, [0, 1, 0, 1], model="omniglot", **options)  # type: ignore[arg-type] # that is the point

    assert servicer.requests == []


def test_the_handle_tells_what_the_server_answered(client: Client) -> None:
    handle = adapted(client)

    assert handle.id == "am-0"
    assert handle.class_names == ("cat", "dog")
    assert handle.weights_digest == "ab" * 32
    assert handle.expire_time == datetime(2026, 12, 1, 10, tzinfo=UTC)
    assert (handle.step_count, handle.support_accuracy) == (10, 0.75)
    assert handle.report is not None
    assert handle.report.stop_reason == "completed"
    assert handle.report.support_loss == (1.5, 0.5)
    assert handle.timing is not None
    assert handle.timing.compute_ms == 12
    assert handle.timing.round_trip_ms > 0


def test_predictions_come_in_the_order_of_the_queries(client: Client) -> None:
    result = adapted(client).predict(IMAGES[:3])

    assert result.labels.tolist() == ["cat", "dog", "cat"]
    assert result.probabilities.dtype == np.float32
    assert result.probabilities.tolist() == [[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]]
    assert result.class_names == ("cat", "dog")
    assert result.batch_norm_mode == "support"
    assert result.logits is None
    assert result.timing.decode_ms == 1.5


def test_integer_labels_stay_integers(client: Client) -> None:
    """As names, 10 would come before 9."""
    handle = adapted(client, [10, 9, 9, 10])

    assert handle.class_names == ("9", "10")
    assert handle.predict(IMAGES[:2]).labels.tolist() == [9, 10]


def test_a_looked_up_model_answers_class_names(client: Client) -> None:
    handle = client.get(adapted(client, [3, 4, 3, 4]).id)

    assert handle.predict(IMAGES[:2], batch_norm_mode="transductive").labels.tolist() == ["3", "4"]
    assert client.predict(handle.id, IMAGES[:1], return_logits=True).logits is not None


def test_adapt_and_predict_keeps_nothing(client: Client) -> None:
    result = client.adapt_and_predict(IMAGES, [7, 8, 7, 8], IMAGES[:2], model="omniglot")

    assert result.labels.tolist() == [7, 8]
    assert result.adapted_model == ""
    assert result.description is not None
    assert result.description.expire_time is None
    assert result.report is not None
    assert result.report.stop_reason == "time_budget"
    assert list(client.list()) == []


def test_list_goes_through_all_pages(client: Client, servicer: FakeServicer) -> None:
    handles = [adapted(client) for _ in range(5)]
    servicer.requests.clear()

    assert [model.id for model in client.list()] == [handle.id for handle in handles]
    assert len(servicer.requests) == 3


def test_delete_removes_the_model(client: Client) -> None:
    first, second = adapted(client), adapted(client)

    first.delete()

    assert [model.id for model in client.list()] == [second.id]


def test_export_writes_the_whole_file(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_text("an earlier export")

    adapted(client).export(path, batch_norm_mode="support")

    assert path.read_bytes().startswith(b"an ONNX file")
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_export_leaves_what_was_there(
    client: Client, servicer: FakeServicer, tmp_path: Path
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_text("an earlier export")
    servicer.damage_export = True

    with pytest.raises(DataLossError, match="arrived damaged"):
        adapted(client).export(path)

    assert path.read_text() == "an earlier export"
    assert list(tmp_path.iterdir()) == [path]


def test_an_export_that_cannot_be_written_blames_the_file(
    client: Client, servicer: FakeServicer, tmp_path: Path
) -> None:
    """Not the call, and before it is made; a file that is refused keeps what it has."""
    (tmp_path / "kept.onnx").touch(mode=0o444)
    handle = adapted(client)
    made = len(servicer.requests)

    for path, words in (
        (tmp_path / "nowhere" / "mine.onnx", "there is no folder .*nowhere; make it first"),
        (tmp_path / "kept.onnx", "kept.onnx: this file is read-only"),
        (tmp_path, "expected a file, got a directory"),
        ("a\0b", "expected a path without NUL"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            handle.export(path)
        assert "cannot call" not in str(caught.value)

    assert len(servicer.requests) == made


def test_an_export_goes_through_links_and_pipes(client: Client, tmp_path: Path) -> None:
    handle = adapted(client)
    (tmp_path / "link.onnx").symlink_to("target.onnx")
    read, write = os.pipe()  # holds a small export

    handle.export(tmp_path / "link.onnx")
    handle.export(f"/dev/fd/{write}")
    os.close(write)

    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == (tmp_path / "target.onnx").read_bytes() != b""
    assert (tmp_path / "link.onnx").is_symlink()


def test_capabilities_are_read(client: Client) -> None:
    capabilities = client.capabilities()

    assert capabilities.server_version == "1.2.3"
    assert capabilities.models["omniglot"].input_shape == (1, 28, 28)
    assert capabilities.models["omniglot"].heads == ("trained",)
    assert capabilities.models["omniglot"].calibrated_batch_norm_modes == ("support",)
    assert capabilities.models["omniglot"].labels == ("stable",)
    assert (capabilities.default_ttl, capabilities.request_id_ttl) == (3600, 600)
    assert (capabilities.tenant, capabilities.tenant_call_count) == ("acme", 8)


def test_further_versions_of_a_model_are_named_by_their_number() -> None:
    response = wire.GetCapabilitiesResponse()
    for version in (3, 2, 1):
        response.models.add(model="omniglot", version=version)

    models = decode_capabilities(response).models

    assert {name: model.version for name, model in models.items()} == {
        "omniglot": 3,
        "omniglot@2": 2,
        "omniglot@1": 1,
    }


def test_every_call_has_a_deadline(client: Client, servicer: FakeServicer, tmp_path: Path) -> None:
    handle = adapted(client)
    handle.predict(IMAGES)
    client.adapt_and_predict(IMAGES, [0, 1, 0, 1], IMAGES, model="omniglot")
    client.get(handle.id)
    list(client.list())
    handle.export(tmp_path / "mine.onnx")
    client.capabilities()
    handle.delete()

    assert len(servicer.remaining) == 8
    assert all(0 < seconds < 11 for seconds in servicer.remaining)


def test_the_deadline_is_thirty_seconds_unless_said(address: str, servicer: FakeServicer) -> None:
    with Client(address) as client:
        client.capabilities()
        client.adapt(IMAGES, [0, 1, 0, 1], model="omniglot", timeout=5)

    assert 20 < servicer.remaining[0] < 31
    assert 0 < servicer.remaining[1] < 6


@pytest.mark.usefixtures("unavailable")
def test_what_is_safe_is_tried_again_when_unavailable(
    client: Client, servicer: FakeServicer
) -> None:
    assert client.capabilities().server_version == "1.2.3"
    assert len(servicer.requests) == 2


@pytest.mark.usefixtures("unavailable")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("side", [4, 400])
def test_adapt_is_tried_again_as_the_same_request(
    client: Client, servicer: FakeServicer, side: int, stream: bool
) -> None:
    """Also with images of more than the 256 KiB that gRPC keeps by default."""
    images = np.zeros((2, 1, side, side), np.float32)
    if stream:
        client.adapt_stream(images, ["a", "b"]).result()
    else:
        client.adapt(images, ["a", "b"])

    first, second = servicer.requests
    assert isinstance(first, wire.AdaptRequest)
    assert first == second
    assert uuid.UUID(first.request_id).version == 4


def test_each_adaptation_has_a_request_id_of_its_own(
    client: Client, servicer: FakeServicer
) -> None:
    own = uuid.UUID(int=7)
    handles = [adapted(client), adapted(client)]
    handles.append(client.adapt(IMAGES, [0, 1, 0, 1], request_id=str(own)))
    handles.append(client.adapt(IMAGES, [0, 1, 0, 1], request_id=own))  # type: ignore[arg-type]

    first, second, *named = [getattr(request, "request_id", "") for request in servicer.requests]
    assert first != second
    assert named == [str(own)] * 2
    assert [handle.report.deduplicated for handle in handles if handle.report] == [
        False, False, False, True,
    ]  # fmt: skip
    with pytest.raises(InputError, match="request_id: expected a UUID, got 'mine'"):
        client.adapt(IMAGES, [0, 1, 0, 1], request_id="mine")


@pytest.mark.usefixtures("unavailable")
def test_an_adaptation_that_is_not_kept_is_not_tried_again(
    client: Client, servicer: FakeServicer
) -> None:
    with pytest.raises(UnavailableError):
        client.adapt_and_predict(IMAGES, [0, 1, 0, 1], IMAGES)

    assert len(servicer.requests) == 1


@pytest.fixture
def unavailable(servicer: FakeServicer) -> None:
    """Make the servicer refuse the next call, once."""
    servicer.refuse(Code.UNAVAILABLE, "not now", times=1)


@pytest.mark.parametrize(
    "timeout", [0, -1, -1e300, float("nan"), float("inf"), "long", True, 10**400]
)
def test_a_bad_timeout_is_refused(client: Client, timeout: float) -> None:
    with pytest.raises(InputError, match="expected a number of seconds above 0"):
        Client(client.address, timeout=timeout)
    with pytest.raises(InputError, match="expected a number of seconds above 0"):
        client.predict("am-1", IMAGES, timeout=timeout)


ID = "adapted_model: expected an AdaptedModel or its id, got "


@pytest.mark.parametrize("adapted_model", [None, b"am-1", "", 7])
def test_an_id_is_a_string(client: Client, tmp_path: Path, adapted_model: str) -> None:
    words = re.escape(f"{ID}{adapted_model!r}")
    with pytest.raises(InputError, match=words):
        client.get(adapted_model)
    with pytest.raises(InputError, match=words):
        client.delete(adapted_model)
    with pytest.raises(InputError, match=words):
        client.export(adapted_model, tmp_path / "mine.onnx")
    with pytest.raises(InputError, match=words):
        client.predict(adapted_model, IMAGES)


@pytest.mark.parametrize("path", [None, "", b"a.onnx", 7])
def test_an_export_needs_a_path(client: Client, path: str) -> None:
    words = re.escape(f"path: expected the path of a file, got {path!r}")
    with pytest.raises(InputError, match=words):
        adapted(client).export(path)


def test_words_that_the_wire_cannot_hold_are_refused(client: Client) -> None:
    with pytest.raises(InputError, match="adapted_model: expected valid Unicode, got"):
        client.get("\ud800")
    with pytest.raises(InputError, match="model: expected a string, got 7"):
        client.adapt(IMAGES, [0, 1, 0, 1], model=7)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InputError, match="model: expected a string, got None"):
        list(client.list(model=None))  # type: ignore[arg-type]  # what is tested
    for bound in ("0.1", float("nan"), True):
        with pytest.raises(InputError, match="reject_below: expected a finite number, got"):
            client.predict("am-1", IMAGES, reject_below=bound)  # type: ignore[arg-type]  # the same
    with pytest.raises(InputError, match="return_logits: expected True or False, got 'no'"):
        client.predict("am-1", IMAGES, return_logits="no")  # type: ignore[arg-type]  # the same


def test_numbers_of_any_type_are_sent(client: Client, servicer: FakeServicer) -> None:
    adapted(client)
    client.adapt(
        (image for image in IMAGES),  # type: ignore[arg-type]  # a generator is taken too
        np.array([0, 1, 0, 1]),
        model=np.str_("omniglot"),
        step_count=np.int64(3),
        learning_rate=np.float32(0.5),
        seed=np.uint64(2**63 - 1),
        ttl=np.int64(60),
        time_budget=np.timedelta64(1500, "ms"),  # type: ignore[arg-type]  # the same
        allow_partial=np.bool_(True),
        balance_classes=0,  # type: ignore[arg-type]  # the same
        timeout=Decimal(9),  # type: ignore[arg-type]  # the same
    )
    client.predict("am-0", IMAGES, return_logits=np.True_, reject_below=Fraction(1, 2))  # type: ignore[arg-type]

    request = servicer.requests[1]
    assert isinstance(request, wire.AdaptRequest)
    options = request.options
    assert (options.step_count, options.learning_rate, options.seed) == (3, 0.5, 2**63 - 1)
    assert (options.ttl.seconds, options.time_budget.ToMilliseconds()) == (60, 1500)
    assert (options.allow_partial, options.balance_classes) == (True, False)


@pytest.mark.parametrize("timeout", [1e10, 1e300, timedelta.max, np.float32(1e12)])
def test_a_long_timeout_is_not_over_at_once(client: Client, timeout: float) -> None:
    with Client(client.address, timeout=timeout) as patient:
        assert patient.capabilities().server_version == "1.2.3"
        assert patient.adapt(IMAGES, [0, 1, 0, 1], timeout=timeout).id == "am-0"


def test_names_of_classes_are_sent_once(client: Client, servicer: FakeServicer) -> None:
    adapted(client).predict(IMAGES)
    client.adapt_and_predict(IMAGES, [0, 1, 0, 1], IMAGES)

    for request in servicer.requests[1:]:
        assert isinstance(request, wire.PredictRequest | wire.AdaptAndPredictRequest)
        assert request.omit_class_names


def test_clients_and_handles_are_not_copied(client: Client) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"make one where it is needed, Client\('127"):
            attempt(client)
        with pytest.raises(TypeError, match=r"pass its id, .*\.get\('am-0'\)"):
            attempt(adapted(client))
        client.delete("am-0")


def test_a_closed_client_says_so(client: Client, tmp_path: Path) -> None:
    client.close()

    with pytest.raises(InputError, match="this client is closed; make a new one"):
        client.capabilities()
    with pytest.raises(InputError, match="this client is closed; make a new one"):
        client.export("am-1", tmp_path / "mine.onnx")
