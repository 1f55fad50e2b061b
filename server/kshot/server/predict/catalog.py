"""The served models: bundles, and the predictors of their adapted models."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kshot.bundle import Bundle, BundleError, load_bundle, version_of_digest
from kshot.server.errors import ModelChanged, ModelNotFound, StartError
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.opener import Opener
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedModelRecord

STABLE = "stable"
"""The label of the version that a name alone means."""


@dataclass(frozen=True)
class ServedModel:
    """A version that is served; `encoder` is None where its network sees images."""

    bundle: Bundle
    predictor: Predictor
    encoder: Encoder | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def open(cls, bundle: Bundle, opener: Opener, labels: tuple[str, ...] = ()) -> ServedModel:
        """Open a bundle; raise `BundleError`."""
        return cls(bundle, opener.predictor(bundle), opener.encoder(bundle), labels)

    @property
    def full_name(self) -> str:
        """Return `NAME@VERSION`."""
        return f"{self.bundle.manifest.name}@{self.bundle.manifest.version}"

    @property
    def image_mac_count(self) -> int:
        """Count the multiply-accumulate operations of an image, its encoder included."""
        return self.predictor.mac_count + (0 if self.encoder is None else self.encoder.mac_count)


@dataclass(frozen=True)
class _Served:
    """Served versions by the names of requests, and by digest.

    `others` has versions that stand beside these and were opened for an adapted model, None for
    those that are not there.
    """

    defaults: Mapping[str, ServedModel]
    names: Mapping[str, ServedModel]
    digests: Mapping[str, ServedModel]
    others: dict[str, ServedModel | None] = field(default_factory=dict)
    opening: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(models: Sequence[ServedModel]) -> _Served:
        """Name models; raise `StartError` if two are the same version."""
        full_names = [model.full_name for model in models]
        for name in full_names:
            if full_names.count(name) > 1:
                raise StartError(
                    f"bundles: expected distinct versions, got {full_names.count(name)} bundles "
                    f"{name}"
                )
        defaults: dict[str, ServedModel] = {}
        for model in models:
            name = model.bundle.manifest.name
            defaults[name] = max(defaults.get(name, model), model, key=_precedence)
        named = dict(zip(full_names, models, strict=True))
        labelled = {
            f"{model.bundle.manifest.name}@{label}": model
            for model in models
            for label in model.labels
        }
        digests = {model.bundle.digest: model for model in models}
        return _Served(defaults, {**defaults, **named, **labelled}, digests)


_VERSION = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def _precedence(model: ServedModel) -> tuple[bool, int]:
    return STABLE in model.labels, model.bundle.manifest.version


class Catalog:
    """The served models; `replace` changes them in one step, under calls that keep theirs.

    Requests name a version as `NAME@VERSION` or `NAME@LABEL`. A `NAME` alone means the one labelled
    `stable`, or else the highest.
    """

    def __init__(self, models: Sequence[ServedModel], opener: Opener | None = None) -> None:
        """Serve models; `opener` opens other versions beside them when asked for."""
        self._served = _Served.of(models)
        self._opener = opener

    @classmethod
    def load(
        cls, paths: Sequence[Path], runtime: Runtime | None = None, hot_set: HotSet | None = None
    ) -> Catalog:
        """Open bundles; raise `BundleError`, or `StartError` if two are the same version."""
        opener = Opener(runtime or Runtime(), hot_set)
        return cls([ServedModel.open(load_bundle(path), opener) for path in paths], opener)

    def __iter__(self) -> Iterator[ServedModel]:
        """Go through the versions that names alone mean."""
        return iter(self._served.defaults.values())

    def __contains__(self, name: str) -> bool:
        return name in self._served.names

    @property
    def versions(self) -> Sequence[ServedModel]:
        """Return all served versions, of each name first the one that it means."""
        served = self._served
        places = {name: place for place, name in enumerate(served.defaults)}
        defaults = {model.bundle.digest for model in served.defaults.values()}

        def order(model: ServedModel) -> tuple[int, bool, int]:
            manifest = model.bundle.manifest
            other = model.bundle.digest not in defaults
            return places[manifest.name], other, -manifest.version

        return sorted(served.digests.values(), key=order)

    @property
    def folders(self) -> dict[str, Path]:
        """Return the folders of the served versions by their digests."""
        return {model.bundle.digest: model.bundle.path for model in self.versions}

    def name_of(self, model: ServedModel) -> str:
        """Return a name that means this version as long as it is served so: the shortest."""
        name = model.bundle.manifest.name
        default = self._served.defaults.get(name)
        same = default is not None and default.bundle.digest == model.bundle.digest
        return name if same else model.full_name

    @property
    def by_name(self) -> dict[str, ServedModel]:
        """Return all served versions by the names that requests use."""
        return {self.name_of(model): model for model in self.versions}

    @property
    def max_way(self) -> int:
        """Return the greatest number of classes that any model takes."""
        return max(model.bundle.manifest.limits.max_way for model in self.versions)

    def replace(self, models: Sequence[ServedModel]) -> None:
        """Serve other models from now on; raise `StartError` as the start does."""
        self._served = _Served.of(models)

    def find(self, name: str) -> ServedModel:
        """Return a model; raise `ModelNotFound`."""
        served = self._served
        if name not in served.names:
            raise ModelNotFound(name, sorted(map(self.name_of, served.digests.values())))
        return served.names[name]

    def kept_name(self, name: str, *, labels: bool = True) -> tuple[str, int | None]:
        """Return the model and the version that a name in a list means, None for all versions.

        A version need not be served, unlike a label; without `labels` none means anything.
        """
        model, at, version = name.partition("@")
        if _VERSION.fullmatch(version):
            return model, int(version)
        if at and labels and (served := self._served.names.get(name)) is not None:
            return model, served.bundle.manifest.version
        return name, None

    def served(self, bundle_digest: str) -> ServedModel | None:
        """Return the served version of a digest, None if there is none."""
        return self._served.digests.get(bundle_digest)

    def at_hand(self, adapted: AdaptedModelRecord) -> ServedModel | None:
        """Return the version that was adapted if it is open; never waits."""
        served = self._served
        return served.digests.get(adapted.bundle_digest) or served.others.get(adapted.bundle_digest)

    def serving(self, adapted: AdaptedModelRecord) -> ServedModel:
        """Return the version that was adapted, for engines too; raise `ModelChanged`."""
        served = self._served
        if (model := served.digests.get(adapted.bundle_digest)) is None:
            raise self._changed(served, adapted)
        return model

    def behind(self, adapted: AdaptedModelRecord) -> ServedModel:
        """Return the version that was adapted; raise `ModelChanged` if it is no longer served.

        One that is not served answers nevertheless if it still stands beside a served version. It
        is opened at the first call, which blocks.
        """
        served = self._served
        model = self.at_hand(adapted) or self._beside(served, adapted)
        if model is None:
            raise self._changed(served, adapted)
        return model

    def _changed(self, served: _Served, adapted: AdaptedModelRecord) -> ModelChanged:
        instead = served.defaults.get(adapted.model)
        return ModelChanged(adapted.id, adapted.model, "" if instead is None else instead.full_name)

    def _beside(self, served: _Served, adapted: AdaptedModelRecord) -> ServedModel | None:
        digest, default = adapted.bundle_digest, served.defaults.get(adapted.model)
        if default is None or self._opener is None:
            return None
        with served.opening:
            if digest not in served.others:
                served.others[digest] = None  # it is looked for once
                folder = version_of_digest(default.bundle.path, digest)
                with suppress(BundleError):  # a damaged one is not served
                    if folder is not None:
                        opened = ServedModel.open(load_bundle(folder), self._opener)
                        served.others[digest] = opened
            return served.others[digest]


def prepared_support_bytes(adapted: AdaptedModelRecord, model: ServedModel) -> int:
    """Return the bytes of an adapted model's support set as a version takes it."""
    return 4 * adapted.support_count * math.prod(model.bundle.manifest.input.shape)
