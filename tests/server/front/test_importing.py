"""An export comes back into a server as a model that answers as the one it was made of."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import onnx
import pytest

from kshot.bundle import BatchNormMode, Bundle
from kshot.server.access.limits import Limits
from kshot.server.access.quotas import Quotas
from kshot.server.admission import Admission
from kshot.server.call_context import begin_call
from kshot.server.errors import ImportNotServed
from kshot.server.front import Front
from kshot.server.lives.upload import UploadHeader
from kshot.server.predict.catalog import Catalog
from kshot.server.predict.export import export_model
from kshot.server.request.digest import weights_digest
from kshot.server.store.adapted_model import AdaptedArrays
from kshot.server.workers import Workers
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


def test_a_file_does_not_choose_the_name_of_its_bundle(
    make_config: Make, calibrated_bundle: Bundle, make_arrays: Make, make_model: Make
) -> None:
    """A tenant may not import a model that it may not use by naming one that it may."""
    name = calibrated_bundle.manifest.name
    front_of = _importing(make_config, calibrated_bundle)
    arrays = make_arrays(2, way=3, support_count=7)
    content = _export(calibrated_bundle, arrays, make_model)
    renamed = onnx.load_from_string(content)
    for entry in renamed.metadata_props:
        entry.value = "other" if entry.key == "kshot.model" else entry.value

    async def import_it(sent: bytes, allowed: str) -> Any:  # noqa: ANN401 -- the fake store's answer
        begin_call("ImportAdaptedModel").tenant = "barred"
        workers = Workers()
        header = UploadHeader(hashlib.sha256(sent).hexdigest())
        try:
            return await front_of(workers, allowed).import_model(header, _chunks(sent))
        finally:
            await workers.close()

    assert asyncio.run(import_it(content, name)).model == name
    for sent, allowed in ((content, "other"), (renamed.SerializeToString(), "other")):
        with pytest.raises(ImportNotServed):
            asyncio.run(import_it(sent, allowed))


class _Kept:
    async def keep(self, adapted: Any, _arrays: AdaptedArrays) -> Any:  # noqa: ANN401 -- a record
        return adapted


def _importing(make_config: Make, bundle: Bundle) -> Callable[[Workers, str], Front]:
    """Return how to make a front that only imports, for a tenant with one model."""
    catalog = Catalog.load([bundle.path])

    def make(workers: Workers, allowed: str) -> Front:
        return Front(
            config=make_config(),
            catalog=catalog,
            engine=cast(Any, None),
            kept_models=cast(Any, _Kept()),
            workers=workers,
            batches=cast(Any, None),
            encodings=cast(Any, None),
            decoders=cast(Any, None),
            adapting=Admission(1),
            predicting=Admission(1),
            quotas=Quotas(lambda _: Limits(models=(allowed,))),
        )

    return make


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _export(bundle: Bundle, arrays: AdaptedArrays, make_model: Make) -> bytes:
    adapted = replace(
        make_model(way=3),
        model=bundle.manifest.name,
        bundle_digest=bundle.digest,
        weights_digest=weights_digest(arrays.parameters),
        support_count=len(arrays.support),
    )
    return export_model(bundle, arrays, adapted, BatchNormMode.SUPPORT)
