"""Which served model adapts where a request names none: the one that suits the support set best."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kshot.bundle import Grayscale, Ink, Rgb, are_drawings
from kshot.server.adaptation import AdaptResult, seconds_to_work
from kshot.server.call_context import current_call
from kshot.server.checked_task import CheckedTask, warnings_of_task
from kshot.server.errors import AdaptationDiverged, DeadlineExceeded, DeviceMemoryFull
from kshot.server.folds import some_may_be_left_out
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.grounds import grounds_of, query_ground_warnings
from kshot.server.request.images import image_count
from kshot.server.request.inputs import Images
from kshot.server.request.violations import Violations

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A served model that a request fits, the task for it, and the queries if there are any.

    `warnings` are sentences about the support set and about the queries.
    """

    model: ServedModel
    task: CheckedTask
    queries: Floats | None = None
    warnings: tuple[Sequence[str], Sequence[str]] = ((), ())

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.model.bundle.manifest.name

    def estimates(self) -> bool:
        """Tell whether its answers for left-out examples of two classes shall be known."""
        options, classes = self.task.engine_task.options, self.task.engine_task.class_indices
        exactly = options.head.from_support and options.step_count == 0
        return some_may_be_left_out(classes) and (exactly or options.folds_wanted)

    def seen(self) -> Candidate:
        """Look at the images for warnings, before they are encoded; blocks."""
        manifest = self.model.bundle.manifest
        of_queries: tuple[str, ...] = ()
        if self.queries is not None:
            grounds = grounds_of(self.task.images, manifest)
            of_queries = tuple(query_ground_warnings(grounds, grounds_of(self.queries, manifest)))
        return replace(self, warnings=(warnings_of_task(self.task, manifest), of_queries))

    def warn(self) -> None:
        """Tell the current call's caller what may make answers wrong, and the log which model."""
        call = current_call()
        call.model = self.name
        call.support_warnings += self.warnings[0]
        call.query_warnings += self.warnings[1]


Check = Callable[[ServedModel, Violations], Candidate]
Result = tuple[Candidate, AdaptResult]
Run = Callable[[Candidate], Awaitable[Result]]
Looks = Callable[[], Awaitable[Floats | None]]


def find_candidates(
    models: Sequence[ServedModel], check: Check, violations: Violations
) -> list[Candidate]:
    """Return the models that a request fits; blocks.

    If there is none, raises `InvalidRequest` with the violations of the model that has the fewest.
    """
    found: list[Candidate] = []
    refused: list[Violations] = []
    for model in models:
        noted = violations.copy()
        candidate = check(model, noted)
        if noted:
            refused.append(noted)
        else:
            found.append(candidate.seen())
    if not found:
        min(refused, key=len).check()
    return found


def prepared_bytes(models: Sequence[ServedModel], *images: Images | None) -> int:
    """Return the bytes of a request's images as all these models take them."""
    count = sum(image_count(each) or 0 for each in images)
    return 4 * count * sum(math.prod(model.bundle.manifest.input.shape) for model in models)


async def adapt_best(candidates: list[Candidate], looks: Looks, run: Run) -> Result:
    """Adapt the candidates that estimate their answers, and return the best.

    The best has the lowest cross-entropy of left-out examples. If none estimates, or several are
    as good within a standard error, the pictures decide, see `AdaptRequest.model`; `looks` returns
    some of them, `(n, 3, height, width)`. Raises what `run` raises, if it does for all. Takes the
    candidates out of the list: nobody holds their images once `run` has encoded them.
    """
    if len(candidates) == 1:
        return await run(candidates.pop())
    names = [candidate.name for candidate in candidates]
    judged = [candidate for candidate in candidates if candidate.estimates()]
    if not judged:
        judged = [_by_pictures(candidates, await looks())]
    candidates.clear()
    results, untried = await _adapt_each(judged, run)
    best, adaptation = results[0]
    if len(results) > 1:
        # Folds may have failed for all.
        alike = _best(results) or [candidate for candidate, _ in results]
        best = alike[0]
        if len(alike) > 1 and not untried:  # else the time is over
            best = _by_pictures(alike, await looks())
        adaptation = next(result for candidate, result in results if candidate is best)
    if untried:
        current_call().support_warnings.append(
            f"model: the deadline came before {', '.join(untried)} could be tried, so {best.name} "
            "may not be the best; allow more time, or name a model"
        )
    estimates = {candidate.name: result.estimate for candidate, result in results}
    chosen_from = tuple((name, estimates.get(name)) for name in names)
    return best, replace(adaptation, chosen_from=chosen_from)


async def _adapt_each(candidates: list[Candidate], run: Run) -> tuple[list[Result], list[str]]:
    """Adapt one after another; with `allow_partial`, return those that the deadline left out."""
    results: list[Result] = []
    failures: list[Exception] = []
    while candidates:
        names = [candidate.name for candidate in candidates]
        partly = bool(results) and candidates[0].task.engine_task.options.allow_partial
        try:
            # What is finished must still be stored and sent.
            seconds = seconds_to_work(current_call().remaining()) if partly else None
            async with asyncio.timeout(seconds):
                results.append(await run(candidates.pop(0)))
        except (AdaptationDiverged, DeviceMemoryFull) as error:
            failures.append(error)
        except (DeadlineExceeded, TimeoutError):
            if not partly:
                raise
            return results, names
    if not results:
        raise failures[0]
    return results, []


def _best(results: Sequence[Result]) -> list[Candidate]:
    """Return the candidate of the least cross-entropy, then those as good within an error."""
    known = [(candidate, result.estimate) for candidate, result in results if result.estimate]
    known.sort(key=lambda pair: pair[1].cross_entropy)
    return [candidate for candidate, estimate in known if not estimate.worse_than(known[0][1])]


def _by_pictures(candidates: Sequence[Candidate], pictures: Floats | None) -> Candidate:
    """Choose by what the pictures are, where no left-out example can tell; the first by none."""
    if pictures is None:
        return candidates[0]
    drawings = are_drawings(pictures)
    for prefers in (_cuts_ink, _takes_gray) if drawings else (_encodes, _takes_colour):
        for candidate in candidates:
            if prefers(candidate):
                return candidate
    return candidates[0]


def _takes(candidate: Candidate, kind: type[Grayscale] | type[Rgb] | type[Ink]) -> bool:
    steps = candidate.model.bundle.manifest.input.preprocessing
    return any(isinstance(step, kind) for step in steps)


def _encodes(candidate: Candidate) -> bool:
    return candidate.model.encoder is not None


def _cuts_ink(candidate: Candidate) -> bool:
    return _takes(candidate, Ink)


def _takes_gray(candidate: Candidate) -> bool:
    return _takes(candidate, Grayscale)


def _takes_colour(candidate: Candidate) -> bool:
    return _takes(candidate, Rgb)
