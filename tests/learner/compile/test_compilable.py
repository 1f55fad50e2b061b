import torch

from kshot.learner import StepSpec
from kshot.learner.compile.compilable import difference

CPU = torch.device("cpu")


def test_the_plain_form_differs_by_nothing(spec: StepSpec) -> None:
    assert difference(spec.build(), spec, CPU) == 0


def test_another_step_size_differs_by_its_share(spec: StepSpec) -> None:
    plain = spec.build()

    def larger(*arguments: torch.Tensor) -> torch.Tensor:
        return plain(*arguments[:-1], 1.05 * arguments[-1])

    assert 0.03 < difference(larger, spec, CPU) < 0.07


def test_what_is_not_finite_differs_without_bound(spec: StepSpec) -> None:
    plain = spec.build()

    def spoiled(*arguments: torch.Tensor) -> torch.Tensor:
        losses = plain(*arguments)
        arguments[0].view(-1)[0] = torch.nan
        return losses

    assert difference(spoiled, spec, CPU) == torch.inf
