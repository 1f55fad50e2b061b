"""Opens what predicts with a bundle: its templates, and its encoder, which bundles may share."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from weakref import WeakValueDictionary

import numpy as np

from kshot.bundle import Bundle
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime


class Opener:
    """Makes the predictors of bundles on one runtime, which share the sessions of a hot set.

    Bundles of the same encoder share its session, as long as one of them is in use.
    """

    def __init__(self, runtime: Runtime, hot_set: HotSet | None = None) -> None:
        self._runtime = runtime
        self._hot_set = hot_set
        self._encoders: MutableMapping[Hashable, Encoder] = WeakValueDictionary()

    def predictor(self, bundle: Bundle) -> Predictor:
        """Open the templates of a bundle; raise `BundleError`."""
        return Predictor(bundle, self._runtime, self._hot_set)

    def encoder(self, bundle: Bundle) -> Encoder | None:
        """Return the encoder of a bundle, None where it has none; raise `BundleError`.

        Its first run, which is slow, is done.
        """
        manifest = bundle.manifest
        if manifest.encoder is None:
            return None
        key = bundle.encoder_digest, manifest.input.shape, manifest.encoder, manifest.tail
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = self._encoders[key] = Encoder(bundle, self._runtime)
            encoder.encode(np.zeros((1, *manifest.input.shape), np.float32))
        return encoder
