import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.trainer.bundling.temperature import fit_temperature
from kshot.trainer.errors import CalibrationError


def answers(temperature: float, scale: float = 3.0, count: int = 40_000) -> tuple[Tensor, Tensor]:
    """Draw logits of five classes, and the classes from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, 5, generator=generator) * scale
    likely = torch.softmax(logits / temperature, dim=1)
    return logits, torch.multinomial(likely, 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 6.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    """To within some standard errors of 40,000 answers."""
    assert fit_temperature(*answers(temperature)) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize(("right", "logit"), [(3, 2.0), (9, 0.5), (51, 40.0)])
def test_it_makes_answers_as_sure_as_they_are_right(right: int, logit: float) -> None:
    """All equally sure, `right` for each that is wrong: softmax(z / T) is that share."""
    logits = torch.tensor([[logit, 0.0]]).repeat(right + 1, 1)
    classes = torch.zeros(right + 1, dtype=torch.int64)
    classes[0] = 1

    temperature = fit_temperature(logits, classes)

    assert temperature == pytest.approx(logit / math.log(right), rel=1e-6)


def test_no_temperature_beside_it_has_a_smaller_loss() -> None:
    logits, classes = answers(2.0, count=500)
    temperature = fit_temperature(logits, classes)

    def loss(divisor: float) -> float:
        return float(functional.cross_entropy(logits.double() / divisor, classes))

    assert loss(temperature) < min(loss(0.99 * temperature), loss(1.01 * temperature))
    assert loss(temperature) < loss(1.0)


@pytest.mark.parametrize("factor", [1e-2, 0.1, 10.0, 100.0])
def test_larger_logits_have_a_larger_temperature(factor: float) -> None:
    logits, classes = answers(1.3, count=2000)

    scaled = fit_temperature(factor * logits, classes)

    assert scaled == pytest.approx(factor * fit_temperature(logits, classes), rel=1e-4)


def test_equal_answers_have_equal_temperatures() -> None:
    logits, classes = answers(1.3, count=2000)

    assert fit_temperature(logits, classes) == fit_temperature(logits.clone(), classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1], "no temperature down to 0.001 is low enough: 2 of 2 answers are right; use mor"),
        ([1, 0], "no temperature up to 1000 is high enough; are the answers no better than chan"),
    ],
)
def test_where_none_is_best_the_sentence_says_why(classes: list[int], message: str) -> None:
    logits = torch.tensor([[4.0, 1.0], [0.0, 2.0]])

    with pytest.raises(CalibrationError) as caught:
        fit_temperature(logits, torch.tensor(classes))

    assert message in str(caught.value)


def test_answers_that_say_nothing_have_no_temperature() -> None:
    with pytest.raises(CalibrationError, match="no better than chance"):
        fit_temperature(torch.zeros(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]))
