"""Predict beside a bare grpc.aio server that answers with as many bytes, in turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from kshot.bench.report import say
from kshot.bench.serve import echo_server
from kshot.bench.serve.load_generator import closed_loop
from kshot.bench.serve.plain_server import running_plain_server
from kshot.bench.serve.plan import Bench, Method, end_load
from kshot.bench.serve.process_usage import cpu_ms, has_proc
from kshot.bench.serve.server_calls import make_call, open_connection
from kshot.bench.serve.summary import answered
from kshot.bench.speed.timing import ratio, turns

_PREDICT, _ECHO = "predict", "echo"


@dataclass(frozen=True)
class EchoTurn:
    """One turn of a server: calls answered a second, calls answered, milliseconds of processor.

    The processor time is of the process that answers; None where there is no /proc.
    `generator_cpu` is the load generator's share of a core.
    """

    calls_per_second: float
    calls: int
    cpu_ms: float | None
    generator_cpu: float


@dataclass(frozen=True)
class BesideEcho:
    """Predict beside the echo under the same load; both ratios are above 1 where kshot is better.

    Rates are medians of the turns in calls a second, `rate_ratio` the median of the turns' ratios
    of Predict's rate to the echo's. The processor times of the front and of the echo's process are
    microseconds per answered call over all turns, and `cpu_ratio` is the echo's to the front's;
    None without /proc, and in turns too short for its clock. A generator with almost a whole core
    to itself (`..._generator_cpu`, medians of shares) limits the rate, and `cpu_ratio` tells more.
    """

    concurrency: int
    turns: int
    predict_per_second: float
    echo_per_second: float
    rate_ratio: float
    front_cpu_us: float | None
    echo_cpu_us: float | None
    cpu_ratio: float | None
    predict_generator_cpu: float
    echo_generator_cpu: float


async def measure_echo(
    bench: Bench, predict: Method, adapted_models: Sequence[str]
) -> BesideEcho | None:
    """Let the heaviest load predict and call the echo in turns; None on another's server.

    Raises `ClickException` when a load had no answer, or the server has ended.
    """
    if bench.server is None:
        return None
    say("starting a bare server that gives the same answer")
    once = await end_load(bench, predict, await closed_loop(predict.send, 1, 0.0, bench.clock))
    (first,) = answered(once.samples)
    with running_plain_server(echo_server.__name__, given=first.answer.content) as echo:
        async with open_connection(echo.endpoint) as channel:
            call = make_call(channel, predict.name)
            send = bench.session.predict_by(call, adapted_models)
            servers = {
                _PREDICT: (predict, bench.server.process.pid),
                _ECHO: (Method("the echo", send, predict.response), echo.pid),
            }
            found: dict[str, list[EchoTurn]] = {name: [] for name in servers}
            for order in turns(list(servers), bench.plan.turns):
                for name in order:
                    found[name].append(await _turn(bench, *servers[name]))
    return compare(max(bench.plan.concurrency), found[_PREDICT], found[_ECHO])


def compare(concurrency: int, predict: Sequence[EchoTurn], echo: Sequence[EchoTurn]) -> BesideEcho:
    """Compare the turns of both servers; each has calls."""
    rates, echo_rates = ([turn.calls_per_second for turn in server] for server in (predict, echo))
    front_us, echo_us = _cpu_us(predict), _cpu_us(echo)
    return BesideEcho(
        concurrency=concurrency,
        turns=len(predict),
        predict_per_second=median(rates),
        echo_per_second=median(echo_rates),
        rate_ratio=ratio(rates, echo_rates),
        front_cpu_us=front_us,
        echo_cpu_us=echo_us,
        cpu_ratio=echo_us / front_us if front_us and echo_us else None,
        predict_generator_cpu=median(turn.generator_cpu for turn in predict),
        echo_generator_cpu=median(turn.generator_cpu for turn in echo),
    )


async def _turn(bench: Bench, method: Method, pid: int) -> EchoTurn:
    """Load one server for a turn; the process with the id answers the calls."""
    callers = max(bench.plan.concurrency)
    say(f"{method.name}, concurrency {callers}, in turns")
    before = cpu_ms(pid) if has_proc() else None
    load = await closed_loop(method.send, callers, bench.plan.turn_seconds, bench.clock)
    used = None if before is None else cpu_ms(pid) - before
    await end_load(bench, method, load)
    calls = len(answered(load.samples))
    return EchoTurn(calls / load.seconds, calls, used, load.generator_cpu)


def _cpu_us(turns_of_one: Sequence[EchoTurn]) -> float | None:
    """Return processor microseconds per call; None where a turn's is unknown."""
    spans = [turn.cpu_ms for turn in turns_of_one if turn.cpu_ms is not None]
    if len(spans) < len(turns_of_one):
        return None
    return 1e3 * sum(spans) / sum(turn.calls for turn in turns_of_one)
