"""Files that are read again while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kshot.server.event_log import LOGGER

_LOOK_SECONDS = 0.5


async def watch(refreshes: Sequence[Callable[[], None]]) -> None:
    """Look at files twice a second in a thread, until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for refresh in refreshes:
            try:
                await asyncio.to_thread(refresh)
            except Exception:  # the next look may work
                LOGGER.exception("failure")
