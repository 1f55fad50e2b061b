"""`kshot bench predict`: answers of one adapted model, in this process, beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from kshot.bench.contenders import load_plain
from kshot.bench.environment import environment
from kshot.bench.options import bundle_option, json_option, open_bundle, threads_option
from kshot.bench.plain_loop import PlainConv4
from kshot.bench.report import print_document, print_report, say
from kshot.bench.serve_options import read_counts
from kshot.bench.tasks import open_initialization
from kshot.bench.timing import Percentiles, interleave, percentiles, ratio
from kshot.bundle import BatchNormMode, Bundle, Head, Preconditioner
from kshot.learner import Conv4, start_state, support_statistics
from kshot.server.adapted_model import AdaptedArrays
from kshot.server.predictor import Predictor

__all__ = ["command"]

Floats = npt.NDArray[np.float32]
Answer = Callable[[Floats], Floats]

# Who answers the same gives logits that differ by less than this, relative and absolute.
_TOLERANCE = 1e-3
_TITLES = {"inputs": "weights as inputs", "eager": "PyTorch"}


@dataclass(frozen=True)
class Model:
    """An adapted model as the server keeps it and as a plain module, and its support set."""

    arrays: AdaptedArrays
    module: PlainConv4
    support: torch.Tensor


@dataclass(frozen=True)
class Comparison:
    """One mode and number of images: milliseconds by contender, and who is how much faster.

    `ratio_vs_eager` is PyTorch's time over the contender's, the median of the rounds' ratios.
    """

    batch_norm_mode: str
    images: int
    ms: Mapping[str, Percentiles]
    ratio_vs_eager: Mapping[str, float]


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
@threads_option
@json_option
def command(
    bundle_name: str,
    way: int,
    shot: int,
    images: tuple[int, ...],
    batch_norm_mode: str | None,
    rounds: int,
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
    torch.set_num_threads(threads)
    device = _device()
    model, predictor = make_model(bundle, way, shot, device), Predictor(bundle, threads)
    comparisons = []
    for mode in modes:
        contenders = {
            "inputs": weights_as_inputs(predictor, model, mode),
            "eager": eager(model, mode),
        }
        for count in images:
            say(f"{mode}, {count} images, {rounds} rounds")
            comparisons.append(compare(contenders, mode, noise(bundle, count), rounds))
    document = {
        "device": device.type,
        "answers": [asdict(comparison) for comparison in comparisons],
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
        _print(f"Answers on {device.type}, {way}-way {shot}-shot", comparisons)


def make_model(bundle: Bundle, way: int, shot: int, device: torch.device) -> Model:
    """Make an adapted model of a bundle, for a support set of noise.

    Raises ``ClickException`` when the bundle's network is not the plain module's.
    """
    initialization = open_initialization(bundle, device)
    network = initialization.network
    if not isinstance(network, Conv4):  # what was opened is one
        raise TypeError(f"network is {network!r}, wanted conv4")
    start = start_state(initialization, way, head=Head.TRAINED, preconditioner=Preconditioner.SGD)
    stacked = start.layout.split(start.parameters)
    support = torch.from_numpy(noise(bundle, way * shot)).to(device)
    with torch.no_grad():
        statistics = support_statistics(network, stacked, support[None])
    parameters = {name: value[0] for name, value in stacked.items()}
    arrays = AdaptedArrays(
        {name: value.cpu().numpy() for name, value in parameters.items()},
        {name: value[0].cpu().numpy() for name, value in statistics.items()},
        support.cpu().numpy(),
    )
    return Model(arrays, load_plain(network, parameters), support)


def eager(model: Model, mode: BatchNormMode) -> Answer:
    """Make what answers as one would in plain PyTorch: queries to logits, by the plain module."""
    support, module = model.support, model.module
    if mode is BatchNormMode.SUPPORT:
        module = with_statistics(module, model.arrays.statistics, support.device)

    @torch.inference_mode()
    def answer(queries: Floats) -> Floats:
        inputs = torch.from_numpy(queries).to(support.device)
        if mode is BatchNormMode.SUPPORT_AND_QUERY:
            each = [module(torch.cat([support, query[None]]))[-1] for query in inputs]
            logits = torch.stack(each)
        else:
            logits = module(inputs)
        result: Floats = logits.cpu().numpy()
        return result

    return answer


def weights_as_inputs(predictor: Predictor, model: Model, mode: BatchNormMode) -> Answer:
    """Make what answers as the server does for any adapted model."""
    return lambda queries: predictor.logits(model.arrays, queries, mode)


def noise(bundle: Bundle, count: int) -> Floats:
    """Draw prepared images ``(count, channels, height, width)``."""
    return np.random.default_rng(0).random((count, *bundle.manifest.input.shape), np.float32)


def with_statistics(
    module: PlainConv4, statistics: Mapping[str, Floats], device: torch.device
) -> PlainConv4:
    """Copy the plain module with a support set's statistics frozen into it."""
    frozen = deepcopy(module)
    norms = [layer for layer in frozen.modules() if isinstance(layer, nn.BatchNorm2d)]
    for number, norm in enumerate(norms, start=1):
        norm.track_running_stats = True
        norm.running_mean, norm.running_var = (
            torch.from_numpy(statistics[f"block{number}.batch_norm.{moment}"]).to(device)
            for moment in ("mean", "variance")
        )
    return frozen.eval()


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


def _device() -> torch.device:
    """Choose the device where the server's predictor runs, too."""
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


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


def _print(title: str, comparisons: Sequence[Comparison]) -> None:
    rows = [
        (
            f"{comparison.batch_norm_mode}, {comparison.images} images: {_TITLES[name]}",
            *(f"{value:.3f}" for value in (times.p50, times.p95, times.p99)),
            f"{comparison.ratio_vs_eager[name]:.2f}" if name != "eager" else "",
        )
        for comparison in comparisons
        for name, times in comparison.ms.items()
    ]
    print_report(title, ("", "p50, ms", "p95", "p99", "times faster than PyTorch"), rows)
