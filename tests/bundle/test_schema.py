from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from kshot.bundle import (
    BatchNormMode,
    BundleError,
    EvaluationRow,
    Manifest,
    Preconditioner,
    Resize,
    manifest_document,
    parse_manifest,
)
from kshot.bundle.schema import manifest_bytes, read_manifest


def change(document: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    """Return a copy with a dotted field set."""
    changed = copy.deepcopy(document)
    place: Any = changed
    *path, last = field.split(".")
    for key in path:
        place = place[int(key)] if key.isdigit() else place[key]
    place[last] = value
    return changed


def test_what_is_written_is_read_back_equal(manifest: Manifest) -> None:
    row = EvaluationRow(
        5, 1, 1, 1000, 10, BatchNormMode.SUPPORT, Preconditioner.CARRIED, 0.9, 0.01, "t over tasks"
    )
    manifest = replace(manifest, evaluation=(row,))

    assert parse_manifest(json.loads(json.dumps(manifest_document(manifest)))) == manifest
    assert read_manifest(manifest_bytes(manifest)) == manifest


def test_bytes_are_stable_and_end_with_a_newline(manifest: Manifest) -> None:
    versions = manifest.provenance.library_versions
    turned = dict(reversed(list(versions.items())))
    other = replace(manifest, provenance=replace(manifest.provenance, library_versions=turned))

    assert manifest_bytes(other) == manifest_bytes(manifest)
    assert manifest_bytes(manifest).endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), b"64"])
def test_values_that_json_lacks_are_not_written(manifest: Manifest, value: float) -> None:
    other = replace(manifest, network=replace(manifest.network, arguments={"filters": value}))

    with pytest.raises(BundleError, match=r"manifest\.json: cannot be written: "):
        manifest_bytes(other)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("schema_version", 2, "wanted 1"),
        ("schema_version", "1", "wanted one of 1"),
        ("name", "../evil", "a match of"),
        ("name", "Tiny", "a match of"),
        ("name", "a" * 65, "a match of"),
        ("name", "tiny\n", "a match of"),
        ("version", 0, "at least 1"),
        ("version", True, "an integer"),
        ("network.arguments.filters", None, "an integer or a finite number"),
        ("input.shape", [1, 28], "wanted 3"),
        ("input.shape", [3, 28, 28], "wanted [1, 28, 28]"),
        ("input.dtype", "float16", "float32"),
        ("input.preprocessing.1.method", "cubic", "bicubic"),
        ("input.preprocessing.0.step", "invert", "grayscale, rgb, resize, rescale"),
        ("input.preprocessing.2.factor", 0, "above 0"),
        ("input.preprocessing", [], "grayscale or rgb, then resize, then rescale"),
        ("inner_loop.optimizer", "momentum", "one of adam, sgd"),
        ("inner_loop.learning_rate", 0, "above 0"),
        ("inner_loop.learning_rate", 0.2, "limits.max_learning_rate"),
        ("inner_loop.step_count", 101, "limits.max_step_count"),
        ("inner_loop.batch_sizes", [10, 5], "growing numbers"),
        ("inner_loop.batch_sizes", [], "at least one"),
        ("inner_loop.batch_size_by_way.0.batch_size", 6, "one that is allowed: 5, 10"),
        ("inner_loop.way_buckets", [5], "limits.max_way"),
        ("inner_loop.preconditioner", "momentum", "carried, frozen, fresh, sgd"),
        ("inner_loop.preconditioners", ["sgd"], "one that is allowed: sgd"),
        ("inner_loop.second_moment_decay", 1, "below 1"),
        ("batch_norm.allowed", ["transductive"], "one that is allowed: transductive"),
        ("head.allowed", [], "one that is allowed"),
        ("scope.default", "head", ""),
        ("limits.max_way", 1, "at least 2"),
        ("training.way", 21, "at most limits.max_way, 20"),
        ("provenance.seed", -1, "at least 0"),
        ("provenance.recipe", " ", "some text"),
        ("evaluation", {}, "a list"),
        ("files", {"README.md": {"sha256": "00", "size_bytes": 1}}, "64 digits"),
        ("surprise", 1, "one of schema_version"),
    ],
)
def test_refuses_a_field_that_does_not_fit(
    manifest: Manifest, field: str, value: object, wanted: str
) -> None:
    document = change(manifest_document(manifest), field, value)
    if field == "scope.default":
        document["scope"]["allowed"] = ["all"]

    with pytest.raises(BundleError) as caught:
        parse_manifest(document)

    name = field.split(".")[-1] if field.split(".")[-1] != "allowed" else "default"
    assert str(caught.value).startswith("manifest.json: ")
    assert wanted in str(caught.value)
    assert name.removesuffix("s") in str(caught.value)


def test_refuses_each_missing_key(manifest: Manifest) -> None:
    document = manifest_document(manifest)
    for key in document:
        rest = {other: value for other, value in document.items() if other != key}

        with pytest.raises(BundleError, match=f"manifest.json: {key}: got no such key"):
            parse_manifest(rest)


@pytest.mark.parametrize("document", [None, [], "manifest", 3])
def test_refuses_what_is_no_object(document: object) -> None:
    with pytest.raises(BundleError, match="wanted an object"):
        parse_manifest(document)


def test_resize_must_make_the_input_shape(manifest: Manifest) -> None:
    steps = manifest.input.preprocessing
    steps = (steps[0], Resize(32, 28, "box"), steps[2])
    other = replace(manifest, input=replace(manifest.input, preprocessing=steps))

    with pytest.raises(BundleError, match=r"input.shape: got \[1, 28, 28\], wanted \[1, 32, 28\]"):
        parse_manifest(manifest_document(other))


@pytest.mark.parametrize(("way", "batch_size"), [(2, 5), (5, 5), (6, 10), (20, 10)])
def test_default_batch_size_goes_by_way(manifest: Manifest, way: int, batch_size: int) -> None:
    assert manifest.default_batch_size(way) == batch_size
