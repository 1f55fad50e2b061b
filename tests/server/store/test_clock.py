"""A clock that is set forward or back, while the store is open and while it is closed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.errors import AdaptedModelExpired
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.clock import LONGEST_STOP, StoreClock
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.rows import Seen

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

DAY = 24 * 3600.0
START = 1_700_000_000.0


@pytest.fixture
def machine() -> SimpleNamespace:
    """The wall clock and the seconds since boot."""
    return SimpleNamespace(wall=START, elapsed=500.0)


def clock_of(machine: SimpleNamespace, seen: Seen | None = None, boot: str = "b1") -> StoreClock:
    return StoreClock(seen, lambda: machine.wall, lambda: machine.elapsed, boot)


def test_time_passes(machine: SimpleNamespace) -> None:
    clock = clock_of(machine)
    machine.wall += 3600.5
    machine.elapsed += 3600.0

    assert clock.now() == START + 3600.5
    assert clock.skipped == 0.0


@pytest.mark.parametrize("jump", [300 * DAY, -300 * DAY, -1e9, 61.0])
def test_a_jump_is_skipped_once(
    machine: SimpleNamespace, jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock = clock_of(machine)
    machine.wall += jump
    for _ in range(3):
        assert clock.now() == START
    machine.wall += 10
    machine.elapsed += 10

    assert clock.now() == START + 10
    assert clock.skipped == jump
    assert [record.fields["seconds"] for record in caplog.records] == [jump]  # type: ignore[attr-defined]


@pytest.mark.parametrize("jump", [0.0, 300 * DAY, -300 * DAY])
def test_a_jump_while_the_store_is_closed_is_skipped(machine: SimpleNamespace, jump: float) -> None:
    seen = clock_of(machine).seen()
    machine.wall += 7200 + jump
    machine.elapsed += 7200

    assert clock_of(machine, seen).now() == START + 7200


@pytest.mark.parametrize(
    ("off", "counted"),
    [(7200.0, 7200.0), (300 * DAY, LONGEST_STOP), (-300 * DAY, 0.0), (0.0, 0.0)],
)
def test_a_reboot_counts_as_a_day_at_most(
    machine: SimpleNamespace, off: float, counted: float
) -> None:
    seen = clock_of(machine).seen()
    machine.wall += off
    machine.elapsed = 5.0

    assert clock_of(machine, seen, "b2").now() == START + counted


def test_nothing_lives_forever_behind_a_wrong_clock(machine: SimpleNamespace) -> None:
    """A machine without a battery starts in 1970 again and again: what it runs counts."""
    clock = clock_of(machine)
    for boot in range(7):
        seen = clock.seen()
        machine.wall, machine.elapsed = 0.0, 5.0
        clock = clock_of(machine, seen, f"b{boot + 2}")
        machine.wall += DAY
        machine.elapsed += DAY
        clock.now()

    assert clock.now() == pytest.approx(START + 7 * DAY)


def test_a_store_expires_by_time_that_passes(
    tmp_path: Path,
    machine: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records that callers see have wall times, before and after a jump and a restart."""
    monkeypatch.setattr("kshot.server.store.clock.time.time", lambda: machine.wall)
    monkeypatch.setattr("kshot.server.store.clock._since_boot", lambda: machine.elapsed)
    with LocalStore.open(tmp_path / "s", max_count=9, max_bytes=10**7) as store:
        before = store.stored(make_model("before", START, START + DAY))
        assert store.put(before, make_arrays()).expire_time == START + DAY
        machine.wall += 300 * DAY
        after = make_model("after", machine.wall, machine.wall + DAY)
        store.put(store.stored(after), make_arrays())
        assert store.sweep() == 0
        assert store.on_wire(store.get("before")).expire_time == START + 301 * DAY
        assert store.on_wire(store.get("after")).expire_time == START + 301 * DAY
    with LocalStore.open(tmp_path / "s", max_count=9, max_bytes=10**7) as store:
        machine.wall += DAY
        machine.elapsed += DAY
        assert store.sweep() == 2
        with pytest.raises(AdaptedModelExpired) as caught:
            store.get("after")

    wanted = datetime.fromtimestamp(START + 301 * DAY, UTC).isoformat()
    assert caught.value.metadata["expire_time"] == wanted
