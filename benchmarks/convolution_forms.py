"""Time the compiled inner step with each block's convolution in each of its two forms.

python benchmarks/convolution_forms.py --way 5 --batch-size 5 [--tasks 1] [--device cpu] [FORM ...]

A form is a letter for each block, d for the library's convolution and c for a product of columns;
without forms all 16 are compiled, which takes minutes. With --network mini-imagenet the network is
conv4 as the paper has it there. Prints JSON: median milliseconds by form.
"""

import itertools
import json
import sys
import tempfile
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch

from kshot.bench.environment import environment
from kshot.bench.speed.timing import interleave, synchronized
from kshot.bundle import NetworkSpec, Preconditioner, Scope, builtin_bundle, load_bundle
from kshot.learner import Conv4, StepRule, StepSpec, build_inner_step, build_network, graphed
from kshot.learner.steps.inner_step import InnerStep
from kshot.learner.torch_internals import load_package, write_package

BLOCKS = 4
MINI_IMAGENET = NetworkSpec("conv4", {"filters": 32, "downsampling": "max_pool"})


@click.command()
@click.option("--network", type=click.Choice(["omniglot", "mini-imagenet"]), default="omniglot")
@click.option("--way", default=5)
@click.option("--batch-size", default=5)
@click.option("--tasks", default=1)
@click.option("--rounds", default=60)
@click.option("--device", default="cpu")
@click.argument("forms", nargs=-1)
def main(
    network: str,
    way: int,
    batch_size: int,
    tasks: int,
    rounds: int,
    device: str,
    forms: tuple[str, ...],
) -> None:
    """Compile the forms and time them in turns."""
    torch.set_num_threads(1)
    manifest = load_bundle(builtin_bundle()).manifest
    rule = StepRule(Preconditioner.CARRIED, manifest.inner_loop.learning_rate)
    spec = StepSpec.of(manifest, way, batch_size, rule, Scope.ALL).of_tasks(tasks)
    if network == "mini-imagenet":
        spec = replace(spec, network=MINI_IMAGENET, input_shape=(3, 84, 84))
    arguments = spec.example_arguments(torch.device(device))
    steps = {}
    for form in forms or map("".join, itertools.product("dc", repeat=BLOCKS)):
        print(f"compiling {form}", file=sys.stderr)
        steps[form] = compiled(spec, rule, form, torch.device(device))

    runs = {
        form: synchronized(partial(step, *arguments), torch.device(device))
        for form, step in steps.items()
    }
    samples = interleave(runs, rounds, warm_up=5)
    milliseconds = {form: round(median(values), 4) for form, values in samples.items()}
    size = {"network": network, "way": way, "batch_size": batch_size, "tasks": tasks}
    document = {**size, "rounds": rounds, "milliseconds": milliseconds}
    print(json.dumps({**document, "environment": environment()}, indent=2))


def compiled(spec: StepSpec, rule: StepRule, form: str, device: torch.device) -> InnerStep:
    """Compile the step of a network in a form."""
    network = build_network(spec.network, spec.input_shape, spec.batch_norm_epsilon)
    if not isinstance(network, Conv4) or set(form) - set("dc") or len(form) != BLOCKS:
        raise click.UsageError(f"form: expected {BLOCKS} letters of d and c, got {form!r}")
    blocks = tuple(block for block, letter in enumerate(form, start=1) if letter == "c")
    step = build_inner_step(replace(network, column_blocks=blocks), spec.layout(), rule, spec.scope)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler uses what torch deprecates
        package = Path(folder) / "step.pt2"
        write_package(step, spec.example_arguments(device), package)
        return graphed(load_package(package), device)


if __name__ == "__main__":
    main()
