"""The adaptation of a tail: a step at a time, the same each time, and to some use."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import TailBlock, TailSpec
from kshot.learner import Refinement, RefinementTask, Tail, mixed_logits, refine

WAY = 3
SPEC = TailSpec(
    map_shape=(8, 4, 4),
    blocks=(TailBlock(2, 8, 1), TailBlock(2, 12, 2)),
    feature_count=16,
    learning_rate=5e-3,
    likeness=0.2,
    slope=3.0,
)
TAIL = Tail(SPEC)
Parameters = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def start() -> Parameters:
    """A tail of drawn weights, whose features are much alike."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * (2 / max(1, shape[1:].numel())) ** 0.5
        if len(shape) > 1
        else torch.zeros(shape)
        for name, shape in ((name, torch.Size(shape)) for name, shape in TAIL.shapes.items())
    }


def draw(shot: int, seed: int, views: int = 1) -> tuple[Tensor, Tensor]:
    """Draw maps `(views, n, 8, 4, 4)` that differ by class in two channels, much in the others."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(WAY).repeat(shot)
    maps = torch.rand(views, len(classes), *SPEC.map_shape, generator=generator) * 2
    maps[:, :, :2] = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.8, 0.2]])[classes][:, :, None, None]
    return maps, classes


def task_of(shot: int, step_count: int, fold_step_count: int = 0, seed: int = 3) -> RefinementTask:
    """Return a task with a head that knows nothing, and two views of each example."""
    maps, classes = draw(shot, seed, views=2)
    undecided = torch.zeros(len(classes), WAY)
    return RefinementTask(maps, classes, WAY, undecided, step_count, fold_step_count, seed)


def run(start: Parameters, task: RefinementTask) -> tuple[int, Refinement]:
    """Return how often the generator gave control back, and its result."""
    steps, count = refine(TAIL, start, task), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return count, end.value
        count += 1


def test_adapting_raises_the_accuracy(start: Parameters) -> None:
    queries, truth = draw(shot=60, seed=9)

    _, refined = run(start, task_of(shot=5, step_count=40, fold_step_count=20))
    untouched = run(start, replace(task_of(shot=5, step_count=1), seed=4))[1].parameters

    accuracies = [
        (TAIL.logits(parameters, queries[0]).argmax(1) == truth).float().mean().item()
        for parameters in (untouched, refined.parameters)
    ]
    assert refined.weight > 0
    assert accuracies[1] > accuracies[0] + 0.1


def test_each_step_is_one_next(start: Parameters) -> None:
    assert run(start, task_of(shot=1, step_count=4))[0] == 4
    assert run(start, task_of(shot=2, step_count=4, fold_step_count=3))[0] == 2 * 3 + 4
    assert run(start, task_of(shot=5, step_count=4, fold_step_count=3))[0] == 3 * 3 + 4
    # 36 examples: a second pass at the start and one at the end, but none in a fold of 12
    assert run(start, task_of(shot=12, step_count=4, fold_step_count=3))[0] == 1 + 3 * 3 + 4 + 1


def test_equal_tasks_give_equal_bits(start: Parameters) -> None:
    before = {name: value.clone() for name, value in start.items()}
    task = task_of(shot=12, step_count=4, fold_step_count=3)

    first, again = (run(start, task)[1] for _ in range(2))
    other = run(start, replace(task, seed=8))[1]

    assert first.weight == again.weight
    for name, value in first.parameters.items():
        assert torch.equal(value, again.parameters[name])
    assert not torch.equal(first.parameters["tail.classes"], other.parameters["tail.classes"])
    assert all(torch.equal(value, before[name]) for name, value in start.items())


def test_steps_are_those_of_adam_at_a_falling_rate(start: Parameters) -> None:
    task = task_of(shot=1, step_count=4)
    task = replace(task, maps=task.maps[:1])
    rows = functional.normalize(TAIL.features(start, task.maps[0]), dim=1)
    parameters = {**start, "tail.classes": rows}
    parameters = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    adam = torch.optim.Adam(parameters.values(), betas=(0.9, 0.99))
    for share in (1.0, 1.0, 1.0, 0.5):
        adam.param_groups[0]["lr"] = share * SPEC.learning_rate
        loss = functional.cross_entropy(TAIL.logits(parameters, task.maps[0]), task.classes)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()

    _, refined = run(start, task)

    for name, value in parameters.items():
        torch.testing.assert_close(refined.parameters[name], value.detach(), rtol=1e-3, atol=1e-4)


def test_the_result_is_representable_as_float16(start: Parameters) -> None:
    parameters = run(start, task_of(shot=2, step_count=2, fold_step_count=2))[1].parameters

    assert set(parameters) == {*TAIL.shapes, "tail.classes", "tail.mix"}
    assert parameters["tail.classes"].shape == (WAY, SPEC.feature_count)
    for name, value in parameters.items():
        assert value.dtype == torch.float32
        assert value.is_contiguous()
        assert name == "tail.mix" or torch.equal(value, value.half().float())
        assert name not in TAIL.shapes or tuple(value.shape) == TAIL.shapes[name]


def test_with_one_example_the_likeness_decides(start: Parameters) -> None:
    task = task_of(shot=1, step_count=2)
    features = TAIL.features(start, task.maps[0])
    cosines = (features @ features.T)[~torch.eye(WAY, dtype=torch.bool)]
    weight = 3 * (cosines.mean().item() - 0.2)

    _, refined = run(start, task)

    assert refined.support_logits is not None
    answers = TAIL.logits(refined.parameters, task.maps[0])
    assert torch.allclose(refined.support_logits, answers, atol=1e-5)
    assert refined.weight == pytest.approx(weight, rel=1e-4)
    mix = [1 / (1 + refined.weight), refined.weight / (1 + refined.weight)]
    assert refined.parameters["tail.mix"].tolist() == pytest.approx(mix, rel=1e-6)
    assert refined.held_out_logits is None


def test_left_out_answers_are_joined(start: Parameters) -> None:
    """A head that knows all classes keeps them; the tail's part has the weight of the answer."""
    task = task_of(shot=5, step_count=2, fold_step_count=2)
    _, refined = run(start, task)
    sure = functional.one_hot(task.classes, WAY) * 30.0
    _, beside = run(start, replace(task, head_logits=sure))

    assert refined.held_out_logits is not None
    assert refined.held_out_logits.shape == (15, WAY)
    assert refined.parameters["tail.mix"].tolist() == pytest.approx([1, refined.weight], rel=1e-6)
    tail = (refined.held_out_logits - torch.zeros(15, WAY).log_softmax(1)) / refined.weight
    assert torch.allclose(tail.exp().sum(1), torch.ones(15), atol=1e-4)
    assert beside.held_out_logits is not None
    both = mixed_logits(sure, tail, torch.tensor([1.0, beside.weight]))
    assert torch.allclose(beside.held_out_logits, both, atol=1e-4)


def test_a_tail_that_misleads_has_no_weight(start: Parameters) -> None:
    """Maps that say nothing of the classes, beside a head that knows them."""
    task = task_of(shot=5, step_count=3, fold_step_count=2)
    maps = torch.rand(task.maps.shape, generator=torch.Generator().manual_seed(1))
    sure = functional.one_hot(task.classes, WAY) * 3.0
    unlike = Tail(replace(SPEC, likeness=1.0))

    steps = refine(unlike, start, replace(task, maps=maps, head_logits=sure))
    count = 0
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
            count += 1

    assert (count, end.value.value) == (3 * 2, Refinement())


def test_pictures_that_differ_take_no_step(start: Parameters) -> None:
    steps = refine(Tail(replace(SPEC, likeness=1.0)), start, task_of(shot=1, step_count=3))

    with pytest.raises(StopIteration) as end:
        next(steps)

    assert end.value.value == Refinement()


@pytest.mark.parametrize("fold_step_count", [0, 2])
def test_what_is_not_finite_has_no_weight(start: Parameters, fold_step_count: int) -> None:
    task = task_of(shot=3, step_count=3, fold_step_count=fold_step_count)
    steep = Tail(replace(SPEC, learning_rate=1e30))

    steps = refine(steep, start, task)
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)

    assert end.value.value == Refinement()


def test_an_answer_that_is_not_finite_has_no_weight(start: Parameters) -> None:
    class Overflowing(Tail):
        def logits(self, parameters: Parameters, maps: Tensor) -> Tensor:
            logits = super().logits(parameters, maps)
            return logits if torch.is_grad_enabled() else logits * float("inf")

    steps = refine(Overflowing(SPEC), start, task_of(shot=1, step_count=3))
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)

    assert end.value.value == Refinement()


def test_pictures_that_do_not_differ_take_no_step(start: Parameters) -> None:
    task = task_of(shot=2, step_count=5, fold_step_count=5)
    same = task.maps[:, :1].expand_as(task.maps)

    steps, refined = run(start, replace(task, maps=same))

    assert (steps, refined.weight) == (0, 0.0)
    assert run(start, task)[0] > 0
