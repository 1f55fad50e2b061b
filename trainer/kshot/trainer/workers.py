"""The processes of one training, as `torchrun` starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from kshot.trainer.errors import TrainingError

__all__ = ["ALONE", "Workers", "joined_workers"]


@dataclass(frozen=True)
class Workers:
    """The number of this process among those that share the tasks of each meta-batch."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        """Tell whether this process is the one that writes and reports."""
        return self.rank == 0

    def own(self, task_count: int) -> slice:
        """Return the tasks, of a meta-batch's, that this process adapts to."""
        return slice(
            self.rank * task_count // self.count, (self.rank + 1) * task_count // self.count
        )

    def total(self, tensor: Tensor) -> Tensor:
        """Add up a tensor of all processes; the sum is in all of them, to the same bit."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor


ALONE = Workers(0, 1)


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """Join the other processes that `torchrun` started, if it did, until the context ends.

    Raises ``TrainingError`` when they cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TrainingError(f"the {count} processes of this training did not meet: {reason}") from (
            error
        )
    try:
        yield Workers(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
