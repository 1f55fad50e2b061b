"""Adapting again by itself: the kept support set, on the version that a model's name means now."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import MutableMapping
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from kshot.server.predict.catalog import ServedModel
from kshot.server.request.digest import input_digest
from kshot.server.request.inputs import AdaptInput, SupportSet, TensorImages
from kshot.server.store.adapted_model import AdaptedModelRecord

Kept = tuple[npt.NDArray[np.float32], tuple[int, ...]]

_MOST_FAILED = 1000


class Readapting:
    """Lets one call at a time adapt a model again, and remembers of which that fails for good."""

    def __init__(self) -> None:
        self._turns: MutableMapping[str, asyncio.Lock] = WeakValueDictionary()
        self._failed: OrderedDict[tuple[str, str], str] = OrderedDict()

    def turn(self, adapted: AdaptedModelRecord) -> asyncio.Lock:
        """Return what a call holds while it adapts this model again."""
        return self._turns.setdefault(adapted.id, asyncio.Lock())

    def problem(self, adapted: AdaptedModelRecord, model: ServedModel) -> str:
        """Say why a model cannot be adapted again to a version; empty if it may be tried."""
        if input_digest(model.bundle.manifest) != adapted.input_digest:
            return f"{model.full_name} prepares pictures in another way"
        return self._failed.get((adapted.id, model.bundle.digest), "")

    def note(self, adapted: AdaptedModelRecord, model: ServedModel, problem: str) -> None:
        """Remember why adapting a model again to a version failed."""
        self._failed[adapted.id, model.bundle.digest] = problem
        while len(self._failed) > _MOST_FAILED:
            self._failed.popitem(last=False)


def readapt_task(adapted: AdaptedModelRecord, kept: Kept, model: ServedModel) -> AdaptInput:
    """Return the request that adapts a model again, to prepared images and their classes.

    It has the options of before, but takes all steps: the result stays.
    """
    images, classes = kept
    asked = {**vars(adapted.options), "allow_partial": False}
    del asked["ttl"]  # it expires when it did
    sent = TensorImages("FP32", images.shape, np.ascontiguousarray(images).data.cast("B"))
    support = SupportSet(sent, classes, adapted.class_names)
    return AdaptInput(model.full_name, support, asked)


def was_adapted_again(adapted: AdaptedModelRecord) -> bool:
    """Tell whether a model is not the one that its caller adapted: it is its own parent then."""
    return adapted.parent == adapted.id


def readapted_warning(model: ServedModel) -> str:
    """Return what each answer of a model says that was adapted again."""
    return (
        f"adapted_model: the version that it was made from is no longer served, so the server has "
        f"adapted it again, to {model.full_name}; answers may differ from earlier ones"
    )
