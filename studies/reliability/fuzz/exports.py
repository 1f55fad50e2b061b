"""Exported models that come back: ONNX files with metadata, read without being run."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from kshot.bundle import BatchNormMode, Bundle
from kshot.server.errors import RequestError
from kshot.server.lives.exported_file import read_exported
from kshot.server.lives.upload import UploadHeader
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.predict.export import export_model
from kshot.server.request.digest import weights_digest
from kshot.server.request.options import Bounds, TtlLimits, resolve_options
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from studies.reliability.fuzz.mutation import bytes_like, json_like, message_like
from studies.reliability.fuzz.target import Target

_MODULES = (
    "kshot.server.limits.message_scan",
    "kshot.server.lives.export_facts",
    "kshot.server.lives.exported_file",
)
_TTL = TtlLimits(3600.0, 7200.0)
_SUPPORT_COUNT = 10


def target(bundles: Sequence[Path]) -> Target:
    """Import files; none may bring other numbers than those that were exported."""
    catalog = Catalog.load(bundles)
    files = [_export(model.bundle) for model in catalog]
    contents = [content for content, _ in files]
    digests = {digest for _, digest in files}

    def draw(chance: random.Random) -> bytes:
        content, kind = chance.choice(contents), chance.random()
        if kind < 0.3:
            return bytes_like(chance, content, contents)
        model = onnx.ModelProto.FromString(content)
        if kind < 0.7:
            message_like(chance, model if kind < 0.5 else model.graph)
        else:
            entry = chance.choice(model.metadata_props)
            if entry.key == "kshot.adaptation":
                entry.value = json.dumps(json_like(chance, json.loads(entry.value)))
            else:
                message_like(chance, entry)
        return bytes(model.SerializeToString())

    def find(name: str, digest: str) -> ServedModel | None:
        model = catalog.find(name) if name in catalog else None
        return model if model is not None and model.bundle.digest == digest else None

    def run(content: bytes) -> bool:
        header = UploadHeader(hashlib.sha256(content).hexdigest())
        try:
            adapted, arrays = read_exported(content, header, find, _TTL)
            if not {weights_digest(arrays.parameters), adapted.weights_digest} <= digests:
                raise AssertionError("accepted other numbers")
        except RequestError:
            pass
        try:
            onnx.ModelProto.FromString(content)
        except DecodeError:
            return False
        return True

    return Target(draw, run, _MODULES)


def _export(bundle: Bundle) -> tuple[bytes, str]:
    """Return an export of a bundle's own weights, and their digest."""
    manifest, parameters = bundle.manifest, bundle.read_weights().parameters
    way = len(parameters["head.bias"])
    modes = manifest.batch_norm.allowed
    mode = BatchNormMode.TRANSDUCTIVE if BatchNormMode.TRANSDUCTIVE in modes else modes[0]
    options = resolve_options({}, Bounds(manifest, way, _SUPPORT_COUNT, _TTL), Violations())
    digest = weights_digest(parameters)
    adapted = AdaptedModelRecord(
        id="",
        model=manifest.name,
        bundle_digest=bundle.digest,
        weights_digest=digest,
        adaptation_digest="d" * 64,
        class_names=tuple(f"class {index}" for index in range(way)),
        options=options,
        create_time=0.0,
        expire_time=0.0,
        size_bytes=0,
        step_count=options.step_count,
        support_accuracy=0.5,
        support_count=_SUPPORT_COUNT,
    )
    support = np.empty((_SUPPORT_COUNT, 0, 1, 1), np.float32)
    return export_model(bundle, AdaptedArrays(parameters, {}, support), adapted, mode), digest
