"""The bundles that are served by default, on pictures as people send them."""

import os
import signal
import socket
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_digits

from kshot.bundle import Bundle, BundleError, load_bundle, locate_bundle, prepare
from kshot.client import Client

StartServer = Callable[..., AbstractContextManager[Any]]
# Frames of HTTP/2: three bytes of length, type, flags, four of the stream.
PREFACE, EMPTY_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FAREWELL = b"\x1b[31mfarewell"
GOAWAY = bytes([0, 0, 8 + len(FAREWELL), 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]) + FAREWELL
ECHO = b"anything"
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + ECHO
PARTS = (slice(0, 5), slice(5, 20))  # of a class: examples and queries


def test_digits_as_they_come_are_drawings(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8x8 pixels, bright ink on a dark ground; three tasks of five digits with five examples.

    ONNX Runtime keeps what it reports to its maker in the cache's folder: nothing. What a caller
    says of the end of its connection is not written among the lines of the log.
    """
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    right = []
    with (
        start_server(tmp_path / "store", tmp_path / "log", "--bundle", "drawings") as server,
        Client(server.address, timeout=120) as client,
    ):
        for seed in range(3):
            generator = np.random.default_rng(seed)
            drawn = generator.choice(10, 5, replace=False)
            rows = [generator.permutation(np.flatnonzero(digits.target == one)) for one in drawn]
            support, queries = (np.concatenate([each[part] for each in rows]) for part in PARTS)
            adapted = client.adapt(images[support], digits.target[support], model="drawings")
            answers = adapted.predict(255 - images[queries])  # the other polarity
            right.append(answers.labels == digits.target[queries])
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(PREFACE + EMPTY_SETTINGS + GOAWAY + PING)
            answer = b""
            while ECHO not in answer:
                part = connection.recv(4096)
                assert part
                answer += part

    assert np.mean(right) > 0.93
    assert not (tmp_path / "cache" / "Microsoft").exists()
    assert FAREWELL not in (tmp_path / "log").read_bytes()


@pytest.fixture
def photos() -> Bundle:
    try:
        return load_bundle(locate_bundle("photos"))
    except BundleError:
        pytest.skip("`kshot bundle build photos` has not built the bundle")


@pytest.fixture
def groceries() -> tuple[list[bytes], list[str], list[bytes], list[str]]:
    """Five classes: five examples and ten queries each, with their labels."""
    path = Path(os.environ.get("KSHOT_DATA", "/nonexistent")) / "pictures" / "grocery.tar"
    if not path.exists():
        pytest.skip("KSHOT_DATA names no folder with pictures/grocery.tar")
    found: dict[str, list[bytes]] = {}
    with tarfile.open(path) as archive:
        for item in archive:
            if (stream := archive.extractfile(item)) is not None:
                found.setdefault(item.name.split("/")[1], []).append(stream.read())
    names = sorted(found)[:5]
    return (
        [picture for name in names for picture in found[name][:5]],
        [name for name in names for _ in range(5)],
        [picture for name in names for picture in found[name][5:15]],
        [name for name in names for _ in range(10)],
    )


def test_photographs_survive_a_kill_and_leave_as_one_file(
    start_server: StartServer,
    photos: Bundle,
    groceries: tuple[list[bytes], list[str], list[bytes], list[str]],
    tmp_path: Path,
) -> None:
    """The exported file answers alike with ONNX Runtime alone."""
    support, labels, queries, wanted = groceries
    options = (tmp_path / "store", tmp_path / "log", "--bundle", "photos")
    with start_server(*options) as server, Client(server.address, timeout=120) as client:
        adapted = client.adapt(support, labels, model="photos")
        before = adapted.predict(queries)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(timeout=60)
    with start_server(*options) as server, Client(server.address, timeout=120) as client:
        again = client.get(adapted.id)
        after = again.predict(queries)
        path = again.export(tmp_path / "groceries.onnx")

    assert np.mean([label == name for label, name in zip(before.labels, wanted, strict=True)]) > 0.8
    assert adapted.report is not None
    assert adapted.report.estimate is not None
    assert adapted.report.estimate.accuracy > 0.7
    np.testing.assert_allclose(after.probabilities, before.probabilities, rtol=0, atol=1e-5)
    assert before.known_scores is not None
    assert after.known_scores is not None
    np.testing.assert_allclose(after.known_scores, before.known_scores, rtol=0, atol=1e-4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"inputs": prepare(queries, photos.manifest.input)})
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, before.probabilities, rtol=0, atol=1e-4)
