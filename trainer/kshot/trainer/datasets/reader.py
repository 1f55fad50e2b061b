"""What a reader of a data set gets, and the decoding that all readers share."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kshot.bundle import InputSpec
from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.decoding import DECODER_VERSION, ClassFiles, Progress, decode_classes
from kshot.trainer.datasets.image_files import ImageFiles
from kshot.trainer.recipe.recipe import Data


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
