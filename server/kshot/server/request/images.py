"""Turns images as they were sent into a network's input, and notes what is wrong with them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kshot.bundle import (
    THUMBNAIL,
    ImageError,
    ImageLimits,
    ImageProblem,
    InputSpec,
    Levels,
    count_pixels,
    decode_once,
    draft_side,
    fit,
    prepare,
    rescale,
)
from kshot.server.call_context import current_call
from kshot.server.request.inputs import EncodedImages, Images, TensorImages
from kshot.server.request.violations import Violations, shorten

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

SUPPORT_IMAGES = "support_set.images"

_DTYPES: dict[str, np.dtype[np.generic]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
_MAX_AXES = 4
_LARGE_PIXELS = 2**24
_LARGE_IMAGES = threading.Lock()
_PATIENCE_SECONDS = 0.1

_LOOKED_AT = 16  # pictures at most; examples of a class usually follow each other


@dataclass
class SharedImages:
    """Images of one request that several models may take; each file is decoded once for all.

    `specs` are the models' inputs. `prepared` holds the images by field and input, or what is wrong
    with them; `thumbnails` by field, `(up to 16, 3, height, width)`.
    """

    specs: tuple[InputSpec, ...] = ()
    prepared: dict[tuple[str, InputSpec], Floats | ImageError] = field(default_factory=dict)
    thumbnails: dict[str, Floats] = field(default_factory=dict)

    def others(self, spec: InputSpec) -> list[InputSpec]:
        """Return the distinct inputs of pictures, this one first."""
        return [spec, *{each for each in self.specs if each.preprocessing and each != spec}]


@dataclass
class PixelBudget:
    """The pixels that one request may have before resizing: in each image, and in all of them.

    Each model counts for itself; `shared` is what they have in common.
    """

    max_image: int
    max_request: int
    shared: SharedImages = field(default_factory=SharedImages)
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
    counts = _claimed(images.items, rules)
    if not rules.budget.spend(sum(counts), field, violations):
        return nothing
    items, specs = images.items, rules.budget.shared.others(rules.spec)
    prepared = _once(rules, specs, lambda: _decode(items, counts, rules, specs))
    if isinstance(prepared, ImageError):
        _note(prepared, field, ".items[{}]", violations)
        return nothing
    return prepared


def thumbnails(images: Images | None, shared: SharedImages, field: str) -> Floats | None:
    """Return up to 16 pictures of a prepared field, small; None if they are not pixels; blocks.

    Float32 `(n, 3, height, width)`, 0 to 1.
    """
    if isinstance(images, TensorImages) and images.datatype == "UINT8":
        step = -(-images.shape[0] // _LOOKED_AT)
        array = np.frombuffer(images.data, np.uint8).reshape(images.shape)
        return prepare(array[::step], THUMBNAIL)
    return shared.thumbnails.get(field)


def _once(
    rules: ImageRules, specs: Sequence[InputSpec], make: Callable[[], Sequence[Floats]]
) -> Floats | ImageError:
    """Return what `make` gives for the input of the rules, made once with those of `specs`."""
    found = rules.budget.shared.prepared
    if (rules.field, rules.spec) not in found:
        made: Sequence[Floats | ImageError]
        try:
            made = make()
        except ImageError as error:
            made = [error] * len(specs)
        found.update({(rules.field, spec): each for spec, each in zip(specs, made, strict=True)})
    return found[rules.field, rules.spec]


def _limits(rules: ImageRules) -> ImageLimits:
    return ImageLimits(max_pixels=rules.budget.max_image)


def _claimed(items: Sequence[bytes], rules: ImageRules) -> list[int]:
    """Return the pixels to decode of each image, by its header; 0 where decoding will fail."""
    counts = [0] * len(items)
    for index, item in enumerate(items):
        current_call().check()
        with suppress(ImageError):
            counts[index] = count_pixels(item, _limits(rules), draft_side(rules.spec))
    return counts


def _decode(
    items: Sequence[bytes], counts: Sequence[int], rules: ImageRules, specs: Sequence[InputSpec]
) -> list[Floats]:
    """Decode one image after another for all inputs; raise `ImageError` with all problems.

    `counts` has the pixels of each, as the input of the rules needs it.
    """
    shared, limits = rules.budget.shared, _limits(rules)
    sides = {draft_side(spec) for spec in specs}
    others = sides - {draft_side(rules.spec)}
    fitted: dict[InputSpec, list[Pixels]] = {spec: [] for spec in specs}
    small, step = list[Pixels](), -(-len(items) // _LOOKED_AT)
    problems, levels = [], Levels()
    for index, item in enumerate(items):
        current_call().check()
        try:
            sizes = [counts[index], *(count_pixels(item, limits, side) for side in others)]
            with _turn(max(sizes)):
                pictures = decode_once(item, limits, sides)
                for spec, pixels in fitted.items():
                    pixels.append(fit(pictures[draft_side(spec)], spec))
                picture = pictures[draft_side(rules.spec)]
                levels.see(picture)
                if len(shared.specs) > 1 and index % step == 0:
                    small.append(fit(picture, THUMBNAIL))
        except ImageError as error:
            problems += [ImageProblem(index, problem.reason) for problem in error.problems]
    if problems:
        raise ImageError(problems)
    levels.check()
    if small:
        shared.thumbnails[rules.field] = rescale(np.stack(small), THUMBNAIL)
    return [rescale(np.stack(fitted.pop(spec)), spec) for spec in specs]


@contextmanager
def _turn(pixel_count: int) -> Iterator[None]:
    """Hold what a large image needs: one of them is decoded at a time, in all calls.

    So many senders of the largest images do not fill the memory; raises what `Call.check` does.
    """
    if pixel_count <= _LARGE_PIXELS:
        yield
        return
    while not _LARGE_IMAGES.acquire(timeout=_PATIENCE_SECONDS):
        current_call().check()
    try:
        yield
    finally:
        _LARGE_IMAGES.release()


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
    prepared = _once(rules, [rules.spec], lambda: [prepare(array, rules.spec)])
    if isinstance(prepared, ImageError):
        _note(prepared, field, "", violations)
        return nothing
    return prepared


def _note(error: ImageError, field: str, item: str, violations: Violations) -> None:
    for problem in error.problems:
        if problem.index is None or not item:
            violations.add(field, str(problem))
        else:
            violations.add(field + item.format(problem.index), problem.reason)
