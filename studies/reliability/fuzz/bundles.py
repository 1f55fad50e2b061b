"""What a user brings: manifests of bundles, and ONNX files of encoders."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from kshot.bundle import BundleError, load_bundle, manifest_document
from kshot.bundle.schema import read_manifest
from kshot.trainer.bundling.encoder_file import read_encoder
from kshot.trainer.errors import EncoderError
from studies.reliability.bundles import encoder_content
from studies.reliability.fuzz.mutation import bytes_like, json_like, message_like
from studies.reliability.fuzz.target import Target

_SHAPE = (3, 8, 8)


def manifest_target(bundles: Sequence[Path]) -> Target:
    """Read manifests."""
    documents = [manifest_document(load_bundle(path).manifest) for path in bundles]
    texts = [json.dumps(document).encode() for document in documents]

    def draw(chance: random.Random) -> bytes:
        if chance.random() < 0.3:
            return bytes_like(chance, chance.choice(texts), texts)
        return json.dumps(json_like(chance, chance.choice(documents))).encode()

    def run(content: bytes) -> bool:
        try:
            read_manifest(content)
        except BundleError:
            try:
                json.loads(content)
            except (ValueError, RecursionError):
                return False
        return True

    return Target(draw, run, ("kshot.bundle.document", "kshot.bundle.schema"))


def encoder_target(folder: Path) -> Target:
    """Bring ONNX files into a bundle's form; each lies in `folder`."""
    content = encoder_content()
    base = onnx.ModelProto.FromString(content)

    def draw(chance: random.Random) -> bytes:
        if chance.random() < 0.3:
            return bytes_like(chance, content)
        model = onnx.ModelProto()
        model.CopyFrom(base)
        message_like(chance, model if chance.random() < 0.2 else model.graph)
        return bytes(model.SerializeToString())

    path = folder / "encoder.onnx"

    def run(content: bytes) -> bool:
        path.write_bytes(content)
        with suppress(EncoderError):
            read_encoder(path, _SHAPE)
        try:
            onnx.ModelProto.FromString(content)
        except DecodeError:
            return False
        return True

    modules = ("kshot.trainer.bundling.encoder_file", "kshot.trainer.bundling.encoder_graph")
    return Target(draw, run, modules)
