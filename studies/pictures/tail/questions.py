"""Tasks as the head and the tail of a bundle take them: features, maps, and maps of crops."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import Bundle, RidgeRule, prepare
from kshot.learner import ridge_head, split_maps
from kshot.server.predict.crops import cut, draw_windows
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.encodings import MAX_CPU_IMAGES
from kshot.server.predict.runtime import Runtime
from kshot.server.tail import plans_of
from kshot.trainer.errors import DataError
from studies.common.runner import SEED
from studies.pictures.features import FeatureEncoder
from studies.pictures.sets import PictureSet, Task
from studies.pictures.tail.answers import HeadAnswers, TailQuestion
from studies.pictures.tail.result import LEFT_OUT, SHIPPED

Floats = npt.NDArray[np.float32]


class Questions:
    """Makes tasks for a bundle whose tail adapts behind a head by ridge regression."""

    def __init__(self, bundle: Bundle) -> None:
        """Open the encoder; raises `DataError` where there is no tail, or another head."""
        manifest, tail = bundle.manifest, bundle.read_tail()
        if tail is None or manifest.tail is None or manifest.ridge is None:
            raise DataError(f"{manifest.name}: expected a bundle with a tail and a ridge head")
        self.spec = manifest.tail
        self.start = {name: torch.from_numpy(array) for name, array in tail.parameters.items()}
        self._settings, self._feature_count = manifest.ridge, manifest.feature_count
        self._input = manifest.input
        self._features = FeatureEncoder.of_bundle(bundle)
        maps = Encoder(bundle, Runtime()).maps
        if maps is None:
            raise DataError(f"{manifest.name}: expected an encoder that gives maps")
        self._maps = maps

    def of(
        self, pictures: PictureSet, task: Task, left_out: Sequence[RidgeRule] = ()
    ) -> TailQuestion:
        """Make a task of a set, whose pictures are encoded once and kept in the cache.

        Beside the bundle's head it is for one by rules that other sets chose, if these are given.
        """
        encoded = self._features.of_set(pictures, mapped=True)
        support, queries = (
            torch.from_numpy(np.array(encoded[rows])) for rows in (task.support, task.queries)
        )
        classes, way = torch.from_numpy(task.support_labels), int(task.support_labels.max()) + 1
        count = self._feature_count
        settings = {SHIPPED: self._settings}
        if left_out:
            settings[LEFT_OUT] = replace(self._settings, rules=tuple(left_out))
        heads = {}
        for name, of in settings.items():
            head = ridge_head(support[:, :count], classes, way, of)
            logits = functional.linear(queries[:, :count], head.weight, head.bias)
            heads[name] = HeadAnswers(head.held_out_logits, logits)
        started = time.process_time()
        images = prepare([pictures.pictures[row] for row in task.support], self._input)
        crops = self._crops(images, plans_of(task.support_labels.tolist())[0].crop_count)
        seconds = time.process_time() - started
        return TailQuestion(
            torch.cat([split_maps(self.spec, support)[None], crops]),
            classes,
            way,
            split_maps(self.spec, queries),
            torch.from_numpy(task.query_labels),
            heads,
            seconds,
        )

    def _crops(self, images: Floats, crop_count: int) -> Tensor:
        """Return maps `(crop_count, n, ...)` of crops of images, as a server draws them."""
        count = len(images)
        windows, maps = draw_windows(crop_count * count, images.shape[1:], SEED), []
        for first in range(0, len(windows), MAX_CPU_IMAGES):
            part = windows[first : first + MAX_CPU_IMAGES]
            numbers = np.arange(first, first + len(part)) % count
            maps.append(self._maps.of(cut(images[numbers], part)))
        found = torch.from_numpy(np.concatenate(maps))
        return found.reshape(crop_count, count, *self.spec.map_shape)
