"""Who answers the tasks: bundles, trivial classifiers, frozen features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from typing import Any

from kshot.bundle import Bundle, default_bundles, load_bundle, locate_bundle
from kshot.bundle.document import plain
from kshot.bundle.errors import BundleError
from kshot.bundle.manifest import ENCODER_FILE, TAIL_FILE, WEIGHTS_FILE
from kshot.trainer.errors import DataError
from studies.common.evaluation import DECIDING
from studies.common.rows import read_rows


class Kind(StrEnum):
    """How a contender answers."""

    SERVED = "served"
    RIVAL = "rival"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Contender:
    """A line of `studies/rows/contenders.toml`; `of` is a model or a rival.

    An empty `of` leaves the choice to a server of the default bundles. `task_count` bounds its
    tasks: the first of each trial. Frozen are the last layers of some `networks` of an encoder.
    """

    name: str
    title: str
    kind: Kind
    of: str
    options: Mapping[str, int | float | str | bool] | None = None
    reduced_to: int | None = None
    task_count: int | None = None
    networks: tuple[int, ...] | None = None

    def bundles(self) -> Sequence[Bundle]:
        """Open the bundles it needs; raises `DataError` when one is not installed."""
        if self.kind == Kind.RIVAL:
            return []
        try:
            named = [locate_bundle(self.of)] if self.of else default_bundles()
            return [load_bundle(folder) for folder in named]
        except BundleError as error:
            raise DataError(f"{self.name}: {error}") from error

    def deciding(self) -> Mapping[str, Any]:
        """Return what decides its answers beside the pictures; raises `DataError`."""
        of = [deciding(bundle) for bundle in self.bundles()] or self.of
        more = {"networks": self.networks} if self.networks else {}
        return {
            "kind": self.kind,
            "of": of,
            "options": self.options,
            "reduced": self.reduced_to,
            **more,
        }

    def steps(self) -> bool:
        """Tell whether its bundles take inner steps, which only a server does; see `deciding`."""
        inner = [bundle.manifest.inner_loop for bundle in self.bundles()]
        given = "step_count" in (self.options or {})
        return given or any(of.step_count or of.step_count_by_shot for of in inner)


def deciding(bundle: Bundle) -> Mapping[str, Any]:
    """Return what decides a bundle's answers: its card and its tables may change without it."""
    manifest = bundle.manifest
    tail = () if manifest.tail is None else ("tail",)
    return {
        **{name: plain(getattr(manifest, name)) for name in (*DECIDING, "encoder", "ridge", *tail)},
        **{
            name: manifest.files[name].sha256
            for name in (WEIGHTS_FILE, ENCODER_FILE, TAIL_FILE)
            if name in manifest.files
        },
    }


# Reads the contenders, by their names.
read_contenders = cache(partial(read_rows, "contenders", Contender))
