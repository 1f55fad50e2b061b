"""Measure one inner step of conv4 as torch compiles it; both commands print JSON.

A CPU takes most steps of conv4 by the code of `kshot.learner.native` instead.

python benchmarks/inner_step.py [--way 5] [--batch-size 5] [--tasks 1] [--device cpu] profile
python benchmarks/inner_step.py [--network mini-imagenet] [...] forms [FORM ...]
"""

import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch.profiler
from torch import Tensor

from kshot.bench.environment import environment
from kshot.bench.speed.timing import interleave, synchronized
from kshot.bundle import NetworkSpec, Preconditioner, Scope, builtin_bundle, load_bundle
from kshot.learner import Conv4, StepRule, StepSpec, build_inner_step, build_network, graphed
from kshot.learner.steps.inner_step import InnerStep
from kshot.learner.torch_internals import load_package, write_package

BLOCKS = 4
MINI_IMAGENET = NetworkSpec("conv4", {"filters": 32, "downsampling": "max_pool"})
RULE = StepRule(Preconditioner.CARRIED, 1.0)  # step sizes are an argument
WARM_UP_STEPS = 20

Step = tuple[StepSpec, torch.device]


@click.group()
@click.option("--network", type=click.Choice(["omniglot", "mini-imagenet"]), default="omniglot")
@click.option("--way", default=5)
@click.option("--batch-size", default=5)
@click.option("--tasks", default=1)
@click.option("--device", default="cpu")
@click.pass_context
def main(
    context: click.Context, network: str, way: int, batch_size: int, tasks: int, device: str
) -> None:
    """Measure the step of the built-in bundle, or of conv4 as the paper has it elsewhere."""
    torch.set_num_threads(1)
    manifest = load_bundle(builtin_bundle("omniglot")).manifest
    spec = StepSpec.of(manifest, way, batch_size, RULE, Scope.ALL).of_tasks(tasks)
    if network == "mini-imagenet":
        spec = replace(spec, network=MINI_IMAGENET, input_shape=(3, 84, 84))
    context.obj = spec, torch.device(device)


@main.command()
@click.option("--steps", default=200)
@click.pass_obj
def profile(step: Step, steps: int) -> None:
    """Profile the step: microseconds by kernel, the longest first.

    The names of compiled kernels list what they fuse; names of library kernels begin with aten::.
    The profiler slows every kernel a little: compare shares, not sums.
    """
    spec, device = step
    on_gpu, arguments = device.type == "cuda", spec.example_arguments(device)
    marked = {"cpp.enable_kernel_profile": True}
    compiled = compile_form(spec.build(tuned_for=device), arguments, marked)
    for _ in range(WARM_UP_STEPS):
        compiled(*arguments)
    with torch.profiler.profile() as recorded:
        for _ in range(steps):
            compiled(*arguments)
    # The time of a kernel is without what it calls.
    microseconds = {
        str(item.key): (item.self_device_time_total if on_gpu else item.self_cpu_time_total) / steps
        for item in recorded.key_averages()
    }
    total = sum(microseconds.values())
    rows = [
        {"kernel": name, "microseconds": round(value, 2), "share": round(value / total, 4)}
        for name, value in sorted(microseconds.items(), key=lambda item: -item[1])
        if value > 0
    ]
    publish({"steps": steps, "kernels": rows})


@main.command()
@click.option("--rounds", default=60)
@click.argument("names", metavar="[FORM]...", nargs=-1)
@click.pass_obj
def forms(step: Step, rounds: int, names: tuple[str, ...]) -> None:
    """Time the step with each block's convolution in each of its two forms, in turns.

    A FORM is a letter for each block, d for the library's convolution and c for a product of
    columns; without forms all 16 are compiled, which takes minutes. Times are medians.
    """
    spec, device = step
    arguments = spec.example_arguments(device)
    runs = {}
    for name in names or map("".join, itertools.product("dc", repeat=BLOCKS)):
        print(f"compiling {name}", file=sys.stderr)
        compiled = graphed(compile_form(step_of_form(spec, name), arguments), device)
        runs[name] = synchronized(partial(compiled, *arguments), device)
    samples = interleave(runs, rounds, warm_up=5)
    milliseconds = {name: round(median(values), 4) for name, values in samples.items()}
    publish({"rounds": rounds, "milliseconds": milliseconds})


def step_of_form(spec: StepSpec, form: str) -> InnerStep:
    """Build the step of a network in a form; raises `UsageError` for another word."""
    network = build_network(spec.network, spec.input_shape, spec.batch_norm_epsilon)
    if not isinstance(network, Conv4) or set(form) - set("dc") or len(form) != BLOCKS:
        raise click.UsageError(f"form: expected {BLOCKS} letters of d and c, got {form!r}")
    blocks = tuple(block for block, letter in enumerate(form, start=1) if letter == "c")
    return build_inner_step(replace(network, column_blocks=blocks), spec.layout(), RULE, spec.scope)


def compile_form(
    form: InnerStep, arguments: tuple[Tensor, ...], options: Mapping[str, object] | None = None
) -> InnerStep:
    """Compile a form of the step, with further options of the compiler."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler uses what torch deprecates
        package = Path(folder) / "step.pt2"
        write_package(form, arguments, package, options)
        return load_package(package)


def publish(figures: Mapping[str, object]) -> None:
    """Print figures as JSON, with the step's options and the environment."""
    options = click.get_current_context().find_root().params
    print(json.dumps({**options, **figures, "environment": environment()}, indent=2))


if __name__ == "__main__":
    main()
