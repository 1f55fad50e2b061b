from __future__ import annotations

import io

import pytest

from kshot.client.commands.progress import counting, following, transferring, waiting


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)

    with counting("classifying", 4) as count:
        count(4)
    with waiting("adapting"):
        pass
    with transferring("sending") as tell:
        if tell is not None:
            tell(2_500_000, 5_000_000)

    assert ("classifying" in stream.getvalue()) is shown
    assert ("adapting" in stream.getvalue()) is shown
    assert ("2.5/5.0 MB" in stream.getvalue()) is shown


def test_steps_are_counted_once_their_number_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)

    with following("adapting") as tell:
        tell("queued", 0, 0)
        tell("loss 0.5\x1b]0;", 3, 50)

    assert " 3/50" in stream.getvalue()
    assert "loss 0.5\\x1b]0;" in stream.getvalue()


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", stream)

    with counting("classifying", 4) as count:
        count(4)

    assert "\x1b[3" not in stream.getvalue()
