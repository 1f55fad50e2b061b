"""What a tenant may use: its part of the access file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from kshot.bundle.document import Rule
from kshot.bundle.field_types import Name


def _count(greatest: int) -> Rule:
    return Rule(f"an integer from 1 to {greatest}", lambda value: 1 <= value <= greatest)


Number = Annotated[int, _count(2**53)]
CallCount = Annotated[int, _count(1_000_000)]
Seconds = Annotated[
    float, Rule("a number above 0, to 1000000000", lambda value: 0 < value <= 1_000_000_000)
]


def _told(text: str, wire: str = "") -> dict[str, str]:
    """Return the help of a limit, and the field of `ServerLimits` that tells it."""
    return {"help": text, "wire": wire}


@dataclass(frozen=True)
class Limits:
    """The limits of one tenant; None where only those of the server hold.

    The access file has a key for each field, and `kshot tenant set` a flag.
    """

    max_models: Number | None = field(
        default=None,
        metadata=_told("Maximum number of stored adapted models.", "tenant_adapted_model_count"),
    )
    max_bytes: Number | None = field(
        default=None,
        metadata=_told("Maximum bytes of stored adapted models.", "tenant_adapted_model_bytes"),
    )
    max_adapt_seconds: Seconds | None = field(
        default=None,
        metadata=_told(
            "Maximum seconds that engines compute for it in any hour.", "tenant_adapt_seconds"
        ),
    )
    max_calls: CallCount | None = field(
        default=None,
        metadata=_told("Maximum calls that run or wait at the same time.", "tenant_call_count"),
    )
    models: tuple[Name, ...] | None = field(
        default=None, metadata=_told("Name of a model that it may adapt.")
    )

    def on_wire(self) -> dict[str, Any]:
        """Return the fields of `ServerLimits`."""
        named = {limit.metadata["wire"]: getattr(self, limit.name) for limit in fields(self)}
        return {name: value for name, value in named.items() if name and value is not None}

    def allows(self, model: str) -> bool:
        """Tell whether the tenant may adapt a model, by its name without a version."""
        return self.models is None or model in self.models


UNLIMITED = Limits()
