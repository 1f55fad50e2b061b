"""`python -m kshot.engine.compiling FOLDER DEVICE SPEC NICENESS`: compiles one inner step."""

import json
import os
import sys
import threading
from pathlib import Path

import torch

from kshot.engine.device import COMPUTE_THREADS
from kshot.learner import CompilationError, StepCache, StepSpec, compute_reproducibly

STANDARD_INPUT = 0


def main() -> int:
    """Compile; return 1 and say why in one line where that fails."""
    folder, device, document, niceness = sys.argv[1:]
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.nice(int(niceness))
    torch.set_num_threads(COMPUTE_THREADS)
    compute_reproducibly()
    spec = StepSpec.from_document(json.loads(document))
    try:
        StepCache.open(Path(folder)).compile(spec, torch.device(device))
    except CompilationError as error:
        print(error)
        return 1
    return 0


def _leave_with_parent() -> None:
    while os.read(STANDARD_INPUT, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
