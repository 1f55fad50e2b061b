"""The served models: bundles, and the predictors of their adapted models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kshot.bundle import Bundle, BundleError, load_bundle, version_of_digest
from kshot.server.errors import ModelChanged, ModelNotFound, StartError
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedModelRecord


@dataclass(frozen=True)
class ServedModel:
    """A bundle that is served under its name; `encoder` is None where its network sees images."""

    bundle: Bundle
    predictor: Predictor
    encoder: Encoder | None = None

    @property
    def image_mac_count(self) -> int:
        """Count the multiply-accumulate operations of an image, its encoder included."""
        return self.predictor.mac_count + (0 if self.encoder is None else self.encoder.mac_count)


class Catalog:
    """The served models by name."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        open_model: Callable[[Bundle], ServedModel] | None = None,
    ) -> None:
        """Serve models; `open_model` opens other versions of their bundles when asked for."""
        self._models = {model.bundle.manifest.name: model for model in models}
        self._other_versions: dict[str, ServedModel | None] = {}
        self._open = open_model

    @classmethod
    def load(
        cls, paths: Sequence[Path], runtime: Runtime | None = None, hot_set: HotSet | None = None
    ) -> Catalog:
        """Open bundles; raise `BundleError`, or `StartError` if two have the same name.

        Their predictors compute with `runtime` and share the sessions of `hot_set`; bundles of the
        same encoder share its session.
        """
        bundles = [load_bundle(path) for path in paths]
        names = [bundle.manifest.name for bundle in bundles]
        for name in names:
            if names.count(name) > 1:
                raise StartError(
                    f"bundles: expected distinct names, got {names.count(name)} bundles named "
                    f"{name!r}"
                )
        runtime = runtime or Runtime()
        encoders: dict[Hashable, Encoder] = {}

        def open_model(bundle: Bundle) -> ServedModel:
            manifest, encoder = bundle.manifest, None
            if manifest.encoder is not None:
                shapes = manifest.input.shape, manifest.encoder, manifest.tail
                key = bundle.encoder_digest, shapes
                encoder = encoders[key] = encoders.get(key) or Encoder(bundle, runtime)
            return ServedModel(bundle, Predictor(bundle, runtime, hot_set), encoder)

        return cls([open_model(bundle) for bundle in bundles], open_model)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def __contains__(self, name: str) -> bool:
        return name in self._models

    @property
    def digests(self) -> dict[str, str]:
        """Return the digest of each model's bundle."""
        return {name: model.bundle.digest for name, model in self._models.items()}

    @property
    def max_way(self) -> int:
        """Return the greatest number of classes that any model takes."""
        return max(model.bundle.manifest.limits.max_way for model in self)

    def find(self, name: str) -> ServedModel:
        """Return a model; raise `ModelNotFound`."""
        if name not in self._models:
            raise ModelNotFound(name, sorted(self._models))
        return self._models[name]

    def behind(self, adapted: AdaptedModelRecord) -> ServedModel:
        """Return the model that was adapted; raise `ModelChanged` if it is no longer served.

        An adapted model of another version is answered by that version, if it still stands beside
        the served one. It is opened at the first call.
        """
        model = self._models.get(adapted.model)
        if model is not None and model.bundle.digest != adapted.bundle_digest:
            model = self._other_version(model.bundle, adapted.bundle_digest)
        if model is None:
            raise ModelChanged(adapted.id, adapted.model)
        return model

    def _other_version(self, served: Bundle, digest: str) -> ServedModel | None:
        if digest not in self._other_versions and self._open is not None:
            self._other_versions[digest] = None  # it is looked for once
            folder = version_of_digest(served.path, digest)
            with suppress(BundleError):  # a damaged one is not served
                if folder is not None:
                    self._other_versions[digest] = self._open(load_bundle(folder))
        return self._other_versions.get(digest)
