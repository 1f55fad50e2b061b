"""The splits of CIFAR-100 that CIFAR-FS and FC100 are: what is in neither list is for training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.trainer.datasets.splits import PARTS, Split, split_digest
from kshot.trainer.errors import DataError

__all__ = ["CIFAR_SPLITS", "CifarSplit", "check_cifar_split"]


@dataclass(frozen=True)
class CifarSplit:
    """A split by its name; ``digest`` is that of `kshot.trainer.datasets.splits.split_digest`."""

    name: str
    val: tuple[str, ...]
    test: tuple[str, ...]
    digest: str

    def part_of(self, class_name: str) -> str:
        """Return the part that a class is in."""
        if class_name in self.test:
            return "test"
        return "val" if class_name in self.val else "train"


def _split(name: str, *, val: str, test: str, digest: str) -> CifarSplit:
    return CifarSplit(name, tuple(val.split()), tuple(test.split()), digest)


# Each by its publication: Bertinetto et al., "Meta-learning with differentiable closed-form
# solvers" (ICLR 2019); Oreshkin et al., "TADAM" (NeurIPS 2018), which divides superclasses.
CIFAR_SPLITS: Mapping[str, CifarSplit] = {
    "cifar-fs": _split(
        name="bertinetto",
        val=(
            "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree "
            "motorcycle otter sea shark television tractor"
        ),
        test=(
            "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose "
            "snail sweet_pepper table telephone wardrobe whale woman worm"
        ),
        digest="e4e845fa943de1e0eb914cf8dc0d34baeb3710df7d03e5c8f0d40490238abb86",
    ),
    "fc100": _split(
        name="oreshkin",
        val=(
            "bear camel cattle chimpanzee crab elephant hamster kangaroo leopard lion lobster "
            "mouse rabbit shrew snail spider squirrel tiger wolf worm"
        ),
        test=(
            "baby beaver bee beetle boy butterfly caterpillar cockroach dolphin fox girl man "
            "otter porcupine possum raccoon seal skunk whale woman"
        ),
        digest="d857734eb3a351c886781a8480849cb53c6a659d8f4b9e9a601892ced3a15d7e",
    ),
}


def check_cifar_split(dataset: str, part_of: Mapping[str, str], source: object) -> Split:
    """Return the classes of each part, sorted; raises DataError unless they are the published."""
    split: dict[str, Sequence[str]] = {
        part: sorted(name for name, of in part_of.items() if of == part) for part in PARTS
    }
    known = CIFAR_SPLITS[dataset]
    if split_digest(split) != known.digest:
        raise DataError(f"{source} does not have the classes of {dataset}'s split {known.name}")
    return split
