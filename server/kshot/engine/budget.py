"""The time budget of a call: its deadline, and whether its caller is still there."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kshot.engine.task import StopReason

ANSWER_SECONDS = 0.1  # for the answer's way back
ANSWER_STEPS = 4  # for the statistics and the accuracy, in steps
LAST_STEPS = 8


@dataclass
class Budget:
    """Watches one call; the inner loop asks before each step.

    `seconds_left` is the time that the call had when it came, None without a deadline. A partial
    answer keeps a margin before the deadline: a constant, and some steps as long as the longest of
    the last ones, but at most half of the time, for a first step may be slow.
    """

    seconds_left: float | None
    allow_partial: bool
    cancelled: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    _asked: float | None = field(default=None, init=False)
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=LAST_STEPS), init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._started = self.clock()

    def should_stop(self, answer_steps: int = ANSWER_STEPS) -> StopReason | None:
        """Return why the loop stops before its next step, or None to go on.

        A partial answer takes as long as `answer_steps`.
        """
        now = self.clock()
        if self._asked is not None:
            self._last.append(now - self._asked)
        self._asked = now
        if self.cancelled.is_set():
            return StopReason.CANCELLED
        if self.seconds_left is None:
            return None
        margin = 0.0
        if self.allow_partial:
            steps = min(answer_steps * max(self._last, default=0.0), self.seconds_left / 2)
            margin = steps + ANSWER_SECONDS
        over = now - self._started + margin >= self.seconds_left
        return StopReason.TIME_BUDGET if over else None
