"""`kshot bench train`: meta-iterations per second, beside what else one would run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from kshot.bench.environment import environment
from kshot.bench.options import (
    choose_device,
    choose_jax,
    compile_option,
    device_option,
    jax_option,
    json_option,
    plot_option,
    rounds_option,
    threads_option,
)
from kshot.bench.plot import check_plot, draw_bars, write_plot
from kshot.bench.report import print_document, print_report, say
from kshot.bench.speed.contenders import inner_step
from kshot.bench.speed.meta_training_contenders import (
    Trainee,
    Workload,
    jax_reptile,
    kshot_reptile,
    plain_reptile,
    workload,
)
from kshot.bench.speed.timing import interleave, median, ratio
from kshot.learner import InnerStep
from kshot.trainer.loop.recipe_loop import step_spec
from kshot.trainer.recipe.files import load_image_recipe

__all__ = ["command", "document", "measure"]

_RECIPE = "omniglot-5way"
_CLASS_COUNT = 4800  # Omniglot's training characters in four rotations
_TITLES = {
    "kshot": "kshot",
    "plain": "plain PyTorch loop",
    "jax": "JAX: jit, vmap, scan",
    "jax_serial": "JAX: jit, scan in scan",
}


@click.command("train")
@click.option(
    "--meta-iterations",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Meta-iterations of each contender in a round.",
)
@rounds_option
@device_option
@threads_option
@compile_option
@jax_option
@json_option
@plot_option
def command(
    meta_iterations: int,
    rounds: int,
    device: str,
    threads: int,
    compiled: bool | None,
    jax: bool | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Count meta-iterations per second of kshot, a plain PyTorch loop and JAX.

    All train by recipe omniglot-5way on generated images of Omniglot's number and shape, sampling
    included, and take turns in this process. The plain loop is plain_loop.py beside this file. JAX
    goes twice: with a meta-batch's tasks side by side under vmap, and one after another.
    """
    check_plot(plot)
    chosen = choose_device(device, threads)
    with_jax = choose_jax(jax, chosen, threads)
    say("generating images")
    work = workload(load_image_recipe(_RECIPE), _CLASS_COUNT, chosen)
    step, is_compiled = inner_step(step_spec(work.recipe), chosen, compiled)
    samples = measure(work, step, rounds, meta_iterations, with_jax=with_jax)
    result = {
        "device": chosen.type,
        **document(samples, meta_iterations),
        "rounds": rounds,
        "options": {
            "recipe": _RECIPE,
            "images": work.dataset.image_count,
            "meta_iterations": meta_iterations,
            "compiled": is_compiled,
            "threads": threads,
        },
        "environment": environment(),
    }
    title = f"Meta-iterations per second on {chosen.type}: {_RECIPE}"
    if plot:
        rates = {
            _TITLES[name]: _per_second(values, meta_iterations) for name, values in samples.items()
        }
        write_plot(plot, lambda figure: draw_bars(figure, rates, title))
    if as_json:
        print_document(result)
    else:
        rows = [
            (
                _TITLES[name],
                f"{_per_second(values, meta_iterations):.2f}",
                f"{ratio(values, samples['kshot']):.2f}",
            )
            for name, values in samples.items()
        ]
        print_report(
            title,
            ("", "per second", "kshot is faster by"),
            rows,
            (f"Medians, and the median of the rounds' ratios, of {rounds} rounds.",),
        )


def measure(
    work: Workload, step: InnerStep, rounds: int, meta_iterations: int, *, with_jax: bool
) -> dict[str, list[float]]:
    """Time so many meta-iterations of every contender in turns; milliseconds by name."""
    trainees = {"kshot": kshot_reptile(work, step), "plain": plain_reptile(work)}
    if with_jax:
        trainees["jax"] = jax_reptile(work, serial=False)
        trainees["jax_serial"] = jax_reptile(work, serial=True)
    say(f"warming up, then {rounds} rounds")
    return interleave(
        {name: _chunk(trainee, meta_iterations) for name, trainee in trainees.items()}, rounds
    )


def document(samples: dict[str, list[float]], meta_iterations: int) -> dict[str, object]:
    """Lay out milliseconds by contender for JSON; ratios above 1 say that kshot is the faster."""
    laid_out: dict[str, object] = {}
    for name in _TITLES:
        values = samples.get(name)
        laid_out[f"{name}_per_second"] = _per_second(values, meta_iterations) if values else None
        if name != "kshot":
            laid_out[f"ratio_vs_{name}"] = ratio(values, samples["kshot"]) if values else None
    return laid_out | {"ratio_method": "median of the rounds' ratios"}


def _chunk(trainee: Trainee, meta_iterations: int) -> Callable[[], object]:
    return lambda: trainee.advance(meta_iterations)


def _per_second(samples_ms: list[float], meta_iterations: int) -> float:
    return meta_iterations / median(samples_ms) * 1e3
