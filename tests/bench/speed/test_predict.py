import json
from dataclasses import replace
from typing import Any

import click
import numpy as np
import pytest
import torch

from kshot.__main__ import main
from kshot.bench.speed import predict_contenders
from kshot.bench.speed.predict import compare
from kshot.bench.speed.predict_contenders import (
    Answer,
    constants,
    eager,
    inputs,
    make_model,
    noise,
)
from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    Calibration,
    TemperatureRule,
    builtin_bundle,
    load_bundle,
)
from kshot.server.predict import predictor
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime

CPU = torch.device("cpu")
MODES = COMPUTED_MODES


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(builtin_bundle("omniglot"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["bench", "predict", "--device", "cpu", "--json", *arguments]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_every_mode_and_image_count_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    document = run(capsys, "--rounds", "2", "--images", "3,1", "--way", "2")

    assert document["device"] == "cpu"
    assert document["rounds"] == 2
    assert document["options"]["bundle"] == "omniglot/2"
    assert document["options"]["way"] == 2
    assert "onnxruntime" in document["environment"]
    found = [(item["batch_norm_mode"], item["images"]) for item in document["answers"]]
    assert found == [(mode.value, images) for mode in MODES for images in (1, 3)]
    for item in document["answers"]:
        assert item["ms"].keys() == {"constants", "inputs", "eager"}
        assert item["ratio_vs_eager"].keys() == {"constants", "inputs"}
        for times in item["ms"].values():
            assert 0 < times["p50"] <= times["p95"] <= times["p99"]
        assert min(item["ratio_vs_eager"].values()) > 0
        assert item["ratio_constants_vs_inputs"] > 0
    assert document["make_session_ms"].keys() == {mode.value for mode in MODES}
    assert all(times["p50"] > 0 for times in document["make_session_ms"].values())


def test_one_mode_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    document = run(capsys, "--rounds", "1", "--images", "1", "--batch-norm-mode", "transductive")

    assert [item["batch_norm_mode"] for item in document["answers"]] == ["transductive"]


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "predict", "--device", "cpu", "--rounds", "1", "--images", "1"]) == 0

    captured = capsys.readouterr()
    assert "Answers on cpu, 5-way 1-shot" in captured.out
    for name in ("weights as constants", "weights as inputs", "PyTorch"):
        assert f"support_and_query, 1 images: {name}" in captured.out
    assert "Making a session with constants, transductive" in captured.out
    assert "transductive, 1 images, 1 rounds" in captured.err


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("mode", MODES)
def test_all_contenders_answer_the_same(
    bundle: Bundle, mode: BatchNormMode, temperature: float
) -> None:
    """In `transductive` a query among others has another answer than alone, elsewhere the same."""
    rules = (TemperatureRule(mode, 5, temperature),)
    fitted = Calibration(rules, "val", "d4", 5, task_count=9, query_count=2, step_count=10, seed=0)
    bundle = replace(bundle, manifest=replace(bundle.manifest, calibration=fitted))
    model = make_model(bundle, way=5, shot=2, device=CPU)
    queries = noise(bundle, 4)
    answers = {
        "inputs": inputs(Predictor(bundle), model, mode),
        "constants": constants(model, Runtime(), mode),
        "eager": eager(model, mode),
    }

    together = {name: answer(queries) for name, answer in answers.items()}
    alone = np.concatenate([answers["eager"](query[None]) for query in queries])

    for logits in together.values():
        assert logits.shape == (4, 5)
        np.testing.assert_allclose(logits, together["inputs"], rtol=1e-4, atol=1e-4)
    same = np.allclose(alone, together["eager"], atol=1e-3)
    assert same is (mode is not BatchNormMode.TRANSDUCTIVE)


@pytest.mark.parametrize("mode", MODES)
def test_the_timed_session_answers_as_the_servers(bundle: Bundle, mode: BatchNormMode) -> None:
    model = make_model(bundle, way=2, shot=1, device=CPU)
    queries = noise(bundle, 3)

    session = Predictor(bundle).make_session(mode, model.arrays)

    (logits,) = session.run(["logits"], {"inputs": queries})
    temperature = np.float32(bundle.manifest.temperature(mode, way=2, support_count=2))
    np.testing.assert_array_equal(logits / temperature, constants(model, Runtime(), mode)(queries))


def test_a_session_that_is_never_made_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no session")

    model = make_model(bundle, way=2, shot=1, device=CPU)
    monkeypatch.setattr(predict_contenders, "SESSION_SECONDS", 0.1)
    monkeypatch.setattr(predictor, "expect_constants", refuse)

    with pytest.raises(click.ClickException, match="made no session with constants"):
        constants(model, Runtime(), BatchNormMode.SUPPORT)


def test_different_answers_are_not_compared(bundle: Bundle) -> None:
    def answer(offset: float) -> Answer:
        return lambda queries: np.full((len(queries), 2), offset, np.float32)

    contenders = {"inputs": answer(1.01), "eager": answer(1.0)}

    with pytest.raises(
        click.ClickException, match=r"logits of inputs and eager in mode support: .* got 0.01"
    ):
        compare(contenders, BatchNormMode.SUPPORT, noise(bundle, 1), rounds=1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--images", "0"], 2, "expected integers from 1 to 10000 between commas"),
        (["--images", "10000"], 2, "--images: expected at most"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--threads", "0"], 2, "--threads"),
        (["--way", "10000"], 2, "--way: expected at most"),
        (["--shot", "10000"], 2, "--way times --shot: expected at most"),
        (["--batch-norm-mode", "running"], 2, "'running' is not one of"),
        (["--bundle", "nowhere"], 2, "there is no folder nowhere"),
        (["--bundle", "no/where"], 1, "no/where: not a directory"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "predict", *arguments]) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err


def test_a_gpu_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert main(["bench", "predict", "--device", "cuda"]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "kshot: --device: torch sees no GPU; expected cpu or auto, got cuda\n"
