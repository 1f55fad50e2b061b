"""The models that the engine can adapt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kshot.bundle import Bundle, BundleError, load_bundle
from kshot.learner import Initialization


@dataclass(frozen=True)
class LoadedModel:
    """A bundle with its initialization on the engine's device."""

    bundle: Bundle
    initialization: Initialization

    @property
    def name(self) -> str:
        """The name under which requests ask for it."""
        return self.bundle.manifest.name

    @property
    def device(self) -> torch.device:
        """The device that holds its parameters."""
        return self.initialization.parameters["head.bias"].device


def load_models(paths: Sequence[Path], device: torch.device) -> dict[str, LoadedModel]:
    """Load bundles, keyed by model name.

    Raises ``BundleError`` when one does not fit its manifest or its network, or two share a name.
    """
    models: dict[str, LoadedModel] = {}
    for path in paths:
        bundle = load_bundle(path)
        manifest = bundle.manifest
        if manifest.name in models:
            raise BundleError(f"{path}: model {manifest.name} is loaded already from another path")
        try:
            initialization = Initialization.from_bundle(bundle, device)
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from None
        models[manifest.name] = LoadedModel(bundle, initialization)
    return models
