"""The device that computes, and what is told of it."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch


@dataclass(frozen=True)
class DeviceDescription:
    """A device; equal compute paths give equal bytes for equal adaptations."""

    device: torch.device
    name: str
    compute_path: str

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.type


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> DeviceDescription:
    """Take the GPU that torch sees, or the CPU.

    Raises ``ValueError`` when a GPU is asked for and torch sees none.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ValueError("device cuda was asked for, but torch sees no GPU: use cpu or auto")
    if wanted != "cpu" and has_gpu:
        device, name = torch.device("cuda"), torch.cuda.get_device_name()
        variant = name.replace(" ", "-")
    else:
        device, name = torch.device("cpu"), _processor_name()
        variant = torch.backends.cpu.get_cpu_capability()
    return DeviceDescription(
        device, name, f"eager/float32/{device.type}/{variant}/torch-{torch.__version__}"
    )


def _processor_name() -> str:
    """Name the processor as Linux does, or by its architecture where Linux does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
