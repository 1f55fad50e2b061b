"""Ends a call from outside, with whatever it still has to send."""

from __future__ import annotations

import asyncio
import gc
from typing import Any


def end_call(handler: asyncio.Task[Any]) -> bool:
    """End the call whose handler runs, or has run, in this task; return whether that is possible.

    `grpc.aio` cannot cancel a call at the server. It cancels one that nothing refers to any more:
    so end its two tasks, the handler and the one that waits for the call's end. gRPC keeps the
    latter to itself, but it refers to the handler.
    """
    for task in asyncio.all_tasks():
        coroutine = task.get_coro()
        if getattr(coroutine, "__name__", "") != "_schedule_rpc_coro":
            continue
        if any(handler in gc.get_referents(part) for part in gc.get_referents(coroutine)):
            task.cancel()
            handler.cancel()
            return True
    return False
