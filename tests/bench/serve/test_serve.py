"""`kshot bench serve` against real servers; tests assert counts and never durations."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from kshot.__main__ import main
from kshot.bench.serve import serve
from kshot.bench.serve.server_process import ServerProcess
from kshot.client import Client

QUICK = ("--step-count", "1", "--step-counts", "1,2", "--way", "2", "--seconds", "0.25")
PHASES = {"queue", "decode", "compute", "store", "rest"}
PERCENTILES = {"p50", "p95", "p99"}


@pytest.fixture
def bench(
    server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Run the command against the server that tests share; return its document."""

    def run(*arguments: str) -> dict[str, Any]:
        code = main(["bench", "serve", "--server", server.address, *QUICK, "--json", *arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        document: dict[str, Any] = json.loads(captured.out)
        return document

    return run


def check_load(load: dict[str, Any]) -> None:
    """Hold a load to what is true of all: each call was answered or counted as an error."""
    assert load["calls"] == load["answered"] + sum(load["errors"].values())
    assert load["answered"] > 0
    assert load["latency_ms"].keys() == PERCENTILES
    assert 0 < load["latency_ms"]["p50"] <= load["latency_ms"]["p95"] <= load["latency_ms"]["p99"]
    assert load["timing_ms"].keys() == PHASES
    assert load["timing_ms"]["compute"] > 0
    assert load["calls_per_second"] == pytest.approx(load["answered"] / load["seconds"])
    assert load["generator_cpu"] > 0


def test_every_load_is_measured_and_nothing_is_left(
    bench: Callable[..., dict[str, Any]], server: ServerProcess, tmp_path: Path
) -> None:
    plot = tmp_path / "plot.png"

    document = bench("--concurrency", "2,1", "--plot", str(plot), "--arrivals", "constant")

    assert {"cpu", "commit", "torch", "threads"} <= document["environment"].keys()
    assert document["server"]["address"] == server.address
    assert document["server"]["own"] is False
    assert document["server"]["device"] == "cpu"
    assert document["workload"] == {
        "model": "omniglot",
        "way": 2,
        "shot": 1,
        "step_count": 1,
        "batch_norm_mode": "support",
        "images": 1,
    }
    assert document["plan"]["concurrency"] == [1, 2]
    for method in ("adapt", "predict"):
        loads = document[method]
        assert [level["concurrency"] for level in loads["closed"]] == [1, 2]
        for level in loads["closed"]:
            check_load(level["load"])
            assert level["load"]["errors"] == {}
            assert level["cpu_per_call"] is None
        fastest = max(level["load"]["calls_per_second"] for level in loads["closed"])
        assert loads["open"]["rate"] == pytest.approx(fastest / 2)
        assert loads["open"]["arrivals"] == "constant"
        assert loads["open"]["lateness_ms"].keys() == PERCENTILES
        check_load(loads["open"]["load"])
        sent = loads["open"]["rate"] * 0.25
        assert sent <= loads["open"]["load"]["calls"] < sent + 1
    one_caller = document["adapt"]["closed"][0]["load"]
    assert document["adapt_overhead"]["calls"] == one_caller["answered"]
    assert document["adapt_overhead"]["round_trip_ms"] == one_caller["latency_ms"]
    assert document["adapt_overhead"]["over_compute_ms"]["p50"] > 0
    by_steps = document["adapt_by_steps"]
    assert [each["step_count"] for each in by_steps] == [1, 2, None]
    assert [each["steps_taken"] for each in by_steps[:2]] == [1, 2]
    for each in by_steps:
        assert each["overhead"]["calls"] > 0
        assert each["overhead"]["over_compute_ms"]["p50"] > 0
        assert each["timing_ms"].keys() == PHASES
    assert document["predict_beside_echo"] is None
    answered = sum(level["load"]["answered"] for level in document["adapt"]["closed"])
    assert sum(document["compute_paths"].values()) == answered
    beside = document["predict_beside_adapt"]
    assert [item["adapting_callers"] for item in beside] == [0, 1, 8]
    alone = beside[0]["load"]["latency_ms"]
    for item in beside:
        check_load(item["load"])
        assert item["p99_ratio"] == pytest.approx(item["load"]["latency_ms"]["p99"] / alone["p99"])
        difference = item["load"]["latency_ms"]["p50"] - alone["p50"]
        assert item["p50_difference_ms"] == pytest.approx(difference)
    assert beside[0]["adaptations_per_second"] == 0
    assert beside[1]["adaptations_per_second"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    with Client(server.address, timeout=60) as client:
        assert list(client.list()) == []


def test_refused_calls_are_counted_by_code(bench: Callable[..., dict[str, Any]]) -> None:
    """Two of three callers are inside at any time, the third is refused."""
    document = bench("--concurrency", "3", "--rate", "20")

    (level,) = document["adapt"]["closed"]
    check_load(level["load"])
    assert level["load"]["errors"].keys() == {"UNAVAILABLE"}
    assert document["adapt_overhead"] is None
    for method in ("adapt", "predict"):
        assert document[method]["open"]["rate"] == 20
        assert document[method]["open"]["load"]["calls"] >= 1


def test_people_get_a_table(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--adapted-models", "2", "--images", "3", "--concurrency", "1", *QUICK]

    assert main(["bench", "serve", "--server", server.address, *arguments]) == 0

    captured = capsys.readouterr()
    assert "omniglot, 2-way 1-shot, 1 steps, 3 queries a call, support" in captured.out
    for row in ("Adapt x 1", "Predict x 1", "Predict x 1, Adapt x 8 beside it"):
        assert row in captured.out
    assert "Adapt over the engine's computing" in captured.out
    assert "Adapt, one caller, 2 steps (2 taken): p50" in captured.out
    assert "closed loop, concurrency 1" in captured.err


@pytest.fixture
def own_server(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hand a bench the shared server as its own, and delete what it leaves there.

    `test_a_stopped_bench_stops_its_server` holds that a bench starts and stops one.
    """
    monkeypatch.setattr(serve, "running_server", lambda *_: nullcontext(server))
    yield
    with Client(server.address, timeout=60) as client:
        for adapted in client.list():
            client.delete(adapted.id)


@pytest.mark.usefixtures("own_server")
def test_memory_is_measured_of_an_own_server(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--memory", "--models", "3", "--rounds", "4", "--device", "cpu", "--json"]

    assert main(["bench", "serve", *arguments, "--step-count", "1", "--way", "2"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["server"]["own"] is True
    memory = document["memory"]
    assert (memory["models"], memory["rounds"]) == (3, 4)
    for moment in ("before", "kept", "deleted"):
        assert memory[moment]["front_bytes"] > 2**20
        assert memory[moment]["engine_bytes"] > 2**20
    # The parameters of one model are 0.4 MB and more.
    assert memory["store_bytes_per_model"] > 400_000
    assert [look["rounds"] for look in memory["looks"]] == [0, 1, 2, 3, 4]
    first, last = (memory["looks"][index]["memory"]["front_bytes"] for index in (0, -1))
    assert memory["growth"]["front_bytes"] == last - first


def test_an_interrupted_bench_deletes_what_it_made(server: ServerProcess) -> None:
    """Calls under way are waited for: nobody could delete what they make on a running server."""
    command = [sys.executable, "-m", "kshot", "bench", "serve", "--server", server.address]
    with (
        subprocess.Popen(
            [*command, "--seconds", "600", "--concurrency", "2", "--step-count", "1"],
            stderr=subprocess.PIPE,
            text=True,
        ) as bench,
        Client(server.address, timeout=60) as client,
    ):
        assert bench.stderr is not None
        assert any("closed loop" in line for line in bench.stderr)
        assert list(client.list())

        bench.send_signal(signal.SIGINT)
        assert bench.wait(timeout=120) == 130
        assert list(client.list()) == []
        assert "were not deleted" not in bench.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--concurrency", "0"],
            2,
            "expected integers from 1 to 10000 between commas, such as 1,8,64, got 0",
        ),
        (["--concurrency", "1,,2"], 2, "1,8,64, got 1,,2"),
        (["--concurrency", "-1"], 2, "1,8,64, got -1"),
        (["--rate", "-3"], 2, "expected a number above 0, got -3"),
        (["--rate", "nan"], 2, "expected a number above 0, got nan"),
        (
            ["--rate", "1e6"],
            2,
            "--rate: expected at most 1000000 calls in all, got 1e+06 for 5 seconds",
        ),
        (["--seconds", "inf"], 2, "expected a number above 0, got inf"),
        (["--server", "nonsense"], 2, "server address: expected HOST:PORT, got 'nonsense'"),
        (["--server", "127.0.0.1:1"], 1, "cannot reach a kshot server at 127.0.0.1:1"),
        (
            ["--server", "localhost:1", "--bundle", "omniglot"],
            2,
            "--bundle cannot be combined with --server",
        ),
        (["--server", "localhost:1", "--memory"], 2, "--memory cannot be combined with --server"),
        (["--ca", "ca.pem"], 2, "--ca requires --server"),
        (["--no-tls"], 2, "--tls requires --server"),
        (["--server", "localhost:1", "--ca", "no.pem"], 2, "ca: no.pem: No such file"),
        (["--bundle", "nowhere"], 2, "there is no folder nowhere"),
        (["--bundle", "no/where"], 1, "no/where: not a directory"),
        (["--models", "3"], 2, "--models requires --memory"),
        (["--memory", "--seconds", "3"], 2, "--seconds cannot be combined with --memory"),
        (["--plot", "plot.txt"], 2, "--plot: expected a file that ends in .png, got plot.txt"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", *arguments]) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--model", "other"],
            "--model: expected one of omniglot (the server's models), got other",
        ),
        (["--way", "10000"], "--way: expected at most"),
        (["--way", "20", "--shot", "100"], "--way times --shot: expected at most"),
        (["--step-count", "10000"], "--step-count: expected at most"),
        (["--images", "100000"], "--images: expected at most"),
    ],
)
def test_the_models_limits_are_one_line(
    server: ServerProcess, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", "--server", server.address, *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err


@pytest.mark.usefixtures("own_server")
def test_processor_time_of_an_own_server(capsys: pytest.CaptureFixture[str]) -> None:
    """Half a second is long enough for the system's ticks of 10 ms."""
    arguments = ["--device", "cpu", "--concurrency", "2", *QUICK, "--seconds", "0.5", "--json"]

    assert main(["bench", "serve", *arguments]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["server"]["own"] is True
    for method in ("adapt", "predict"):
        (level,) = document[method]["closed"]
        assert level["cpu_per_call"]["front_ms"] > 0
    assert document["adapt"]["closed"][0]["cpu_per_call"]["engine_ms"] > 0
    beside = document["predict_beside_echo"]
    assert (beside["concurrency"], beside["turns"]) == (2, 4)
    for rate in ("predict_per_second", "echo_per_second", "rate_ratio", "echo_generator_cpu"):
        assert beside[rate] > 0
