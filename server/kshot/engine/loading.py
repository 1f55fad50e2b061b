"""The models that an engine can adapt now; some come and go while it runs."""

import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from kshot.bundle import Bundle, BundleError, load_bundle
from kshot.engine.budget import Budget
from kshot.engine.device import DeviceDescription
from kshot.engine.models import LoadedModel, load_model
from kshot.engine.scheduler import Scheduler
from kshot.engine.tuning import Tuning
from kshot.engine.warm_up import blank_task, first_plan, measure_tail


class Models:
    """Loads bundles while tasks of others go on; any thread may use it.

    What needs the device runs in the thread that computes, between its rounds.
    """

    def __init__(
        self,
        device: DeviceDescription,
        scheduler: Scheduler,
        tuning: Tuning,
        tail_seconds: Mapping[str, float],
    ) -> None:
        """Load nothing yet; `tail_seconds` has, by digest, what was measured before."""
        self._device = device
        self._scheduler = scheduler
        self._tuning = tuning
        self._tail_seconds = dict(tail_seconds)
        self._loaded: dict[str, LoadedModel] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(list(self._loaded.values()))

    def find(self, digest: str) -> LoadedModel | None:
        """Return the model of a bundle's digest, None while it is not loaded."""
        return self._loaded.get(digest)

    def tail_seconds(self, model: LoadedModel) -> float:
        """Return what a step of a model's tail takes for each example, 0 without a tail."""
        return 0.0 if model.tail is None else self._tail_seconds[model.bundle.digest]

    def load(self, path: Path, digest: str = "") -> LoadedModel:
        """Load a bundle, have its steps compiled and run a first task.

        Raises `BundleError`, also where it has another digest than wanted, and what the device
        raises that lacks memory.
        """
        with self._lock:
            loaded = self._loaded.get(digest)
            return loaded or self._load(load_bundle(path), digest)

    def tune(self, model: LoadedModel) -> None:
        """Measure the steps of a model that was loaded, behind the tasks."""
        self._tuning.start([model])

    def unload(self, digest: str) -> None:
        """Forget a bundle; tasks that have begun go on."""
        with self._lock:
            model = self._loaded.pop(digest, None)
        if model is not None:
            self._tuning.forget(model)
            self._scheduler.call(partial(self._scheduler.forget, model)).result()

    def _load(self, bundle: Bundle, digest: str) -> LoadedModel:
        if digest not in ("", bundle.digest):
            raise BundleError(f"{bundle.path}: expected digest {digest}, got {bundle.digest}")
        model = self._scheduler.call(partial(load_model, bundle, self._device.device)).result()
        if model.tail is not None and not self._tail_seconds.get(bundle.digest):
            measured = self._scheduler.call_in_steps(measure_tail(model.tail))
            self._tail_seconds[bundle.digest] = measured
        plan = partial(self._scheduler.replan, model, first_plan(self._device))
        self._scheduler.call(plan).result()
        self._tuning.add(model)
        # The first task of a process takes longer.
        self._scheduler.submit(model, blank_task(model), Budget(None, allow_partial=False)).result()
        self._loaded[bundle.digest] = model
        return model
