"""The mini-batches of an inner loop, and the seeds of all draws."""

import numpy
import torch
from torch import Tensor


def derive_seed(*parts: int) -> int:
    """Mix whole numbers in 0..2^64-1 into one seed of 63 bits, the same on every machine.

    Zeros at the end do not count: `derive_seed(s, 0)` is `derive_seed(s)`.
    """
    words = numpy.random.SeedSequence(parts).generate_state(1, numpy.uint64)
    return int(words[0] >> numpy.uint64(1))


def cycling_indices(example_count: int, batch_size: int, step_count: int, seed: int) -> Tensor:
    """Draw the examples that each inner step sees: int64 `(step_count, batch_size)`.

    The paper's code: shuffle, deal out batches, shuffle again when the examples run out; a batch
    may straddle two passes, and holds repeats where it is larger than the support set.
    Raises `ValueError` when there is no example or the batch is empty.
    """
    _check(example_count, batch_size)
    generator = torch.Generator().manual_seed(seed)
    drawn_count = step_count * batch_size
    pass_count = -(-drawn_count // example_count)
    passes = [torch.randperm(example_count, generator=generator) for _ in range(pass_count)]
    dealt = torch.cat(passes) if passes else torch.empty(0, dtype=torch.int64)
    return dealt[:drawn_count].reshape(step_count, batch_size)


def replacement_indices(example_count: int, batch_size: int, step_count: int, seed: int) -> Tensor:
    """Draw a fresh batch for every inner step: int64 `(step_count, batch_size)`.

    The paper's code with `--replacement`: no example twice in a batch, any again in the next.
    Raises `ValueError` when the batch is empty or larger than the examples.
    """
    if not 1 <= batch_size <= example_count:
        raise ValueError(
            f"batch_size: expected 1..{example_count} to draw without replacement, got {batch_size}"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(example_count, generator=generator) for _ in range(step_count)]
    if not drawn:
        return torch.empty(0, batch_size, dtype=torch.int64)
    return torch.stack(drawn)[:, :batch_size]


def balanced_indices(classes: Tensor, batch_size: int, step_count: int, seed: int) -> Tensor:
    """Draw batches in which classes come equally often: int64 `(step_count, batch_size)`.

    Classes are dealt in whole passes, as `cycling_indices` deals examples, and each time a class
    comes it gives the next of its own examples, dealt in the same way. `classes` `(n,)` are those
    of the examples; each of 0 to their greatest has one. Raises `ValueError` as `cycling_indices`
    does.
    """
    counts = classes.bincount()
    _check(len(counts), batch_size)
    order = _deal(len(counts), step_count * batch_size, seed)
    turn_counts = order.bincount(minlength=len(counts))
    turns = torch.split(order.argsort(stable=True), turn_counts.tolist())
    examples = torch.split(classes.argsort(stable=True), counts.tolist())
    dealt = torch.empty_like(order)
    for number, (turn, own) in enumerate(zip(turns, examples, strict=True)):
        dealt[turn] = own[_deal(len(own), len(turn), derive_seed(seed, number + 1))]
    return dealt.reshape(step_count, batch_size)


def _deal(count: int, drawn_count: int, seed: int) -> Tensor:
    """Deal 0 to count - 1 in shuffled passes, all drawn in one call: int64 `(drawn_count,)`.

    Fewer draws are the first of more.
    """
    if count == 1:
        return torch.zeros(drawn_count, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    passes = -(-drawn_count // count)
    keys = torch.rand(passes, count, generator=generator, dtype=torch.float64)
    return keys.argsort(dim=1, stable=True).flatten()[:drawn_count]


def _check(example_count: int, batch_size: int) -> None:
    if example_count < 1 or batch_size < 1:
        raise ValueError(
            f"expected at least 1 example and 1 per batch, got {example_count} and {batch_size}"
        )
