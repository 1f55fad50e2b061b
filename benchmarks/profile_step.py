"""Profile one compiled inner step, kernel by kernel.

python benchmarks/profile_step.py --way 5 --batch-size 5 [--tasks 1] [--device cpu] [--steps 200]

Prints JSON: microseconds of a step by kernel, the longest first. The names of compiled kernels list
what they fuse; names of library kernels begin with aten::. The profiler slows every kernel a
little: compare shares, not sums.
"""

import json
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import click
import torch
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from kshot.bench.environment import environment
from kshot.bundle import Preconditioner, Scope, builtin_bundle, load_bundle
from kshot.learner import StepRule, StepSpec
from kshot.learner.torch_internals import load_package, write_package

WARM_UP_STEPS = 20


@click.command()
@click.option("--way", default=5)
@click.option("--batch-size", default=5)
@click.option("--tasks", default=1)
@click.option("--device", default="cpu")
@click.option("--steps", default=200)
def main(way: int, batch_size: int, tasks: int, device: str, steps: int) -> None:
    """Compile the step with marks around its kernels, run it, and add up."""
    torch.set_num_threads(1)
    manifest = load_bundle(builtin_bundle()).manifest
    rule = StepRule(Preconditioner.CARRIED, manifest.inner_loop.learning_rate)
    spec = StepSpec.of(manifest, way, batch_size, rule, Scope.ALL).of_tasks(tasks)
    place = torch.device(device)
    arguments = spec.example_arguments(place)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler uses what torch deprecates
        package = Path(folder) / "step.pt2"
        options = {"cpp.enable_kernel_profile": True}
        write_package(spec.build(tuned_for=place), arguments, package, options)
        step = load_package(package)
    for _ in range(WARM_UP_STEPS):
        step(*arguments)
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        for _ in range(steps):
            step(*arguments)
    kernels = microseconds(recorded.key_averages(), steps, on_gpu=device == "cuda")
    total = sum(kernels.values())
    rows = [
        {"kernel": name, "microseconds": round(value, 2), "share": round(value / total, 4)}
        for name, value in sorted(kernels.items(), key=lambda item: -item[1])
    ]
    size = {"way": way, "batch_size": batch_size, "tasks": tasks, "steps": steps}
    print(json.dumps({**size, "kernels": rows, "environment": environment()}, indent=2))


def microseconds(
    averages: Iterable[FunctionEventAvg], steps: int, *, on_gpu: bool
) -> dict[str, float]:
    """Return the time of each kernel in one step, without what it calls."""
    times = {
        str(item.key): (item.self_device_time_total if on_gpu else item.self_cpu_time_total) / steps
        for item in averages
    }
    return {name: value for name, value in times.items() if value > 0}


if __name__ == "__main__":
    main()
