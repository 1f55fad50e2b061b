"""A request's answer is PyTorch's answer on the same bundle, support set, seed and options."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from kshot.bundle import COMPUTED_MODES, BatchNormMode, Bundle, Head, Preconditioner, Scope, prepare
from kshot.client import Client
from kshot.learner import (
    Initialization,
    StepRule,
    build_inner_step,
    cycling_indices,
    query_logits,
    run_inner_loop,
    start_state,
)

pytestmark = pytest.mark.compiled
SHOT = 2
QUERY_COUNT = 9
STEP_COUNT = 10
SEED = 12345


def _drawings(bundle: Bundle, way: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Draw noisy strokes, a pattern a class: support, labels and queries as uint8."""
    generator = np.random.default_rng(way)
    side = bundle.manifest.input.shape[-1]
    patterns = generator.random((way, side, side)) < 0.2

    def some(classes: np.ndarray) -> np.ndarray:
        noise = generator.random((len(classes), side, side)) < 0.03
        return np.where(patterns[classes] ^ noise, 0, 255).astype(np.uint8)

    classes = generator.permutation(np.repeat(np.arange(way), SHOT))
    queries = some(generator.integers(0, way, QUERY_COUNT))
    return some(classes), [f"class {label:02}" for label in classes], queries


def _reference(
    bundle: Bundle,
    images: np.ndarray,
    labels: list[str],
    queries: np.ndarray,
    mode: BatchNormMode,
    head: Head,
    preconditioner: Preconditioner,
    learning_rate: float | None = None,
) -> np.ndarray:
    """Adapt and answer with the learner alone: logits `(queries, way)`, as calibrated."""
    manifest = bundle.manifest
    initialization = Initialization.from_bundle(bundle, torch.device("cpu"))
    network = initialization.network
    names = sorted(set(labels))
    support = torch.from_numpy(prepare(images, manifest.input))
    classes = torch.tensor([names.index(label) for label in labels])
    rule = StepRule(preconditioner, learning_rate or manifest.inner_loop.learning_rate)
    state = start_state(
        initialization,
        len(names),
        head=head,
        preconditioner=preconditioner,
        support=support,
        classes=classes,
    )
    batch_size = manifest.default_batch_size(len(names))
    indices = cycling_indices(len(labels), batch_size, STEP_COUNT, SEED)
    adapted = run_inner_loop(
        build_inner_step(network, state.layout, rule, Scope.ALL),
        state,
        support[None],
        classes[None],
        indices[None],
        rule,
    ).state
    with torch.no_grad():
        logits = query_logits(
            network,
            adapted.layout.split(adapted.parameters),
            torch.from_numpy(prepare(queries, manifest.input))[None],
            support[None],
            mode,
        )[0]
    return (logits / manifest.temperature(mode, len(names), len(labels))).numpy()


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("way", [2, 5, 7, 20])
@pytest.mark.parametrize("mode", COMPUTED_MODES)
def test_the_servers_answer_is_pytorchs(
    client: Client, bundle: Bundle, mode: BatchNormMode, way: int, tmp_path: Path
) -> None:
    images, labels, queries = _drawings(bundle, way)
    defaults = (Head.TRAINED, Preconditioner.CARRIED)
    reference = _reference(bundle, images, labels, queries, mode, *defaults)

    adapted = client.adapt(
        images, labels, model="omniglot", step_count=STEP_COUNT, batch_norm_mode=mode, seed=SEED
    )
    answer = adapted.predict(queries)

    names = sorted(set(labels))
    np.testing.assert_allclose(answer.probabilities, _softmax(reference), rtol=0, atol=1e-4)
    assert list(answer.labels) == [names[i] for i in reference.argmax(axis=1)]

    exported = onnxruntime.InferenceSession(
        adapted.export(tmp_path / "mine.onnx"), providers=["CPUExecutionProvider"]
    )
    (logits,) = exported.run(None, {"inputs": prepare(queries, bundle.manifest.input)})
    np.testing.assert_allclose(_softmax(logits), _softmax(reference), rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", [Head.TRAINED, Head.PROTOTYPE, Head.ZERO])
@pytest.mark.parametrize("preconditioner", list(Preconditioner))
def test_options_reach_the_inner_loop(
    client: Client, bundle: Bundle, head: Head, preconditioner: Preconditioner
) -> None:
    images, labels, queries = _drawings(bundle, 3)
    mode = BatchNormMode.SUPPORT
    # The second moment of a long training, whose gradients were small at its end, is too small for
    # those of a zero head: frozen steps of the bundle's own rate are not finite.
    rate = 1e-4 if preconditioner is Preconditioner.FROZEN else 0.001
    reference = _reference(bundle, images, labels, queries, mode, head, preconditioner, rate)

    answer = client.adapt_and_predict(
        images,
        labels,
        queries,
        model="omniglot",
        step_count=STEP_COUNT,
        learning_rate=rate,
        head=head,
        preconditioner=preconditioner,
        seed=SEED,
    )

    np.testing.assert_allclose(answer.probabilities, _softmax(reference), rtol=0, atol=1e-4)


def test_a_model_answers_in_another_mode(client: Client, bundle: Bundle) -> None:
    images, labels, queries = _drawings(bundle, 5)
    adapted = client.adapt(
        images,
        labels,
        model="omniglot",
        step_count=STEP_COUNT,
        batch_norm_mode="support",
        seed=SEED,
    )
    defaults = (Head.TRAINED, Preconditioner.CARRIED)

    for mode in COMPUTED_MODES:
        answer = adapted.predict(queries, batch_norm_mode=mode)

        reference = _reference(bundle, images, labels, queries, mode, *defaults)
        np.testing.assert_allclose(answer.probabilities, _softmax(reference), rtol=0, atol=1e-4)


def test_equal_adaptations_have_equal_digests(client: Client, bundle: Bundle) -> None:
    images, labels, _ = _drawings(bundle, 5)
    first, second = (client.adapt(images, labels, model="omniglot", seed=1) for _ in range(2))

    other = client.adapt(images, labels, model="omniglot", seed=2)

    assert first.id != second.id
    assert first.weights_digest == second.weights_digest != other.weights_digest
