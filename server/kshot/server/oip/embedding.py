"""Images through a bundle's encoder alone, bounded and in turn as predictions are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode
from kshot.server.admission import room_bytes
from kshot.server.call_context import current_call
from kshot.server.errors import AdaptFirst
from kshot.server.front import Front
from kshot.server.predict.catalog import ServedModel
from kshot.server.predict.prediction import CostLimits, check_cost, prepare_queries
from kshot.server.request.images import PixelBudget, image_count
from kshot.server.request.inputs import Images
from kshot.server.request.violations import Violations

Floats = npt.NDArray[np.float32]


async def embed(front: Front, model: ServedModel, images: Images, violations: Violations) -> Floats:
    """Return features `(n, feature_count)` of images; raise `AdaptFirst` without an encoder."""
    manifest, encoder, config = model.bundle.manifest, model.encoder, front.config
    if encoder is None:
        raise AdaptFirst(manifest.name)
    with front.predicting.admit():
        count = image_count(images) or 0
        if count <= manifest.limits.max_query_count:  # more are refused
            await front.answer_room.hold_numbers(count * manifest.feature_count, violations)
        budget = PixelBudget(
            config.max_image_pixels, config.max_request_pixels, decoders=front.decoders
        )

        def prepare() -> Floats:
            with current_call().measure("decode"):
                limits = CostLimits(config.max_predict_images, config.max_predict_macs)
                macs = encoder.mac_count
                check_cost(images, 0, BatchNormMode.STORED, macs, limits, violations)
                prepared = prepare_queries(images, model, budget, violations)
                violations.check()
                return prepared

        async with front.predicting_room.hold(room_bytes([model], None, images)):
            prepared = await front.workers.compute(prepare)
            encoded = await front.encodings.encode(encoder, prepared)
        return encoded.reshape(count, -1)[:, : manifest.feature_count]
