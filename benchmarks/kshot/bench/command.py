"""`kshot bench`: each benchmark is imported only when it runs."""

import click

from kshot.command.table import Entry, LazyGroup

_BENCHMARKS = {
    "adapt": Entry(
        "kshot.bench.speed.adapt", "Time one adaptation, beside a plain PyTorch loop and JAX."
    ),
    "encoder": Entry(
        "kshot.bench.serve.encoder",
        "Count answers of many adapted models behind one encoder, beside separate sessions.",
    ),
    "engines": Entry(
        "kshot.bench.serve.engines",
        "Count a server's adaptations by engines, beside independent processes.",
    ),
    "predict": Entry(
        "kshot.bench.speed.predict", "Time answers of an adapted model, beside PyTorch."
    ),
    "serve": Entry(
        "kshot.bench.serve.serve", "Measure a real server under load: latency over concurrency."
    ),
    "train": Entry(
        "kshot.bench.speed.train",
        "Count meta-iterations per second, beside a plain PyTorch loop and JAX.",
    ),
}


@click.group("bench", cls=LazyGroup, entries=_BENCHMARKS)
def command() -> None:
    """Measure kshot beside its alternatives, interleaved in one run.

    The speed of a machine drifts: compare only the ratios of one run.
    """
