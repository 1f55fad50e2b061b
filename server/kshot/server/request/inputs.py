"""What a caller asks for, free of protobuf: images, a support set, options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from kshot.bundle import BatchNormMode, Head, Preconditioner, Scope


@dataclass(frozen=True)
class TensorImages:
    """Images as numbers, as they were sent: little-endian, row-major."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class EncodedImages:
    """Images as files."""

    items: tuple[bytes, ...]


Images = TensorImages | EncodedImages


@dataclass(frozen=True)
class SupportSet:
    """Labelled examples; `images` is None when the caller sent none."""

    images: Images | None
    class_indices: tuple[int, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """The options of Adapt as they were asked for; None means the default. `ttl` in seconds."""

    step_count: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    preconditioner: Preconditioner | None = None
    head: Head | None = None
    scope: Scope | None = None
    batch_norm_mode: BatchNormMode | None = None
    seed: int | None = None
    ttl: float | None = None
    allow_partial: bool | None = None
    deterministic: bool | None = None


@dataclass(frozen=True)
class ResolvedOptions:
    """The options of Adapt, every one decided. `ttl` in seconds, 0 where nothing is kept."""

    step_count: int
    learning_rate: float
    batch_size: int
    preconditioner: Preconditioner
    head: Head
    scope: Scope
    batch_norm_mode: BatchNormMode
    seed: int
    ttl: float
    allow_partial: bool
    deterministic: bool

    def document(self) -> dict[str, object]:
        """Return the options as JSON has them."""
        return asdict(self)

    def digested(self, steps_done: int) -> dict[str, object]:
        """Return the options that decide the adapted bytes of a loop that did so many steps."""
        kept_apart = ("ttl", "allow_partial")
        decisive = {name: value for name, value in asdict(self).items() if name not in kept_apart}
        return decisive | {"step_count": steps_done}

    @classmethod
    def from_document(cls, document: Mapping[str, object]) -> ResolvedOptions:
        """Read what `document` returned."""
        return cls(
            step_count=int(str(document["step_count"])),
            learning_rate=float(str(document["learning_rate"])),
            batch_size=int(str(document["batch_size"])),
            preconditioner=Preconditioner(str(document["preconditioner"])),
            head=Head(str(document["head"])),
            scope=Scope(str(document["scope"])),
            batch_norm_mode=BatchNormMode(str(document["batch_norm_mode"])),
            seed=int(str(document["seed"])),
            ttl=float(str(document["ttl"])),
            allow_partial=bool(document["allow_partial"]),
            deterministic=bool(document["deterministic"]),
        )


@dataclass(frozen=True)
class AdaptInput:
    """A request to adapt."""

    model: str
    support_set: SupportSet
    options: Options


@dataclass(frozen=True)
class PredictInput:
    """A request to classify queries; `mode` None means the adapted model's own."""

    queries: Images | None
    mode: BatchNormMode | None
    top_k: int
    return_logits: bool
