"""`kshot bench encoder`: callers with adapted models of their own, behind one shared encoder."""

import io
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import click
import grpc
import numpy as np
import onnxruntime
from PIL import Image

from kshot.bench.environment import environment
from kshot.bench.options import COUNT, Shared, gathered, option, read_positive, shared_options
from kshot.bench.report import Report, say
from kshot.bench.serve import separate_sessions
from kshot.bench.serve.load_generator import OK, Answer, Clock, Load, Send, closed_loop, run
from kshot.bench.serve.plain_server import running_plain_server
from kshot.bench.serve.separate_sessions import METHOD, request
from kshot.bench.serve.server_calls import CALL_SECONDS, make_call, open_connection
from kshot.bench.serve.server_process import interrupted_by_signals, running_server
from kshot.bench.speed.timing import Percentiles, percentiles
from kshot.bundle import Bundle, Scope, prepare
from kshot.client.encoding import encode_images
from kshot.trainer.commands.options import find_bundle
from kshot.v1 import adaptation_pb2 as wire

# Loads take turns, so that a drift of the machine affects all of them.
TURNS = 4
WAY, SHOT = 5, 5
PICTURE_SIZE = (320, 240)


@dataclass(frozen=True)
class EncoderResult:
    """Answers per second of each load, and milliseconds of one caller and of the encoder alone.

    `models` have an adapted model for each caller, `one_model` has one for all, and `sessions` is a
    plain server with a session of the encoder for each caller.
    """

    callers: int
    models_per_second: float
    one_model_per_second: float
    sessions_per_second: float
    predict_ms: Percentiles
    encoder_ms: Percentiles

    @property
    def ratios(self) -> dict[str, float]:
        """Return the rate to that with one model and with sessions, and Predict to the encoder."""
        return {
            "to_one_model": self.models_per_second / self.one_model_per_second,
            "to_sessions": self.models_per_second / self.sessions_per_second,
            "predict_to_encoder": self.predict_ms.p50 / self.encoder_ms.p50,
        }


@click.command("encoder")
@option("--callers", type=COUNT, default=64, help="Callers, each with a model of its own.")
@option("--seconds", type=float, callback=read_positive, default=5.0, help="Length of each load.")
@option(
    "--bundle",
    "bundle_name",
    default="photos",
    metavar="PATH",
    help="Folder of a bundle with an encoder, or the name of a built-in bundle.",
)
@shared_options()
def command(
    callers: int,
    seconds: float,
    **given: Any,  # noqa: ANN401 -- the options' own types
) -> None:
    """Measure Predict of one photograph by many adapted models of a bundle with an encoder.

    Beside it, in turns: the same callers with one adapted model; a plain server with a session of
    the encoder for each caller; and one caller, with the encoder alone.
    """
    shared = gathered(Shared, given)
    bundle = find_bundle(shared.bundle_name)
    if bundle.encoder_path is None:
        raise click.UsageError(f"--bundle: expected one with an encoder, got {shared.bundle_name}")
    described = environment()
    with interrupted_by_signals():
        result = measure_encoder(bundle, callers, seconds, shared.device)
    document = {"environment": described, **asdict(result), "ratios": result.ratios}
    shared.publish(document, encoder_report(bundle.manifest.name, result))


def measure_encoder(
    bundle: Bundle, callers: int, seconds: float, device: str = "cpu"
) -> EncoderResult:
    """Run all loads, `seconds` each; raises `ClickException` when a load has no answer."""
    pictures = [photograph(seed) for seed in range(max(callers, WAY * SHOT))]
    say(f"starting a server of {bundle.manifest.name}, and one with {callers} sessions")
    with (
        running_server(bundle.path, device, ("--engines", "1")) as server,
        running_plain_server(
            separate_sessions.__name__, (str(bundle.path), str(callers))
        ) as sessions,
        server.endpoint.client(CALL_SECONDS) as client,
    ):
        labels = np.arange(WAY).repeat(SHOT)
        # Of what adapts, the head alone: no caller has last layers of its own.
        scope = None if bundle.manifest.tail is None else Scope.HEAD.value
        models = [
            client.adapt(pictures[: WAY * SHOT], labels, seed=seed, scope=scope).id
            for seed in range(callers)
        ]

        async def loads() -> EncoderResult:
            async with (
                open_connection(server.endpoint) as channel,
                open_connection(sessions.endpoint) as other,
            ):
                ask = make_call(channel, "Predict")
                sends = {
                    "models": _asking(ask, _predictions(models, pictures)),
                    "one_model": _asking(ask, _predictions(models[:1], pictures)),
                    "sessions": _asking(
                        _plain_call(other),
                        [request(number, pictures[number]) for number in range(callers)],
                    ),
                }
                return await _measure(sends, callers, seconds, _Alone(bundle, pictures))

        return run(loads())


def photograph(seed: int) -> bytes:
    """Draw something as smooth as a photograph: a JPEG of 320x240 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(PICTURE_SIZE, Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def encoder_report(name: str, result: EncoderResult) -> Report:
    """Return rates as a table, with latencies and ratios below it."""
    rows = [
        (f"{result.callers} models", f"{result.models_per_second:.1f}"),
        ("one model", f"{result.one_model_per_second:.1f}"),
        (f"{result.callers} encoder sessions", f"{result.sessions_per_second:.1f}"),
    ]
    ratios = result.ratios
    notes = [
        f"{result.callers} models answer {ratios['to_one_model']:.2f} times as many calls as one "
        f"model, and {ratios['to_sessions']:.2f} times as many as separate sessions.",
        f"One caller: p50 {result.predict_ms.p50:.2f} ms, the encoder alone "
        f"{result.encoder_ms.p50:.2f} ms, ratio {ratios['predict_to_encoder']:.2f}.",
    ]
    return Report(f"{name}, {result.callers} callers", ("load", "calls/s"), rows, notes)


class _Alone:
    """The encoder alone, on prepared pictures."""

    def __init__(self, bundle: Bundle, pictures: Sequence[bytes]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            bundle.encoder_path, options, providers=["CPUExecutionProvider"]
        )
        prepared = prepare(pictures[: WAY * SHOT], bundle.manifest.input)
        self._images = itertools.cycle([image[None] for image in prepared])

    def times(self, seconds: float) -> list[float]:
        """Encode one picture after another for some seconds: milliseconds of each."""
        found: list[float] = []
        end = time.perf_counter() + seconds
        while not found or time.perf_counter() < end:
            started = time.perf_counter()
            self._session.run(["encoded"], {"images": next(self._images)})
            found.append(1e3 * (time.perf_counter() - started))
        return found


async def _measure(
    sends: dict[str, Send], callers: int, seconds: float, alone: _Alone
) -> EncoderResult:
    clock, part = Clock(), seconds / TURNS
    rates: dict[str, list[float]] = {name: [] for name in sends}
    predicting: list[float] = []
    encoding: list[float] = []
    for turn in range(TURNS + 1):  # the first is not counted
        say(f"turn {turn} of {TURNS}")
        for name, send in sends.items():
            load = await closed_loop(send, callers, part, clock)
            rates[name].append(_rate(name, load))
        load = await closed_loop(sends["one_model"], 1, part, clock)
        predicting += [sample.latency_ms for sample in load.samples] if turn else []
        encoding += alone.times(part) if turn else []
    models, one_model, sessions = (mean(of[1:]) for of in rates.values())
    predict_ms, encoder_ms = percentiles(predicting), percentiles(encoding)
    return EncoderResult(callers, models, one_model, sessions, predict_ms, encoder_ms)


def _rate(name: str, load: Load) -> float:
    failed = [sample.answer.code for sample in load.samples if sample.answer.code != OK]
    if failed:
        raise click.ClickException(f"{name}: {len(failed)} calls failed, first {failed[0]}")
    return len(load.samples) / load.seconds


def _predictions(models: Sequence[str], pictures: Sequence[bytes]) -> list[bytes]:
    """Return requests, each about another picture, to the models in turn."""
    return [
        wire.PredictRequest(
            adapted_model=model, queries=encode_images([picture])
        ).SerializeToString()
        for picture, model in zip(pictures, itertools.cycle(models), strict=False)
    ]


def _asking(call: Callable[[bytes], Awaitable[Answer]], requests: Sequence[bytes]) -> Send:
    following = itertools.cycle(requests).__next__
    return lambda: call(following())


def _plain_call(channel: grpc.aio.Channel) -> Callable[[bytes], Awaitable[Answer]]:
    send: Callable[..., Awaitable[bytes]] = channel.unary_unary(METHOD)

    async def call(asked: bytes) -> Answer:
        try:
            return Answer(OK, await send(asked, timeout=CALL_SECONDS))
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name)

    return call
