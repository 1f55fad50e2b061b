"""A request to change when an adapted model expires."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kshot.server.request.violations import Violations, plain_seconds, shorten

EXPIRE_TIME = "expire_time"


@dataclass(frozen=True)
class Renewal:
    """When an adapted model is to expire: a Unix time, or seconds from now; one of both is set.

    `etag` is the model's as the caller knows it, "" without that condition.
    """

    expire_time: float | None
    ttl: float | None
    mask: Sequence[str] = ()
    etag: str = ""

    def end(self, now: float, max_ttl: float, violations: Violations) -> float:
        """Return the time to expire at, and note what is not allowed."""
        for path in self.mask:
            if path != EXPIRE_TIME:
                got = shorten(path, 40)
                violations.add("update_mask", f"expected {EXPIRE_TIME} alone, got {got!r}")
        if self.ttl is not None:
            if not 0 < self.ttl <= max_ttl:
                expected = f"above 0 and at most {plain_seconds(max_ttl)}"
                violations.add("ttl", f"expected {expected}, got {plain_seconds(self.ttl)}")
            return now + self.ttl
        if self.expire_time is None:
            violations.add(EXPIRE_TIME, "expected expire_time or ttl, got neither")
            return math.nan
        if not now < self.expire_time <= now + max_ttl:
            seconds = self.expire_time - now
            expected = f"a time in the future, at most {plain_seconds(max_ttl)} from now"
            got = f"{plain_seconds(seconds)} from now"
            violations.add(EXPIRE_TIME, f"expected {expected}, got {got}")
        return self.expire_time
