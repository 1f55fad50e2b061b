from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from kshot.bundle import (
    BatchNorm,
    BatchNormMode,
    Bundle,
    BundleError,
    EncoderSpec,
    Manifest,
    TailFiles,
    Weights,
    load_bundle,
    write_bundle,
)
from kshot.bundle import files as bundle_files_module

Templates = dict[BatchNormMode, bytes]


@pytest.fixture
def bundle(tmp_path: Path, manifest: Manifest, weights: Weights, templates: Templates) -> Bundle:
    return write_bundle(tmp_path, manifest, weights, templates, "# tiny\n")


def test_a_written_bundle_loads_with_the_same_content(
    bundle: Bundle, tmp_path: Path, weights: Weights
) -> None:
    loaded = load_bundle(tmp_path / "tiny" / "1")

    assert loaded == bundle
    assert loaded.digest == hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    assert loaded.template_path(BatchNormMode.SUPPORT).read_bytes() == b"template support"
    back = loaded.read_weights()
    np.testing.assert_array_equal(back.parameters["head.weight"], weights.parameters["head.weight"])
    assert back.step == 7


def test_a_name_without_version_means_the_highest(
    bundle: Bundle, tmp_path: Path, manifest: Manifest, weights: Weights, templates: Templates
) -> None:
    for version in (9, 10):
        write_bundle(tmp_path, replace(manifest, version=version), weights, templates, "")
    (tmp_path / "tiny" / "notes").mkdir()
    (tmp_path / "tiny" / "0011").mkdir()

    assert load_bundle(tmp_path / "tiny").manifest.version == 10
    assert bundle.manifest.version == 1


def test_equal_content_gives_equal_bytes(
    bundle: Bundle, tmp_path: Path, manifest: Manifest, weights: Weights, templates: Templates
) -> None:
    other = write_bundle(tmp_path / "other", manifest, weights, templates, "# tiny\n")

    assert other.digest == bundle.digest


def test_an_encoder_is_a_file_of_its_bundle(
    tmp_path: Path, manifest: Manifest, weights: Weights, templates: Templates
) -> None:
    encoded = replace(manifest, encoder=EncoderSpec((8, 1, 1)))
    bundle = write_bundle(tmp_path, encoded, weights, templates, "", encoder=b"graph")

    assert bundle.encoder_path is not None
    assert bundle.encoder_path.read_bytes() == b"graph"
    bundle.encoder_path.write_bytes(b"other")
    with pytest.raises(BundleError, match=r"encoder.onnx: expected SHA-256"):
        load_bundle(bundle.path)
    for wrong, content in ((encoded, None), (manifest, b"graph")):
        with pytest.raises(BundleError, match=r"encoder.onnx: "):
            write_bundle(tmp_path / "wrong", wrong, weights, templates, "", encoder=content)


@pytest.mark.parametrize(
    ("schema_version", "modes", "count"),
    [(1, [BatchNormMode.SUPPORT], 3), (2, [BatchNormMode.SUPPORT], 1), (2, ["stored"], 1)],
)
def test_a_bundle_has_the_templates_of_its_modes(
    tmp_path: Path,
    manifest: Manifest,
    weights: Weights,
    templates: Templates,
    schema_version: Literal[1, 2],
    modes: list[str],
    count: int,
) -> None:
    allowed = tuple(map(BatchNormMode, modes))
    few = replace(
        manifest, schema_version=schema_version, batch_norm=BatchNorm(allowed[0], allowed)
    )
    bundle = write_bundle(tmp_path, few, weights, templates, "")

    assert len(list(bundle.path.glob("predict_*.onnx"))) == count
    assert bundle.template_path(allowed[0]).exists()
    assert bundle.encoder_path is None


def test_refuses_to_overwrite_a_version(
    bundle: Bundle, tmp_path: Path, manifest: Manifest, weights: Weights, templates: Templates
) -> None:
    before = sorted(path.read_bytes() for path in bundle.path.iterdir())

    with pytest.raises(BundleError, match="exists already; choose a new version"):
        write_bundle(tmp_path, manifest, weights, templates, "another card")

    assert sorted(path.read_bytes() for path in bundle.path.iterdir()) == before


@pytest.mark.parametrize(
    "name",
    [
        "weights.safetensors",
        "predict_support.onnx",
        "predict_transductive.onnx",
        "predict_support_and_query.onnx",
        "README.md",
    ],
)
class TestADamagedFile:
    def test_with_a_changed_byte_is_refused(self, bundle: Bundle, name: str) -> None:
        content = bytearray((bundle.path / name).read_bytes())
        content[-1] ^= 1
        (bundle.path / name).write_bytes(content)

        with pytest.raises(BundleError, match=f"{name}: expected SHA-256 .*files.{name}.* got"):
            load_bundle(bundle.path)

    def test_cut_short_is_refused(self, bundle: Bundle, name: str) -> None:
        content = (bundle.path / name).read_bytes()
        (bundle.path / name).write_bytes(content[:-1])

        with pytest.raises(
            BundleError, match=f"{name}: expected .* bytes .*, got {len(content) - 1}"
        ):
            load_bundle(bundle.path)

    def test_missing_is_refused(self, bundle: Bundle, name: str) -> None:
        (bundle.path / name).unlink()

        with pytest.raises(BundleError, match=f"{name}: cannot be read: No such file"):
            load_bundle(bundle.path)


def test_every_changed_byte_of_the_manifest_is_refused_or_changes_the_digest(
    bundle: Bundle,
) -> None:
    """The manifest's own digest is the bundle's name on the wire: nothing may change silently."""
    path = bundle.path / "manifest.json"
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        try:
            digest = load_bundle(bundle.path).digest
        except BundleError:
            continue
        assert digest != bundle.digest


def test_a_manifest_must_say_the_folders_name_and_version(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "tiny" / "1").rename(tmp_path / "tiny" / "2")

    with pytest.raises(BundleError, match="version: expected 2, the name of the folder, got 1"):
        load_bundle(tmp_path / "tiny")

    (tmp_path / "tiny" / "2").rename(tmp_path / "tiny" / "1")
    (tmp_path / "tiny").rename(tmp_path / "small")

    with pytest.raises(BundleError, match="name: expected small, the name of the folder, got tiny"):
        load_bundle(tmp_path / "small" / "1")

    assert bundle.manifest.name == "tiny"


def test_a_manifest_must_list_exactly_the_bundles_files(bundle: Bundle) -> None:
    path = bundle.path / "manifest.json"
    document = json.loads(path.read_text())
    document["files"]["../../outside"] = document["files"].pop("README.md")
    path.write_text(json.dumps(document))

    with pytest.raises(BundleError, match=r"files: expected weights.safetensors.*, got .*outside"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the document: not JSON"),
        (b"[]", "expected an object"),
        (b" " * (2**20 + 1), "expected at most 1048576 bytes, got more"),
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, content: bytes, message: str) -> None:
    (bundle.path / "manifest.json").write_bytes(content)

    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.path)


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a directory; expected NAME/VERSION"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="no version folder"):
        load_bundle(tmp_path)


def test_a_path_near_a_bundle_names_it(bundle: Bundle) -> None:
    """One level too high or too low, or a version that is not there."""
    name, root = bundle.path.parent, bundle.path.parent.parent
    for path, words in (
        (root, f"no version folder; .*; name one of its bundles {name.name}, as {name}$"),
        (bundle.path / "manifest.json", f"not a directory; .*; name the folder {bundle.path}$"),
        (bundle.path / "weights.safetensors", f"name the folder {bundle.path}$"),
        (name / "99", f"not a directory; .*; {name} has version {bundle.path.name}$"),
    ):
        with pytest.raises(BundleError, match=words):
            load_bundle(path)


def test_nothing_is_left_of_a_bundle_that_cannot_be_written(
    tmp_path: Path,
    manifest: Manifest,
    weights: Weights,
    templates: Templates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(bundle_files_module, "sync_folder", full)

    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        write_bundle(tmp_path, manifest, weights, templates, "")

    assert list((tmp_path / "tiny").iterdir()) == []


def test_an_unfit_manifest_or_missing_template_is_not_written(
    tmp_path: Path, manifest: Manifest, weights: Weights, templates: Templates
) -> None:
    with pytest.raises(BundleError, match="name: expected a match of"):
        write_bundle(tmp_path, replace(manifest, name="../up"), weights, templates, "")
    del templates[BatchNormMode.SUPPORT]
    with pytest.raises(BundleError, match=r"predict_support.onnx: template is missing"):
        write_bundle(tmp_path, manifest, weights, templates, "")

    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_memory_does_not_hold_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (bundle.path / "weights.safetensors").stat().st_size
    monkeypatch.setattr(bundle_files_module, "available_bytes", lambda: 2 * size - 1)

    with pytest.raises(
        BundleError, match=f"weights.safetensors: reading it needs {2 * size} bytes of memory"
    ):
        load_bundle(bundle.path)

    monkeypatch.setattr(bundle_files_module, "available_bytes", lambda: 2 * size)
    assert load_bundle(bundle.path) == bundle


def test_a_tail_is_read_back_and_guarded(tail_bundle: Bundle, tmp_path: Path) -> None:
    tail = tail_bundle.read_tail()
    assert tail is not None
    assert tail_bundle.tail_template_path is not None
    assert tail.template == tail_bundle.tail_template_path.read_bytes()
    manifest = replace(tail_bundle.manifest, files={})
    encoder = (tail_bundle.path / "encoder.onnx").read_bytes()
    parts = manifest, tail_bundle.read_weights(), {BatchNormMode.STORED: b""}, "", encoder

    def write(tail: TailFiles | None) -> Bundle:
        *others, encoder = parts
        return write_bundle(tmp_path, *others, encoder=encoder, tail=tail)

    with pytest.raises(BundleError, match=r"tail.safetensors: file is missing"):
        write(None)
    (name, array), *_ = tail.parameters.items()
    infinite = {**tail.parameters, name: np.full_like(array, np.inf)}
    with pytest.raises(BundleError, match=f"tail.safetensors: {name}: expected finite float32"):
        write(replace(tail, parameters=infinite))
    assert write(tail).read_tail() is not None
    (tmp_path / "tailed" / "1" / "tail.safetensors").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"tail.safetensors: expected \d+ bytes"):
        load_bundle(tmp_path / "tailed")
