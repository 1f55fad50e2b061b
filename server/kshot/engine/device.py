"""The device that computes, and its description."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

COMPUTE_THREADS = 1
# How many tasks a launch may step. One task keeps a core busy; a small network leaves a GPU idle
# unless many tasks step together.
LAUNCH_WIDTHS = {"cpu": (1, 2), "cuda": (1, 4, 16, 64)}


@dataclass(frozen=True)
class DeviceDescription:
    """A device, of `count` alike; results may differ between devices of different `variant`s."""

    device: torch.device
    name: str
    variant: str
    count: int = 1

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.type

    def compute_path(self, *, compiled: bool) -> str:
        """Name how steps are computed: equal paths give equal bytes for equal tasks."""
        how = "compiled" if compiled else "eager"
        return f"{how}/float32/{self.kind}/{self.variant}/torch-{torch.__version__}"


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> DeviceDescription:
    """Take the GPU that torch sees, or the CPU.

    Raises `ValueError` when a GPU is asked for and torch finds none.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ValueError("device: expected a GPU for cuda, torch finds none; use cpu or auto")
    if wanted != "cpu" and has_gpu:
        device, name = torch.device("cuda"), torch.cuda.get_device_name()
        variant, count = name.replace(" ", "-"), torch.cuda.device_count()
    else:
        device, name = torch.device("cpu"), _processor_name()
        variant, count = torch.backends.cpu.get_cpu_capability(), 1
    return DeviceDescription(device, name, variant, count)


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device or the processor had no memory left; torch has no type for the last."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def give_back_memory(error: Exception) -> None:
    """Return unused memory to the device after it ran out, in the thread that takes the graphs."""
    if ran_out_of_memory(error):
        error.__traceback__ = None  # it holds the tensors
        torch.cuda.empty_cache()


def _processor_name() -> str:
    """Name the processor as Linux does, or by its architecture where Linux does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
