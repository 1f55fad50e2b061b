import io

from rich.console import Console

from kshot.trainer.output.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_written_every_thirty_seconds() -> None:
    stream = io.StringIO()
    clock = Clock()
    with Progress("training", "rounds", console=Console(file=stream), clock=clock) as progress:
        for done in range(1, 101):
            clock.now += 1
            progress.update(done, 100, "loss 0.5")

    lines = stream.getvalue().splitlines()
    assert lines == [
        "training: 1/100 rounds, loss 0.5",
        "training: 31/100 rounds, loss 0.5, ETA 0:01:09",
        "training: 61/100 rounds, loss 0.5, ETA 0:00:39",
        "training: 91/100 rounds, loss 0.5, ETA 0:00:09",
        "training: 100/100 rounds, loss 0.5",
    ]


def test_resumed_work_is_extrapolated_from_its_start() -> None:
    stream = io.StringIO()
    clock = Clock()
    with Progress("training", "rounds", console=Console(file=stream), clock=clock) as progress:
        progress.update(900, 1000)
        clock.now += 50
        progress.update(950, 1000)

    assert stream.getvalue().splitlines()[-1] == "training: 950/1000 rounds, ETA 0:00:50"


def test_a_terminal_gets_a_bar_and_no_lines() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with Progress("training", "rounds", console=console) as progress:
        progress.update(5, 10, "loss 0.5")

    text = stream.getvalue()
    assert "5/10" in text
    assert "loss 0.5" in text
    assert "rounds" not in text


def test_a_work_without_updates_shows_nothing() -> None:
    stream = io.StringIO()
    with Progress("reading", "images", console=Console(file=stream, force_terminal=True)):
        pass

    assert stream.getvalue() == ""
