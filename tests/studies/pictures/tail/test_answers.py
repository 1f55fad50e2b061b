"""What the study does in parts is what the engine does in one go."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from kshot.bundle import TailBlock, TailSpec
from kshot.learner import Refinement, RefinementTask, Tail, mixed_logits, refine
from kshot.learner.steps.refinement import Steps
from studies.common.runner import SEED
from studies.pictures.tail import answers as module
from studies.pictures.tail.answers import HeadAnswers, Plan, TailAnswers, TailQuestion

WAY = 3
SPEC = TailSpec(
    map_shape=(8, 4, 4),
    blocks=(TailBlock(2, 8, 1), TailBlock(2, 12, 2)),
    feature_count=16,
    learning_rate=5e-3,
    likeness=0.5,
    slope=2.0,
)
Parameters = Mapping[str, Tensor]


@pytest.fixture(scope="module")
def start() -> Parameters:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * 0.3
        for name, shape in Tail(SPEC).shapes.items()
    }


def draw(shot: int, seed: int, views: int) -> tuple[Tensor, Tensor]:
    """Draw maps `(views, n, 8, 4, 4)` whose classes differ in two channels."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(WAY).repeat(shot)
    maps = torch.rand(views, len(classes), *SPEC.map_shape, generator=generator)
    maps[:, :, :2] += torch.tensor([[0.0, 0.8], [0.4, 0.4], [0.8, 0.0]])[classes][:, :, None, None]
    return maps, classes


def question_of(shot: int) -> TailQuestion:
    (maps, classes), (queries, labels) = draw(shot, 1, 3), draw(20, 2, 1)
    undecided, unsure = torch.zeros(len(classes), WAY), torch.zeros(len(labels), WAY)
    unsure[:, 0] = 0.01
    heads = {"unsure": HeadAnswers(undecided, unsure)}
    return TailQuestion(maps, classes, WAY, queries[0], labels, heads, 0.5)


def refined(start: Parameters, of: TailQuestion, plan: Plan) -> Refinement:
    steps = refine(
        Tail(SPEC),
        start,
        RefinementTask(
            of.maps,
            of.classes,
            of.way,
            of.heads["unsure"].held_out,
            plan.step_count,
            plan.fold_step_count,
            SEED,
        ),
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Refinement = end.value
            return found


@pytest.mark.parametrize(("shot", "plan"), [(1, Plan("", 4, 0)), (4, Plan("", 6, 3))])
def test_answers_are_the_engines(start: Parameters, shot: int, plan: Plan) -> None:
    of = question_of(shot)

    found = TailAnswers(SPEC, start, of).by(plan)["unsure"]
    engine = refined(start, of, plan)

    parameters = engine.parameters
    tail = Tail(SPEC).logits(parameters, of.query_maps)
    answers = mixed_logits(of.heads["unsure"].queries, tail, parameters["tail.mix"]).argmax(dim=1)
    assert engine.weight > 0
    assert found.weight == pytest.approx(engine.weight)
    assert found.right == int((answers == of.query_classes).sum()) > found.head
    assert found.head == 20  # the head takes all for the first class
    assert found.seconds > 0.5


def test_plans_share_what_they_have_in_common(
    start: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def counted(tail: Tail, start: Parameters, task: RefinementTask) -> Steps:
        taken.append(task.step_count)
        return refine(tail, start, task)

    monkeypatch.setattr(module, "refine", counted)
    answers = TailAnswers(SPEC, start, question_of(4))
    for plan in (Plan("", 6, 3), Plan("", 6, 2), Plan("", 8, 3)):
        answers.by(plan)

    assert taken == [6, 3, 3, 3, 2, 2, 2, 8]
