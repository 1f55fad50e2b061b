"""Sessions of single adapted models that are asked often: their weights are constants."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import onnxruntime

from kshot.bundle import BatchNormMode
from kshot.server.event_log import LOGGER
from kshot.server.store.adapted_model import AdaptedArrays

Key = tuple[int, BatchNormMode]
BuildSession = Callable[[AdaptedArrays], onnxruntime.InferenceSession]

# Making a session takes as long as it saves on this many images, and no other thread runs Python
# meanwhile. So sessions never cost more than they can save.
AFTER_IMAGES = 32
_AFTER_REQUESTS = 2


@dataclass(eq=False)
class _Candidate:
    """Arrays in one mode, with the requests since they last had a session."""

    arrays: weakref.ref[AdaptedArrays]
    request_count: int = 0
    image_count: int = 0
    session: onnxruntime.InferenceSession | None = None


class HotSet:
    """A bounded set of sessions, each for one adapted model's arrays; any thread may use it.

    A session lives as long as its arrays: once no cache and no call holds these, it is gone, and
    it never answers for another model. One thread makes the sessions, one after another.
    """

    def __init__(self, max_sessions: int, after_images: int = AFTER_IMAGES) -> None:
        """Hold up to `max_sessions`; arrays get one after two requests and `after_images`."""
        self._max_sessions = max_sessions
        self._after_images = after_images
        self._candidates: dict[Key, _Candidate] = {}
        self._hot: OrderedDict[Key, _Candidate] = OrderedDict()
        # A candidate may be forgotten by the garbage collector, in any thread, at any time.
        self._lock = threading.RLock()
        self._builder = ThreadPoolExecutor(1, "kshot-hot")

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._hot)

    @property
    def candidate_count(self) -> int:
        """Return the number of arrays and modes whose requests are counted."""
        return len(self._candidates)

    def find(
        self, arrays: AdaptedArrays, mode: BatchNormMode, image_count: int, build: BuildSession
    ) -> onnxruntime.InferenceSession | None:
        """Return the session for arrays in a mode, or None while there is none.

        Counts a request of `image_count` images. After enough of them, a thread calls `build`.
        """
        if self._max_sessions == 0:
            return None
        key = (id(arrays), mode)
        with self._lock:
            candidate = self._candidates.get(key)
            if candidate is None:
                candidate = _Candidate(weakref.ref(arrays, lambda _: self._forget(key)))
                self._candidates[key] = candidate
            if candidate.session is not None:
                self._hot.move_to_end(key)
                return candidate.session
            due = self._due(candidate)
            candidate.request_count += 1
            candidate.image_count += image_count
            if not due and self._due(candidate):
                self._builder.submit(self._build, key, candidate, build)
        return None

    def close(self) -> None:
        """Wait for the session in progress, and make no more."""
        self._builder.shutdown(cancel_futures=True)

    def _due(self, candidate: _Candidate) -> bool:
        enough = candidate.image_count >= self._after_images
        return enough and candidate.request_count >= _AFTER_REQUESTS

    def _build(self, key: Key, candidate: _Candidate, build: BuildSession) -> None:
        arrays = candidate.arrays()
        if arrays is None:
            return  # forgotten meanwhile
        try:
            session = build(arrays)
        except Exception:
            # It stays due and is not tried again: answers go on without a session.
            LOGGER.exception("failure")
            return
        with self._lock:
            candidate.session = session
            self._hot[key] = candidate
            while len(self._hot) > self._max_sessions:
                _, coldest = self._hot.popitem(last=False)
                coldest.session = None
                coldest.request_count = coldest.image_count = 0

    def _forget(self, key: Key) -> None:
        with self._lock:
            self._candidates.pop(key, None)
            self._hot.pop(key, None)
