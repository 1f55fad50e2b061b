from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kshot.v1 import adaptation_pb2 as wire
from studies.reliability import floods
from studies.reliability.connections import PREFACE
from studies.reliability.floods import FLOODS, Target


class Recorder(Target):
    """A target that nobody hears; notes what would be sent."""

    async def adapted(self, support: wire.SupportSet) -> str:
        assert len(support.class_indices) >= len(support.class_names)
        return "am-x"

    async def repeat(self, method: str, message: bytes, calls: int = floods.CALLS) -> None:
        sent.append((method, message, calls))

    async def connect(self, content: bytes, connections: int, seconds: float) -> None:
        assert seconds > 0
        sent.append(("", content, connections))


sent: list[tuple[str, bytes, int]] = []


@pytest.mark.parametrize("name", sorted(set(FLOODS) - {"support"}))
def test_a_flood_sends_what_it_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floods, "_EMPTY_ITEMS", 300)
    sent.clear()

    asyncio.run(FLOODS[name](Recorder("127.0.0.1:1", "omniglot", cast(Any, None))))

    ((method, content, count),) = sent
    if not method:
        assert content.startswith(PREFACE)
        assert content.count(b"/Predict") >= 40
        return
    assert count > 1
    request = wire.AdaptRequest() if method == "Adapt" else wire.PredictRequest()
    request.ParseFromString(content)
    if isinstance(request, wire.AdaptRequest):
        assert request.model == "omniglot"
    elif name == "fields":
        assert list(request.queries.encoded.items) == [b""] * 300
    else:
        assert request.adapted_model == "am-x"
