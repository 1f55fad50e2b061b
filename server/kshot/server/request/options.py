"""The options of `Adapt`: one dataclass whose fields are the table of all options."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.server.request.violations import Violations, plain_number

MAX_SEED = 2**63 - 1
MAX_FOLDS = 10
DEFAULT_TIME_BUDGET, MAX_TIME_BUDGET = 2.0, 600.0


class Durability(StrEnum):
    """What a kept model survives: power cuts, or nothing that ends the server's process."""

    DISK = "disk"
    MEMORY = "memory"


OptionValue = int | float | bool | StrEnum


@dataclass(frozen=True)
class TtlLimits:
    """The default and the greatest time to live, in seconds."""

    default: float
    greatest: float


@dataclass(frozen=True)
class Bounds:
    """What decides the defaults of options and the values that they may have."""

    manifest: Manifest
    way: int
    support_count: int
    ttl: TtlLimits


@dataclass(frozen=True)
class Allowed:
    """The values that an option may have: a test, and the same in words."""

    admits: Callable[[typing.Any], bool]
    text: str


def _row(
    default: Callable[[Bounds], OptionValue],
    allowed: Callable[[Bounds], Allowed] | None = None,
    *,
    digested: bool = True,
) -> Mapping[str, object]:
    """Return the metadata of an option; without `allowed`, all values of its type fit."""
    return {"default": default, "allowed": allowed, "digested": digested}


def _between(least: int, greatest: int) -> Allowed:
    return Allowed(lambda value: least <= value <= greatest, f"{least} to {greatest}")


def _above_zero(greatest: float) -> Allowed:
    return Allowed(
        lambda value: 0 < value <= greatest, f"above 0 and at most {plain_number(greatest)}"
    )


def one_of(choices: Sequence[object]) -> Allowed:
    """Allow the values of a list."""
    return Allowed(lambda value: value in choices, f"one of {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class AdaptOptions:
    """The options of an adaptation, each with a value; times in seconds, `ttl` 0 without keeping.

    A field's name is also its name on the wire, in the store's JSON, and in the engine's
    `AdaptRequest` if the engine needs it. Its type decides how it is encoded, its metadata the
    default, the allowed values and whether it is digested: whether it decides the adapted bytes.
    """

    step_count: int = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.default_step_count(
                bounds.way, bounds.support_count
            ),
            allowed=lambda bounds: _between(0, bounds.manifest.limits.max_step_count),
        )
    )
    learning_rate: float = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.inner_loop.learning_rate,
            allowed=lambda bounds: _above_zero(bounds.manifest.limits.max_learning_rate),
        )
    )
    batch_size: int = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.default_batch_size(max(bounds.way, 2)),
            allowed=lambda bounds: one_of(bounds.manifest.inner_loop.batch_sizes),
        )
    )
    preconditioner: Preconditioner = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.inner_loop.preconditioner,
            allowed=lambda bounds: one_of(bounds.manifest.inner_loop.preconditioners),
        )
    )
    head: Head = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.head.default,
            allowed=lambda bounds: one_of(bounds.manifest.head.allowed),
        )
    )
    scope: Scope = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.scope.default,
            allowed=lambda bounds: one_of(bounds.manifest.scope.allowed),
        )
    )
    batch_norm_mode: BatchNormMode = field(
        metadata=_row(
            default=lambda bounds: bounds.manifest.batch_norm.default,
            allowed=lambda bounds: one_of(bounds.manifest.batch_norm.allowed),
        )
    )
    seed: int = field(
        metadata=_row(default=lambda _: 0, allowed=lambda _: _between(0, MAX_SEED)),
    )
    ttl: float = field(
        metadata=_row(
            default=lambda bounds: bounds.ttl.default,
            allowed=lambda bounds: _above_zero(bounds.ttl.greatest),
            digested=False,
        )
    )
    allow_partial: bool = field(metadata=_row(default=lambda _: False, digested=False))
    deterministic: bool = field(metadata=_row(default=lambda _: False))
    estimate: bool = field(metadata=_row(default=lambda _: True, digested=False))
    balance_classes: bool = field(metadata=_row(default=lambda _: False))
    fold_count: int = field(
        metadata=_row(
            default=lambda _: 0,
            allowed=lambda _: Allowed(
                lambda value: value == 0 or 2 <= value <= MAX_FOLDS, f"0 or 2 to {MAX_FOLDS}"
            ),
            digested=False,
        )
    )

    time_budget: float = field(
        metadata=_row(
            default=lambda _: DEFAULT_TIME_BUDGET,
            allowed=lambda _: _above_zero(MAX_TIME_BUDGET),
            digested=False,
        )
    )
    retain_support: bool = field(metadata=_row(default=lambda _: True, digested=False))
    readapt: bool = field(metadata=_row(default=lambda _: False, digested=False))
    durability: Durability = field(metadata=_row(default=lambda _: Durability.DISK, digested=False))

    @property
    def folds_wanted(self) -> bool:
        """Tell whether the estimate takes folds; a head without steps has exact answers."""
        return self.estimate and self.step_count > 0 and self.fold_count > 0

    def digested(self, steps_done: int) -> dict[str, OptionValue]:
        """Return the options that decide the adapted bytes of a loop that did `steps_done`."""
        rows = dataclasses.fields(self)
        decisive = {row.name: getattr(self, row.name) for row in rows if row.metadata["digested"]}
        # Without steps it decides nothing; older releases did not have it, and their digests stay.
        if not self.balance_classes or steps_done == 0:
            del decisive["balance_classes"]
        return decisive | {"step_count": steps_done}

    def document(self) -> dict[str, OptionValue]:
        """Return the options as JSON has them."""
        return dict(vars(self))

    @classmethod
    def from_document(cls, document: Mapping[str, typing.Any]) -> AdaptOptions:
        """Read what `document` returned, also in releases that had fewer options."""
        known = {
            "estimate": True,
            "balance_classes": False,
            "fold_count": 0,
            "time_budget": DEFAULT_TIME_BUDGET,
            "retain_support": True,
            "readapt": False,
            "durability": Durability.DISK,
            **document,
        }
        return cls(**{name: kind(known[name]) for name, kind in OPTION_TYPES.items()})


OPTION_TYPES: dict[str, Callable[[typing.Any], typing.Any]] = typing.get_type_hints(AdaptOptions)
"""The type of each option by its name, in the order of the fields."""


def default_options(bounds: Bounds) -> dict[str, OptionValue]:
    """Return the defaults of all options, by name."""
    rows = dataclasses.fields(AdaptOptions)
    return {row.name: row.metadata["default"](bounds) for row in rows}


def resolve_options(
    asked: Mapping[str, OptionValue], bounds: Bounds, violations: Violations
) -> AdaptOptions:
    """Check the options that were asked for, and add the defaults of the others."""
    values: dict[str, typing.Any] = {}
    for row in dataclasses.fields(AdaptOptions):
        if row.name not in asked:
            values[row.name] = row.metadata["default"](bounds)
            continue
        value = values[row.name] = asked[row.name]
        if row.metadata["allowed"] is not None:
            check_allowed(f"options.{row.name}", value, row.metadata["allowed"](bounds), violations)
    options = AdaptOptions(**values)
    if options.step_count == 0 and not options.head.from_support:
        most = bounds.manifest.limits.max_step_count
        expected = f"1 to {most} with head {options.head}"
        violations.add("options.step_count", f"expected {expected}, got 0")
    if options.readapt and not options.retain_support:
        problem = "expected false without retain_support, got true: it needs the support set"
        violations.add("options.readapt", problem)
    return options


def check_allowed(name: str, value: OptionValue, allowed: Allowed, violations: Violations) -> None:
    """Note a value that is not allowed; `name` is the field's."""
    if not allowed.admits(value):
        got = plain_number(value) if isinstance(value, float) else value
        violations.add(name, f"expected {allowed.text}, got {got}")
