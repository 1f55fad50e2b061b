"""The processes of one training, as `torchrun` starts them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor

from kshot.trainer.errors import LostWorkerError, TrainingError

# The others wait while the first one measures its curves, or one still reads its images.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Workers:
    """One process among those that share the tasks of each meta-batch.

    With `apart` it takes its share of the tasks but exchanges nothing.
    """

    rank: int
    count: int
    device: torch.device | None = None
    apart: bool = False

    @property
    def first(self) -> bool:
        """Tell whether this process writes and reports."""
        return self.rank == 0

    def own(self, task_count: int) -> slice:
        """Return this process's share of a meta-batch's tasks."""
        return slice(
            self.rank * task_count // self.count, (self.rank + 1) * task_count // self.count
        )

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes; all get the same bits.

        Raises `LostWorkerError` when one of them has ended.
        """
        return self._reduced(tensor, torch.distributed.ReduceOp.SUM)

    def agree(self, text: str) -> bool:
        """Wait for all processes, and tell whether they pass the same text.

        Raises `LostWorkerError` when one of them has ended.
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
                    f"another of the {self.count} processes of this training has ended, so this "
                    "one ends too"
                ) from error
        return tensor


ALONE = Workers(0, 1)


def launched_count() -> int:
    """Return how many processes `torchrun` started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """Join the other processes of `torchrun`, if there are any, until the context ends.

    On GPUs each process of a machine takes the GPU of its own number. Raises `TrainingError` when
    there are too few GPUs, or the other processes cannot be reached.
    """
    count = launched_count()
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
        raise TrainingError(
            f"the {count} processes of this training could not connect: {reason}"
        ) from error
    try:
        yield Workers(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)
    finally:
        torch.distributed.destroy_process_group()


def _take_gpu() -> None:
    own, gpu_count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= gpu_count:
        raise TrainingError(
            f"process {own} of this machine: expected one GPU for each process, found "
            f"{gpu_count} in all"
        )
    torch.cuda.set_device(own)
