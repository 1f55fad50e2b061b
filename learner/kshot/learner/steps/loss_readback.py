"""Losses that are read back from a device without stopping it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Sent:
    """Losses on their way to the host, their tasks' handles, and the event of their arrival."""

    handles: tuple[int, ...]
    losses: Tensor
    arrived: torch.cuda.Event


class LossReader:
    """Reads each step's losses; on a GPU one step late, while the next one runs."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._sent: _Sent | None = None

    def read(self, handles: Sequence[int], losses: Tensor) -> dict[int, float]:
        """Send a step's losses `(T,)` to the host; return the newest that have arrived."""
        if not self._on_gpu:
            return dict(zip(handles, losses.tolist(), strict=True))
        host = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True)
        host.copy_(losses, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types for it
        arrived.record()
        before, self._sent = self._sent, _Sent(tuple(handles), host, arrived)
        if before is None:
            return {}
        before.arrived.synchronize()
        return dict(zip(before.handles, before.losses.tolist(), strict=True))
