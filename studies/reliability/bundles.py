"""Two small bundles: a network with inner steps, and an encoder with a head in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.parser
import torch

from kshot.bundle import (
    BatchNormMode,
    NetworkSpec,
    Weights,
    builtin_bundle,
    load_bundle,
    write_bundle,
)
from kshot.learner import build_network, initial_parameters
from kshot.trainer.bundling.encoder_bundle import EncoderOrigin, PictureInput, encoder_manifest
from kshot.trainer.bundling.encoder_file import EncoderFile
from kshot.trainer.bundling.onnx_templates import build_template

SMALL, MEANS = "small", "means"
TWO = "two-versions"
_FILTERS = 4
_OPSET = '<ir_version: 10, opset_import: ["" : 20]>'
# Means of colours in four cells.
_ENCODER = f"""{_OPSET} encode (float[n,3,8,8] images) => (float[n,12,1,1] encoded) {{
    means = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(images)
    shape = Constant<value = int64[4] {{-1, 12, 1, 1}}>()
    encoded = Reshape(means, shape)
}}"""


def small_bundles(folder: Path) -> Sequence[Path]:
    """Return the folders of both bundles, which are made in `folder` if they are missing."""
    makers = {SMALL: _write_small, MEANS: _write_means}
    for name, write in makers.items():
        if not (folder / name).exists():
            write(folder)
    return [load_bundle(folder / name).path for name in makers]


def two_versions(folder: Path) -> Sequence[Path]:
    """Write two versions of a network, with weights of their own; return their folders."""
    source = load_bundle(builtin_bundle("omniglot"))
    weights, written = source.read_weights(), []
    for version in (1, 2):
        random = np.random.default_rng(version)
        parameters = {
            name: (array * random.uniform(0.7, 1.3, array.shape)).astype(np.float32)
            for name, array in weights.parameters.items()
        }
        manifest = replace(source.manifest, name=TWO, version=version, calibration=None, files={})
        modes = manifest.template_modes
        templates = {mode: source.template_path(mode).read_bytes() for mode in modes}
        content = replace(weights, parameters=parameters)
        written.append(write_bundle(folder, manifest, content, templates, f"# {TWO}\n").path)
    return written


def encoder_content() -> bytes:
    """Return the ONNX file of the small encoder."""
    return onnx.parser.parse_model(_ENCODER).SerializeToString()


def _write_small(folder: Path) -> None:
    """Write a convolutional network of four filters with random weights, in all its modes."""
    manifest = load_bundle(builtin_bundle("omniglot")).manifest
    filters = {**manifest.network.arguments, "filters": _FILTERS}
    manifest = replace(
        manifest,
        name=SMALL,
        version=1,
        network=NetworkSpec("conv4", filters),
        calibration=None,
        files={},
    )
    network = build_network(
        manifest.network, manifest.network_input_shape, manifest.batch_norm.epsilon
    )
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: value.numpy()
        for name, value in initial_parameters(network, manifest.training.way, generator).items()
    }
    moment = {name: np.square(value) + 1e-4 for name, value in parameters.items()}
    templates = {mode: build_template(network, mode) for mode in manifest.template_modes}
    write_bundle(folder, manifest, Weights(parameters, moment, 1), templates, f"# {SMALL}\n")


def _write_means(folder: Path) -> None:
    content = encoder_content()
    spec = PictureInput(8, (0.5,) * 3, (0.5,) * 3, "pad", "bilinear").spec()
    origin = EncoderOrigin(MEANS, "a proof")
    manifest = encoder_manifest(MEANS, 1, spec, EncoderFile(content, (12, 1, 1)), origin)
    network = build_network(
        manifest.network, manifest.network_input_shape, manifest.batch_norm.epsilon
    )
    parameters = {
        "head.weight": np.zeros((5, 12), np.float32),
        "head.bias": np.zeros(5, np.float32),
    }
    templates = {BatchNormMode.STORED: build_template(network, BatchNormMode.STORED)}
    weights = Weights(parameters, parameters, 0)
    write_bundle(folder, manifest, weights, templates, f"# {MEANS}\n", encoder=content)
