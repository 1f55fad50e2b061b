import math

import pytest
import torch

from kshot.trainer.evaluate.scores import Answers


def test_the_numbers_are_those_of_the_definitions() -> None:
    answers = Answers()
    answers.add(torch.tensor([[[0.8, 0.2], [0.6, 0.4]]]), torch.tensor([[0, 1]]))
    answers.add(torch.tensor([[[0.1, 0.9], [0.7, 0.3]]]), torch.tensor([[1, 0]]))

    result = answers.score(3, "digest", adapting_seconds=0.5)

    assert result.correct_counts == (1, 2)
    assert result.task_accuracies == [0.5, 1.0]
    assert result.accuracy == 0.75
    wanted = -sum(map(math.log, (0.8, 0.4, 0.9, 0.7))) / 4
    assert result.nll == pytest.approx(wanted, rel=1e-6)
    # Four bins of one answer each: |1 - .8|, |0 - .6|, |1 - .9|, |1 - .7|.
    assert result.ece == pytest.approx(1.2 / 4, rel=1e-6)
    assert (result.task_count, result.query_count, result.step_count) == (2, 2, 3)
    assert (result.episodes_digest, result.diverged_count, result.unknown) == ("digest", 0, None)
    assert result.ms_per_task == 250


def test_answers_that_are_not_finite_are_wrong() -> None:
    answers = Answers()
    nothing = [math.nan, math.nan]
    answers.add(torch.tensor([[nothing, [1.0, 0.0]], [nothing, nothing]]), torch.zeros(2, 2).long())

    result = answers.score(1, "", 0.0)

    assert result.correct_counts == (1, 0)
    assert result.diverged_count == 2
    assert result.nll == pytest.approx(0.75 * math.log(2), rel=1e-6)


def test_unknown_queries_are_scored() -> None:
    answers = Answers()
    answers.add(torch.tensor([[[0.9, 0.1]]]), torch.tensor([[0]]))
    answers.add_mixed(torch.tensor([[[0.9, 0.1], [0.4, 0.6]]]))
    answers.add(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[0]]))
    answers.add_mixed(torch.tensor([[[0.5, 0.5], [0.3, 0.7]]]))

    found = answers.score(1, "", 0.0).unknown

    assert found is not None
    # Known .9 and .5, unknown .6 and .7: .9 beats both, .5 none.
    assert found.auroc == 0.5
    assert found.fpr_at_95_tpr == 1.0
