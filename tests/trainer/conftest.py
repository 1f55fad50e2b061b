"""Small data whose classes are easily told apart, and a recipe that is done in a moment."""

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import torch

from kshot.bundle import (
    BatchNorm,
    BatchNormMode,
    Bundle,
    Calibration,
    EncoderSpec,
    Head,
    HeadPolicy,
    Manifest,
    NetworkSpec,
    TemperatureRule,
    Weights,
    write_bundle,
)
from kshot.learner import Initialization, Network, build_network, initial_parameters
from kshot.trainer.bundling import packaging
from kshot.trainer.bundling.onnx_templates import build_template
from kshot.trainer.commands import step_curve
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.output import curve_file
from kshot.trainer.output.sweep_report import PLOT_FILE
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import Recipe

SMALL = (
    "network.arguments.filters=4",
    "task.way=3",
    "task.shot=2",
    "inner.batch_size=3",
    "inner.step_count=2",
    "outer.meta_iterations=6",
    "outer.meta_batch_size=2",
    "evaluation.way=3",
    "evaluation.task_count=2",
    "evaluation.step_count=2",
    "evaluation.interval=3",
    "evaluation.checkpoint_interval=1",
    "evaluation.table.task_count=2",
    "evaluation.table.step_count=3",
    "serving.step_count=10",
)

ENCODER = """<ir_version: 10, opset_import: ["" : 20]>
encode (float[n,1,28,28] images) => (float[n,49,1,1] encoded) {
    means = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(images)
    shape = Constant<value = int64[4] {-1, 49, 1, 1}>()
    encoded = Reshape(means, shape)
}"""

build_template_once = functools.cache(build_template)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def templates_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template takes seconds and is the same for the same network."""
    monkeypatch.setattr(packaging, "build_template", build_template_once)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Refuse a test after which a thread runs that did not run before."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="session")
def small_settings() -> tuple[str, ...]:
    """Settings of a recipe that is done in a moment."""
    return SMALL


@pytest.fixture(scope="session")
def small_recipe() -> Callable[..., Recipe]:
    """Return a function from further settings, as `outer.seed=1`, to a recipe."""
    return lambda *settings: load_image_recipe("omniglot-5way", (*SMALL, *settings))


@pytest.fixture(scope="session")
def patterns() -> Callable[..., ImageDataset]:
    """Return a function that makes classes of coarse patterns with a little noise.

    Its images are grey, so that nothing holds for black and white alone.
    """

    @functools.cache
    def make(class_count: int = 8, image_count: int = 7, seed: int = 0) -> ImageDataset:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(class_count, 1, 7, 7, generator=generator).round() * 200
        clean = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        noise = torch.rand(class_count, image_count, 28, 28, generator=generator) * 55
        images = (clean + noise).to(torch.uint8).reshape(-1, 1, 28, 28)
        offsets = torch.arange(class_count + 1) * image_count
        names = tuple(f"pattern{number}" for number in range(class_count))
        return make_dataset(f"patterns {seed}", images, offsets, names)

    return make


@pytest.fixture
def small_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a bundle's templates be the names of their modes; draw nothing, measure few steps."""

    def name_mode(_network: Network, mode: BatchNormMode) -> bytes:
        return mode.value.encode()

    def draw_nothing(*_: object) -> None:
        pass

    def only_touch(folder: Path, *_: object) -> None:
        (folder / PLOT_FILE).touch()

    monkeypatch.setattr(step_curve, "TASKS", 1)
    monkeypatch.setattr(step_curve, "STEP_COUNTS", (0, 1))
    monkeypatch.setattr(step_curve, "write_sweep", only_touch)
    monkeypatch.setattr(packaging, "build_template", name_mode)
    monkeypatch.setattr(curve_file, "figure_of", draw_nothing)
    monkeypatch.setattr(curve_file, "write_png", draw_nothing)


@pytest.fixture(scope="session")
def encoder_bundle(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A linear classifier behind an encoder: means of 4 x 4 pixels, patterns' own parts."""
    stored = BatchNormMode.STORED
    manifest = replace(
        packaging.draft_manifest(small_recipe(), patterns()),
        name="means",
        network=NetworkSpec("features", {"scale": 3.0}),
        encoder=EncoderSpec((49, 1, 1)),
        batch_norm=BatchNorm(stored, (stored,)),
        head=HeadPolicy(Head.PROTOTYPE, (Head.PROTOTYPE,)),
    )
    way = manifest.training.way
    parameters = {
        "head.weight": np.zeros((way, 49), np.float32),
        "head.bias": np.zeros(way, np.float32),
    }
    weights = Weights(parameters, parameters, step=0)
    encoder = onnx.parser.parse_model(ENCODER).SerializeToString()
    root = tmp_path_factory.mktemp("encoders")
    return write_bundle(root, manifest, weights, {stored: b""}, "# e\n", encoder=encoder)


@pytest.fixture(scope="session")
def make_initialization() -> Callable[[Manifest], Initialization]:
    """Return a function that draws an initialization of a manifest's network."""

    def make(manifest: Manifest) -> Initialization:
        network = build_network(manifest.network, manifest.input.shape, manifest.batch_norm.epsilon)
        generator = torch.Generator().manual_seed(0)
        parameters = initial_parameters(network, manifest.training.way, generator)
        moment = {name: value.square() for name, value in parameters.items()}
        return Initialization(network, manifest.training.way, parameters, moment, 42)

    return make


@pytest.fixture(scope="session")
def calibrated() -> Callable[[Manifest], Manifest]:
    """Return a function that gives a manifest temperatures, in two of its modes.

    They are 1.5 for one example per class and 3 for five in `support`, 0.5 and 0.25 in
    `transductive`.
    """
    rules = tuple(
        TemperatureRule(mode, shot, temperature)
        for mode, of_mode in (
            (BatchNormMode.SUPPORT, (1.5, 3.0)),
            (BatchNormMode.TRANSDUCTIVE, (0.5, 0.25)),
        )
        for shot, temperature in zip((1, 5), of_mode, strict=True)
    )
    fitted = Calibration(rules, "val", "d4", 3, task_count=9, query_count=2, step_count=10, seed=0)
    return lambda manifest: replace(manifest, calibration=fitted)


@pytest.fixture
def start_torchrun() -> Callable[..., "subprocess.Popen[str]"]:
    """Return a function that starts a command in some processes that find each other."""

    def start(count: int, *command: str) -> "subprocess.Popen[str]":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        # The command `kshot` of this environment, whatever the shell's path is.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return subprocess.Popen(
            [*launcher, "--nproc-per-node", str(count), "--no-python", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path},
        )

    return start


@pytest.fixture
def torchrun(
    start_torchrun: Callable[..., "subprocess.Popen[str]"],
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs a command so to its end."""

    def run(count: int, *command: str) -> "subprocess.CompletedProcess[str]":
        with start_torchrun(count, *command) as process:
            output, talk = process.communicate(timeout=240)
        return subprocess.CompletedProcess(command, process.returncode, output, talk)

    return run
