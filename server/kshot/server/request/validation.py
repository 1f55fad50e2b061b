"""Checks of ids, class names and labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kshot.server.request.inputs import SupportSet
from kshot.server.request.violations import Violations, shorten

MAX_CLASS_NAME_BYTES = 256
_MAX_INDICES_NOTED = 8
_ID = re.compile("am-[a-z2-7]{26}")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def check_id(adapted_model: str, violations: Violations) -> bool:
    """Note an id that no adapted model can have; return whether it is valid."""
    fits = _ID.fullmatch(adapted_model) is not None
    if not fits:
        got = shorten(adapted_model, 40)
        violations.add(
            "adapted_model", f"expected am- and 26 characters of a-z and 2-7, got {got!r}"
        )
    return fits


def check_request_id(request_id: str, violations: Violations) -> bool:
    """Note an id of a request that is no UUID; return whether it is one."""
    fits = _UUID.fullmatch(request_id) is not None
    if not fits:
        got = shorten(request_id, 40)
        expected = "expected a random UUID such as 9b2d3c52-63f4-4b8e-a1d7-5f0c7e9d2a41"
        violations.add("request_id", f"{expected}, got {got!r}")
    return fits


def check_labels(
    support_set: SupportSet,
    example_count: int | None,
    ways: tuple[int, int],
    violations: Violations,
    field: str = "support_set",
) -> None:
    """Check the class names and indices of a field; `example_count` is None if it is unknown.

    `ways` are the least and the greatest number of classes.
    """
    names, (least, most) = support_set.class_names, ways
    way_fits = least <= len(names) <= most
    if way_fits:
        _check_names(names, f"{field}.class_names", violations)
    else:
        expected = f"expected {least} to {most} classes, got {len(names)}"
        violations.add(f"{field}.class_names", expected)
    indices = np.asarray(support_set.class_indices, dtype=np.int64)
    if example_count is not None and len(indices) != example_count:
        violations.add(
            f"{field}.class_indices",
            f"expected one label for each of {example_count} examples, got {len(indices)}",
        )
    # The valid indices are unknown until the number of classes is valid.
    if way_fits:
        _check_indices(indices, names, field, violations)


def check_class_name(field: str, name: str, violations: Violations) -> None:
    """Check the name of one class."""
    if not name.strip():
        violations.add(field, f"expected a name, got {shorten(name, 8)!r}")
    elif any("\ud800" <= character <= "\udfff" for character in name):
        violations.add(field, "expected Unicode text, got a lone surrogate")
    elif (size := len(name.encode())) > MAX_CLASS_NAME_BYTES:
        violations.add(field, f"expected at most {MAX_CLASS_NAME_BYTES} bytes, got {size}")


def _check_names(names: Sequence[str], field: str, violations: Violations) -> None:
    counts = Counter(names)
    for index, name in enumerate(names):
        before = len(violations)
        check_class_name(f"{field}[{index}]", name, violations)
        if len(violations) == before and counts[name] > 1 and names.index(name) != index:
            problem = f"expected distinct names, got {shorten(name, 40)!r} twice"
            violations.add(f"{field}[{index}]", problem)


def _check_indices(
    indices: npt.NDArray[np.int64], names: Sequence[str], field: str, violations: Violations
) -> None:
    last = len(names) - 1
    outside = np.flatnonzero((indices < 0) | (indices > last))
    for position in outside[:_MAX_INDICES_NOTED]:
        violations.add(
            f"{field}.class_indices[{position}]", f"expected 0 to {last}, got {indices[position]}"
        )
    if len(outside) > _MAX_INDICES_NOTED:
        problem = f"{len(outside)} indices are outside 0 to {last}"
        violations.add(f"{field}.class_indices", problem)
    for index in sorted(set(range(len(names))) - set(indices.tolist())):
        violations.add(
            f"{field}.class_names[{index}]",
            f"expected at least 1 example of class {shorten(names[index], 40)!r}, got none",
        )
