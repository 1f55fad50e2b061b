"""`python -m kshot.engine.compiling FOLDER DEVICE SPEC NICENESS`: compiles one inner step."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from kshot.engine.device import COMPUTE_THREADS
from kshot.learner import (
    CompilationError,
    StepCache,
    StepSpec,
    compiler_name,
    compute_reproducibly,
)

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = 0, 1, 2


def main() -> int:
    """Compile the step; on failure print the reason in one line and return 1.

    Nothing else reaches standard output, whatever the compiler's own processes print.
    """
    folder, device, document, niceness = sys.argv[1:]
    answer = os.dup(STANDARD_OUTPUT)
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.nice(int(niceness))
    if (compiler := compiler_name(torch.device(device))) is not None:
        os.environ["CXX"] = compiler  # torch would take g++ alone
    torch.set_num_threads(COMPUTE_THREADS)
    compute_reproducibly()
    spec = StepSpec.from_document(json.loads(document))
    try:
        StepCache.open(Path(folder)).compile(spec, torch.device(device))
    except CompilationError as error:
        os.write(answer, f"{failure_reason(error)}\n".encode())
        return 1
    return 0


def failure_reason(error: CompilationError) -> str:
    """Say in one line why compiling failed; name a missing command to install."""
    cause: BaseException | None = error
    while cause is not None:
        # A missing file has slashes in its name: that is another failure.
        if isinstance(cause, FileNotFoundError) and "/" not in str(cause.filename or "/"):
            return f"the command {cause.filename} was not found; install it to compile steps"
        cause = cause.__cause__ or cause.__context__
    return next(iter(str(error).splitlines()), type(error).__name__)


def _leave_with_parent() -> None:
    """End together with the engine, and with the compiler: it is in this process's group."""
    while os.read(STANDARD_INPUT, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
