"""The reading of one part of a data set from its image files, which the readers share."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kshot.bundle import ImageError, InputSpec, pixels
from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset, offsets_of
from kshot.trainer.datasets.image_files import ImageFiles, ReadFile
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data

Progress = Callable[[int, int], None]

# Part of the cache's key: raise it when the same files decode to other arrays.
DECODER_VERSION = 1
# Pillow releases the interpreter lock while it decodes and resizes; more threads than this wait
# for each other in the rest.
MAX_THREADS = 8
IMAGES_PER_JOB = 100


@dataclass(frozen=True)
class PartRequest:
    """A request for one part (`train`, `val` or `test`) of a data set below `folder`.

    The images are decoded for `input_spec`. `progress` is called with the images decoded so far
    and their total.
    """

    data: Data
    folder: Path
    part: str
    input_spec: InputSpec
    progress: Progress | None = None


@dataclass(frozen=True)
class ClassFiles:
    """The image files of each class of one part of a data set, named as they are in `source`."""

    name: str
    source: Path
    classes: Mapping[str, Sequence[str]]
    split_digest: str


def read_class_files(
    request: PartRequest,
    files: ClassFiles,
    sources: Sequence[ImageFiles],
    identity: Sequence[str] = (),
) -> ImageDataset:
    """Return the decoded files of classes, from the cache where the sources are unchanged.

    Each file is read from the source that lists it. `identity` goes into the key of the cache.
    """

    def decode() -> ImageDataset:
        with ExitStack() as stack:
            opened = [(found.names, stack.enter_context(found.opened())) for found in sources]
            reads = {name: read for names, read in opened for name in names}
            return decode_classes(
                files, lambda name: reads[name](name), request.input_spec, request.progress
            )

    fingerprints = (found.fingerprint() for found in sources)
    return cached_dataset(cache_key(request, files.name, *identity, *fingerprints), decode)


def cache_key(request: PartRequest, name: str, *identity: str) -> str:
    """Return the key of decoded images: their name, all that identifies the files, the input."""
    return "|".join((name, str(DECODER_VERSION), *identity, repr(request.input_spec)))


def decode_classes(
    files: ClassFiles, read: ReadFile, input_spec: InputSpec, progress: Progress | None
) -> ImageDataset:
    """Decode the files of all classes in parallel; the classes keep their order.

    `read` returns a file's bytes and is called from several threads. Beside the result, only the
    files being decoded are in memory. `progress` is called with the images decoded so far and
    their total. Raises `DataError` with the name of a file that cannot be decoded.
    """
    names = [name for listed in files.classes.values() for name in listed]
    decoded = np.empty((len(names), *input_spec.shape), np.uint8)

    def decode(start: int) -> int:
        chosen = names[start : start + IMAGES_PER_JOB]
        for index, name in enumerate(chosen, start):
            try:
                decoded[index] = pixels([read(name)], input_spec)[0]
            except ImageError as error:
                reason = error.problems[0].reason
                raise DataError(f"{name} in {files.source} {reason}") from error
        return len(chosen)

    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        done = 0
        for count in pool.map(decode, range(0, len(names), IMAGES_PER_JOB)):
            done += count
            if progress is not None:
                progress(done, len(names))
    finally:
        pool.shutdown(cancel_futures=True)
    images, class_names = torch.from_numpy(decoded), tuple(files.classes)
    offsets = offsets_of([len(listed) for listed in files.classes.values()])
    return make_dataset(files.name, images, offsets, class_names, files.split_digest)
