"""Checks of what a caller asks for, against a bundle's manifest and the server's limits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kshot.bundle import Manifest
from kshot.server.request.inputs import Options, ResolvedOptions, SupportSet
from kshot.server.request.violations import Violations, shorten

MAX_SEED = 2**63 - 1
MAX_CLASS_NAME_BYTES = 256
_MAX_INDICES_NOTED = 8
_ID = re.compile("am-[a-z2-7]{26}")

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class TtlLimits:
    """The default and the greatest time to live, in seconds."""

    default: float
    greatest: float


def check_id(adapted_model: str, violations: Violations) -> bool:
    """Note an id that no adapted model can have; return whether it fits."""
    fits = _ID.fullmatch(adapted_model) is not None
    if not fits:
        got = shorten(adapted_model, 40)
        violations.add("adapted_model", f"got {got!r}, wanted an id: am- and 26 of a-z, 2-7")
    return fits


def check_labels(
    support_set: SupportSet, example_count: int | None, max_way: int, violations: Violations
) -> None:
    """Check the class names and indices; `example_count` is None when the images do not fit."""
    names = support_set.class_names
    way_fits = 2 <= len(names) <= max_way
    if way_fits:
        _check_names(names, violations)
    else:
        field = "support_set.class_names"
        violations.add(field, f"got {len(names)} classes, wanted 2 to {max_way}")
    indices = np.asarray(support_set.class_indices, dtype=np.int64)
    if example_count is not None and len(indices) != example_count:
        violations.add(
            "support_set.class_indices",
            f"got {len(indices)} labels for {example_count} examples, wanted one each",
        )
    # What an index may be is not known before the number of classes fits.
    if way_fits:
        _check_indices(indices, names, violations)


def resolve_options(
    options: Options, way: int, manifest: Manifest, ttl: TtlLimits, violations: Violations
) -> ResolvedOptions:
    """Fill in the manifest's defaults and check what was asked for."""
    loop, limits = manifest.inner_loop, manifest.limits
    resolved = ResolvedOptions(
        step_count=_or(options.step_count, loop.step_count),
        learning_rate=_or(options.learning_rate, loop.learning_rate),
        batch_size=_or(options.batch_size, manifest.default_batch_size(max(way, 2))),
        preconditioner=_or(options.preconditioner, loop.preconditioner),
        head=_or(options.head, manifest.head.default),
        scope=_or(options.scope, manifest.scope.default),
        batch_norm_mode=_or(options.batch_norm_mode, manifest.batch_norm.default),
        seed=_or(options.seed, 0),
        ttl=_or(options.ttl, ttl.default),
        allow_partial=_or(options.allow_partial, False),
        deterministic=_or(options.deterministic, False),
    )
    _check_whole("step_count", resolved.step_count, (1, limits.max_step_count), violations)
    _check_whole("seed", resolved.seed, (0, MAX_SEED), violations)
    _check_above_zero("learning_rate", resolved.learning_rate, limits.max_learning_rate, violations)
    if options.ttl is not None:
        _check_above_zero("ttl", resolved.ttl, ttl.greatest, violations)
    if resolved.batch_size not in loop.batch_sizes:
        wanted = ", ".join(map(str, loop.batch_sizes))
        violations.add("options.batch_size", f"got {resolved.batch_size}, wanted one of {wanted}")
    check_choice(
        "options.preconditioner", resolved.preconditioner, loop.preconditioners, violations
    )
    check_choice("options.head", resolved.head, manifest.head.allowed, violations)
    check_choice("options.scope", resolved.scope, manifest.scope.allowed, violations)
    check_choice(
        "options.batch_norm_mode",
        resolved.batch_norm_mode,
        manifest.batch_norm.allowed,
        violations,
    )
    return resolved


def check_choice(
    field: str, value: Choice, allowed: Sequence[Choice], violations: Violations
) -> None:
    """Note a value that the model does not allow."""
    if value not in allowed:
        violations.add(
            field, f"got {value}, wanted one that the model allows: {', '.join(allowed)}"
        )


Value = TypeVar("Value")


def _or(value: Value | None, default: Value) -> Value:
    return default if value is None else value


def _check_names(names: Sequence[str], violations: Violations) -> None:
    counts = Counter(names)
    for index, name in enumerate(names):
        field = f"support_set.class_names[{index}]"
        if not name.strip():
            violations.add(field, f"got {shorten(name, 8)!r}, wanted a name")
        elif (size := len(name.encode())) > MAX_CLASS_NAME_BYTES:
            violations.add(field, f"got {size} bytes, wanted at most {MAX_CLASS_NAME_BYTES}")
        elif counts[name] > 1 and names.index(name) != index:
            violations.add(field, f"got {shorten(name, 40)!r} twice, wanted distinct names")


def _check_indices(
    indices: npt.NDArray[np.int64], names: Sequence[str], violations: Violations
) -> None:
    field, last = "support_set.class_indices", len(names) - 1
    outside = np.flatnonzero((indices < 0) | (indices > last))
    for position in outside[:_MAX_INDICES_NOTED]:
        violations.add(f"{field}[{position}]", f"got {indices[position]}, wanted 0 to {last}")
    if len(outside) > _MAX_INDICES_NOTED:
        violations.add(field, f"got {len(outside)} indices outside 0 to {last}")
    for index in sorted(set(range(len(names))) - set(indices.tolist())):
        violations.add(
            f"support_set.class_names[{index}]",
            f"class {shorten(names[index], 40)!r} has no example, wanted at least 1",
        )


def _check_whole(name: str, value: int, span: tuple[int, int], violations: Violations) -> None:
    if not span[0] <= value <= span[1]:
        violations.add(f"options.{name}", f"got {value}, wanted {span[0]} to {span[1]}")


def _check_above_zero(name: str, value: float, greatest: float, violations: Violations) -> None:
    if not (math.isfinite(value) and 0 < value <= greatest):
        violations.add(f"options.{name}", f"got {value:g}, wanted above 0, at most {greatest:g}")
