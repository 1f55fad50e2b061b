"""The ground behind what is drawn: it should be as light in queries as in the support set.

A bundle that decides the polarity itself is free of this. Others learn a light ground or a dark
one, and answer the other with nearly certain mistakes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.bundle import Ink, Manifest, Polarity, value_table

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

# A ground is a border of nearly one shade, clearly light or dark; photographs have seldom one.
_NEAR = 0.1
_UNIFORM_SHARE = 0.75
_LIGHT, _DARK = 0.65, 0.35
_SAME_SHARE = 0.9
_MOST_KNOWN = 1024


@dataclass(frozen=True)
class Grounds:
    """Which images have a light ground, and which a dark one: bool `(n,)` each."""

    light: Flags
    dark: Flags


def grounds_of(images: Floats, manifest: Manifest) -> Grounds | None:
    """Return the grounds of prepared images `(n, channels, height, width)`.

    Returns None where they do not matter: for a bundle with an encoder or for vectors, and for one
    that decides the polarity.
    """
    steps = manifest.input.preprocessing
    if manifest.encoder or not steps or any(isinstance(step, Ink | Polarity) for step in steps):
        return None
    table = value_table(manifest.input)
    least, greatest = table.min(axis=1), table.max(axis=1)
    sides = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    border = np.concatenate(sides, axis=2)  # (n, channels, border pixels)
    shades = ((border - least[:, None]) / (greatest - least)[:, None]).mean(axis=1)
    middles = np.median(shades, axis=1)  # (n,)
    uniform = (np.abs(shades - middles[:, None]) < _NEAR).mean(axis=1) >= _UNIFORM_SHARE
    return Grounds(uniform & (middles > _LIGHT), uniform & (middles < _DARK))


class SupportGrounds:
    """The grounds of support sets by the ids of their adapted models; those asked for last.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Grounds | None] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, adapted_model: str, support: Floats, manifest: Manifest) -> Grounds | None:
        """Return what `grounds_of` makes of an adapted model's support set, None if not kept."""
        if not support.size:
            return None
        with self._lock:
            if adapted_model in self._known:
                self._known.move_to_end(adapted_model)
                return self._known[adapted_model]
        grounds = grounds_of(support, manifest)
        with self._lock:
            self._known[adapted_model] = grounds
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return grounds

    def discard(self, adapted_model: str | None = None) -> None:
        """Forget an adapted model, or all."""
        with self._lock:
            if adapted_model is None:
                self._known.clear()
            else:
                self._known.pop(adapted_model, None)


def support_ground_warnings(grounds: Grounds | None) -> Iterator[str]:
    """Warn of a support set that has both grounds."""
    if grounds is None:
        return
    light, dark = int(grounds.light.sum()), int(grounds.dark.sum())
    if light and dark:
        yield (
            f"support_set: {light} examples have a light ground and {dark} a dark one; this model "
            "takes them for different pictures: invert one kind"
        )


def query_ground_warnings(support: Grounds | None, queries: Grounds | None) -> Iterator[str]:
    """Warn of queries whose ground is not the support set's."""
    if support is None or queries is None:
        return
    for own, other, name, opposite in (
        (support.light, queries.dark, "light", "dark"),
        (support.dark, queries.light, "dark", "light"),
    ):
        count = int(other.sum())
        if count and own.mean() >= _SAME_SHARE:
            yield (
                f"queries: {count} of {len(other)} have a {opposite} ground and the support set a "
                f"{name} one; their answers are likely wrong: invert them"
            )
