from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from kshot.bundle import (
    BatchNormMode,
    BundleError,
    Calibration,
    EncoderSpec,
    EvaluationRow,
    Grayscale,
    Head,
    HeadPolicy,
    Ink,
    InputSpec,
    Manifest,
    NetworkSpec,
    Normalize,
    Polarity,
    Preconditioner,
    PreprocessingStep,
    Reduce,
    Rescale,
    Resize,
    Rgb,
    RidgeRule,
    RidgeSettings,
    Scope,
    ScopePolicy,
    Square,
    StepCountRule,
    TailBlock,
    TailSpec,
    TemperatureRule,
    manifest_document,
    parse_manifest,
)
from kshot.bundle.document import plain
from kshot.bundle.manifest import bundle_files
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


@pytest.fixture
def calibrated(manifest: Manifest) -> Manifest:
    rules = (
        TemperatureRule(BatchNormMode.SUPPORT, 1, 1.5),
        TemperatureRule(BatchNormMode.TRANSDUCTIVE, 5, 0.5),
        TemperatureRule(BatchNormMode.SUPPORT, 5, 2.0),
        TemperatureRule(BatchNormMode.SUPPORT, 20, 1.0),
    )
    fitted = Calibration(
        rules, "val", "d4", way=5, task_count=1000, query_count=5, step_count=10, seed=0
    )
    return replace(manifest, calibration=fitted)


def test_what_is_written_is_read_back_equal(manifest: Manifest) -> None:
    row = EvaluationRow(
        5, 1, 1, 1000, 10, BatchNormMode.SUPPORT, Preconditioner.CARRIED, 0.9, 0.01, "t over tasks"
    )
    manifest = replace(manifest, evaluation=(row,))

    assert parse_manifest(json.loads(json.dumps(manifest_document(manifest)))) == manifest
    assert read_manifest(manifest_bytes(manifest)) == manifest


def test_a_calibration_is_written_only_where_there_is_one(
    manifest: Manifest, calibrated: Manifest
) -> None:
    """So the digests of bundles of earlier builds stay."""
    assert "calibration" not in manifest_document(manifest)
    assert read_manifest(manifest_bytes(calibrated)) == calibrated


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
        ("schema_version", 3, "expected 1 or 2"),
        ("schema_version", "1", "expected one of 1, 2"),
        ("name", "../evil", "a match of"),
        ("name", "Tiny", "a match of"),
        ("name", "a" * 65, "a match of"),
        ("name", "tiny\n", "a match of"),
        ("version", 0, "at least 1"),
        ("version", True, "an integer"),
        ("network.arguments.filters", None, "an integer or a finite number"),
        ("input.shape", [1, 28], "expected 3"),
        ("input.shape", [3, 28, 28], "expected [1, 28, 28]"),
        ("input.dtype", "float16", "float32"),
        ("input.preprocessing.1.method", "cubic", "bicubic"),
        ("input.preprocessing.0.step", "invert", "grayscale, rgb, polarity, ink,"),
        ("input.preprocessing.2.factor", 0, "above 0"),
        ("input.preprocessing", [], "[features, 1, 1] without preprocessing, got [1, 28, 28]"),
        ("inner_loop.optimizer", "momentum", "one of adam, sgd"),
        ("inner_loop.learning_rate", 0, "above 0"),
        ("inner_loop.learning_rate", 0.2, "limits.max_learning_rate"),
        ("inner_loop.step_count", 101, "limits.max_step_count"),
        ("inner_loop.batch_sizes", [10, 5], "growing numbers"),
        ("inner_loop.batch_sizes", [], "at least one"),
        ("inner_loop.batch_size_by_way.0.batch_size", 6, "an allowed value (5, 10)"),
        ("inner_loop.way_buckets", [5], "limits.max_way"),
        ("inner_loop.preconditioner", "momentum", "carried, frozen, fresh, sgd"),
        ("inner_loop.preconditioners", ["sgd"], "an allowed value (sgd)"),
        ("inner_loop.second_moment_decay", 1, "below 1"),
        ("batch_norm.allowed", ["transductive"], "an allowed value (transductive)"),
        ("head.allowed", [], "an allowed value"),
        ("scope.default", "head", ""),
        ("limits.max_way", 1, "at least 2"),
        ("training.way", 21, "at most 20 (limits.max_way)"),
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
    name = "shape" if value == [] and name == "preprocessing" else name
    assert str(caught.value).startswith("manifest.json: ")
    assert wanted in str(caught.value)
    assert name.removesuffix("s") in str(caught.value)


def test_refuses_each_missing_key(manifest: Manifest) -> None:
    document = manifest_document(manifest)
    for key in document:
        rest = {other: value for other, value in document.items() if other != key}

        with pytest.raises(BundleError, match=f"manifest.json: {key}: required key is missing"):
            parse_manifest(rest)


@pytest.mark.parametrize("document", [None, [], "manifest", 3])
def test_refuses_what_is_no_object(document: object) -> None:
    with pytest.raises(BundleError, match="expected an object"):
        parse_manifest(document)


def test_resize_must_make_the_input_shape(manifest: Manifest) -> None:
    steps = manifest.input.preprocessing
    steps = (steps[0], Resize(32, 28, "box"), steps[2])
    other = replace(manifest, input=replace(manifest.input, preprocessing=steps))

    with pytest.raises(
        BundleError, match=r"input.shape: expected \[1, 32, 28\], .* got \[1, 28, 28\]"
    ):
        parse_manifest(manifest_document(other))


def test_the_usual_way_is_the_tables(manifest: Manifest) -> None:
    row = EvaluationRow(
        way=3,
        shot=1,
        query_count=1,
        task_count=10,
        step_count=5,
        batch_norm_mode=BatchNormMode.SUPPORT,
        preconditioner=manifest.inner_loop.preconditioner,
        accuracy=0.5,
        ci95=0.1,
        ci_method="95% t-interval over tasks",
    )

    assert replace(manifest, evaluation=()).usual_way == manifest.training.way != 3
    assert replace(manifest, evaluation=(row,)).usual_way == 3


@pytest.mark.parametrize(("way", "batch_size"), [(2, 5), (5, 5), (6, 10), (20, 10)])
def test_default_batch_size_goes_by_way(manifest: Manifest, way: int, batch_size: int) -> None:
    assert manifest.default_batch_size(way) == batch_size


@pytest.mark.parametrize(
    ("mode", "way", "support_count", "temperature"),
    [
        (BatchNormMode.SUPPORT, 5, 5, 1.5),
        (BatchNormMode.SUPPORT, 2, 2, 1.5),
        (BatchNormMode.SUPPORT, 5, 3, 1.5),  # fewer than one example per class
        (BatchNormMode.SUPPORT, 5, 6, 1.5 * (4 / 3) ** math.log(1.2, 5)),
        (BatchNormMode.SUPPORT, 2, 6, 1.5 * (4 / 3) ** math.log(3, 5)),
        (BatchNormMode.SUPPORT, 20, 100, 2.0),
        (BatchNormMode.SUPPORT, 2, 20, 2.0 * 0.5**0.5),  # the middle of 5 and 20, in logarithms
        (BatchNormMode.SUPPORT, 2, 40, 1.0),
        (BatchNormMode.TRANSDUCTIVE, 5, 500, 0.5),
        (BatchNormMode.SUPPORT, 2, 400, 1.0),
        (BatchNormMode.TRANSDUCTIVE, 5, 5, 0.5),
        (BatchNormMode.SUPPORT_AND_QUERY, 5, 5, 1.0),
    ],
)
def test_a_temperature_goes_by_mode_and_mean_shot(
    manifest: Manifest,
    calibrated: Manifest,
    mode: BatchNormMode,
    way: int,
    support_count: int,
    temperature: float,
) -> None:
    assert calibrated.temperature(mode, way, support_count) == pytest.approx(temperature, rel=1e-12)
    assert manifest.temperature(mode, way, support_count) == 1


def test_the_calibrated_modes_are_those_with_a_temperature(
    manifest: Manifest, calibrated: Manifest
) -> None:
    assert manifest.calibrated_modes == ()
    assert calibrated.calibrated_modes == (BatchNormMode.TRANSDUCTIVE, BatchNormMode.SUPPORT)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rules", [], "calibration.rules: expected at least one rule, got []"),
        ("rules.0.temperature", 0, "temperature: expected a number from 0.001 to 1000, got 0"),
        ("rules.0.temperature", -1.5, "expected a number from 0.001 to 1000, got -1.5"),
        ("rules.0.temperature", 1e-40, "expected a number from 0.001 to 1000, got 1e-40"),
        ("rules.0.temperature", 1e999, "[0].temperature: expected a finite number, got Inf"),
        ("rules.1.shot", 0, "calibration.rules[1].shot: expected a number above 0, got 0"),
        (
            "rules.1.batch_norm_mode",
            "batch",
            "expected one of transductive, support_and_query, supp",
        ),
        (
            "rules.2.shot",
            1,
            "calibration.rules: expected growing numbers, got shot [1.0, 1.0, 20.0] in mode",
        ),
        ("rules.0.shot", 7, "expected growing numbers, got shot [7.0, 5.0, 20.0] in mode support"),
        ("rules.0.surprise", 1, "calibration.rules[0].surprise: unknown key"),
        ("part", "", "calibration.part"),
        ("way", 1, "calibration.way: expected an integer of at least 2, got 1"),
        ("task_count", 0, "calibration.task_count"),
        ("query_count", 1.5, "calibration.query_count"),
        ("step_count", -1, "calibration.step_count"),
        ("seed", -1, "calibration.seed"),
    ],
)
def test_refuses_a_calibration_that_does_not_fit(
    calibrated: Manifest, field: str, value: object, message: str
) -> None:
    document = change(manifest_document(calibrated), f"calibration.{field}", value)

    with pytest.raises(BundleError) as caught:
        parse_manifest(document)

    assert str(caught.value).startswith("manifest.json: calibration.")
    assert message in str(caught.value)


def test_refuses_a_temperature_for_a_mode_that_is_not_allowed(calibrated: Manifest) -> None:
    batch_norm = replace(calibrated.batch_norm, allowed=(BatchNormMode.SUPPORT,))

    with pytest.raises(BundleError) as caught:
        parse_manifest(manifest_document(replace(calibrated, batch_norm=batch_norm)))

    assert str(caught.value) == (
        "manifest.json: calibration.rules[1].batch_norm_mode: "
        "expected an allowed value (support), got transductive"
    )


RIDGE = RidgeSettings((64,), (RidgeRule(1, 1.0, 0.0, 4.0, (1.0,)),))
RESIZE, RESCALE = Resize(28, 28, "box"), Rescale(1 / 255)
IN_ORDER = (Grayscale(), Polarity("dark"), Ink(0.1), Square("pad"), Reduce(56, 56), RESIZE, RESCALE)


def with_steps(manifest: Manifest, steps: tuple[PreprocessingStep, ...]) -> Manifest:
    channels = 3 if Rgb() in steps else 1
    return replace(manifest, input=InputSpec((channels, 28, 28), steps))


@pytest.mark.parametrize(
    "steps",
    [
        IN_ORDER,
        (Grayscale(), RESIZE, RESCALE),
        (Rgb(), Square("crop"), RESIZE, Normalize((1.0, 2.0, -3.0), (0.5, 1.0, 2.0))),
    ],
)
def test_the_steps_of_version_2_are_written_and_read_back(
    manifest: Manifest, steps: tuple[PreprocessingStep, ...]
) -> None:
    stepping = with_steps(manifest, steps)

    assert read_manifest(manifest_bytes(stepping)) == stepping


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((*IN_ORDER[:-2], RESCALE), "preprocessing: expected grayscale or rgb, then any of pol"),
        ((Grayscale(), Ink(0.1), Polarity("dark"), RESIZE, RESCALE), "input.preprocessing"),
        ((Grayscale(), Square("pad"), Square("pad"), RESIZE, RESCALE), "input.preprocessing"),
        ((Rgb(), Ink(0.1), RESIZE, RESCALE), "[1]: expected ink behind grayscale, got ink behind"),
        ((Grayscale(), Ink(1.5), RESIZE, RESCALE), "[1].margin: expected a number from 0 to 1"),
        (
            (Grayscale(), RESIZE, Normalize((1.0, 2.0), (1.0,))),
            "[2].mean: expected 1 numbers, one for each channel, got [1.0, 2.0]",
        ),
        ((Grayscale(), RESIZE, Normalize((1.0,), (0.0,))), "std[0]: expected a number above 0"),
    ],
)
def test_refuses_steps_that_do_not_fit(
    manifest: Manifest, steps: tuple[PreprocessingStep, ...], message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(manifest_document(with_steps(manifest, steps)))

    assert message in str(caught.value)


def test_an_input_without_steps_is_a_vector(manifest: Manifest) -> None:
    vectors = replace(manifest, input=InputSpec((7, 1, 1), ()))

    assert read_manifest(manifest_bytes(vectors)) == vectors


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("encoder", {"output_shape": [8, 1, 1]}, "encoder: expected no such key"),
        ("ridge", plain(RIDGE), "ridge: expected no such key with schema_version 1"),
        (
            "inner_loop.step_count_by_shot",
            [{"max_shot": 1, "step_count": 1}],
            "inner_loop.step_count_by_shot: expected no such key with schema_version 1, got one",
        ),
        ("inner_loop.step_count", 0, "step_count: expected at least 1 with schema_version 1"),
        ("batch_norm", {"default": "stored", "allowed": ["stored"], "epsilon": 1e-3}, "allowed"),
        (
            "input.preprocessing",
            [{"step": "grayscale"}, {"step": "square", "by": "pad"}],
            "input.preprocessing: expected grayscale or rgb, then resize, then rescale, got",
        ),
        ("input.preprocessing", [], "grayscale or rgb, then resize, then rescale, got []"),
    ],
)
def test_version_1_has_nothing_of_version_2(
    manifest: Manifest, field: str, value: object, message: str
) -> None:
    document = manifest_document(replace(manifest, schema_version=1))
    parse_manifest(document)

    with pytest.raises(BundleError) as caught:
        parse_manifest(change(document, field, value))

    assert message in str(caught.value)


def test_what_only_version_2_has_is_left_out_when_unset(manifest: Manifest) -> None:
    """So bundles of version 1 are written with the same bytes as before."""
    document = manifest_document(manifest)

    assert "encoder" not in document
    assert "step_count_by_shot" not in str(document)


def test_head_ridge_needs_its_settings(manifest: Manifest) -> None:
    policy = HeadPolicy(Head.RIDGE, (Head.RIDGE,))
    loop = replace(manifest.inner_loop, step_count=0)
    complete = replace(manifest, head=policy, inner_loop=loop, ridge=RIDGE)

    assert read_manifest(manifest_bytes(complete)) == complete
    with pytest.raises(BundleError, match="ridge: expected the settings of head ridge"):
        read_manifest(manifest_bytes(replace(complete, ridge=None)))
    with pytest.raises(BundleError, match=r"rules\[0\].weights: expected 2 numbers, one for each"):
        read_manifest(manifest_bytes(replace(complete, ridge=replace(RIDGE, block_sizes=(9, 8)))))
    with pytest.raises(BundleError, match=r"ridge.rules: expected growing numbers, got \[1, 1\]"):
        read_manifest(
            manifest_bytes(replace(complete, ridge=replace(RIDGE, rules=RIDGE.rules * 2)))
        )


@pytest.mark.parametrize(("support_count", "max_shot"), [(3, 1), (5, 1), (6, 5), (26, 5), (900, 5)])
def test_the_first_rule_of_ridge_that_fits_applies(support_count: int, max_shot: int) -> None:
    rules = (RIDGE.rules[0], replace(RIDGE.rules[0], max_shot=5))

    assert replace(RIDGE, rules=rules).rule(5, support_count).max_shot == max_shot


def test_the_network_takes_what_the_encoder_makes(manifest: Manifest) -> None:
    encoded = replace(manifest, encoder=EncoderSpec((64, 1, 1)))

    assert manifest.network_input_shape == (1, 28, 28)
    assert encoded.network_input_shape == (64, 1, 1)
    assert read_manifest(manifest_bytes(encoded)) == encoded


@pytest.mark.parametrize(
    ("way", "support_count", "step_count"), [(5, 5, 1), (5, 6, 4), (5, 25, 4), (5, 26, 10)]
)
def test_the_default_step_count_goes_by_examples_per_class(
    manifest: Manifest, way: int, support_count: int, step_count: int
) -> None:
    rules = (StepCountRule(1, 1), StepCountRule(5, 4))
    stepping = replace(manifest, inner_loop=replace(manifest.inner_loop, step_count_by_shot=rules))

    assert read_manifest(manifest_bytes(stepping)) == stepping
    assert stepping.default_step_count(way, support_count) == step_count
    assert manifest.default_step_count(way, support_count) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"inner_loop.step_count_by_shot": [{"max_shot": 1, "step_count": 101}]},
            "step_count_by_shot[0].step_count: expected at most 100 (limits.max_step_count)",
        ),
        (
            {"inner_loop.step_count_by_shot": [{"max_shot": 2, "step_count": 1}] * 2},
            "inner_loop.step_count_by_shot: expected growing numbers, got [2, 2]",
        ),
        ({"inner_loop.step_count_by_shot": []}, "expected at least one rule"),
        ({"inner_loop.step_count": 0}, "expected at least 1, unless head.default is prototype"),
        (
            {"batch_norm.allowed": ["support", "stored"]},
            "batch_norm.allowed: expected stored alone: it has no statistics to compute",
        ),
    ],
)
def test_refuses_a_loop_that_does_not_fit(
    manifest: Manifest, changes: dict[str, object], message: str
) -> None:
    document = manifest_document(manifest)
    for field, value in changes.items():
        document = change(document, field, value)

    with pytest.raises(BundleError) as caught:
        parse_manifest(document)

    assert message in str(caught.value)


def test_no_step_is_a_default_with_class_means(manifest: Manifest) -> None:
    document = change(manifest_document(manifest), "inner_loop.step_count", 0)
    document = change(document, "head.default", "prototype")

    assert parse_manifest(document).inner_loop.step_count == 0


@pytest.fixture
def tailed(manifest: Manifest) -> Manifest:
    block = TailBlock(expansion=6, channels=8, stride=1)
    tail = TailSpec((4, 3, 3), (block,), 16, learning_rate=0.001, likeness=0.5, slope=3.0)
    return replace(
        manifest,
        network=NetworkSpec("features", {"first": 14}),
        encoder=EncoderSpec((50, 1, 1)),
        batch_norm=replace(
            manifest.batch_norm, default=BatchNormMode.STORED, allowed=(BatchNormMode.STORED,)
        ),
        scope=ScopePolicy(Scope.AUTO, tuple(Scope)),
        tail=tail,
    )


def test_a_tail_takes_the_last_numbers_of_the_encoder(tailed: Manifest) -> None:
    assert read_manifest(manifest_bytes(tailed)) == tailed
    assert tailed.feature_count == 50 - 4 * 3 * 3
    assert bundle_files(tailed)[-3:-1] == ("tail.safetensors", "predict_tail.onnx")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("scope.allowed", ["all", "auto", "head"], ""),
        ("scope", {"default": "all", "allowed": ["all", "head"]}, "scope auto where there is a"),
        ("encoder.output_shape", [36, 1, 1], "more than the 36 numbers of the maps"),
        ("encoder.output_shape", [5, 4, 3], "an encoder that gives features"),
        ("network.arguments.first", 0, "expected features, the first 14 of them"),
        ("network.name", "mlp", "expected features, the first 14 of them"),
        ("encoder.output_shape", [51, 1, 1], "expected features, the first 15 of them"),
        ("tail.blocks", [], "at least one block"),
        ("tail.likeness", 1.5, "a number from 0 to 1"),
        ("schema_version", 1, "no such key with schema_version 1"),
    ],
)
def test_a_tail_fits_its_encoder(tailed: Manifest, field: str, value: object, problem: str) -> None:
    document = change(manifest_document(tailed), field, value)
    if not problem:
        assert parse_manifest(document)
        return

    with pytest.raises(BundleError, match=problem):
        parse_manifest(document)


def test_scope_auto_needs_a_tail(manifest: Manifest) -> None:
    document = change(manifest_document(manifest), "scope.allowed", ["all", "auto"])

    with pytest.raises(BundleError, match="scope auto where there is a tail, and only there"):
        parse_manifest(document)
