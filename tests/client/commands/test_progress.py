from __future__ import annotations

import io

import pytest

from kshot.client.commands.progress import counting, waiting


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

    assert ("classifying" in stream.getvalue()) is shown
    assert ("adapting" in stream.getvalue()) is shown


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", stream)

    with counting("classifying", 4) as count:
        count(4)

    assert "\x1b[3" not in stream.getvalue()
