"""The bare server that Predict is compared to, and the comparison."""

from __future__ import annotations

import click
import pytest

from kshot.bench.serve import echo_server
from kshot.bench.serve.echo import BesideEcho, EchoTurn, compare
from kshot.bench.serve.load_generator import OK, Answer, run
from kshot.bench.serve.plain_server import running_plain_server
from kshot.bench.serve.server_calls import make_call, open_connection
from kshot.v1 import adaptation_pb2 as wire


def test_every_call_has_the_same_answer() -> None:
    answer = wire.PredictResponse(predictions=[wire.Prediction(class_name="a")])
    given = answer.SerializeToString()
    request = wire.PredictRequest(adapted_model="any").SerializeToString()

    async def ask(calls: int) -> list[Answer]:
        async with open_connection(server.endpoint) as channel:
            call = make_call(channel, "Predict", timeout=60)
            return [await call(request) for _ in range(calls)]

    with running_plain_server(echo_server.__name__, given=given) as server:
        assert run(ask(2)) == [Answer(OK, given)] * 2


def test_a_server_without_a_port_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(click.ClickException) as caught,
        running_plain_server("kshot.bench.nowhere"),
    ):
        pytest.fail("it started")

    assert caught.value.message == "kshot.bench.nowhere ended with exit code 1"
    assert "No module named kshot.bench.nowhere" in capfd.readouterr().err


def test_the_comparison_is_of_turns() -> None:
    """Rates are compared turn by turn, processor times over all: their clock is coarse."""
    predict = [
        EchoTurn(100.0, 200, 60.0, 0.5),
        EchoTurn(200.0, 400, 60.0, 0.25),
        EchoTurn(100.0, 200, 40.0, 0.75),
    ]
    echo = [
        EchoTurn(200.0, 400, 30.0, 0.9),
        EchoTurn(250.0, 500, 30.0, 1.0),
        EchoTurn(500.0, 1000, 35.0, 0.8),
    ]

    assert compare(64, predict, echo) == BesideEcho(
        concurrency=64,
        turns=3,
        predict_per_second=100.0,
        echo_per_second=250.0,
        rate_ratio=0.5,
        front_cpu_us=200.0,
        echo_cpu_us=50.0,
        cpu_ratio=0.25,
        predict_generator_cpu=0.5,
        echo_generator_cpu=0.9,
    )


@pytest.mark.parametrize("unknown", [None, 0.0])
def test_unknown_processor_times_have_no_ratio(unknown: float | None) -> None:
    """There may be no /proc, and a short turn may end before its clock ticks."""
    beside = compare(1, [EchoTurn(1.0, 1, unknown, 1.0)], [EchoTurn(2.0, 2, 30.0, 1.0)])

    assert beside.rate_ratio == 0.5
    assert beside.front_cpu_us == unknown
    assert beside.cpu_ratio is None
