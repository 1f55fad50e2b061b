"""`kshot bench predict`: answers of one adapted model, in this process, beside PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click
import numpy as np
import torch

from kshot.bench.options import (
    BATCH_NORM_MODE,
    COUNT,
    Shared,
    check_choice,
    check_limits,
    gathered,
    option,
    read_counts,
    shared_options,
)
from kshot.bench.report import Report, say
from kshot.bench.speed.predict_contenders import (
    Answer,
    Floats,
    constants,
    eager,
    inputs,
    make_model,
    noise,
)
from kshot.bench.speed.timing import Percentiles, interleave, percentiles, ratio
from kshot.bundle import BatchNormMode
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.trainer.commands.options import find_bundle

# The contenders' logits may differ by this, relative and absolute.
_TOLERANCE = 1e-3
_MAX_SESSION_ROUNDS = 50
_TITLES = {"constants": "weights as constants", "inputs": "weights as inputs", "eager": "PyTorch"}


@dataclass(frozen=True)
class Comparison:
    """Milliseconds by contender, and their ratios, in one mode with one number of images.

    Ratios are medians of the rounds' ratios: PyTorch's time over a contender's, and that with
    weights as inputs over that with constants.
    """

    batch_norm_mode: str
    images: int
    ms: Mapping[str, Percentiles]
    ratio_vs_eager: Mapping[str, float]
    ratio_constants_vs_inputs: float | None


@click.command("predict")
@option(
    "--images", default="1,25", callback=read_counts, help="Queries of one answer, between commas."
)
@option("--rounds", type=COUNT, default=200, help="Samples of each contender; use at least 20.")
@option("--batch-norm-mode", type=BATCH_NORM_MODE, help="[default: each that the bundle allows]")
@shared_options("bundle_name", "way", "shot", "threads")
def command(images: tuple[int, ...], **given: Any) -> None:  # noqa: ANN401 -- the shared options' own types
    """Time answers by ONNX Runtime, as the server gives them, and by PyTorch without compiling.

    All take turns in this process, without a server, from prepared queries to logits. PyTorch is an
    nn.Module in inference mode; in support_and_query it runs once for each query. The adapted model
    is the initialization itself: time does not depend on the values of the weights. Without
    --batch-norm-mode each mode of the bundle is measured.
    """
    shared = gathered(Shared, given)
    bundle = find_bundle(shared.bundle_name)
    manifest, way, shot = bundle.manifest, shared.way, shared.shot
    modes, limits, owner = manifest.batch_norm.allowed, manifest.limits, f"bundle {manifest.name}"
    if shared.batch_norm_mode is not None:
        check_choice("--batch-norm-mode", shared.batch_norm_mode, modes, owner)
        modes = (BatchNormMode(shared.batch_norm_mode),)
    check_limits(limits, owner, way=way, shot=shot, images=max(images))
    runtime = Runtime(shared.choose_device().type, shared.threads)
    predictor = Predictor(bundle, runtime)
    if shared.device == "cuda" and not runtime.on_gpu:
        raise click.UsageError("--device: expected cpu or auto, as ONNX Runtime cannot use cuda")
    device = torch.device("cuda" if runtime.on_gpu else "cpu")
    model = make_model(bundle, way, shot, device)
    comparisons, sessions = [], {}
    for mode in modes:
        contenders = {"inputs": inputs(predictor, model, mode), "eager": eager(model, mode)}
        if not runtime.on_gpu:
            contenders = {"constants": constants(model, runtime, mode), **contenders}
            making = {"make": partial(predictor.make_session, mode, model.arrays)}
            samples = interleave(making, min(shared.rounds, _MAX_SESSION_ROUNDS))
            sessions[mode.value] = percentiles(samples["make"])
        for count in images:
            say(f"{mode}, {count} images, {shared.rounds} rounds")
            comparisons.append(compare(contenders, mode, noise(bundle, count), shared.rounds))
    figures = {
        "answers": [asdict(comparison) for comparison in comparisons],
        "make_session_ms": {mode: asdict(times) for mode, times in sessions.items()},
    }
    options = {"bundle": f"{manifest.name}/{manifest.version}", "way": way, "shot": shot}
    document = shared.document(device, figures, options)
    title = f"Answers on {device}, {way}-way {shot}-shot"
    shared.publish(document, _report(title, comparisons, sessions))


def compare(
    contenders: Mapping[str, Answer], mode: BatchNormMode, queries: Floats, rounds: int
) -> Comparison:
    """Time contenders in turns; raises `ClickException` when their answers differ."""
    answers = {name: answer(queries) for name, answer in contenders.items()}
    for name, logits in answers.items():
        if not np.allclose(logits, answers["eager"], rtol=_TOLERANCE, atol=_TOLERANCE):
            difference = np.abs(logits - answers["eager"]).max()
            raise click.ClickException(
                f"logits of {name} and eager in mode {mode}: expected a difference below "
                f"{_TOLERANCE:g}, got {difference:.3g}"
            )
    bound = {name: partial(answer, queries) for name, answer in contenders.items()}
    samples = interleave(bound, rounds)
    eager_ms, constants_ms = samples["eager"], samples.get("constants")
    return Comparison(
        batch_norm_mode=mode.value,
        images=len(queries),
        ms={name: percentiles(values) for name, values in samples.items()},
        ratio_vs_eager={
            name: ratio(eager_ms, values) for name, values in samples.items() if name != "eager"
        },
        ratio_constants_vs_inputs=ratio(samples["inputs"], constants_ms) if constants_ms else None,
    )


def _report(
    title: str, comparisons: Sequence[Comparison], sessions: Mapping[str, Percentiles]
) -> Report:
    rows = [
        (
            f"{comparison.batch_norm_mode}, {comparison.images} images: {_TITLES[name]}",
            *times.cells(3),
            f"{comparison.ratio_vs_eager[name]:.2f}" if name != "eager" else "",
        )
        for comparison in comparisons
        for name, times in comparison.ms.items()
    ]
    notes = [
        f"Making a session with constants, {mode}: {times.p50:.2f} ms, p99 {times.p99:.2f} ms."
        for mode, times in sessions.items()
    ]
    headings = ("", "p50, ms", "p95", "p99", "times faster than PyTorch")
    return Report(title, headings, rows, notes)
