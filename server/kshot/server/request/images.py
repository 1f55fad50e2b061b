"""Turns images as they were sent into a network's input, and notes what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kshot.bundle import (
    ONLY_ZERO_AND_ONE,
    THUMBNAIL,
    ImageError,
    ImageLimits,
    InputSpec,
    Manifest,
    draft_side,
    fit_array,
    prepare,
    rescale,
    unscaled,
)
from kshot.server.call_context import current_call
from kshot.server.request.decoders import Decoders
from kshot.server.request.decoding import (
    LOOKED_AT,
    Surveys,
    claimed_pixels,
    decode_files,
    survey_files,
)
from kshot.server.request.inputs import EncodedImages, Images, TensorImages
from kshot.server.request.violations import Violations, shorten

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

SUPPORT_IMAGES, ADDED_IMAGES, QUERIES = "support_set.images", "added.images", "queries"

_DTYPES: dict[str, np.dtype[np.generic]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
_MAX_AXES = 4
_MAX_CHANNELS = 4


@dataclass
class SharedImages:
    """Images of one request that several models may take; each file is decoded once for all.

    `specs` are the models' inputs, and `max_counts` the most images that they take, by field and
    input. `prepared` holds the images by field and input, or what is wrong with them; `thumbnails`
    by field, `(up to 16, 3, height, width)`; `surveys` what the files claim, by field, and
    `claimed` their pixels by field and input.
    """

    specs: tuple[InputSpec, ...] = ()
    max_counts: Mapping[tuple[str, InputSpec], int] = field(default_factory=dict)
    prepared: dict[tuple[str, InputSpec], Floats | ImageError] = field(default_factory=dict)
    thumbnails: dict[str, Floats] = field(default_factory=dict)
    surveys: dict[str, Surveys] = field(default_factory=dict)
    claimed: dict[tuple[str, InputSpec], int] = field(default_factory=dict)

    @staticmethod
    def of(manifests: Sequence[Manifest]) -> SharedImages:
        """Share among the models of these manifests."""
        most: dict[tuple[str, InputSpec], int] = {}
        for manifest in manifests:
            spec, limits = manifest.input, manifest.limits
            for name, count in (
                (SUPPORT_IMAGES, limits.max_support_count),
                (QUERIES, limits.max_query_count),
            ):
                most[name, spec] = max(count, most.get((name, spec), 0))
        return SharedImages(tuple(manifest.input for manifest in manifests), most)

    def takers(self, rules: ImageRules, surveys: Surveys) -> list[InputSpec]:
        """Return the distinct inputs whose limits the files keep, those of the rules first."""
        found = [rules.spec]
        for spec in dict.fromkeys(each for each in self.specs if each.preprocessing):
            key = rules.field, spec
            count = len(surveys)
            if spec == rules.spec or count > self.max_counts.get(key, count):
                continue
            self.claimed[key] = claimed_pixels(surveys, draft_side(spec))
            if sum(self.claimed.get((name, spec), 0) for name in (SUPPORT_IMAGES, QUERIES)) <= (
                rules.budget.max_request
            ):
                found.append(spec)
        return found


@dataclass
class PixelBudget:
    """The pixels that one request may have before resizing: in each image, and in all of them.

    Each model counts for itself; `shared` is what they have in common, as all calls have
    `decoders`.
    """

    max_image: int
    max_request: int
    shared: SharedImages = field(default_factory=SharedImages)
    decoders: Decoders = field(default_factory=Decoders)
    spent: int = 0

    def spend(self, count: int, field: str, violations: Violations) -> bool:
        """Count pixels; note a violation and return False when they are too many."""
        self.spent += count
        if self.spent > self.max_request:
            violations.add(
                field,
                f"expected at most {self.max_request} pixels in a request, "
                f"got {self.spent} in the images up to here; send fewer, or smaller ones",
            )
        return self.spent <= self.max_request


@dataclass(frozen=True)
class ImageRules:
    """The rules for the images of a field: how many, how many pixels, the input they become."""

    field: str
    max_count: int
    budget: PixelBudget
    spec: InputSpec


def image_count(images: Images | None) -> int | None:
    """Return how many images were sent, None if that is unknown."""
    if isinstance(images, EncodedImages):
        return len(images.items)
    return images.shape[0] if images and images.shape and images.shape[0] >= 0 else None


def believed(images: Images | None, max_count: int) -> Images | None:
    """Return the images unless they will be refused by their numbers alone, before any is read."""
    if not 1 <= (image_count(images) or 0) <= max_count:
        return None
    if isinstance(images, TensorImages) and not (
        min(images.shape) > 0
        and images.datatype in _DTYPES
        and len(images.data) == math.prod(images.shape) * _DTYPES[images.datatype].itemsize
    ):
        return None
    return images


def _may_be_one(images: TensorImages) -> bool:
    """Tell whether pixels without an axis of channels may be one image with channels."""
    shape = images.shape
    return (
        images.datatype == "UINT8" and len(shape) == 3 and 0 < shape[2] <= _MAX_CHANNELS < shape[1]
    )


def check_sent(images: Images | None, field: str, violations: Violations) -> None:
    """Note missing images: all that can be checked without a model."""
    if images is None:
        violations.add(field, "expected `tensor` or `encoded`, got neither")
    elif image_count(images) == 0:
        violations.add(field, "expected 1 or more images, got 0")


def prepare_images(images: Images | None, rules: ImageRules, violations: Violations) -> Floats:
    """Return float32 `(n, channels, height, width)`, empty if violations were noted.

    Limits are checked before anything is allocated or decoded. Decoding ends when the call does.
    """
    nothing = np.zeros((0, *rules.spec.shape), np.float32)
    if images is None:
        check_sent(images, rules.field, violations)
        return nothing
    if isinstance(images, TensorImages) and _may_be_one(images):
        shape = images.shape
        violations.add(
            f"{rules.field}.tensor.shape",
            f"expected (n, height, width[, channels]), got {shape}, which is one image with "
            f"{shape[2]} channels or {shape[0]} narrow gray ones; send {(1, *shape)} or "
            f"{(*shape, 1)}",
        )
        return nothing
    count = image_count(images)
    if count is not None and not 1 <= count <= rules.max_count:
        violations.add(rules.field, f"expected 1 to {rules.max_count} images, got {count}")
        return nothing
    if isinstance(images, TensorImages):
        return _prepare_tensor(images, rules, violations, nothing)
    if not rules.spec.preprocessing:
        expected = f"FP32 vectors (n, {rules.spec.shape[0]}) as `tensor`"
        violations.add(f"{rules.field}.encoded", f"expected {expected}, got images")
        return nothing
    field = f"{rules.field}.encoded"
    surveys = rules.budget.shared.surveys.get(rules.field)
    if surveys is None:
        surveys = survey_files(images.items, ImageLimits(max_pixels=rules.budget.max_image))
        rules.budget.shared.surveys[rules.field] = surveys
    claimed = claimed_pixels(surveys, draft_side(rules.spec))
    if not rules.budget.spend(claimed, field, violations):
        return nothing
    prepared = _once(rules, lambda: _decode(images.items, surveys, rules))
    if isinstance(prepared, ImageError):
        _note(prepared, field, ".items[{}]", violations)
        return nothing
    return prepared


def thumbnails(images: Images | None, shared: SharedImages, field: str) -> Floats | None:
    """Return up to 16 pictures of a prepared field, small; None if they are not pixels; blocks.

    Float32 `(n, 3, height, width)`, 0 to 1.
    """
    if isinstance(images, TensorImages) and images.datatype == "UINT8":
        step = -(-images.shape[0] // LOOKED_AT)
        array = np.frombuffer(images.data, np.uint8).reshape(images.shape)
        # All of them were checked: those of a sample may have only the values 0 and 1.
        return rescale(fit_array(array[::step], THUMBNAIL), THUMBNAIL)
    return shared.thumbnails.get(field)


def _once(
    rules: ImageRules, make: Callable[[], Mapping[InputSpec, Floats | ImageError]]
) -> Floats | ImageError:
    """Return what `make` gives for the input of the rules, made once with that for others."""
    found = rules.budget.shared.prepared
    if (rules.field, rules.spec) not in found:
        found.update({(rules.field, spec): each for spec, each in make().items()})
    return found[rules.field, rules.spec]


def _decode(
    items: Sequence[bytes], surveys: Surveys, rules: ImageRules
) -> Mapping[InputSpec, Floats | ImageError]:
    """Decode files for all inputs that take them; the camera that took a query may be covered."""
    shared = rules.budget.shared
    specs = shared.takers(rules, surveys)
    wants_thumbnails = len(shared.specs) > 1
    try:
        decoded = decode_files(
            items, surveys, specs, rules.budget.decoders, wants_thumbnails=wants_thumbnails
        )
    except ImageError as error:
        return dict.fromkeys(specs, error)
    if decoded.are_bits:
        if rules.field != QUERIES:
            return dict.fromkeys(specs, ImageError.about(ONLY_ZERO_AND_ONE))
        current_call().query_warnings.append(
            f"{rules.field}: all pixels are 0 or 1 of 255, so the answers are likely wrong; "
            "multiply by 255, unless the pictures are that dark"
        )
    if decoded.thumbnails is not None:
        shared.thumbnails[rules.field] = decoded.thumbnails
    return decoded.prepared


def _prepare_tensor(
    images: TensorImages, rules: ImageRules, violations: Violations, nothing: Floats
) -> Floats:
    field = f"{rules.field}.tensor"
    dtype = _DTYPES.get(images.datatype)
    if dtype is None:
        got = shorten(images.datatype, 20)
        violations.add(f"{field}.datatype", f"expected UINT8 or FP32, got {got!r}")
        return nothing
    shape = images.shape
    vectors = not rules.spec.preprocessing
    if vectors and dtype == np.uint8:
        expected = f"FP32, vectors (n, {rules.spec.shape[0]})"
        violations.add(f"{field}.datatype", f"expected {expected}, got UINT8")
        return nothing
    if not (2 if vectors else 3) <= len(shape) <= _MAX_AXES or min(shape) < 1:
        expected = "(n, height, width[, channels])"
        if vectors:
            expected = f"(n, {rules.spec.shape[0]})"
        elif dtype != np.uint8:
            expected = f"(n, {', '.join(map(str, rules.spec.shape))})"
        got = ", ".join(map(str, shape[: _MAX_AXES + 1]))
        violations.add(f"{field}.shape", f"expected {expected}, got ({got})")
        return nothing
    size = math.prod(shape) * dtype.itemsize
    if len(images.data) != size:
        violations.add(
            f"{field}.data", f"expected {size} bytes for shape {shape}, got {len(images.data)}"
        )
        return nothing
    if dtype == np.uint8:
        each, greatest = shape[1] * shape[2], rules.budget.max_image
        if each > greatest:
            got = f"{shape[1]} x {shape[2]}"
            expected = f"expected at most {greatest} pixels"
            violations.add(f"{field}.shape", f"{expected}, got {got}; send it smaller")
            return nothing
        if not rules.budget.spend(shape[0] * each, f"{field}.shape", violations):
            return nothing
    array = np.frombuffer(images.data, dtype).reshape(shape)
    if dtype != np.uint8:
        array = array.astype(np.float32, copy=False)
    prepared = _once(rules, lambda: {rules.spec: _prepare_array(array, rules.spec)})
    if isinstance(prepared, ImageError):
        _note(prepared, field, "", violations)
        return nothing
    if dtype != np.uint8 and (warning := unscaled(prepared, rules.spec)):
        call = current_call()
        of_queries = rules.field == QUERIES
        warnings = call.query_warnings if of_queries else call.support_warnings
        if (told := f"{rules.field}: {warning}") not in warnings:
            warnings.append(told)
    return prepared


def _prepare_array(array: npt.NDArray[np.generic], spec: InputSpec) -> Floats | ImageError:
    try:
        return prepare(array, spec, between=current_call().check)
    except ImageError as error:
        return error


def _note(error: ImageError, field: str, item: str, violations: Violations) -> None:
    for problem in error.problems:
        if problem.index is None or not item:
            violations.add(field, str(problem))
        else:
            violations.add(field + item.format(problem.index), problem.reason)
