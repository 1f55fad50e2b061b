"""A bundle whose tail adapts: its answers are PyTorch's, and survive deaths and eviction."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from kshot.bundle import Bundle, Head, Preconditioner, prepare
from kshot.client import AdaptedModel, Client, DeadlineExceededError, UnavailableError
from kshot.learner import (
    Initialization,
    RefinementTask,
    Tail,
    mixed_logits,
    refine,
    split_maps,
    start_state,
)
from kshot.server.predict.crops import cut, draw_windows

StartServer = Callable[..., AbstractContextManager[Any]]
SEED, BUDGET = 3, 600.0
GRAY = np.array([90, 120, 150, 170, 200], np.uint8)


def pictures(shot: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """Stripes of five widths on five shades, with noise: alike for means, unlike for a network."""
    generator = np.random.default_rng(seed)
    labels = [*range(5)] * shot
    columns = np.arange(16)
    images = np.empty((len(labels), 16, 16, 3))
    for image, label in zip(images, labels, strict=True):
        image[:] = GRAY[generator.integers(5)]
        image += 60 * np.sign(np.sin(columns * (label + 1) / 2 + generator.uniform(0, 6)))[:, None]
    noisy = images + generator.normal(0, 20, images.shape)
    return noisy.clip(0, 255).astype(np.uint8), labels


def adapt(client: Client, shot: int = 4, scope: str = "auto") -> AdaptedModel:
    images, labels = pictures(shot, 1)
    return client.adapt(images, labels, model="tailed", seed=SEED, time_budget=BUDGET, scope=scope)


def reference(
    bundle: Bundle, shot: int, fold_step_count: int, crop_count: int
) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """Adapt with the learner alone; return the tail's weight, and what answers queries."""
    manifest = bundle.manifest
    spec, files = manifest.tail, bundle.read_tail()
    assert spec is not None
    assert files is not None
    session = onnxruntime.InferenceSession(
        bundle.path / "encoder.onnx", providers=["CPUExecutionProvider"]
    )

    def encoded(images: np.ndarray) -> list[torch.Tensor]:
        outputs = session.run(["encoded", "maps"], {"images": images})
        return [torch.from_numpy(output) for output in outputs]

    images, labels = pictures(shot, 1)
    prepared, classes = prepare(images, manifest.input), torch.tensor(labels)
    given, originals = encoded(prepared)
    windows = draw_windows(crop_count * len(labels), prepared.shape[1:], SEED)
    _, crops = encoded(cut(np.concatenate([prepared] * crop_count), windows))
    maps = torch.cat([originals[None], crops.reshape(crop_count, *originals.shape)])
    state = start_state(
        Initialization.from_bundle(bundle, torch.device("cpu")),
        5,
        head=Head.RIDGE,
        preconditioner=Preconditioner.FRESH,
        support=given,
        classes=classes,
    )
    assert state.held_out_logits is not None
    head = {name: value[0] for name, value in state.layout.split(state.parameters).items()}
    tail, start = Tail(spec), {k: torch.from_numpy(v) for k, v in files.parameters.items()}
    task = RefinementTask(maps, classes, 5, state.held_out_logits, 20, fold_step_count, SEED)
    steps = refine(tail, start, task)
    try:
        while True:
            next(steps)
    except StopIteration as done:
        refined = done.value

    def answer(queries: np.ndarray) -> np.ndarray:
        inputs, _ = encoded(prepare(queries, manifest.input))
        logits = inputs[:, : manifest.feature_count, 0, 0] @ head["head.weight"].T
        logits += head["head.bias"]
        if refined.weight:
            named = refined.parameters
            of_tail = tail.logits(named, split_maps(spec, inputs))
            logits = mixed_logits(logits, of_tail, named["tail.mix"])
        return logits.softmax(dim=1).numpy()

    return refined.weight, answer


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_servers_answer_is_pytorchs_before_and_after_a_kill(
    start_server: StartServer, tail_bundle: Bundle, tmp_path: Path
) -> None:
    """With one example and with folds; so is an export's, with ONNX Runtime alone."""
    queries, _ = pictures(6, 2)
    inputs = prepare(queries, tail_bundle.manifest.input)
    started = tmp_path / "store", tmp_path / "log", "--bundle", str(tail_bundle.path)
    answered = []
    with (
        start_server(*started) as server,
        Client(server.address, timeout=120) as client,
    ):
        for shot, fold_steps, crops in ((1, 0, 4), (4, 12, 2)):
            weight, answer = reference(tail_bundle, shot, fold_steps, crops)
            wanted = answer(queries)
            assert weight > 0
            adapted = adapt(client, shot)
            report = adapted.report.tail
            assert report is not None
            assert report.weight == pytest.approx(weight, rel=1e-4)
            assert (report.step_count, report.fold_step_count) == (20, fold_steps)
            found = adapted.predict(queries).probabilities
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
            exported = onnxruntime.InferenceSession(
                adapted.export(tmp_path / f"{shot}.onnx"), providers=["CPUExecutionProvider"]
            )
            (logits,) = exported.run(None, {"inputs": inputs})
            np.testing.assert_allclose(softmax(logits), wanted, rtol=0, atol=1e-4)
            answered.append((adapted.id, found))
        head = adapt(client, scope="head")
        assert head.report.tail is None
        answered.append((head.id, head.predict(queries).probabilities))
        server.process.kill()

    with (  # no room in memory: every answer reads the store
        start_server(*started, "--cache-bytes", "1") as server,
        Client(server.address, timeout=120) as client,
    ):
        for _ in range(2):
            for name, found in answered:
                np.testing.assert_array_equal(
                    client.get(name).predict(queries).probabilities, found
                )
        assert server.stop() == 0


def test_a_tail_is_the_requests_alone_and_ends_with_its_engine(
    start_server: StartServer, tail_bundle: Bundle, tmp_path: Path
) -> None:
    """Equal requests give equal tails, before and after the engine dies under one."""
    images, labels = pictures(4, 1)
    with (
        start_server(
            tmp_path / "store", tmp_path / "log", "--bundle", str(tail_bundle.path)
        ) as server,
        Client(server.address, timeout=120) as client,
    ):
        short = client.adapt(images, labels, model="tailed", time_budget=0.001)

        report = short.report.tail
        assert report is not None
        assert (report.weight, report.step_count) == (0, 0)
        assert report.needed_time > 0.001
        (warning,) = [each for each in short.report.warnings if "time_budget" in each]
        assert "0.001 s is too short" in warning
        head = adapt(client, scope="head")
        assert short.weights_digest == head.weights_digest

        adapted = adapt(client)
        assert adapted.weights_digest != head.weights_digest
        assert adapted.description.adaptation_digest != head.description.adaptation_digest
        before = adapted.predict(images).probabilities
        for _ in range(10):  # a busy model gets a session of its own, which rounds otherwise
            again = adapted.predict(images).probabilities
            np.testing.assert_allclose(again, before, rtol=0, atol=1e-5)

        engine = server.engine_pid()
        os.kill(engine, signal.SIGSTOP)
        with (
            Client(server.address, timeout=1) as impatient,
            # The client repeats the call: it ends well if the next engine is there in time.
            suppress(DeadlineExceededError, UnavailableError),
        ):
            late = impatient.adapt(images, labels, model="tailed", seed=SEED, time_budget=BUDGET)
            assert late.weights_digest == adapted.weights_digest
        with suppress(ProcessLookupError):  # noticed, and replaced
            os.kill(engine, signal.SIGKILL)
        again = adapted.predict(images).probabilities
        np.testing.assert_allclose(again, before, rtol=0, atol=1e-5)
        until = time.monotonic() + 60
        while True:
            try:
                second = adapt(client)
                break
            except UnavailableError as error:
                assert error.retry_after is not None
                assert time.monotonic() < until, "the engine did not come back"
                threading.Event().wait(error.retry_after)
        assert second.weights_digest == adapted.weights_digest
        assert second.description.adaptation_digest == adapted.description.adaptation_digest
        assert server.stop() == 0
