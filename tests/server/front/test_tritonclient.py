"""The public client of the Open Inference Protocol, as it is, talks to a server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from PIL import Image

from kshot.bundle import Bundle
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from tests.server.front.secured import Secured, bearer

Make = Callable[..., Any]
LOCK = Path(__file__).with_name("tritonclient.lock")
PROGRAM = Path(__file__).with_name("tritonclient_calls.py")
# Set where the packages must be there, as in CI: then this test is not skipped.
REQUIRED = "KSHOT_TEST_TRITONCLIENT"
IMAGES = np.random.default_rng(3).integers(0, 256, (3, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def tritonclient_python(pytestconfig: pytest.Config) -> Path:
    """The Python of an environment with the client, which is kept from one run to the next."""
    key = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = Path(pytestconfig.cache.mkdir("tritonclient")) / key  # type: ignore[union-attr]  # its plugin is on
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    venv.create(folder, with_pip=False, clear=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--require-hashes",
        "-r",
        str(LOCK),
    ]
    done = subprocess.run([*pip, *install], capture_output=True, text=True, check=False)
    if done.returncode and REQUIRED not in os.environ:
        pytest.skip(f"pip cannot install tritonclient: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    complete.touch()
    return python


def file_of(image: np.ndarray[Any, Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def adapt(stub: AdaptationServiceStub, metadata: Any) -> wire.AdaptedModel:  # noqa: ANN401 -- pairs of strings
    images = np.random.default_rng(0).random((6, 1, 8, 8), np.float32)
    tensor = wire.Tensor(datatype="FP32", shape=images.shape, data=images.tobytes())
    support = wire.SupportSet(
        images=wire.Images(tensor=tensor), class_indices=[0, 0, 1, 1, 2, 2], class_names="abc"
    )
    request = wire.AdaptRequest(model="encoded", support_set=support)
    return stub.Adapt(request, metadata=metadata, timeout=60).adapted_model


@pytest.fixture(params=["plain text", "TLS and a key"])
def asked(
    request: pytest.FixtureRequest,
    make_config: Make,
    tiny_bundle: Bundle,
    encoder_bundle: Bundle,
    run_in_thread: Make,
    tmp_path: Path,
    pipes: object,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[dict[str, Any]]:
    """A server, with what the program needs to ask it and what the native service answers."""
    secured = Secured.create(tmp_path, trustme.CA()) if request.param != "plain text" else None
    settings = {} if secured is None else secured.settings("tls")
    key = "" if secured is None else secured.keys["right"]
    bundles = (tiny_bundle.path, encoder_bundle.path)
    with run_in_thread(make_config(bundles=bundles, **settings)) as server:
        channel = server.channel if secured is None else secured.channel(server.address, "tls")
        stub, metadata = AdaptationServiceStub(channel), bearer(key or None)
        model = adapt(stub, metadata)
        tensor = wire.Tensor(datatype="UINT8", shape=IMAGES.shape, data=IMAGES.tobytes())
        query = wire.PredictRequest(
            adapted_model=model.id,
            queries=wire.Images(tensor=tensor),
            return_logits=True,
            top_k=2,
        )
        yield {
            "address": server.address,
            "key": key,
            "ca": "" if secured is None else str(tmp_path / "ca.pem"),
            "model": model.id,
            "images": IMAGES.tolist(),
            "files": [file_of(image) for image in IMAGES],
            "native": stub.Predict(query, metadata=metadata, timeout=60),
        }
        channel.close()


def test_tritonclient_works_as_it_is(asked: dict[str, Any], tritonclient_python: Path) -> None:
    native = asked.pop("native")
    done = subprocess.run(
        [tritonclient_python, "-I", PROGRAM],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, model = json.loads(done.stdout), asked["model"]

    assert found["live"] and found["ready"]
    assert found["models_ready"] == {model: True, "encoded": True, "nothing": False}
    assert found["server"]["name"] == "kshot"
    assert found["model"]["inputs"][0]["name"] == "images"
    assert [each["name"] for each in found["model"]["outputs"]] == ["probabilities", "labels"]

    probabilities, logits = (
        np.frombuffer(getattr(native, name).data, "<f4") for name in ("probabilities", "logits")
    )
    labels = [each.class_name for each in native.predictions]
    for answer in (*found["by_datatype"].values(), found["compressed"], found["later"]):
        assert answer["outputs"]["labels"] == labels
        assert answer["version"] == "1"
        np.testing.assert_allclose(answer["outputs"]["probabilities"], probabilities, atol=1e-5)
    assert found["chosen"]["id"] == "mine"
    assert list(found["chosen"]["outputs"]) == ["logits", "probabilities"]
    np.testing.assert_allclose(found["chosen"]["outputs"]["logits"], logits, atol=1e-4)
    assert found["best"]["shapes"]["labels"] == [3, 2]
    assert found["best"]["outputs"]["labels"] == [
        each.class_name for prediction in native.predictions for each in prediction.top_classes
    ]
    pooled = (IMAGES / 255).reshape(3, 4, 2, 4, 2).mean(axis=(2, 4)).ravel()
    np.testing.assert_allclose(found["embedding"]["outputs"]["embedding"], pooled, atol=1e-5)

    codes = {name: code for name, (code, _) in found["refused"].items()}
    assert codes == {
        "adapt first": "StatusCode.FAILED_PRECONDITION",
        "nothing": "StatusCode.NOT_FOUND",
        "parameter": "StatusCode.INVALID_ARGUMENT",
        "no key": "StatusCode.UNAUTHENTICATED" if asked["key"] else "OK",
    }
    assert "adapt it first" in found["refused"]["adapt first"][1]
