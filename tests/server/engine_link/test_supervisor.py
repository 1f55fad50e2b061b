"""What keeps an engine running does not end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.config import ServerConfig
from kshot.server.engine_link import supervisor as supervisor_module
from kshot.server.engine_link.client import EngineFacts
from kshot.server.engine_link.process import EngineSetting
from kshot.server.engine_link.supervisor import EngineSupervisor

FACTS = EngineFacts("cpu", "", "", "", frozenset())


class FakeProcess:
    """An engine that is ready at once, and that a test makes fail while it is watched."""

    pid = 7

    def __init__(self, trouble: str) -> None:
        self._trouble = trouble
        self.client = SimpleNamespace(probe=self._probe)

    async def ready(self, _seconds: float) -> EngineFacts:
        return FACTS

    async def ended(self) -> int:
        if self._trouble == "the end":
            raise ChildProcessError("somebody else has waited for it")
        if self._trouble == "its leftovers":
            return 9
        await asyncio.Event().wait()
        raise AssertionError

    async def stop(self) -> None:
        if self._trouble == "its leftovers":
            raise OSError("Bad file descriptor")

    async def _probe(self, _seconds: float) -> EngineFacts:
        if self._trouble == "a probe":
            raise RuntimeError("Too many open files")
        return FACTS


@pytest.mark.parametrize("trouble", ["the end", "its leftovers", "a probe"])
def test_an_engine_is_replaced_whatever_goes_wrong_as_it_is_watched(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    async def main() -> None:
        troubles, enough = iter([trouble, "", ""]), asyncio.Event()

        async def start(*_: object) -> FakeProcess:
            process = FakeProcess(next(troubles))
            if not process._trouble:
                enough.set()
            return process

        monkeypatch.setattr(supervisor_module, "EngineProcess", SimpleNamespace(start=start))
        monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_SECONDS", 0.001)
        config = ServerConfig((Path("bundle"),), Path("store"), engine_probe=0.001)
        supervisor = EngineSupervisor(config, {}, EngineSetting(), lambda: None)

        await supervisor.start()
        async with asyncio.timeout(60):
            await enough.wait()
            while supervisor.facts is None:
                await asyncio.sleep(0)
        await supervisor.stop()

    asyncio.run(main())
