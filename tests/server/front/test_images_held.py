"""While the engine works for a call, the front holds none of its prepared images."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import Bundle
from kshot.server import checked_task
from kshot.server.admission import Admission, ImageRoom
from kshot.server.call_context import begin_call
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.front import Front
from kshot.server.predict import prediction
from kshot.server.predict.catalog import Catalog
from kshot.server.predict.encodings import Encodings
from kshot.server.request.decoders import Decoders
from kshot.server.request.inputs import AdaptInput, PredictInput, SupportSet, TensorImages
from kshot.server.request.violations import Violations
from kshot.server.workers import Workers

TAIL_SECONDS = 1e-4
ROOM = 1_000_000


def sent(count: int) -> TensorImages:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return TensorImages("UINT8", pixels.shape, pixels.tobytes())


@pytest.mark.parametrize("model", ["tailed", "means", ""])
def test_images_are_gone_and_their_room_with_them(
    monkeypatch: pytest.MonkeyPatch,
    make_config: Callable[..., Any],
    tail_bundle: Bundle,
    means_bundle: Bundle,
    model: str,
) -> None:
    images: list[weakref.ref[Any]] = []
    held: list[tuple[int, int]] = []
    room = ImageRoom(small=ROOM)

    def watch(module: Any) -> None:  # noqa: ANN401 -- a module
        prepare = module.prepare_images

        def watched(*arguments: Any) -> Any:  # noqa: ANN401 -- those of `prepare_images`
            prepared = prepare(*arguments)
            images.append(weakref.ref(prepared))
            return prepared

        monkeypatch.setattr(module, "prepare_images", watched)

    async def adapt(task: EngineTask, _timeout: float | None) -> EngineResult:
        last = task.tail is not None or model == "means"
        for _ in range(6000 if last else 1):  # threads soon forget their work
            count = sum(each() is not None for each in images)
            if not count:
                break
            await asyncio.sleep(0.01)
        held.append((count, ROOM - room._small.free_bytes))
        parameters = {
            "head.weight": np.zeros((2, 12), np.float32),
            "head.bias": np.zeros(2, np.float32),
        }
        left_out = np.zeros((4, 2), np.float32)
        return EngineResult(parameters, {}, 0, "COMPLETED", (), 1.0, 0.0, "fake", 0, left_out)

    seconds = {tail_bundle.digest: TAIL_SECONDS}
    engine = SimpleNamespace(tail_seconds=seconds, adapt=adapt, facts=None)

    async def main() -> None:
        begin_call("AdaptAndPredict")
        workers = Workers()
        front = Front(
            config=make_config(),
            catalog=Catalog.load([tail_bundle.path, means_bundle.path]),
            engine=cast(Any, engine),
            kept_models=cast(Any, None),
            workers=workers,
            batches=cast(Any, None),
            encodings=Encodings(workers),
            decoders=Decoders(),
            adapting=Admission(1),
            predicting=Admission(1),
            adapting_room=room,
        )
        support = SupportSet(sent(4), (0, 0, 1, 1), ("a", "b"))
        task = AdaptInput(model, support, {})
        await front.adapt_and_predict(task, PredictInput(sent(2), None, 0, False), Violations())
        await workers.close()

    watch(checked_task)
    watch(prediction)
    asyncio.run(main())

    count, kept = held[-1]
    maps = 2 * 4 * 48 * 4  # of two crops of each picture
    assert len(images) == (2 if model else 4)
    assert (count, kept) == (0, 0 if model == "means" else maps)
    assert room._small.free_bytes == ROOM
