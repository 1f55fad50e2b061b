"""The adaptation of a tail to one support set, a step at a time."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import TAIL_CLASSES, TAIL_EXAMPLES, TAIL_MIX
from kshot.learner.networks.tail import Tail
from kshot.learner.steps.sampler import cycling_indices, derive_seed
from kshot.learner.steps.tail_weight import all_alike, best_weight, folds, prior_weight

BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8  # of Adam

Steps = Generator[None, None, "Refinement"]


@dataclass(frozen=True)
class RefinementTask:
    """What a tail adapts to.

    `maps` `(1 + k, n, channels, height, width)` are those of the originals and of k crops of each;
    `classes` int64 `(n,)` are from 0 to way - 1, each with an example. `head_logits` `(n, way)` are
    the head's for each example without it. With `fold_step_count` above 0 each class has two
    examples.
    """

    maps: Tensor
    classes: Tensor
    way: int
    head_logits: Tensor
    step_count: int
    fold_step_count: int
    seed: int


@dataclass(frozen=True)
class Refinement:
    """An adapted tail; nothing but weight 0 where the head alone answers better.

    `parameters` are `tail.*` and `tail.classes` `(way, feature_count)`, float32 and representable
    as float16, and `tail.mix` `(2,)`, float32. `support_logits` `(n, way)` are the tail's for the
    originals. `held_out_logits` `(n, way)` are those of head and tail for each example without it;
    None without folds.
    """

    weight: float = 0.0
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    support_logits: Tensor | None = None
    held_out_logits: Tensor | None = None


def refine(tail: Tail, start: Mapping[str, Tensor], task: RefinementTask) -> Steps:
    """Adapt a tail; the generator takes one step each time, and returns the `Refinement`.

    Adam changes all parameters and rows for the classes, which start as class means. Its rate falls
    linearly over the last half of the steps. A step sees of each example the original or one of its
    crops, drawn by the seed, and goes down the cross-entropy of ten times the cosines.

    The weight of the tail beside the head comes first. Where there are folds, it is the best for
    what tails that adapt without a fold say of this fold (`best_weight`); else the pictures'
    likeness decides alone (`prior_weight`), and log-probabilities are divided by 1 + weight. Then
    the tail adapts to all examples, unless its weight is 0. It is 0 also where all examples are
    alike, and where a loss, a parameter or an answer is not finite. A step takes at most 32
    examples; with more than these, each pass without gradients takes a `next` of its own.
    """
    originals, classes = task.maps[0], task.classes
    features = yield from _passed(lambda maps: tail.features(start, maps), originals)
    if all_alike(features, classes):
        return Refinement()
    weight = prior_weight(tail.spec, features, classes)
    head, held = task.head_logits.log_softmax(dim=1), None
    if task.fold_step_count:
        held = yield from _held_out(tail, start, task, features)
        weight = 0.0 if held is None else best_weight(head, held, classes, weight)
    if weight == 0:
        return Refinement()
    adapted = yield from _adapt(tail, start, task, features)
    if adapted is None:
        return Refinement()
    logits = yield from _passed(_answer(tail, adapted), originals)
    if not torch.isfinite(logits).all():
        return Refinement()
    share = 1.0 if task.fold_step_count else 1 / (1 + weight)
    mix = torch.tensor([share, share * weight], device=originals.device)
    joined = None if held is None else head + weight * held
    return Refinement(weight, adapted | {TAIL_MIX: mix}, logits, joined)


def _held_out(
    tail: Tail, start: Mapping[str, Tensor], task: RefinementTask, features: Tensor
) -> Generator[None, None, Tensor | None]:
    """Return log-probabilities `(n, way)` of each fold by a tail that adapted to the others."""
    held = torch.zeros_like(task.head_logits)
    fold = folds(task.classes, task.way)
    for number in range(int(fold.max()) + 1):
        seen = torch.nonzero(fold != number).squeeze(1)
        left = torch.nonzero(fold == number).squeeze(1)
        others = replace(
            task,
            maps=task.maps[:, seen],
            classes=task.classes[seen],
            step_count=task.fold_step_count,
            seed=derive_seed(task.seed, number + 1),
        )
        adapted = yield from _adapt(tail, start, others, features[seen])
        if adapted is None:
            return None
        logits = yield from _passed(_answer(tail, adapted), task.maps[0, left])
        held[left] = logits.log_softmax(dim=1)
    return held if torch.isfinite(held).all() else None


def _answer(tail: Tail, parameters: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda maps: tail.logits(parameters, maps)


def _adapt(
    tail: Tail, start: Mapping[str, Tensor], task: RefinementTask, features: Tensor
) -> Generator[None, None, dict[str, Tensor] | None]:
    """Take `step_count` steps; return rounded parameters, None where something is not finite.

    `features` `(n, feature_count)` are those of the originals at the start.
    """
    means = [features[task.classes == number].mean(dim=0) for number in range(task.way)]
    parameters = {name: _fast(value.detach().clone()) for name, value in start.items()}
    parameters[TAIL_CLASSES] = functional.normalize(torch.stack(means), dim=1)
    adapted = [value.requires_grad_() for value in parameters.values()]
    adam = _Adam(adapted)
    for number, (views, rows) in enumerate(_draws(task)):
        logits = tail.logits(parameters, _fast(task.maps[views, rows]))
        loss = functional.cross_entropy(logits, task.classes[rows])
        if not torch.isfinite(loss):
            return None
        share = min(1.0, 2 * (1 - number / task.step_count))
        adam.step(torch.autograd.grad(loss, adapted), share * tail.spec.learning_rate)
        yield
    rounded = {name: _rounded(value.detach()) for name, value in parameters.items()}
    return rounded if all(torch.isfinite(value).all() for value in rounded.values()) else None


class _Adam:
    """Adam (Kingma, Ba 2015, algorithm 1), which changes parameters in place.

    `torch.optim` is the same, but imports torch's compiler first, which takes seconds.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._first = [torch.zeros_like(value) for value in parameters]
        self._second = [torch.zeros_like(value) for value in parameters]
        self._count = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Take `rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + e)` off the parameters."""
        self._count += 1
        size = rate / (1 - BETA_1**self._count)
        root = (1 - BETA_2**self._count) ** 0.5
        of_each = zip(self._parameters, gradients, self._first, self._second, strict=True)
        for value, gradient, first, second in of_each:
            first.lerp_(gradient, 1 - BETA_1)
            second.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            value.addcdiv_(first, (second.sqrt() / root).add_(EPSILON), value=-size)


def _draws(task: RefinementTask) -> list[tuple[Tensor, Tensor]]:
    """Draw which view of which examples each step sees: two int64 `(examples of a step,)`."""
    view_count, count = task.maps.shape[:2]
    if count > TAIL_EXAMPLES:
        rows = cycling_indices(count, TAIL_EXAMPLES, task.step_count, derive_seed(task.seed, 0, 1))
    else:
        rows = torch.arange(count).repeat(task.step_count, 1)
    generator = torch.Generator().manual_seed(derive_seed(task.seed, 0, 2))
    views = torch.randint(view_count, rows.shape, generator=generator)
    device = task.maps.device
    return list(zip(views.to(device), rows.to(device), strict=True))


def _passed(function: Callable[[Tensor], Tensor], maps: Tensor) -> Generator[None, None, Tensor]:
    """Apply a function to maps `(n, ...)`, some examples at a time."""
    parts: list[Tensor] = []
    for part in torch.split(maps, TAIL_EXAMPLES):
        if parts:
            yield
        with torch.no_grad():
            parts.append(function(_fast(part)))
    return torch.cat(parts)


def _fast(value: Tensor) -> Tensor:
    """Lay out maps and kernels channels last: a step takes a fifth less time on a CPU."""
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def _rounded(value: Tensor) -> Tensor:
    return value.half().float().contiguous()
