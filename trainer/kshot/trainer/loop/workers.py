"""The processes of one training, as `torchrun` starts them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Self

import torch
import torch.distributed
from torch import Tensor

from kshot.trainer.errors import LostWorkerError, TrainingError

__all__ = ["ALONE", "Workers", "joined_workers"]

# All wait while the first one measures a point of the curves, or one still reads its images.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Workers:
    """The number of this process among those that share the tasks of each meta-batch.

    With ``apart`` it takes its share of the tasks, and exchanges nothing.
    """

    rank: int
    count: int
    device: torch.device | None = None
    apart: bool = False

    @property
    def first(self) -> bool:
        """Tell whether this process is the one that writes and reports."""
        return self.rank == 0

    def own(self, task_count: int) -> slice:
        """Return the tasks, of a meta-batch's, that this process adapts to."""
        return slice(
            self.rank * task_count // self.count, (self.rank + 1) * task_count // self.count
        )

    def set_apart(self) -> Self:
        """Return the same process without the others."""
        return replace(self, apart=True)

    def total(self, tensor: Tensor) -> Tensor:
        """Add up a tensor of all processes; the sum is in all of them, to the same bit.

        Raises ``LostWorkerError`` when one of them has ended.
        """
        return self._reduced(tensor, torch.distributed.ReduceOp.SUM)

    def agree(self, text: str) -> bool:
        """Tell whether all processes came here with the same text; it waits for them to come.

        Raises ``LostWorkerError`` when one of them has ended.
        """
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
        ends = torch.tensor([number, -number], device=self.device)
        largest, negated_smallest = self._reduced(ends, torch.distributed.ReduceOp.MAX).tolist()
        return bool(largest == -negated_smallest)

    def _reduced(self, tensor: Tensor, operation: torch.distributed.ReduceOp.RedOpType) -> Tensor:
        if self.count > 1 and not self.apart:
            try:
                torch.distributed.all_reduce(tensor, operation)
            except RuntimeError as error:
                raise LostWorkerError(
                    f"another of the {self.count} processes of this training has ended, and it "
                    "ends with it"
                ) from error
        return tensor


ALONE = Workers(0, 1)


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """Join the other processes that `torchrun` started, if it did, until the context ends.

    On GPUs each process of a machine takes the one of its own number. Raises ``TrainingError`` when
    there are too few, or the others cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    backend = "gloo"
    if device.type == "cuda":
        backend = "nccl"
        _take_gpu()
    try:
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TrainingError(f"the {count} processes of this training did not meet: {reason}") from (
            error
        )
    try:
        yield Workers(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)
    finally:
        torch.distributed.destroy_process_group()


def _take_gpu() -> None:
    own, gpu_count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= gpu_count:
        raise TrainingError(
            f"process {own} of this machine, counted from 0, finds {gpu_count} GPUs, wanted one "
            "for each process"
        )
    torch.cuda.set_device(own)
