"""`AdaptStream`: what `Adapt` answers, and how far it is on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from tests.patience import with_more_time
from tests.server.front.fake_engine import HANG_UNTIL_LEFT, NO_MEMORY

Make = Callable[..., Any]
ID = "9b2d3c52-63f4-4b8e-a1d7-5f0c7e9d2a47"
STEPS = 10


def stream(
    stub: AdaptationServiceStub, request: wire.AdaptRequest, seconds: float | None = None
) -> tuple[Sequence[wire.AdaptProgress], wire.AdaptResponse]:
    """Adapt; return the messages of progress, and the result."""
    asked = wire.AdaptStreamRequest(adapt=request)
    if seconds is not None:
        asked.progress_interval.FromMilliseconds(round(1e3 * seconds))
    *before, last = stub.AdaptStream(asked, timeout=30)
    assert {each.WhichOneof("event") for each in before} == {"progress"}
    assert last.WhichOneof("event") == "result"
    return [each.progress for each in before], last.result


def test_progress_leads_to_the_result_of_adapt(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request(step_count=STEPS)
    wanted = stub.Adapt(request, timeout=30)

    states, result = stream(stub, request, 0.02)

    assert result.adapted_model.weights_digest == wanted.adapted_model.weights_digest
    assert result.report == wanted.report
    get = wire.GetAdaptedModelRequest(adapted_model=result.adapted_model.id)
    assert stub.GetAdaptedModel(get, timeout=30).adapted_model == result.adapted_model
    stages = [state.stage for state in states]
    assert stages == sorted(stages)
    assert states[0] == wire.AdaptProgress(stage=wire.ADAPT_STAGE_QUEUED)
    last = states[-1]
    assert (last.stage, last.model) == (wire.ADAPT_STAGE_STORING, "tiny")
    assert (last.step_count, last.total_step_count) == (STEPS - 1, STEPS)
    assert {state.stage for state in states if state.support_loss} == {wire.ADAPT_STAGE_ADAPTING}
    losses = [loss for state in states for loss in state.support_loss]
    assert losses == list(wanted.report.support_loss)[:-1]


def test_each_fold_begins_at_step_0(stub: AdaptationServiceStub, adapt_request: Make) -> None:
    request = adapt_request(shot=3, step_count=STEPS, fold_count=3)

    states, result = stream(stub, request)

    assert result.report.HasField("estimate")
    loops = [state for state in states if state.support_loss]
    assert {state.stage for state in loops} == {
        wire.ADAPT_STAGE_ADAPTING,
        wire.ADAPT_STAGE_ESTIMATING,
    }
    ends = [state for state in loops if state.step_count == STEPS - 1]
    assert [state.stage for state in ends] == [
        wire.ADAPT_STAGE_ADAPTING,
        *[wire.ADAPT_STAGE_ESTIMATING] * 3,
    ]
    assert sum(len(state.support_loss) for state in loops) == 4 * (STEPS - 1)


def test_a_caller_that_leaves_ends_the_inner_loop(
    start_server: Make, adapt_request: Make, wait_arrival: Callable[[], str]
) -> None:
    with start_server() as server:
        request = wire.AdaptStreamRequest(adapt=adapt_request(seed=HANG_UNTIL_LEFT))
        call = server.stub.AdaptStream(request, timeout=60)
        wait_arrival()

        call.cancel()

        wait_arrival()
        kept = server.stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), timeout=30)
        assert not kept.adapted_models


def test_a_repeated_request_gets_the_answer_of_the_first(
    stub: AdaptationServiceStub, adapt_request: Make
) -> None:
    request = adapt_request()
    request.request_id = ID
    first = stub.Adapt(request, timeout=30)

    _, again = stream(stub, request)

    assert again.deduplicated
    assert again.adapted_model.id == first.adapted_model.id


def test_it_is_refused_as_adapt_is(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Make
) -> None:
    for request in (
        adapt_request(step_count=0),
        wire.AdaptRequest(),
        adapt_request(seed=NO_MEMORY),
    ):
        wanted = refusal(lambda request=request: stub.Adapt(request, timeout=30))

        found = refusal(lambda request=request: stream(stub, request))

        assert (found.code, found.reason) == (wanted.code, wanted.reason)
        assert found.details == wanted.details


@pytest.mark.parametrize("seconds", [0.019, 61.0])
def test_the_time_between_messages_has_bounds(
    stub: AdaptationServiceStub, adapt_request: Make, refusal: Make, seconds: float
) -> None:
    refused = refusal(lambda: stream(stub, adapt_request(), seconds))

    expected = f"expected 0.02 to 60 s, got {seconds:g} s"
    assert refused.violations == {"progress_interval": expected}


def test_a_deadline_ends_it(
    stub: AdaptationServiceStub, adapt_request: Make, arrived: Callable[[float], bool]
) -> None:
    request = wire.AdaptStreamRequest(adapt=adapt_request(seed=HANG_UNTIL_LEFT))

    def outlast(seconds: float) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.AdaptStream(request, timeout=seconds))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert arrived(0)

    with_more_time(outlast, 0.5)
    assert arrived(60)  # the engine's task has ended
