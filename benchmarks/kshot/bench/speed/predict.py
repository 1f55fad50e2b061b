"""`kshot bench predict`: answers of one adapted model, in this process, beside PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import click
import numpy as np
import torch

from kshot.bench.environment import environment
from kshot.bench.options import (
    bundle_option,
    choose_device,
    device_option,
    json_option,
    open_bundle,
    threads_option,
)
from kshot.bench.report import print_document, print_report, say
from kshot.bench.serve.options import read_counts
from kshot.bench.speed.predict_contenders import (
    Answer,
    Floats,
    constants,
    eager,
    inputs,
    make_model,
    make_session,
    noise,
)
from kshot.bench.speed.timing import Percentiles, interleave, percentiles, ratio
from kshot.bundle import BatchNormMode, Bundle
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime

__all__ = ["command", "compare"]

# Who answers the same gives logits that differ by less than this, relative and absolute.
_TOLERANCE = 1e-3
_SESSION_ROUNDS = 50
_TITLES = {
    "constants": "weights as constants",
    "inputs": "weights as inputs",
    "eager": "PyTorch",
}


@dataclass(frozen=True)
class Comparison:
    """One mode and number of images: milliseconds by contender, and who is how much faster.

    Ratios are medians of the rounds' ratios: PyTorch's time over a contender's, and that with
    weights as inputs over that with constants.
    """

    batch_norm_mode: str
    images: int
    ms: Mapping[str, Percentiles]
    ratio_vs_eager: Mapping[str, float]
    ratio_constants_vs_inputs: float | None


@click.command("predict")
@bundle_option
@click.option("--way", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--shot", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--images",
    default="1,25",
    show_default=True,
    callback=read_counts,
    help="Queries of one answer, between commas.",
)
@click.option(
    "--batch-norm-mode",
    type=click.Choice([mode.value for mode in BatchNormMode]),
    help="[default: each that the bundle allows]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Samples of each contender; medians of fewer than 20 say little.",
)
@device_option
@threads_option
@json_option
def command(
    bundle_name: str,
    way: int,
    shot: int,
    images: tuple[int, ...],
    batch_norm_mode: str | None,
    rounds: int,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Time answers by ONNX Runtime, as the server gives them, and by PyTorch without compiling.

    All take turns in this process, without a server, from prepared queries to logits. PyTorch is an
    nn.Module in inference mode; in support_and_query it runs once for each query. The adapted model
    is the initialization itself: time does not go by the values of the weights.
    """
    bundle = open_bundle(bundle_name)
    modes = _modes(bundle, batch_norm_mode)
    _check_size(bundle, way, shot, max(images))
    runtime = Runtime(choose_device(device, threads).type, threads)
    predictor = Predictor(bundle, runtime)
    if device == "cuda" and not runtime.on_gpu:
        raise click.UsageError(
            "--device is cuda, which ONNX Runtime cannot use, wanted cpu or auto"
        )
    torch_device = torch.device("cuda" if runtime.on_gpu else "cpu")
    model = make_model(bundle, way, shot, torch_device)
    comparisons, sessions = [], {}
    for mode in modes:
        contenders = {"inputs": inputs(predictor, model, mode), "eager": eager(model, mode)}
        if not runtime.on_gpu:
            contenders = {"constants": constants(model, runtime, mode), **contenders}
            making = interleave(
                {"make": make_session(model, runtime, mode)}, min(rounds, _SESSION_ROUNDS)
            )
            sessions[mode.value] = percentiles(making["make"])
        for count in images:
            say(f"{mode}, {count} images, {rounds} rounds")
            comparisons.append(compare(contenders, mode, noise(bundle, count), rounds))
    document = {
        "device": torch_device.type,
        "answers": [asdict(comparison) for comparison in comparisons],
        "make_session_ms": {mode: asdict(times) for mode, times in sessions.items()},
        "rounds": rounds,
        "options": {
            "bundle": f"{bundle.manifest.name}/{bundle.manifest.version}",
            "way": way,
            "shot": shot,
            "threads": threads,
        },
        "environment": environment(),
    }
    if as_json:
        print_document(document)
    else:
        _print(f"Answers on {torch_device}, {way}-way {shot}-shot", comparisons, sessions)


def compare(
    contenders: Mapping[str, Answer], mode: BatchNormMode, queries: Floats, rounds: int
) -> Comparison:
    """Time contenders in turns; raises ``ClickException`` when they do not answer alike."""
    answers = {name: answer(queries) for name, answer in contenders.items()}
    for name, logits in answers.items():
        if not np.allclose(logits, answers["eager"], rtol=_TOLERANCE, atol=_TOLERANCE):
            difference = np.abs(logits - answers["eager"]).max()
            raise click.ClickException(
                f"{name} and eager differ by up to {difference:.3g} in mode {mode}, "
                f"wanted less than {_TOLERANCE:g}"
            )
    bound = {name: partial(answer, queries) for name, answer in contenders.items()}
    samples = interleave(bound, rounds)
    return Comparison(
        batch_norm_mode=mode.value,
        images=len(queries),
        ms={name: percentiles(values) for name, values in samples.items()},
        ratio_vs_eager={
            name: ratio(samples["eager"], values)
            for name, values in samples.items()
            if name != "eager"
        },
        ratio_constants_vs_inputs=ratio(samples["inputs"], samples["constants"])
        if "constants" in samples
        else None,
    )


def _modes(bundle: Bundle, wanted: str | None) -> tuple[BatchNormMode, ...]:
    allowed = bundle.manifest.batch_norm.allowed
    if wanted is None:
        return allowed
    if wanted not in allowed:
        raise click.UsageError(
            f"--batch-norm-mode is {wanted}, wanted one that the bundle allows: "
            f"{', '.join(allowed)}"
        )
    return (BatchNormMode(wanted),)


def _check_size(bundle: Bundle, way: int, shot: int, images: int) -> None:
    """Raise ``UsageError`` for what the bundle does not allow a request either."""
    limits = bundle.manifest.limits
    for option, value, most in (
        ("--way", way, limits.max_way),
        ("--way times --shot", way * shot, limits.max_support_count),
        ("--images", images, limits.max_query_count),
    ):
        if value > most:
            raise click.UsageError(
                f"{option} is {value}, wanted at most {most}, the limit of bundle "
                f"{bundle.manifest.name}"
            )


def _print(
    title: str, comparisons: Sequence[Comparison], sessions: Mapping[str, Percentiles]
) -> None:
    rows = [
        (
            f"{comparison.batch_norm_mode}, {comparison.images} images: {_TITLES[name]}",
            *(f"{value:.3f}" for value in (times.p50, times.p95, times.p99)),
            f"{comparison.ratio_vs_eager[name]:.2f}" if name != "eager" else "",
        )
        for comparison in comparisons
        for name, times in comparison.ms.items()
    ]
    notes = [
        f"To make a session with constants, {mode}: {times.p50:.2f} ms, p99 {times.p99:.2f} ms."
        for mode, times in sessions.items()
    ]
    print_report(title, ("", "p50, ms", "p95", "p99", "times faster than PyTorch"), rows, notes)
