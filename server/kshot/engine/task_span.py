"""A span for each task of the engine, in the trace of the call that it serves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kshot.bundle.signals.tracing import Attributes, Tracer, find_traceparent
from kshot.engine.models import LoadedModel
from kshot.engine.task import EngineResult, EngineTask


@contextmanager
def task_span(
    tracer: Tracer | None,
    model: LoadedModel,
    task: EngineTask,
    metadata: Any,  # noqa: ANN401 -- gRPC's own type
) -> Iterator[Callable[[EngineResult], None]]:
    """Trace the block if there is a tracer; give what notes the result."""
    if tracer is None:
        yield lambda _result: None
        return
    attributes: Attributes = {
        "kshot.model": model.name,
        "kshot.way": task.way,
        "kshot.support_count": len(task.classes),
        "kshot.scope": task.scope.value,
    }
    span = tracer.start("adapt", find_traceparent(metadata), attributes, server=True)

    def note(result: EngineResult) -> None:
        span.set_attribute("kshot.step_count", result.step_count)
        span.set_attribute("kshot.stop_reason", result.stop_reason.value)
        span.set_attribute("kshot.compute_path", result.compute_path)
        span.set_attribute("kshot.slot_bucket", result.slot_bucket)

    try:
        yield note
    finally:
        span.end()
