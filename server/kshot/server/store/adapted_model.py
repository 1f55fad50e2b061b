"""An adapted model: its record and its arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kshot.bundle import TAIL_MIX
from kshot.server.request.options import AdaptOptions, Durability
from kshot.server.store.kept_support import KeptImages, KeptSupport, PackedImages

Arrays = Mapping[str, npt.NDArray[np.float32]]

# Parameters of a tail that adapted behind the head begin with this.
TAIL = "tail."


@dataclass(frozen=True)
class AdaptedModelRecord:
    """One adapted model without its arrays; times in Unix seconds.

    `size_bytes` is the size of its file, filled in by the store; `revision` counts the changes of
    the record. `support_kept` tells that the file has the support set with its class indices, which
    those of earlier releases have not. `parent` is the id that it was revised from, or its own if
    it was adapted again; `input_digest` names how its bundle prepares pictures.
    """

    id: str
    model: str
    bundle_digest: str
    weights_digest: str
    adaptation_digest: str
    class_names: tuple[str, ...]
    options: AdaptOptions
    create_time: float
    expire_time: float
    size_bytes: int
    step_count: int
    support_accuracy: float
    tenant: str = ""
    revision: int = 0
    support_digest: str = ""
    support_count: int = 0
    support_kept: bool = False
    model_version: int = 0
    library_versions: Mapping[str, str] = field(default_factory=dict)
    parent: str = ""
    input_digest: str = ""

    @property
    def in_memory(self) -> bool:
        """Tell whether it ends with the process that keeps it."""
        return self.options.durability is Durability.MEMORY

    @property
    def etag(self) -> str:
        """Return what changes whenever the record does: 16 hexadecimal digits."""
        text = f"{self.id} {self.revision} {self.expire_time!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AdaptedArrays:
    """Float32 arrays: parameters and batch statistics by name, the prepared support set.

    `support` is what the network takes, `(support_count, channels, height, width)`, without
    channels where no query asks it: in mode stored, and without `retain_support`. `references`
    `(k,)` are the strengths of k examples that were left out; there are none where none could be.
    `span` has the fields of a `SupportSpan`, where queries' novelty counts too.
    `examples` is there where the support set is kept; arrays in memory leave it on the disk.
    """

    parameters: Arrays
    statistics: Arrays
    support: npt.NDArray[np.float32]
    references: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    span: Arrays = field(default_factory=dict)
    examples: KeptSupport | None = None

    @property
    def has_tail(self) -> bool:
        """Tell whether a tail answers together with the head."""
        return TAIL_MIX in self.parameters

    @property
    def has_support(self) -> bool:
        """Tell whether the support set is there to answer queries beside it."""
        return bool(self.support.size)

    def kept_images(self) -> KeptImages | None:
        """Return the packed images of the examples and their classes, None where not kept."""
        if self.examples is None:
            return None
        images = self.examples.images or PackedImages(self.support)
        return images, tuple(self.examples.classes.tolist())

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the arrays in memory, without `examples`."""
        arrays = (
            *self.parameters.values(),
            *self.statistics.values(),
            self.support,
            self.references,
            *self.span.values(),
        )
        return sum(array.nbytes for array in arrays)
