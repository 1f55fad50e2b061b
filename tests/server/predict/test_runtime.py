from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from kshot.bundle import COMPUTED_MODES, Bundle
from kshot.server.predict import runtime as runtime_module
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Machine:
    """A machine with a GPU, as far as ONNX Runtime tells: what it was asked for, what it gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.built_with = [CUDA, CPU]
        self.gives = CUDA
        self._open = onnxruntime.InferenceSession
        monkeypatch.setattr(runtime_module, "_gpu_there", lambda: True)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: self.built_with)
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.open)

    def open(self, model: object, options: object, providers: list[Any], **_: object) -> object:
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        self.asked.append(first)
        if first == CUDA and self.gives == "an error":
            raise RuntimeError("cuDNN 9 is missing\n at line 7 of a file")
        session = self._open(model, options, providers=[CPU])
        given = [self.gives, CPU] if first == CUDA else [CPU]
        return SimpleNamespace(
            get_providers=lambda: given,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.fields["reason"]
        for record in caplog.records
        if record.message == "predict_on_cpu" and record.levelno == logging.WARNING
    ]


def predictors(runtime: Runtime, bundle: Bundle) -> list[Predictor]:
    return [Predictor(bundle, runtime) for _ in range(2)]


def test_a_gpu_is_used_without_a_word(
    machine: Machine, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime("auto")
    predictors(runtime, tiny_bundle)

    assert runtime.on_gpu
    assert set(machine.asked) == {CUDA}
    assert reasons(caplog) == []


def test_an_unusable_gpu_is_logged_once(
    machine: Machine, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    machine.built_with = [CPU]
    runtime = Runtime("auto")
    predictors(runtime, tiny_bundle)

    assert not runtime.on_gpu
    assert set(machine.asked) == {CPU}
    assert reasons(caplog) == ["this onnxruntime is built for CPUs; install onnxruntime-gpu"]


@pytest.mark.parametrize(
    ("gives", "reason"),
    [
        (CPU, "ONNX Runtime could not load its CUDA provider"),
        ("an error", "cuDNN 9 is missing"),
    ],
)
def test_a_missing_provider_is_logged_once(
    machine: Machine,
    tiny_bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    gives: str,
    reason: str,
) -> None:
    machine.gives = gives
    runtime = Runtime("auto")
    predictors(runtime, tiny_bundle)

    assert not runtime.on_gpu
    assert machine.asked.count(CUDA) == 1
    assert machine.asked.count(CPU) == 2 * len(COMPUTED_MODES)
    assert reasons(caplog) == [reason]
    assert capfd.readouterr() == ("", "")


def test_the_cpu_is_taken_where_it_was_asked_for(
    machine: Machine, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    predictors(Runtime("cpu"), tiny_bundle)

    assert set(machine.asked) == {CPU}
    assert reasons(caplog) == []


def test_on_a_gpu_no_model_gets_a_session_of_its_own(machine: Machine, tiny_bundle: Bundle) -> None:
    hot_set = HotSet(8)

    assert Predictor(tiny_bundle, Runtime("cuda"), hot_set)._hot_set is None
    machine.gives = CPU
    assert Predictor(tiny_bundle, Runtime("cuda"), hot_set)._hot_set is hot_set


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_not_there(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: [Path("/dev/nvidia0")])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runtime_module._gpu_there()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not runtime_module._gpu_there()
