"""How far the adaptation of a call is: what works for it writes, what sends it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Stage(StrEnum):
    """What a server does for an adaptation."""

    QUEUED = "queued"
    PREPARING = "preparing"
    ADAPTING = "adapting"
    ESTIMATING = "estimating"
    STORING = "storing"


@dataclass(frozen=True)
class State:
    """How far it is; `losses` are those of the steps that were not told before."""

    stage: Stage = Stage.QUEUED
    model: str = ""
    step_count: int = 0
    total_step_count: int = 0
    losses: Sequence[float] = ()


@dataclass
class Progress:
    """The states that are still to be told, every `interval` seconds; for one event loop.

    States of one stage are told as one, and stages that have passed only if they had losses.
    """

    interval: float
    _state: State = State()
    _losses: list[float] = field(default_factory=list)
    _before: list[State] = field(default_factory=list)
    _news: bool = True

    def enter(self, stage: Stage) -> None:
        """Note that another stage begins."""
        self._keep_losses()
        self._change(replace(self._state, stage=stage))

    def begin_loop(self, stage: Stage, model: str, total_step_count: int) -> None:
        """Note that an inner loop begins, or waits for a slot."""
        self._keep_losses()
        self._change(State(stage, model, 0, total_step_count))

    def add(self, losses: Sequence[float]) -> None:
        """Note the losses of further steps."""
        self._losses += losses
        self._change(replace(self._state, step_count=self._state.step_count + len(losses)))

    def news(self) -> Iterator[State]:
        """Go through the states since the last time; none where nothing has changed."""
        before, self._before = self._before, []
        yield from before
        if self._news:
            self._news = False
            yield self._take()

    def _keep_losses(self) -> None:
        if self._losses:
            self._before.append(self._take())

    def _take(self) -> State:
        state = replace(self._state, losses=tuple(self._losses))
        self._losses.clear()
        return state

    def _change(self, state: State) -> None:
        self._state, self._news = state, True
