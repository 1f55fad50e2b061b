"""The mini-batches that an inner loop walks through."""

import numpy
import torch
from torch import Tensor


def derive_seed(*parts: int) -> int:
    """Mix whole numbers in 0..2^64-1 into one seed of 63 bits, the same on every machine.

    Zeros at the end do not count: ``derive_seed(s, 0)`` is ``derive_seed(s)``.
    """
    words = numpy.random.SeedSequence(parts).generate_state(1, numpy.uint64)
    return int(words[0] >> numpy.uint64(1))


def cycling_indices(example_count: int, batch_size: int, step_count: int, seed: int) -> Tensor:
    """Tabulate which examples each inner step sees: int64 ``(step_count, batch_size)``.

    The paper's code: shuffle, deal out batches, shuffle again when the examples run out; a batch
    may straddle two passes, and holds repeats where it is larger than the support set.
    Raises ``ValueError`` when there is no example or the batch is empty.
    """
    if example_count < 1 or batch_size < 1:
        raise ValueError(
            f"cannot draw batches of {batch_size} from {example_count} examples: wanted 1 or more"
        )
    generator = torch.Generator().manual_seed(seed)
    wanted = step_count * batch_size
    pass_count = -(-wanted // example_count)
    passes = [torch.randperm(example_count, generator=generator) for _ in range(pass_count)]
    dealt = torch.cat(passes) if passes else torch.empty(0, dtype=torch.int64)
    return dealt[:wanted].reshape(step_count, batch_size)


def replacement_indices(example_count: int, batch_size: int, step_count: int, seed: int) -> Tensor:
    """Tabulate batches drawn anew at every inner step: int64 ``(step_count, batch_size)``.

    The paper's code with ``--replacement``: no example twice in a batch, any again in the next.
    Raises ``ValueError`` when the batch is empty or larger than the examples.
    """
    if not 1 <= batch_size <= example_count:
        raise ValueError(
            f"cannot draw batches of {batch_size} different examples from {example_count}: "
            "wanted 1 or more, and no more than there are"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(example_count, generator=generator) for _ in range(step_count)]
    if not drawn:
        return torch.empty(0, batch_size, dtype=torch.int64)
    return torch.stack(drawn)[:, :batch_size]
