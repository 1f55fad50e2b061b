"""An export comes back into a server as a model that answers as the one it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

Make = Callable[..., Any]


def exported(stub: AdaptationServiceStub, model: str) -> bytes:
    request = wire.ExportAdaptedModelRequest(adapted_model=model)
    return b"".join(each.chunk for each in stub.ExportAdaptedModel(request))


def parts(
    content: bytes, sha256: str = "", size: int = 20_000
) -> Iterator[wire.ImportAdaptedModelRequest]:
    header = wire.ImportHeader(sha256=sha256 or hashlib.sha256(content).hexdigest())
    header.ttl.FromSeconds(60)
    yield wire.ImportAdaptedModelRequest(header=header)
    for start in range(0, len(content), size):
        yield wire.ImportAdaptedModelRequest(chunk=content[start : start + size])


def test_an_import_answers_as_the_original(
    stub: AdaptationServiceStub, adapt_request: Make, queries: Make, refusal: Make
) -> None:
    """Bit for bit; it can be exported and imported again, but not revised."""
    original = stub.Adapt(adapt_request(seed=3)).adapted_model
    content = exported(stub, original.id)

    imported = stub.ImportAdaptedModel(parts(content)).adapted_model

    first, second = (
        stub.Predict(wire.PredictRequest(adapted_model=each, queries=queries(), return_logits=True))
        for each in (original.id, imported.id)
    )
    assert first.logits == second.logits
    assert imported.id != original.id
    assert imported.weights_digest == original.weights_digest
    assert imported.adaptation_digest == original.adaptation_digest
    assert imported.class_names == original.class_names
    assert imported.options.retain_support is False
    assert imported.expire_time.seconds - imported.create_time.seconds == 60
    again = stub.ImportAdaptedModel(parts(exported(stub, imported.id))).adapted_model
    assert again.weights_digest == original.weights_digest
    revised = refusal(
        lambda: stub.ReviseAdaptedModel(wire.ReviseAdaptedModelRequest(adapted_model=imported.id))
    )
    assert revised.reason == "SUPPORT_NOT_KEPT"


def test_other_uploads_are_refused(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Make
) -> None:
    content = exported(stub, stub.Adapt(adapt_request()).adapted_model.id)
    header, *chunks = parts(content)
    mistakes = {
        "header": [chunks[0]],
        "chunk": [header, header],
        "header.sha256": parts(content, sha256="0" * 64),
    }

    for field, requests in mistakes.items():
        refused = refusal(lambda sent=requests: stub.ImportAdaptedModel(iter(sent)))
        assert set(refused.violations) == {field}
    cut = refusal(lambda: stub.ImportAdaptedModel(parts(content[:-9])))
    assert "an ONNX file, got other bytes" in cut.text
