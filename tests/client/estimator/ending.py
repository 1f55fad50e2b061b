"""A program that forks with an adapted model of its own, and leaves that to the exit."""

from __future__ import annotations

import gc
import os
import sys
import warnings

import numpy as np

sys.modules["sklearn"] = None  # type: ignore[assignment]  # whose import takes longest
from kshot.client import FewShotClassifier  # noqa: E402

IMAGES = np.arange(16, dtype=np.uint8).reshape(4, 2, 2)


def main(address: str) -> None:
    """Print the model, that of a child, and that of the parent after the child."""
    warnings.filterwarnings("ignore", "This process .* is multi-threaded")
    classifier = FewShotClassifier(address).fit(IMAGES, [0, 0, 1, 1])
    print(classifier.adapted_model_.id, flush=True)
    child = os.fork()
    if not child:
        print(classifier.adapted_model_.id, flush=True)
        del classifier
        gc.collect()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    classifier.predict(IMAGES)
    print(classifier.adapted_model_.id, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
