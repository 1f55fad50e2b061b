"""What a client knows of its server, so that it asks once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

from kshot.client.capabilities import Capabilities, ModelCapabilities, decode_capabilities
from kshot.client.connection.channel import Patience, check_timeout
from kshot.client.exchange.call import Call, Exchange, ask
from kshot.client.inputs import Gathered
from kshot.client.kept_model import KeptModel
from kshot.client.options import seconds
from kshot.client.shrinking import any_large
from kshot.v1 import adaptation_pb2 as wire

_FRESH_SECONDS = 60.0
_MOST_KNOWN = 1000  # adapted models


class KnownServer:
    """The time of its calls, its models' useful sides, and the models behind adapted ones.

    All threads of a client share it.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = check_timeout(timeout)
        self._sides: Mapping[str, int] = {}
        self._until = -math.inf
        self._models: dict[str, str] = {}  # that models were adapted from, by id

    def forget(self) -> None:
        """Ask for the useful sides again next time: the server may be another one."""
        self._until = -math.inf

    def patience(
        self, timeout: float | None = None, options: wire.AdaptOptions | None = None
    ) -> Patience:
        """Return a call's time: its own timeout, else the client's and the options' budget."""
        if timeout is not None:
            return Patience.of(timeout)
        computing = 0.0 if options is None else max(0.0, seconds(options.time_budget))
        return Patience.of(self.timeout + computing)

    def capabilities(self, patience: Patience) -> Exchange[Capabilities]:
        """Return what the server serves, its options and its limits."""
        request = wire.GetCapabilitiesRequest()
        call = Call("GetCapabilities", request, patience)
        response, _ = yield from ask(call, wire.GetCapabilitiesResponse)
        return decode_capabilities(response)

    def useful_side(
        self,
        images: Sequence[Gathered],
        patience: Patience,
        *,
        model: str | None = None,
        adapted_model: KeptModel | str | None = None,
    ) -> Exchange[int]:
        """Return the bound on the shorter side of images, 0 where they are sent as they are.

        They are for a served model, by name, or for an adapted one; with neither the bound suits
        all that are served. The server is asked only about large images, now and then, within the
        call's own time.
        """
        if not any(map(any_large, images)):
            return 0
        name = model
        if adapted_model is not None:
            name = yield from self._adapted_from(adapted_model, patience)
        sides = self._sides
        if time.monotonic() > self._until or (name is not None and name not in sides):
            served = (yield from self.capabilities(patience)).models
            sides = {
                alias: each.max_useful_side
                for key, each in served.items()
                for alias in _aliases(key, each)
            }
            self._sides, self._until = sides, time.monotonic() + _FRESH_SECONDS
        wanted = [side for key, side in sides.items() if name in (None, key)]
        return max(wanted) if wanted and all(wanted) else 0

    def _adapted_from(self, adapted_model: KeptModel | str, patience: Patience) -> Exchange[str]:
        """Return the model behind an adapted one; the server is asked once."""
        if isinstance(adapted_model, KeptModel):
            return adapted_model.description.model
        model = self._models.get(adapted_model)  # another thread may clear them at any time
        if model is None:
            request = wire.GetAdaptedModelRequest(adapted_model=adapted_model)
            call = Call("GetAdaptedModel", request, patience)
            response, _ = yield from ask(call, wire.GetAdaptedModelResponse)
            model = response.adapted_model.model
            if len(self._models) >= _MOST_KNOWN:
                self._models.clear()
            self._models[adapted_model] = model
        return model


def _aliases(name: str, model: ModelCapabilities) -> Iterator[str]:
    yield name
    base = model.model.partition("@")[0]
    for suffix in (model.version, *model.labels):
        yield f"{base}@{suffix}"
