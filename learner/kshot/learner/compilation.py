"""Compilation of the inner step, behind one seam."""

import os
import shutil
from importlib.util import find_spec

import torch

from kshot.learner.inner_loop import InnerStep


def compiler_name(device: torch.device) -> str | None:
    """Name the compiler that torch.compile would use for a device, or None where none is found.

    That one is found does not mean that it works.
    """
    if device.type == "cuda":
        return "triton" if find_spec("triton") else None
    candidates = [os.environ.get("CXX"), "g++", "clang++"]
    return next((name for name in candidates if name and shutil.which(name)), None)


def compile_step(step: InnerStep) -> InnerStep:
    """Compile an inner step; the first call with each set of shapes takes seconds."""
    return torch.compile(step, fullgraph=True, dynamic=False)
