"""The models that the engine can adapt."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from kshot.bundle import Bundle, BundleError, Head, Preconditioner
from kshot.learner import Initialization, LoopState, Tail, start_state

MOST_STARTS = 16  # about a megabyte each


@dataclass(frozen=True, eq=False)
class LoadedTail:
    """The tail of a bundle's encoder, with the parameters that adapting starts from."""

    network: Tail
    parameters: Mapping[str, torch.Tensor]

    @staticmethod
    def of(bundle: Bundle, device: torch.device) -> "LoadedTail | None":
        """Move a tail to a device, None where a bundle has none.

        Raises `ValueError` when parameters and manifest do not fit each other.
        """
        files = bundle.read_tail()
        if files is None or bundle.manifest.tail is None:
            return None
        parameters = {
            name: torch.from_numpy(array.copy()).to(device)
            for name, array in files.parameters.items()
        }
        network = Tail(bundle.manifest.tail)
        network.check(parameters)
        return LoadedTail(network, parameters)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A bundle with its initialization on the engine's device; one thread at a time uses it."""

    bundle: Bundle
    initialization: Initialization
    tail: LoadedTail | None = None
    _starts: dict[tuple[int, Head, Preconditioner], LoopState] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.bundle.manifest.name

    @property
    def device(self) -> torch.device:
        """The device that holds its parameters."""
        return self.initialization.parameters["head.bias"].device

    def start(
        self,
        way: int,
        head: Head,
        preconditioner: Preconditioner,
        support: torch.Tensor,
        classes: torch.Tensor,
    ) -> LoopState:
        """Return the start of a task, its head padded to its bucket; do not write to it.

        Starts that do not depend on the support set are made once.
        """
        key = way, head, preconditioner
        if (kept := self._starts.get(key)) is not None:
            return kept
        state = start_state(
            self.initialization,
            way,
            head=head,
            preconditioner=preconditioner,
            support=support,
            classes=classes,
            bucket=self.bundle.manifest.way_bucket(way),
        )
        if not head.from_support:
            if len(self._starts) >= MOST_STARTS:
                self._starts.pop(next(iter(self._starts)))  # the oldest
            self._starts[key] = state
        return state


def load_model(bundle: Bundle, device: torch.device) -> LoadedModel:
    """Move a bundle to a device; raise `BundleError` when it does not fit its network."""
    try:
        initialization = Initialization.from_bundle(bundle, device)
        tail = LoadedTail.of(bundle, device)
    except ValueError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    return LoadedModel(bundle, initialization, tail)
