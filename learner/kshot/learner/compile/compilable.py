"""What can be compiled, and how a compiled program is compared with its plain form."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from kshot.bundle import NetworkSpec

Program = TypeVar("Program", bound=Callable[..., Any])
Program_co = TypeVar("Program_co", bound=Callable[..., Any], covariant=True)

# Sums in another order differed by at most 6e-4 (conv4 on 84 x 84 images), other formulas by 0.012
# and more (the head's bias alone is not updated).
LARGEST_DIFFERENCE = 0.01


class Compilable(Protocol[Program_co]):
    """What describes a program of the learner: an inner step, or a query gradient."""

    @property
    def network(self) -> NetworkSpec:
        """The network that it goes through."""

    @property
    def text(self) -> str:
        """The whole description in one line."""

    def build(self, tuned_for: torch.device | None = None) -> Program_co:
        """Build it, tuned for a device in the form that compiles to the fastest."""

    def example_arguments(self, device: torch.device) -> tuple[Tensor, ...]:
        """Make the arguments of a random task, the same each time."""


def difference(
    compiled: Callable[..., Any], spec: Compilable[Program], device: torch.device
) -> float:
    """Run a compiled program and its plain form once; return the largest relative difference.

    It is `|a - b| / |b|` of what they return, and of how they change each argument, in the
    Euclidean norm; infinite where one of them is not finite.
    """
    arguments = spec.example_arguments(device)
    outcomes = [_outcome(program, arguments) for program in (compiled, spec.build())]
    return max(_relative(got, expected) for got, expected in zip(*outcomes, strict=True))


def _outcome(program: Callable[..., Any], arguments: tuple[Tensor, ...]) -> list[Tensor]:
    given = [argument.clone() for argument in arguments]
    results = program(*given)
    changes = [
        after.double() - before.double() for after, before in zip(given, arguments, strict=True)
    ]
    return [*changes, *([results] if isinstance(results, Tensor) else results)]


def _relative(got: Tensor, expected: Tensor) -> float:
    if not (torch.isfinite(got).all() and torch.isfinite(expected).all()):
        return torch.inf
    distance, size = (tensor.double().norm().item() for tensor in (got - expected, expected))
    if distance == 0:
        return 0.0
    return distance / size if size else torch.inf
