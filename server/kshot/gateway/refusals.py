"""What is refused here, before there is a call: counted by code and reason."""

from __future__ import annotations

from collections import Counter

from starlette.responses import Response

from kshot.gateway.errors import RequestError


class Refusals:
    """Counts refusals until they are told to the server, whose metrics have them."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def answer(self, error: RequestError) -> Response:
        """Count a refusal and return its answer."""
        self._counts[error.code, error.reason] += 1
        return error.response()

    def take(self) -> list[tuple[str, str, int]]:
        """Return code, reason and number of the refusals since the last time."""
        taken = [(*kind, count) for kind, count in sorted(self._counts.items())]
        self._counts.clear()
        return taken
