"""What a caller sends, free of protobuf: images, support sets, queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kshot.bundle import BatchNormMode
from kshot.server.request.options import OptionValue


@dataclass(frozen=True)
class TensorImages:
    """Images as the numbers that were sent: little-endian, row-major."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True)
class EncodedImages:
    """Images as files."""

    items: tuple[bytes, ...]


Images = TensorImages | EncodedImages


@dataclass(frozen=True)
class SupportSet:
    """Labelled examples; `images` is None if the caller sent none."""

    images: Images | None
    class_indices: tuple[int, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class AdaptInput:
    """A request to adapt; `options` holds those that the caller set."""

    model: str
    support_set: SupportSet
    options: Mapping[str, OptionValue]


@dataclass(frozen=True)
class PredictInput:
    """A request to classify queries; without a `mode`, the adapted model's own is used.

    Queries whose known score is below `reject_below` are of none of the classes.
    """

    queries: Images | None
    mode: BatchNormMode | None
    top_k: int
    return_logits: bool
    reject_below: float | None = None
    omit_class_names: bool = False
