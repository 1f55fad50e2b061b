"""What `kshot evaluate` measures of a calibrated bundle is what `kshot serve` answers with it."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    Calibration,
    TemperatureRule,
    prepare,
    write_bundle,
)
from kshot.client import Client
from kshot.learner import Initialization, derive_seed
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import build_solver
from kshot.trainer.tasks.episodes import sample_episodes

StartServer = Callable[..., AbstractContextManager[Any]]
CPU = torch.device("cpu")
TEMPERATURES = {
    BatchNormMode.SUPPORT: (1.25, 2.5),
    BatchNormMode.SUPPORT_AND_QUERY: (0.5, 4.0),
    BatchNormMode.TRANSDUCTIVE: (0.75, 1.5),
}


WAY, QUERY_COUNT = 5, 3


@pytest.fixture(scope="module")
def calibrated(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The built-in bundle with temperatures of its own for one example per class, and for five."""
    rules = tuple(
        TemperatureRule(mode, shot, temperature)
        for mode, of_mode in TEMPERATURES.items()
        for shot, temperature in zip((1, 5), of_mode, strict=True)
    )
    fitted = Calibration(rules, "val", "d4", 5, task_count=9, query_count=2, step_count=10, seed=0)
    return write_bundle(
        tmp_path_factory.mktemp("bundles"),
        replace(bundle.manifest, calibration=fitted, files={}),
        bundle.read_weights(),
        {mode: bundle.template_path(mode).read_bytes() for mode in COMPUTED_MODES},
        "# calibrated\n",
    )


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    """Classes of noisy patterns, dark on bright, of which some are alike."""
    generator = torch.Generator().manual_seed(0)
    coarse = (torch.rand(12, 1, 7, 7, generator=generator) < 0.2).float()
    coarse = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)  # (12, 1, 28, 28)
    noise = torch.rand(12, 9, 28, 28, generator=generator) < 0.25
    images = ((coarse.bool() ^ noise) * -255 + 255).to(torch.uint8).reshape(-1, 1, 28, 28)
    names = tuple(f"pattern{number}" for number in range(12))
    return make_dataset("patterns", images, torch.arange(13) * 9, names)


@pytest.fixture(scope="module")
def client(
    calibrated: Bundle, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--bundle", str(calibrated.path))
    with (
        start_server(folder / "store", folder / "log", *options) as server,
        Client(server.address, timeout=120) as client,
    ):
        yield client


@pytest.mark.parametrize("shot", [1, 3])
def test_evaluation_and_service_agree(
    calibrated: Bundle, dataset: ImageDataset, client: Client, tmp_path: Path, shot: int
) -> None:
    """In every mode, to 1e-4; the export too. Task 0 draws its batches from the mixed seed."""
    seed = 5
    episodes = sample_episodes(dataset, 1, WAY, shot, QUERY_COUNT, torch.Generator().manual_seed(1))
    settings = EvaluationSettings(WAY, shot, QUERY_COUNT, 1, BatchNormMode.SUPPORT, seed=seed)
    pixels = DevicePixels.load(dataset, calibrated.manifest.input, CPU)
    initialization = Initialization.from_bundle(calibrated, CPU)
    solver = build_solver(initialization, calibrated.manifest, pixels, settings)
    adapted = solver.adapt(episodes, 0)
    support, queries = (
        dataset.images[rows[0]].squeeze(1).numpy() for rows in (episodes.support, episodes.queries)
    )
    kept = client.adapt(
        support,
        episodes.support_classes[0].tolist(),
        model="omniglot",
        seed=derive_seed(seed, 0),
    )
    for mode, temperatures in TEMPERATURES.items():
        wanted = solver.answer(adapted, episodes, mode)[0].numpy()
        own = torch.softmax(solver.logits(adapted, episodes, mode), dim=-1)[0].numpy()
        assert solver.calibration is not None
        one, five = temperatures
        wanted_temperature = one * (five / one) ** math.log(shot, 5)
        assert calibrated.manifest.temperature(mode, WAY, len(support)) == pytest.approx(
            wanted_temperature
        )

        answer = kept.predict(queries, batch_norm_mode=mode)
        content = kept.export(tmp_path / f"{mode}.onnx", batch_norm_mode=mode)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        inputs = prepare(queries, calibrated.manifest.input)
        (logits,) = session.run(["logits"], {"inputs": inputs})
        exported = torch.softmax(torch.from_numpy(logits), dim=-1).numpy()

        np.testing.assert_allclose(answer.probabilities, wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(exported, wanted, rtol=0, atol=1e-4)
        assert np.abs(own - wanted).max() > 0.01
        assert own.argmax(axis=1).tolist() == answer.labels.tolist()
    assert set(client.capabilities().models["omniglot"].calibrated_batch_norm_modes) == {
        *COMPUTED_MODES
    }
