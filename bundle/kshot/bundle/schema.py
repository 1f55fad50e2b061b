"""Reading and writing a `Manifest`, with the checks across its fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import cast

from kshot.bundle.behind_encoder import RidgeSettings
from kshot.bundle.choices import BatchNormMode, Head, Scope
from kshot.bundle.document import DocumentError, expect, parse, plain, read_json
from kshot.bundle.errors import BundleError
from kshot.bundle.manifest import SCHEMA_VERSION, InnerLoop, Limits, Manifest
from kshot.bundle.steps import Ink, InputSpec, Normalize, PreprocessingStep, resize_of

MANIFEST_FILE = "manifest.json"
_FIRST_STEPS = "grayscale or rgb, then resize, then rescale"
_STEPS = (
    "grayscale or rgb, then any of polarity, ink, square, reduce, then resize, "
    "then rescale or normalize"
)
_ORDERS = {
    _FIRST_STEPS: "(grayscale|rgb) resize rescale",
    _STEPS: "(grayscale|rgb)( polarity)?( ink)?( square)?( reduce)? resize (rescale|normalize)",
}


def parse_manifest(document: object) -> Manifest:
    """Build a manifest from decoded JSON; raise `BundleError` naming the dotted field."""
    try:
        if isinstance(document, dict) and type(version := document.get("schema_version")) is int:
            # Before the keys: another version may have others.
            known = version in range(1, SCHEMA_VERSION + 1)
            expect(known, "schema_version", f"1 or {SCHEMA_VERSION}", version)
        manifest = parse(Manifest, document)
        check_manifest(manifest)
    except DocumentError as error:
        raise BundleError(f"{MANIFEST_FILE}: {error}") from error
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check the fields of a manifest against each other; raise `DocumentError`."""
    first = manifest.schema_version == 1
    if first:
        _check_first_version(manifest)
    _check_input(manifest.input, _FIRST_STEPS if first else _STEPS)
    _check_inner_loop(manifest.inner_loop, manifest.limits)
    _check_policies(manifest)
    _check_tail(manifest)
    _check_calibration(manifest)
    way, most = manifest.training.way, manifest.limits.max_way
    expect(way <= most, "training.way", f"at most {most} (limits.max_way)", way)


def read_manifest(text: bytes) -> Manifest:
    """Build a manifest from the bytes of its file; raise `BundleError` naming the dotted field."""
    try:
        document = read_json(text)
    except DocumentError as error:
        raise BundleError(f"{MANIFEST_FILE}: {error}") from error
    return parse_manifest(document)


def manifest_document(manifest: Manifest) -> dict[str, object]:
    """Return the JSON-ready form: keys in the dataclasses' order, mappings sorted by key."""
    return cast(dict[str, object], plain(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the bytes of `manifest.json`; equal manifests give equal bytes.

    Raises `BundleError` for values that JSON does not have.
    """
    document = manifest_document(manifest)
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{MANIFEST_FILE}: cannot be written: {error}") from error
    return text.encode() + b"\n"


def _check_first_version(manifest: Manifest) -> None:
    """Refuse what version 1 of the schema does not have, beside the steps of preprocessing."""
    loop = manifest.inner_loop
    for field, value in (
        ("encoder", manifest.encoder),
        ("ridge", manifest.ridge),
        ("tail", manifest.tail),
        ("inner_loop.step_count_by_shot", loop.step_count_by_shot),
    ):
        expect(value is None, field, "no such key with schema_version 1", "one")
    expected = "at least 1 with schema_version 1"
    expect(loop.step_count >= 1, "inner_loop.step_count", expected, loop.step_count)
    modes = manifest.batch_norm.allowed
    expected = "modes that compute statistics with schema_version 1"
    expect(BatchNormMode.STORED not in modes, "batch_norm.allowed", expected, "stored")


def _check_input(spec: InputSpec, order: str) -> None:
    if not spec.preprocessing and order == _STEPS:
        expected = "[features, 1, 1] without preprocessing"
        expect(spec.shape[1:] == (1, 1), "input.shape", expected, list(spec.shape))
        return
    names = [step.step for step in spec.preprocessing]
    in_order = re.fullmatch(_ORDERS[order], " ".join(names)) is not None
    expect(in_order, "input.preprocessing", order, names)
    resize = resize_of(spec)
    made = (1 if names[0] == "grayscale" else 3, resize.height, resize.width)
    expected = f"{list(made)}, which the preprocessing makes"
    expect(spec.shape == made, "input.shape", expected, list(spec.shape))
    for index, step in enumerate(spec.preprocessing):
        _check_step(step, f"input.preprocessing[{index}]", made[0])


def _check_step(step: PreprocessingStep, field: str, channels: int) -> None:
    if isinstance(step, Ink):
        expect(channels == 1, field, "ink behind grayscale", "ink behind rgb")
    if isinstance(step, Normalize):
        for name, values in (("mean", step.mean), ("std", step.std)):
            expected = f"{channels} numbers, one for each channel"
            expect(len(values) == channels, f"{field}.{name}", expected, list(values))


def _check_inner_loop(loop: InnerLoop, limits: Limits) -> None:
    ways = [rule.max_way for rule in loop.batch_size_by_way]
    check_growing("inner_loop.batch_size_by_way", ways)
    check_growing("inner_loop.batch_sizes", loop.batch_sizes)
    check_growing("inner_loop.way_buckets", loop.way_buckets)
    for index, rule in enumerate(loop.batch_size_by_way):
        field = f"inner_loop.batch_size_by_way[{index}].batch_size"
        _check_member(field, rule.batch_size, loop.batch_sizes)
    for field, last in (("batch_size_by_way", ways[-1]), ("way_buckets", loop.way_buckets[-1])):
        expected = f"the last value to be at least {limits.max_way} (limits.max_way)"
        expect(last >= limits.max_way, f"inner_loop.{field}", expected, last)
    rules = loop.step_count_by_shot or ()
    check_growing("inner_loop.step_count_by_shot", [rule.max_shot for rule in rules])
    steps, rate = limits.max_step_count, limits.max_learning_rate
    expected = f"at most {steps} (limits.max_step_count)"
    expect(loop.step_count <= steps, "inner_loop.step_count", expected, loop.step_count)
    for index, counted in enumerate(rules):
        field = f"inner_loop.step_count_by_shot[{index}].step_count"
        expect(counted.step_count <= steps, field, expected, counted.step_count)
    expected = f"at most {rate} (limits.max_learning_rate)"
    expect(loop.learning_rate <= rate, "inner_loop.learning_rate", expected, loop.learning_rate)


def _check_policies(manifest: Manifest) -> None:
    loop = manifest.inner_loop
    counts = [loop.step_count, *(rule.step_count for rule in loop.step_count_by_shot or ())]
    if 0 in counts:
        expected = "at least 1, unless head.default is prototype or ridge"
        expect(manifest.head.default.from_support, "inner_loop.step_count", expected, 0)
    modes = manifest.batch_norm.allowed
    if BatchNormMode.STORED in modes:
        expected = "stored alone: it has no statistics to compute"
        got = ", ".join(modes)
        expect(modes == (BatchNormMode.STORED,), "batch_norm.allowed", expected, got)
    _check_member("inner_loop.preconditioner", loop.preconditioner, loop.preconditioners)
    _check_member("batch_norm.default", manifest.batch_norm.default, manifest.batch_norm.allowed)
    _check_member("head.default", manifest.head.default, manifest.head.allowed)
    if Head.RIDGE in manifest.head.allowed:
        expected = "the settings of head ridge, which head.allowed names"
        expect(manifest.ridge is not None, "ridge", expected, "none")
    if manifest.ridge is not None:
        _check_ridge(manifest.ridge)
    _check_member("scope.default", manifest.scope.default, manifest.scope.allowed)


def _check_tail(manifest: Manifest) -> None:
    has_tail, allowed = manifest.tail is not None, manifest.scope.allowed
    expected = "scope auto where there is a tail, and only there"
    expect(has_tail == (Scope.AUTO in allowed), "scope.allowed", expected, ", ".join(allowed))
    if manifest.tail is None:
        return
    expect(manifest.encoder is not None, "tail", "none without an encoder, which gives maps", "one")
    size, shape = manifest.tail.map_size, manifest.network_input_shape
    expected = f"an encoder that gives features [n, 1, 1], more than the {size} numbers of the maps"
    expect(shape[1:] == (1, 1) and shape[0] > size, "tail.map_shape", expected, list(shape))
    first = manifest.network.arguments.get("first")
    expected = f"features, the first {manifest.feature_count} of them: the others are maps"
    takes = manifest.network.name == "features" and first == manifest.feature_count
    expect(takes, "network", expected, f"{manifest.network.name}, first {first}")
    if manifest.ridge is not None:
        count = sum(manifest.ridge.block_sizes)
        expected = f"{manifest.feature_count} features in all, before the maps"
        expect(count == manifest.feature_count, "ridge.block_sizes", expected, count)
    modes = manifest.batch_norm.allowed
    expected = "stored alone where there is a tail, whose batch norm is part of its weights"
    expect(modes == (BatchNormMode.STORED,), "batch_norm.allowed", expected, ", ".join(modes))


def _check_ridge(settings: RidgeSettings) -> None:
    check_growing("ridge.rules", [rule.max_shot for rule in settings.rules])
    count = len(settings.block_sizes)
    for index, rule in enumerate(settings.rules):
        expected = f"{count} numbers, one for each block"
        field = f"ridge.rules[{index}].weights"
        expect(len(rule.weights) == count, field, expected, len(rule.weights))


def _check_calibration(manifest: Manifest) -> None:
    rules = () if manifest.calibration is None else manifest.calibration.rules
    for index, rule in enumerate(rules):
        field = f"calibration.rules[{index}].batch_norm_mode"
        _check_member(field, rule.batch_norm_mode, manifest.batch_norm.allowed)
    for mode in BatchNormMode:
        shots = [rule.shot for rule in rules if rule.batch_norm_mode is mode]
        got = f"shot {shots} in mode {mode}"
        expect(shots == sorted(set(shots)), "calibration.rules", "growing numbers", got)


def check_growing(field: str, values: Iterable[int]) -> None:
    """Raise `DocumentError` unless each number is greater than the one before it."""
    values = list(values)
    expect(values == sorted(set(values)), field, "growing numbers", values)


def _check_member(field: str, value: object, allowed: Iterable[object]) -> None:
    choices = [str(choice) for choice in allowed]
    expect(str(value) in choices, field, f"an allowed value ({', '.join(choices)})", value)
