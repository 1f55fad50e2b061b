from dataclasses import replace

import numpy as np
import torch

from kshot.bundle import Bundle, Preconditioner, Scope
from kshot.engine.models import LoadedModel
from kshot.engine.slot_tasks import slot_task, step_rule, step_spec
from kshot.engine.wire import decode_task
from kshot.internal.v1 import engine_pb2
from kshot.learner import Initialization, run_inner_loop


def test_a_bundle_trained_with_weight_decay_adapts_with_it(
    bundle: Bundle, request_message: engine_pb2.AdaptRequest
) -> None:
    """The paper's code decays weights before each inner step, in training and in evaluation."""
    decaying = replace(
        bundle,
        manifest=replace(
            bundle.manifest,
            inner_loop=replace(bundle.manifest.inner_loop, weight_decay_rate=0.5),
        ),
    )
    initialization = Initialization.from_bundle(bundle, torch.device("cpu"))
    norms = []
    for each in (bundle, decaying):
        model = LoadedModel(each, initialization)
        task = replace(
            decode_task(request_message),
            step_count=1,
            learning_rate=1e-9,
            preconditioner=Preconditioner.SGD,
        )
        started = slot_task(model, task)
        assert step_spec(model, task).weight_decay_rate == started.rule.weight_decay_rate
        adapted = run_inner_loop(
            step_spec(model, task).build(),
            started.state,
            started.support[None],
            started.classes[None],
            started.indices[None],
            started.rule,
        )
        norms.append(float(adapted.state.parameters.norm()))

    assert step_rule(LoadedModel(bundle, initialization), Preconditioner.SGD, 0.1) == (
        replace(started.rule, weight_decay_rate=1.0, learning_rate=0.1)
    )
    np.testing.assert_allclose(norms[1], norms[0] / 2, rtol=1e-5)


def test_auto_shares_the_steps_of_the_head(
    model: LoadedModel, request_message: engine_pb2.AdaptRequest
) -> None:
    task = decode_task(request_message)

    auto, head, every = (step_spec(model, replace(task, scope=scope)) for scope in reversed(Scope))

    assert auto == head != every


def test_balanced_classes_come_equally_often(
    model: LoadedModel, request_message: engine_pb2.AdaptRequest
) -> None:
    del request_message.class_indices[:]
    request_message.class_indices.extend([0, 1, 2, 2, 2, 2])
    request_message.step_count, request_message.batch_size = 6, 5
    shares = []
    for balanced in (False, True):
        request_message.balance_classes = balanced
        started = slot_task(model, decode_task(request_message))
        shares.append(torch.bincount(started.classes[started.indices.flatten()]).tolist())

    assert shares == [[5, 5, 20], [10, 10, 10]]
