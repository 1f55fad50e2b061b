from pathlib import Path

import pytest

from kshot.bundle import memory


def test_the_memory_that_is_available_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal: 100 kB\nMemAvailable:    42 kB\n")
    monkeypatch.setattr(memory, "_MEMORY_FACTS", facts)

    assert memory.available_bytes() == 42 * 1024


@pytest.mark.parametrize("text", [None, "MemTotal: 100 kB\n"])
def test_where_nothing_tells_it_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    facts = tmp_path / "meminfo"
    if text is not None:
        facts.write_text(text)
    monkeypatch.setattr(memory, "_MEMORY_FACTS", facts)

    assert memory.available_bytes() is None
