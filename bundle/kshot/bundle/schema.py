"""Reading and writing a `Manifest`, with the checks across its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

from kshot.bundle.choices import BatchNormMode
from kshot.bundle.document import DocumentError, expect, parse, plain, read_json
from kshot.bundle.errors import BundleError
from kshot.bundle.manifest import (
    SCHEMA_VERSION,
    Grayscale,
    InnerLoop,
    InputSpec,
    Limits,
    Manifest,
    Rescale,
    Resize,
    Rgb,
)

MANIFEST_FILE = "manifest.json"


def parse_manifest(document: object) -> Manifest:
    """Build a manifest from decoded JSON; raise `BundleError` naming the dotted field."""
    try:
        if isinstance(document, dict) and type(version := document.get("schema_version")) is int:
            # Before the keys: another version may have others.
            expect(version == SCHEMA_VERSION, "schema_version", SCHEMA_VERSION, version)
        manifest = parse(Manifest, document)
        check_manifest(manifest)
    except DocumentError as error:
        raise BundleError(f"{MANIFEST_FILE}: {error}") from error
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check the fields of a manifest against each other; raise `DocumentError`."""
    _check_input(manifest.input)
    _check_inner_loop(manifest.inner_loop, manifest.limits)
    _check_policies(manifest)
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


def _check_input(spec: InputSpec) -> None:
    names = [step.step for step in spec.preprocessing]
    orders = (["grayscale", "resize", "rescale"], ["rgb", "resize", "rescale"])
    expected = "grayscale or rgb, then resize, then rescale"
    expect(names in orders, "input.preprocessing", expected, names)
    color, resize, _ = cast(tuple[Grayscale | Rgb, Resize, Rescale], spec.preprocessing)
    made = (1 if isinstance(color, Grayscale) else 3, resize.height, resize.width)
    expected = f"{list(made)}, which the preprocessing makes"
    expect(spec.shape == made, "input.shape", expected, list(spec.shape))


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
    steps, rate = limits.max_step_count, limits.max_learning_rate
    expected = f"at most {steps} (limits.max_step_count)"
    expect(loop.step_count <= steps, "inner_loop.step_count", expected, loop.step_count)
    expected = f"at most {rate} (limits.max_learning_rate)"
    expect(loop.learning_rate <= rate, "inner_loop.learning_rate", expected, loop.learning_rate)


def _check_policies(manifest: Manifest) -> None:
    loop = manifest.inner_loop
    _check_member("inner_loop.preconditioner", loop.preconditioner, loop.preconditioners)
    _check_member("batch_norm.default", manifest.batch_norm.default, manifest.batch_norm.allowed)
    _check_member("head.default", manifest.head.default, manifest.head.allowed)
    _check_member("scope.default", manifest.scope.default, manifest.scope.allowed)


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
