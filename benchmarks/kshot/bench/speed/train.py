"""`kshot bench train`: meta-iterations per second, beside the alternatives."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import click

from kshot.bench.options import COUNT, Shared, gathered, option, shared_options
from kshot.bench.plot import check_plot, draw_bars
from kshot.bench.report import Report, say
from kshot.bench.speed.adapt_contenders import inner_step
from kshot.bench.speed.timing import RATIO_METHOD, against_kshot, interleave, ratio
from kshot.bench.speed.train_contenders import Workload, kshot_reptile, plain_reptile, workload
from kshot.learner import InnerStep
from kshot.trainer.loop.recipe_loop import step_spec
from kshot.trainer.recipe.files import load_image_recipe

_RECIPE = "omniglot-5way"
_CLASS_COUNT = 4800  # Omniglot's training characters in four rotations
_TITLES = {
    "kshot": "kshot",
    "plain": "plain PyTorch loop",
    "jax": "JAX: jit, vmap, scan",
    "jax_serial": "JAX: jit, scan in scan",
}


@click.command("train")
@option(
    "--meta-iterations", type=COUNT, default=2, help="Meta-iterations of each contender in a round."
)
@shared_options("rounds", "threads", "compiled", "jax", "plot")
def command(meta_iterations: int, **given: Any) -> None:  # noqa: ANN401 -- the shared options' own types
    """Count meta-iterations per second of kshot, a plain PyTorch loop and JAX.

    All train by recipe omniglot-5way on generated images of Omniglot's number and shape, sampling
    included, and take turns in this process. The plain loop is plain_loop.py beside this file. JAX
    runs twice: with a meta-batch's tasks side by side under vmap, and one after another.
    """
    shared = gathered(Shared, given)
    check_plot(shared.plot)
    device = shared.choose_device()
    with_jax = shared.choose_jax(device)
    say("generating images")
    work = workload(load_image_recipe(_RECIPE), _CLASS_COUNT, device)
    step, compiled = inner_step(step_spec(work.recipe), device, shared.compiled)
    samples = measure(work, step, shared.rounds, meta_iterations, with_jax=with_jax)
    options = {
        "recipe": _RECIPE,
        "images": work.dataset.image_count,
        "meta_iterations": meta_iterations,
        "compiled": compiled,
    }
    result = shared.document(device, document(samples, meta_iterations), options)
    title = f"Meta-iterations per second on {device.type}: {_RECIPE}"
    rates = {_TITLES[name]: _rate(values, meta_iterations) for name, values in samples.items()}
    rows = [
        (_TITLES[name], f"{rates[_TITLES[name]]:.2f}", f"{ratio(values, samples['kshot']):.2f}")
        for name, values in samples.items()
    ]
    notes = (f"Medians, and the {RATIO_METHOD}, of {shared.rounds} rounds.",)
    report = Report(title, ("", "per second", "kshot is faster by"), rows, notes)
    shared.publish(result, report, lambda figure: draw_bars(figure, rates, title))


def measure(
    work: Workload, step: InnerStep, rounds: int, meta_iterations: int, *, with_jax: bool
) -> dict[str, list[float]]:
    """Time so many meta-iterations of every contender in turns; milliseconds by name."""
    contenders: dict[str, Callable[[int], object]] = {
        "kshot": kshot_reptile(work, step),
        "plain": plain_reptile(work),
    }
    if with_jax:
        from kshot.bench.speed.jax_contenders import jax_reptile

        contenders["jax"] = jax_reptile(work, serial=False)
        contenders["jax_serial"] = jax_reptile(work, serial=True)
    say(f"warming up, then {rounds} rounds")
    bound = {name: partial(advance, meta_iterations) for name, advance in contenders.items()}
    return interleave(bound, rounds)


def document(samples: dict[str, list[float]], meta_iterations: int) -> dict[str, object]:
    """Return the rates of milliseconds by contender for JSON."""
    return against_kshot(
        samples, _TITLES, "per_second", lambda values: _rate(values, meta_iterations)
    )


def _rate(samples_ms: Sequence[float], meta_iterations: int) -> float:
    return meta_iterations / median(samples_ms) * 1e3
