"""Which engine adapts, how many there are, and what happens while none is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kshot.bundle import BundleError
from kshot.server.config import ServerConfig
from kshot.server.engine_link import engine_count
from kshot.server.engine_link import pool as pool_module
from kshot.server.engine_link.client import EngineFacts, EngineTask
from kshot.server.engine_link.engine_count import Share
from kshot.server.engine_link.pool import EnginePool
from kshot.server.engine_link.process import EngineSetting
from kshot.server.engine_link.supervisor import EngineSupervisor
from kshot.server.errors import EngineUnavailable

FACTS = EngineFacts("cpu", "", "", "compiled", frozenset({"d"}), {"d": 0.1})
TASK = cast(EngineTask, SimpleNamespace(bundle_digest="d"))
MUCH, LITTLE = Share(0.03, 0.01, 0.005), Share(0.001, 0.01, 0.005)


class FakeEngine:
    """An engine that is ready when a test says so, and answers with its number."""

    def __init__(self, number: int, setting: EngineSetting, on_change: Callable[[], None]) -> None:
        self.setting, self._on_change = setting, on_change
        self.number, self.pid = number, 100 + number
        self.facts: EngineFacts | None = None
        self.load = (False, 0)
        self.trouble: Exception | None = None

    async def start(self) -> EngineFacts:
        self.describe(FACTS)
        return FACTS

    def start_behind(self) -> None:
        """Begin to start."""

    def describe(self, facts: EngineFacts | None) -> None:
        self.facts = facts
        self._on_change()

    async def adapt(self, _task: object, _timeout: float | None) -> int:
        return self.number

    async def load_bundle(self, digest: str, _path: Path) -> None:
        if self.trouble is not None:
            raise self.trouble
        assert self.facts is not None
        self.describe(replace(self.facts, digests=self.facts.digests | {digest}))

    async def unload_bundle(self, digest: str) -> None:
        if self.facts is not None:
            self.describe(replace(self.facts, digests=self.facts.digests - {digest}))


Engines = list[FakeEngine]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """The engines that a pool makes, on two cores with room for all."""
    made: Engines = []

    def make(
        _config: object, _digests: object, setting: EngineSetting, on_change: Callable[[], None]
    ) -> FakeEngine:
        made.append(FakeEngine(len(made), setting, on_change))
        return made[-1]

    monkeypatch.setattr(pool_module, "EngineSupervisor", make)
    monkeypatch.setattr(pool_module, "has_room", lambda _: True)
    monkeypatch.setattr(pool_module, "usable_cores", lambda: 2.0)
    return made


def make_pool(**settings: object) -> EnginePool:
    given: dict[str, Any] = {"engine_wait": 60.0, "engine_probe": 0.001} | settings
    return EnginePool(ServerConfig((Path("bundle"),), Path("store"), **given), {})


async def chosen(pool: EnginePool) -> int:
    """Return the number of the engine that a task goes to."""
    return cast(int, await pool.adapt(TASK, None))


def test_the_least_loaded_engine_adapts_and_one_that_hangs_only_as_the_last(
    engines: Engines,
) -> None:
    async def main() -> list[int]:
        pool = make_pool(engines=3)
        await pool.start()
        numbers = [await chosen(pool)]
        engines[0].load = (False, 2)
        engines[1].describe(FACTS)
        numbers.append(await chosen(pool))
        engines[2].describe(FACTS)
        engines[1].load = (True, 0)
        engines[2].load = (False, 1)
        numbers.append(await chosen(pool))
        for engine in (engines[0], engines[2]):
            engine.describe(None)
        return [*numbers, await chosen(pool)]

    assert asyncio.run(main()) == [0, 1, 2, 1]


def test_an_adaptation_waits_for_an_engine(engines: Engines) -> None:
    async def main() -> int:
        pool = make_pool()
        await pool.start()
        engines[0].describe(None)
        waiting = asyncio.ensure_future(chosen(pool))
        await asyncio.sleep(0)
        assert not waiting.done()
        engines[0].describe(FACTS)
        return await waiting

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize(("wait", "timeout"), [(0.01, None), (60.0, 0.01)])
def test_the_wait_ends(engines: Engines, wait: float, timeout: float | None) -> None:
    async def main() -> None:
        pool = make_pool(engine_wait=wait)
        await pool.start()
        engines[0].describe(None)
        await pool.adapt(TASK, timeout)

    with pytest.raises(EngineUnavailable):
        asyncio.run(main())


def test_a_spare_takes_over_and_the_speed_of_tails_stays_known(engines: Engines) -> None:
    async def main() -> list[int]:
        pool = make_pool()
        await pool.start()
        sizing = asyncio.ensure_future(pool.size(lambda _: asyncio.sleep(0, LITTLE)))
        while len(engines) < 2:
            await asyncio.sleep(0)
        engines[1].describe(FACTS)
        await sizing
        engines[0].load = (False, 5)
        numbers = [await chosen(pool)]
        engines[0].describe(None)
        numbers.append(await chosen(pool))
        engines[1].describe(None)
        assert pool.facts is None
        assert pool.tail_seconds == engines[1].setting.tail_seconds == {"d": 0.1}
        return numbers

    assert asyncio.run(main()) == [0, 1]


def test_a_spare_takes_over_from_an_engine_that_does_not_answer(engines: Engines) -> None:
    async def main() -> list[int]:
        pool = make_pool()
        await pool.start()
        pool._grow(2, FACTS)
        engines[1].describe(FACTS)
        numbers = []
        for engines[0].load in ((True, 7), (False, 7)):
            numbers.append(await chosen(pool))
        return numbers

    assert asyncio.run(main()) == [1, 0]


def test_a_second_engine_shares_the_work_where_it_pays(engines: Engines) -> None:
    """What is measured counts once no step is being compiled."""
    measured = []

    async def measure(pid: int) -> Share:
        measured.append(pid)
        return MUCH

    async def main() -> int:
        pool = make_pool()
        await pool.start()
        engines[0].describe(replace(FACTS, compute_path="eager", compiling_step_count=1))
        sizing = asyncio.ensure_future(pool.size(measure))
        while len(engines) < 2:
            await asyncio.sleep(0)
        engines[1].describe(FACTS)
        assert pool.facts == replace(
            FACTS, compute_path="eager", compiling_step_count=1, process_count=2
        )
        assert not measured
        engines[0].describe(FACTS)
        await sizing
        engines[0].load = (False, 5)
        return await chosen(pool)

    assert asyncio.run(main()) == 1
    assert measured == [100]


def test_a_disturbed_measurement_counts_until_there_is_a_better_one(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first a spare that does not come up, then work of others, then none of that."""
    monkeypatch.setattr(pool_module, "_SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(pool_module, "_AGAIN_SECONDS", 0.0)
    disturbed = replace(LITTLE, quiet=False)
    shares = iter([None, disturbed, replace(MUCH, quiet=False), MUCH, LITTLE, MUCH])
    active = list[int]()

    async def main() -> None:
        pool = make_pool()

        async def measure(_pid: int) -> Share | None:
            active.append(pool._active)
            if len(active) == 5:
                engines[1].describe(FACTS)
            return next(shares)

        await pool.start()
        await pool.size(measure)
        active.append(pool._active)

    asyncio.run(main())

    assert active == [1, 1, 1, 1, 2, 1, 2]


def test_without_memory_there_is_one_engine(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "has_room", lambda _: False)

    async def main() -> None:
        pool = make_pool()
        await pool.start()
        await pool.size(lambda _: asyncio.sleep(0, LITTLE))

    with caplog.at_level("INFO"):
        asyncio.run(main())

    assert len(engines) == 1
    assert "too_little_memory" in caplog.messages


def test_engines_that_start_count_with_the_memory_that_they_will_take(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has taken memory yet when the last of them is begun."""
    monkeypatch.setattr(pool_module, "has_room", engine_count.has_room)
    monkeypatch.setattr(engine_count, "_CGROUP", Path("none"))
    monkeypatch.setattr(engine_count, "available_bytes", lambda: 3 * 2**30)

    async def main() -> None:
        pool = make_pool()
        await pool.start()
        pool._grow(30, FACTS)

    asyncio.run(main())

    assert len(engines) == 1 + 3


def test_each_gpu_has_an_engine(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sees all, to count them, and computes on the first."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7,9")

    async def main() -> None:
        pool = make_pool()
        await pool.start()
        engines[0].describe(replace(FACTS, device="cuda", device_count=3))
        await pool.size(lambda _: asyncio.sleep(0, None))

    asyncio.run(main())

    variables = [engine.setting.environment() for engine in engines]
    assert variables == [{}, {"CUDA_VISIBLE_DEVICES": "7"}, {"CUDA_VISIBLE_DEVICES": "9"}]


def test_a_further_bundle_goes_to_all_engines_that_are_there(engines: Engines) -> None:
    """One that ends meanwhile, or starts later, has it on its command line."""

    async def main() -> tuple[int, dict[str, Path]]:
        pool = make_pool(engines=3)
        await pool.start()
        engines[1].describe(FACTS)
        engines[0].trouble = EngineUnavailable()
        await pool.load_bundle("new", Path("new"))
        task = cast(EngineTask, SimpleNamespace(bundle_digest="new"))
        number = cast(int, await pool.adapt(task, None))
        return number, dict(pool._bundles)

    assert asyncio.run(main()) == (1, {"new": Path("new")})


@pytest.mark.parametrize("trouble", [BundleError("no"), EngineUnavailable()])
def test_a_bundle_that_cannot_be_loaded_stays_nowhere(engines: Engines, trouble: Exception) -> None:
    async def main() -> dict[str, Path]:
        pool = make_pool(engines=2)
        await pool.start()
        if isinstance(trouble, BundleError):
            engines[1].describe(FACTS)
        engines[0].trouble = trouble
        with pytest.raises(type(trouble)):
            await pool.load_bundle("new", Path("new"))
        assert all(engine.facts in (None, FACTS) for engine in engines)
        return dict(pool._bundles)

    assert asyncio.run(main()) == {}


def test_an_engine_that_refuses_comes_last_until_it_answers() -> None:
    """One that was told to end refuses tasks for seconds, and has the fewest of all."""

    class Refusing:
        async def adapt(self, *_: object) -> None:
            raise EngineUnavailable

    config = ServerConfig((Path("bundle"),), Path("store"))
    engine = EngineSupervisor(config, {}, EngineSetting(), lambda: None)
    engine._engine, engine._facts = cast(Any, SimpleNamespace(client=Refusing())), FACTS
    before = engine.load

    with pytest.raises(EngineUnavailable):
        asyncio.run(engine.adapt(TASK, None))

    assert engine.load > (False, 10**6) > before
