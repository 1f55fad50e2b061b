import os
from pathlib import Path

import pytest

from kshot.server.engine_link import engine_count
from kshot.server.engine_link.engine_count import Share, best_count, has_room, processor_seconds


@pytest.mark.parametrize(
    ("share", "cores", "count"),
    [
        pytest.param(Share(0.015, 0.008, 0.004), 1, 1, id="one core"),
        pytest.param(Share(0.015, 0.008, 0.004), 2, 2, id="steps take longer than the front"),
        pytest.param(Share(0.003, 0.008, 0.004), 2, 1, id="the front takes longer"),
        pytest.param(Share(0.015, 0.005, 0.004), 64, 4, id="the event loop is busy"),
        pytest.param(Share(2.0, 2.0, 0.01), 16, 8, id="encoders share the cores"),
        pytest.param(Share(1.0, 0.0, 0.0), 4, 4, id="nothing but steps"),
    ],
)
def test_engines_are_as_many_as_keep_something_busy(share: Share, cores: float, count: int) -> None:
    assert best_count(share, cores) == count


@pytest.mark.parametrize(("starting", "room"), [(0, True), (1, True), (2, False)])
def test_files_in_a_container_s_memory_leave_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starting: int, room: bool
) -> None:
    """A server that has read its store and its bundles is full of them."""
    gibibyte = 2**30
    (tmp_path / "memory.max").write_text(f"{4 * gibibyte}\n")
    (tmp_path / "memory.current").write_text(f"{4 * gibibyte - 4096}\n")
    (tmp_path / "memory.stat").write_text(f"anon {gibibyte}\ninactive_file {2 * gibibyte}\n")
    monkeypatch.setattr(engine_count, "_CGROUP", tmp_path)
    monkeypatch.setattr(engine_count, "available_bytes", lambda: None)

    assert has_room(starting) is room


def test_the_time_of_a_process_is_read() -> None:
    ended = 2**22 + 1  # beyond the greatest process id

    assert (processor_seconds(os.getpid()) or 0) > 0
    assert processor_seconds(ended) is None
